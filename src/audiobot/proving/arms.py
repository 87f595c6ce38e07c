"""The ways of living that a proof compares, and what is worked out of the lives of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from audiobot.answering.weights import Weights
from audiobot.answering.whitening import Whitening
from audiobot.proving.company import Company
from audiobot.proving.metrics import (
    Bin,
    Interval,
    Told,
    auroc,
    coverage_at,
    median,
    over_lives,
    over_lives_and_intents,
    reliability,
    risk_curve,
    thinned,
    told_from,
)
from audiobot.proving.simulation import Arm, Bot, Course, Texts

FROZEN: Final = "frozen"
FROZEN_CHANGES: Final = "frozen_changes"
"""Learns nothing and lives through the change: with it is compared who lives through it, too."""
ARMS: Final = (
    Arm(name=FROZEN),
    Arm(name="ratings", ratings="honest"),
    Arm(name="corrections", corrections=True),
    Arm(name="both", ratings="honest", corrections=True),
    Arm(name="nearest", ratings="honest", nearest=True),
    Arm(name="shuffled", ratings="shuffled"),
    Arm(name="fives", ratings="fives"),
    Arm(name="attackers10", ratings="honest", corrections=True, attackers=0.1),
    Arm(name="attackers20", ratings="honest", corrections=True, attackers=0.2),
    Arm(name=FROZEN_CHANGES, changes=True),
    Arm(name="changes", ratings="honest", corrections=True, changes=True),
)
QUICK: Final = (FROZEN, "ratings", "both", "nearest", "shuffled")
DRAWN: Final = ("both", "corrections", "ratings", "nearest")
"""Arms whose curve is worth its time; of the others the ends are enough."""
RISK: Final = 0.1


class At(msgspec.Struct, frozen=True, kw_only=True):
    """A curve's point: after so many ``turns`` and operator ``answers``."""

    turns: int
    answers: float
    accuracy: Interval


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """What is told from a threshold on, in the median of the lives.

    ``wrong`` is that of the lives in which anything was told, None where there is no such life.
    """

    coverage: Interval
    right: Interval
    wrong: Interval | None


class Lived(msgspec.Struct, frozen=True, kw_only=True):
    """What one arm came to. Shares are 0-1; None where there is nothing to tell it by.

    ``gain`` is against who learns nothing in the same lives, ``gain_elsewhere`` draws the intents
    anew too. ``coverage`` is the most that can be told with at most ``RISK`` of it wrong, ``told``
    what the shipped threshold for ``RISK`` lets through.
    """

    arm: str
    curve: list[At]
    final: Interval
    recurring: Interval
    answers: Interval
    again: Interval | None
    gain: Interval
    gain_elsewhere: Interval | None
    coverage: Interval | None
    told: Shares | None
    far: Interval | None
    near: Interval | None
    risk: list[tuple[float, float]]
    reliability: list[Bin]


class Phrase(Shares, frozen=True, kw_only=True):
    """One wording taught for each intent, nothing known before: all its others asked."""

    accuracy: Interval


def lived(
    courses: Sequence[Course], frozen: Sequence[Course], sizes: Sequence[int], threshold: float
) -> Lived:
    """What the ``courses`` of one arm come to, beside the ``frozen`` ones of the same seeds.

    ``sizes`` tells how many questions of each intent were kept back.
    """
    arm = courses[0].arm
    # What is told in that arm is not the ranking's, so its probabilities are of something else.
    sure = [] if arm == "nearest" else [life.sure for life in courses]
    again = [life.corrected for life in courses if life.curve[-1].answers]
    ends = [life.curve[-1].accuracy for life in courses]
    gains = [end - life.curve[-1].accuracy for end, life in zip(ends, frozen, strict=True)]
    return Lived(
        arm=arm,
        curve=[_at(courses, place) for place in range(len(courses[0].curve))],
        final=_median(ends),
        recurring=_median([life.recurring for life in courses]),
        answers=_median([float(life.curve[-1].answers) for life in courses]),
        again=_median(again) if again else None,
        gain=_median(gains),
        gain_elsewhere=_elsewhere(courses, frozen, sizes) if sure else None,
        coverage=over_lives(sure, lambda some: coverage_at(_pooled(some), RISK)) if sure else None,
        told=told([told_from(life, threshold) for life in sure]) if sure else None,
        far=over_lives(courses, lambda some: _area(some, "far")) if sure else None,
        near=over_lives(courses, lambda some: _area(some, "near")) if sure else None,
        risk=thinned(risk_curve(_pooled(sure))) if sure else [],
        reliability=reliability(_pooled(sure)) if sure else [],
    )


def _median(values: Sequence[float]) -> Interval:
    found = over_lives(values, median)
    assert found is not None
    return found


def _at(courses: Sequence[Course], place: int) -> At:
    points = [life.curve[place] for life in courses]
    return At(
        turns=points[0].turns,
        answers=float(np.median([point.answers for point in points])),
        accuracy=_median([point.accuracy for point in points]),
    )


def _pooled(lives: Sequence[list[tuple[float, bool]]]) -> list[tuple[float, bool]]:
    return [question for life in lives for question in life]


def _area(courses: Sequence[Course], kind: str) -> float | None:
    """The area under the curve of one life's scope, in the median: lives are no one scale."""
    areas = [auroc(life.scope["inside"], life.scope[kind]) for life in courses]
    return median([area for area in areas if area is not None])


def _elsewhere(
    courses: Sequence[Course], frozen: Sequence[Course], sizes: Sequence[int]
) -> Interval:
    """The gain as if the company's intents had been others, too."""
    gained = np.array(
        [
            [float(now) - float(then) for (_, now), (_, then) in zip(c.sure, f.sure, strict=True)]
            for c, f in zip(courses, frozen, strict=True)
        ]
    )
    first = [sum(sizes[:place]) for place in range(len(sizes))]
    return over_lives_and_intents(np.add.reduceat(gained, first, axis=1) / np.array(sizes))


def told(lives: Sequence[Told]) -> Shares:
    """Medians of what was told in each life."""
    return Shares(
        coverage=_median([life.coverage for life in lives]),
        right=_median([life.right for life in lives]),
        wrong=over_lives([life.wrong for life in lives if life.wrong is not None], median),
    )


def one_phrase(
    company: Company,
    seed: int,
    texts: Texts,
    weights: Weights,
    whitening: Whitening,
    encoder: str,
) -> list[tuple[float, bool]]:
    """Teach an empty bot one wording of each intent, ask it every other: how sure, and if right."""
    bot = Bot(company, texts, weights, whitening, encoder, empty=True)
    chance = np.random.default_rng([seed, 4])
    others = []
    for intent in company.intents:
        taught = intent.stream[int(chance.integers(len(intent.stream)))]
        bot.correct(taught, intent.answer)
        others += [(t, intent) for t in (*intent.stream, *intent.test) if t != taught]
    found = []
    for text, intent in others:
        ranking = bot.ask(text)
        assert ranking is not None
        found.append((bot.sure(ranking), bot.answer_of(ranking) == intent.answer))
    return found


def phrase(lives: Sequence[list[tuple[float, bool]]], threshold: float) -> Phrase:
    """What is told by one wording each."""
    accuracy = [sum(right for _, right in life) / len(life) for life in lives]
    shares = told([told_from(life, threshold) for life in lives])
    return Phrase(accuracy=_median(accuracy), **msgspec.structs.asdict(shares))
