"""The fitted numbers of the answerer: ``weights.json``, and what they decide.

``benchmarks/fit_answering.py`` fits them on development data; nothing here is learned online, for
a calibration on the bot's own labels is not valid (they are self-selected and not exchangeable).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

VOICES: Final = (
    "wording",
    "answer",
    "full_answer",
    "letters",
    "answer_letters",
    "clause",
    "head",
    "support",
)
FEATURES: Final = (
    "log_probability",
    *VOICES,
    "margin",
    "outside_nearest",
    "outside_five",
    "fullness",
    "wordings",
    "items",
)


class Voices(msgspec.Struct, frozen=True, kw_only=True):
    """The weight of each of ``VOICES`` for one kind of encoder, and how the head is made.

    ``ridge`` is its penalty; in an item's prototype a full answer counts as ``answer_weight``
    wordings, a question that raters are sure of as ``lessons``, and one that they are sure it does
    not answer takes away ``against``. ``scaled``: each voice is
    brought to one spread for each question before it is weighed. ``rival`` is the score that the
    second best usually has.
    """

    wording: float
    answer: float
    full_answer: float
    letters: float
    answer_letters: float
    clause: float
    head: float
    support: float
    ridge: float
    answer_weight: float
    lessons: float
    against: float
    rival: float
    scaled: bool


class Logit(msgspec.Struct, frozen=True, kw_only=True):
    """Logistic regression over ``FEATURES``."""

    slope: tuple[float, ...]
    bias: float

    def probability(self, features: Sequence[float]) -> float:
        """Between 0 and 1."""
        logit = self.bias + float(np.dot(features, self.slope))
        return float(1.0 / (1.0 + np.exp(-np.clip(logit, -50.0, 50.0))))


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Is it asked of what we know at all, and is the best item right if so.

    The two are told apart by different things, so each has a regression of its own; the
    probability that an answer is right is their product. ``thresholds`` are (error rate, least
    probability), rates rising: with a threshold at most that share of the answers told was wrong
    on labelled data.
    """

    scope: Logit
    right: Logit
    thresholds: tuple[tuple[float, float], ...]

    def probability(self, features: Sequence[float]) -> float:
        """How likely the best item is the right answer."""
        return self.scope.probability(features) * self.right.probability(features)

    def threshold(self, error_rate: float) -> float:
        """The least probability at which one may answer; between known rates interpolated."""
        rates, least = zip(*self.thresholds, strict=True)
        return float(np.interp(error_rate, rates, least))


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """All of them. ``voices`` and ``decision`` by the kind of encoder: dense or ngrams.

    ``reach`` is the cosine from which on a rated question is near at all, ``doubt`` the weight of
    nobody having spoken; ``taught`` what an operator's answer is ahead of what is as near.
    """

    foreign: float
    reach: float
    doubt: float
    taught: float
    voices: dict[str, Voices]
    decision: dict[str, Decision]


def weights_file() -> Path:
    """Where they lie."""
    return Path(str(resources.files("audiobot") / "answering" / "weights.json"))


def load_weights() -> Weights:
    """The weights shipped with this version."""
    return msgspec.json.decode(weights_file().read_bytes(), type=Weights)


@functools.cache
def load_background() -> tuple[str, ...]:
    """Questions that no service company's knowledge answers: what 'none of these' is like."""
    text = (resources.files("audiobot") / "answering" / "background.txt").read_text("utf-8")
    return tuple(text.splitlines())


def kind_of(encoder: str) -> str:
    """Which weights belong to an encoder's name."""
    return "ngrams" if encoder.startswith("char-ngrams") else "dense"
