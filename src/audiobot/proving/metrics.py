"""What a figure of a proof is: medians with intervals, risk against coverage, areas, bins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
import numpy as np

T = TypeVar("T")

Sure = Sequence[tuple[float, bool]]
"""Of each question the probability that was told, and whether the answer was right."""

RESAMPLES: Final = 400
_SEED: Final = 20_261_124
_OUTER: Final = (2.5, 97.5)


class Interval(msgspec.Struct, frozen=True):
    """A figure, and between what bounds it is with 95 %."""

    value: float
    low: float
    high: float


class Told(msgspec.Struct, frozen=True):
    """What is told from a threshold on.

    ``coverage`` is the share of the questions that are answered, ``right`` the share answered
    rightly, ``wrong`` the share of the answers told that are wrong: None where none is told.
    """

    coverage: float
    right: float
    wrong: float | None


class Bin(msgspec.Struct, frozen=True):
    """Questions that were told alike probabilities: their mean, and the share that was right."""

    count: int
    probability: float
    right: float


def over_lives(
    lives: Sequence[T], figure: Callable[[Sequence[T]], float | None]
) -> Interval | None:
    """``figure`` of all lives, and its 95 % percentile bootstrap interval over them.

    Lives are drawn anew with replacement (Efron, 1979): all that one asked stays together. None
    where there is no such figure.
    """
    value = figure(lives)
    if value is None:
        return None
    chance = np.random.default_rng(_SEED)
    drawn = (
        figure([lives[i] for i in chance.integers(len(lives), size=len(lives))])
        for _ in range(RESAMPLES)
    )
    low, high = np.percentile([found for found in drawn if found is not None], _OUTER)
    return Interval(value, float(low), float(high))


def median(values: Sequence[float]) -> float | None:
    """The middle one; None of none."""
    return float(np.median(values)) if len(values) else None


def over_lives_and_intents(right: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Interval:
    """The mean of ``right``, shape (lives, intents), as if both had been others.

    Lives and intents are drawn anew, each with replacement (Owen, 2007: the pigeonhole bootstrap,
    rather too wide than too narrow).
    """
    chance = np.random.default_rng(_SEED)
    lives, intents = right.shape
    drawn = [
        right[np.ix_(chance.integers(lives, size=lives), chance.integers(intents, size=intents))]
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile([found.mean() for found in drawn], _OUTER)
    return Interval(float(right.mean()), float(low), float(high))


def risk_curve(sure: Sure) -> list[tuple[float, float]]:
    """(coverage, wrong among told), the surest told first; questions told alike come together."""
    if not sure:
        return []
    probability = np.array([one for one, _ in sure])
    wrong = np.array([not right for _, right in sure])
    order = np.argsort(-probability, kind="stable")
    probability = probability[order]
    ends = np.flatnonzero(np.append(probability[1:] != probability[:-1], True))
    told = ends + 1
    risk = np.cumsum(wrong[order])[ends] / told
    return [(float(c), float(r)) for c, r in zip(told / len(sure), risk, strict=True)]


def coverage_at(sure: Sure, risk: float) -> float:
    """The greatest share of the questions that a threshold lets through with so few wrong ones."""
    return max((c for c, found in risk_curve(sure) if found <= risk), default=0.0)


def told_from(sure: Sure, threshold: float) -> Told:
    """What is told when the probability is ``threshold`` at least."""
    answered = [right for probability, right in sure if probability >= threshold]
    right = sum(answered)
    return Told(
        coverage=len(answered) / len(sure) if sure else 0.0,
        right=right / len(sure) if sure else 0.0,
        wrong=1.0 - right / len(answered) if answered else None,
    )


def auroc(inside: Sequence[float], outside: Sequence[float]) -> float | None:
    """How often a question from ``inside`` scores above one from ``outside``; a tie is a half."""
    if not inside or not outside:
        return None
    ranked = np.sort(np.asarray(outside))
    below = np.searchsorted(ranked, inside, side="left")
    up_to = np.searchsorted(ranked, inside, side="right")
    return float((below + up_to).mean() / 2.0 / len(ranked))


def reliability(sure: Sure, bins: int = 10) -> list[Bin]:
    """Bins of one width in probability, the empty ones left out."""
    probability = np.array([one for one, _ in sure])
    right = np.array([is_right for _, is_right in sure], dtype=np.float64)
    place = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        Bin(int(own.sum()), float(probability[own].mean()), float(right[own].mean()))
        for own in (place == number for number in range(bins))
        if own.any()
    ]


def thinned(curve: Sequence[tuple[float, float]], steps: int = 100) -> list[tuple[float, float]]:
    """A curve's points for a picture: about ``steps`` of them, the last one always."""
    every = max(1, len(curve) // steps)
    return [point for i, point in enumerate(curve) if i % every == every - 1 or point is curve[-1]]
