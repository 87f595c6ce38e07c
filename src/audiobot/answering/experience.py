"""Experience: the rated dialogues that are at hand, and what they say near a question."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np

from audiobot.answering.beliefs import (
    IN_FULL,
    Belief,
    Raters,
    Trust,
    Verdicts,
    beliefs,
    heard,
    lessons,
)
from audiobot.answering.ranking import Ranker
from audiobot.answering.recall import MAX_EXEMPLARS, Exemplar, Recall
from audiobot.ports import Halves, Matrix

NEIGHBOURS: Final = 16
MOST_LESSONS: Final = 20_000


class Snapshot(NamedTuple):
    """Rated dialogues by question, the questions' vectors, and the raters: as they were once.

    ``vectors``, (questions, dimension), are in float16.
    """

    questions: list[str]
    said: list[tuple[Exemplar, ...]]
    vectors: Halves
    raters: Raters

    def heard(self, trust: Trust = IN_FULL) -> Verdicts:
        """What raters said, each heard as far as ``trust`` goes."""
        return heard(self.said, self.raters, trust)

    def head(self, ranker: Ranker, trust: Trust = IN_FULL) -> Matrix:
        """The ranker's ridge head, fitted with all that raters teach."""
        return ranker.fit_head(self.vectors, lessons(self.heard(trust), ranker.by_id))


class Experience:
    """Rated dialogues found by nearness, and how each rater rates. One thread at a time."""

    def __init__(self, dimension: int, limit: int = MAX_EXEMPLARS) -> None:
        self.recall = Recall(dimension, limit)
        self.raters = Raters()

    def take(
        self, questions: Sequence[str], exemplars: Sequence[Exemplar], vectors: Matrix
    ) -> None:
        """Take rated dialogues in, oldest first; one that is in already is rated anew."""
        for exemplar in exemplars:
            known = self.recall.get(exemplar.log_id)
            same = known is not None and known.rater == exemplar.rater
            if known is not None and not same:
                self.raters.withdrawn(known.rater, known.rating)
            before = known.rating if known is not None and same else None
            self.raters.rated(exemplar.rater, exemplar.rating, before)
        self.recall.add(questions, exemplars, vectors)

    def discard(self, log_ids: Sequence[UUID], at: datetime) -> None:
        """Let go of dialogues whose rating no longer counts."""
        for log_id in log_ids:
            known = self.recall.get(log_id)
            if known is not None:
                self.raters.withdrawn(known.rater, known.rating)
                self.recall.discard(log_id, at)

    def snapshot(self) -> Snapshot:
        """What a head is fitted with, to be used by any thread; the newest questions are enough."""
        return Snapshot(*self.recall.every(MOST_LESSONS), self.raters.copy())

    def believed(self, ranker: Ranker, vector: Matrix, trust: Trust = IN_FULL) -> dict[str, Belief]:
        """What raters say of items near the question whose raw vector is ``vector``."""
        near = self.recall.near(vector, NEIGHBOURS)
        if not near:
            return {}
        nearness = ranker.nearness(vector, np.stack([question.vector for question in near]))
        return beliefs(near, nearness, self.raters, ranker.weights.doubt, trust)
