"""Recall: past dialogues that were rated, found by nearness without looking at each.

An approximate nearest-neighbour graph (HNSW: Malkov and Yashunin, 2016, arXiv:1603.09320) holds
the newest ``MAX_EXEMPLARS`` of them; the store stays the only place where they live for good.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from usearch.compiled import MetricKind, ScalarKind
from usearch.index import Index

from audiobot.ports import Halves, Matrix

MAX_EXEMPLARS: Final = 100_000
PER_QUESTION: Final = 8
"""Dialogues that speak for one wording: what the newest say is what holds today."""


class Exemplar(NamedTuple):
    """A rated dialogue as far as ranking needs it.

    ``item_id`` is what was told: without one it is found, but changes no answer. ``rater`` is who
    rated it, as a keyed hash, where that is known.
    """

    log_id: UUID
    item_id: str | None
    rating: int
    at: datetime
    rater: str | None = None


class Near(NamedTuple):
    """A question of the past, its vector, its raw cosine to what was asked, newest dialogue first.

    All that asked it in the same words are one.
    """

    question: str
    vector: Matrix
    cosine: float
    dialogues: tuple[Exemplar, ...]


class _Point(NamedTuple):
    """A question and the dialogues that speak for it, the oldest first."""

    question: str
    dialogues: tuple[Exemplar, ...]

    def without(self, log_id: UUID) -> tuple[Exemplar, ...]:
        """The others."""
        return tuple(exemplar for exemplar in self.dialogues if exemplar.log_id != log_id)


class Recall:
    """The exemplars and their graph. Calls come from one thread at a time.

    A question that was asked again and again in the same words is one point of the graph, and
    its newest ``PER_QUESTION`` dialogues speak for it. ``last_change`` is when one that changes
    answers came or went; None before, and never earlier than it was. ``generation`` grows with
    every change: what was found in one may be used as long as it lasts.
    """

    def __init__(self, dimension: int, limit: int = MAX_EXEMPLARS) -> None:
        self.limit = limit
        self.partial = False
        self.last_change: datetime | None = None
        self.generation = 0
        self._graph = Index(ndim=dimension, metric=MetricKind.Cos, dtype=ScalarKind.F16)
        self._point_of: OrderedDict[UUID, int] = OrderedDict()
        self._points: dict[int, _Point] = {}
        self._numbers: dict[str, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._point_of)

    def get(self, log_id: UUID) -> Exemplar | None:
        """The exemplar of a dialogue, if it is in."""
        number = self._point_of.get(log_id)
        said = self._points[number].dialogues if number is not None else ()
        return next((exemplar for exemplar in said if exemplar.log_id == log_id), None)

    def add(self, questions: Sequence[str], exemplars: Sequence[Exemplar], vectors: Matrix) -> None:
        """Take exemplars in, oldest first; of a dialogue that is in already the words stay."""
        self.generation += 1
        new: dict[int, Matrix] = {}
        for question, exemplar, vector in zip(questions, exemplars, vectors, strict=True):
            number = self._point_of.get(exemplar.log_id)
            if number is None:
                number = self._numbers.get(question)
            if number is None:
                number = self._numbers[question] = self._next
                self._next += 1
                self._points[number] = _Point(question, ())
                new[number] = vector
            point = self._points[number]
            said = (*point.without(exemplar.log_id), exemplar)
            self._points[number] = point._replace(dialogues=said[-PER_QUESTION:])
            self._point_of[exemplar.log_id] = number
            self._point_of.move_to_end(exemplar.log_id)
            self._changed(exemplar, exemplar.at)
            for oldest in said[:-PER_QUESTION]:
                del self._point_of[oldest.log_id]
        if new:
            self._graph.add(np.fromiter(new, np.uint64, len(new)), np.stack([*new.values()]))
        while len(self._point_of) > self.limit:
            self.partial = True
            self.discard(next(iter(self._point_of)))

    def discard(self, log_id: UUID, at: datetime | None = None) -> None:
        """Let go of a dialogue that no longer counts; unknown ones are no error."""
        gone = self.get(log_id)
        if gone is None:
            return
        number = self._point_of.pop(log_id)
        self.generation += 1
        point = self._points[number]
        left = point.without(log_id)
        if left:
            self._points[number] = point._replace(dialogues=left)
        else:
            del self._points[number], self._numbers[point.question]
            self._graph.remove(number)
        if at is not None:
            self._changed(gone, at)

    def _changed(self, exemplar: Exemplar, at: datetime) -> None:
        if exemplar.item_id is not None:
            self.changed_at(at)

    def changed_at(self, at: datetime) -> None:
        """Take notice of a change of the answers that was at ``at``."""
        if self.last_change is None or at > self.last_change:
            self.last_change = at

    def every(self, most: int) -> tuple[list[str], list[tuple[Exemplar, ...]], Halves]:
        """The newest ``most`` questions, their dialogues and vectors: (questions, dimension)."""
        points = [*self._points.items()][-most:]
        if not points:
            return [], [], np.zeros((0, self._graph.ndim), dtype=np.float16)
        numbers = np.fromiter((number for number, _ in points), np.uint64, len(points))
        said = [point.dialogues for _, point in points]
        vectors = np.asarray(self._graph.get(numbers), dtype=np.float16)
        return [point.question for _, point in points], said, vectors

    def near(self, vector: Matrix, limit: int) -> list[Near]:
        """Up to ``limit`` questions nearest to ``vector``, nearest first."""
        if not self._points:
            return []
        matches = self._graph.search(vector, min(limit, len(self._points)))
        numbers = np.asarray(matches.keys)
        vectors = np.asarray(self._graph.get(numbers), dtype=np.float32)
        found = []
        for number, row, distance in zip(
            numbers.tolist(), vectors, matches.distances.tolist(), strict=True
        ):
            point = self._points.get(number)
            if point is not None:
                found.append(Near(point.question, row, 1.0 - distance, point.dialogues[::-1]))
        return found
