"""Deciding: tell the best item, ask which of two is meant, or hand the question over.

The operator sets how often an answer may be wrong. The probability of being right is calibrated on
labelled data and shipped (``weights.py``): one learned from the bot's own ratings would not hold,
for people rate what they were told, and that is what the bot chose.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from audiobot.answering.corrections import name_of
from audiobot.answering.ranking import Ranker, Ranking
from audiobot.answering.weights import FEATURES, kind_of
from audiobot.answering.words import plain
from audiobot.domain import KnowledgeItem, Language, Outcome

LEAST_OVERLAP: Final = 0.4
OWN_WORDS: Final = 0.75
"""Overlaps: n-grams alone tell nothing below the one, and what they reach the other with."""
PINNED: Final = 0.99
"""An operator answered this very question: what is left is that he may be wrong."""
_LOG_PROBABILITY: Final = FEATURES.index("log_probability")
_CLOSE: Final = 0.4
"""The second of two is worth asking for when it is at least so likely beside the first."""


class Verdict(NamedTuple):
    """What to do; how likely the answer is right (of two, one of them); what to choose from."""

    outcome: Outcome
    confidence: float | None
    choice: tuple[KnowledgeItem, ...] = ()


HAND_OVER: Final = Verdict("handed_over", None)


def decide(
    ranker: Ranker, question: str, ranking: Ranking, language: Language, error_rate: float
) -> Verdict:
    """What to do with a ranking when at most ``error_rate`` of the answers may be wrong.

    N-grams alone take likeness of letters for likeness of meaning, so with them an item must
    share real words with the question, and one asked for in its own words is always told.
    """
    if ranking.is_pinned:
        return Verdict("answered", PINNED)
    kind = kind_of(ranker.encoder)
    decision = ranker.weights.decision[kind]
    likely = min(decision.probability(ranking.features), PINNED)
    least = decision.threshold(error_rate)
    if kind == "ngrams":
        overlap = shared(ranker, question, ranking)
        if overlap >= OWN_WORDS:
            return Verdict("answered", max(likely, least))
        if overlap < LEAST_OVERLAP:
            return HAND_OVER
    if likely >= least:
        return Verdict("answered", likely)
    choice = _choice(ranking, language)
    if choice and kind == "dense":
        beside = float(np.exp(ranking.ranked[1].score - ranking.ranked[0].score))
        share = float(np.exp(ranking.features[_LOG_PROBABILITY]))
        # What the first leaves of the probability, the others share as they share the scores.
        rest = max(0.0, decision.scope.probability(ranking.features) - likely)
        both = likely + rest * min(1.0, share * beside / max(1.0 - share, 1e-9))
        if beside >= _CLOSE and both >= least:
            return Verdict("asked", min(both, PINNED), choice)
    return HAND_OVER


def shared(ranker: Ranker, question: str, ranking: Ranking) -> float:
    """How much of the question, letter group by letter group, the best item's wordings have."""
    best = ranking.ranked[0].item
    wordings = [*best.questions] or [f"{best.title} {best.answer}"]
    return ranker.ngrams.overlap(question, wordings)


def _choice(ranking: Ranking, language: Language) -> tuple[KnowledgeItem, ...]:
    """The two best, if both can be named in the company's own words, and apart."""
    two = tuple(ranked.item for ranked in ranking.ranked[:2])
    names = {plain(name_of(item)) for item in two if item.language == language}
    return two if len(names - {""}) == 2 else ()
