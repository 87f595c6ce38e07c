"""Recall: past dialogues that were rated well, found by nearness without looking at each.

An approximate nearest-neighbour graph (HNSW: Malkov and Yashunin, 2016, arXiv:1603.09320) holds
the newest ``MAX_EXEMPLARS`` of them; the store stays the only place where they live for good.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import Final, NamedTuple
from uuid import UUID

import numpy as np
from usearch.compiled import MetricKind, ScalarKind
from usearch.index import Index

from audiobot.ports import Matrix

MAX_EXEMPLARS: Final = 100_000


class Exemplar(NamedTuple):
    """A well-rated dialogue as far as ranking needs it.

    ``item_id`` is what was told: without one it is found, but changes no answer. ``rater`` is who
    rated it, as a keyed hash, where that is known.
    """

    log_id: UUID
    question: str
    item_id: str | None
    rating: int
    at: datetime
    rater: str | None = None


class Near(NamedTuple):
    """An exemplar, its vector, and its raw cosine to what was asked."""

    exemplar: Exemplar
    vector: Matrix
    cosine: float


class Recall:
    """The exemplars and their graph. Calls come from one thread at a time.

    A question that was asked again and again in the same words is one point of the graph.
    ``last_change`` is when one that changes answers came or went; None before, and never earlier
    than it was. ``generation`` grows with every change: what was found in one may be used as long
    as it lasts.
    """

    def __init__(self, dimension: int, limit: int = MAX_EXEMPLARS) -> None:
        self.limit = limit
        self.partial = False
        self.last_change: datetime | None = None
        self.generation = 0
        self._graph = Index(ndim=dimension, metric=MetricKind.Cos, dtype=ScalarKind.F16)
        self._exemplars: OrderedDict[UUID, Exemplar] = OrderedDict()
        self._points: dict[str, int] = {}
        self._asked: dict[int, dict[UUID, None]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._exemplars)

    def add(self, exemplars: Sequence[Exemplar], vectors: Matrix) -> None:
        """Take exemplars in, oldest first; of a dialogue that is in already the words stay."""
        self.generation += 1
        new: dict[int, Matrix] = {}
        for exemplar, vector in zip(exemplars, vectors, strict=True):
            known = self._exemplars.get(exemplar.log_id)
            question = known.question if known is not None else exemplar.question
            point = self._points.get(question)
            if point is None:
                point = self._points[question] = self._next
                self._next += 1
                self._asked[point] = {}
                new[point] = vector
            elif known is None:
                # One text for all who asked it.
                question = self._exemplars[next(iter(self._asked[point]))].question
            self._asked[point][exemplar.log_id] = None
            self._exemplars[exemplar.log_id] = exemplar._replace(question=question)
            self._exemplars.move_to_end(exemplar.log_id)
            self._changed(exemplar, exemplar.at)
        if new:
            self._graph.add(np.fromiter(new, np.uint64, len(new)), np.stack([*new.values()]))
        while len(self._exemplars) > self.limit:
            self.partial = True
            self.discard(next(iter(self._exemplars)))

    def discard(self, log_id: UUID, at: datetime | None = None) -> None:
        """Let go of a dialogue that no longer counts; unknown ones are no error."""
        gone = self._exemplars.pop(log_id, None)
        if gone is None:
            return
        self.generation += 1
        point = self._points[gone.question]
        del self._asked[point][log_id]
        if not self._asked[point]:
            del self._asked[point], self._points[gone.question]
            self._graph.remove(point)
        if at is not None:
            self._changed(gone, at)

    def _changed(self, exemplar: Exemplar, at: datetime) -> None:
        if exemplar.item_id is not None:
            self.changed_at(at)

    def changed_at(self, at: datetime) -> None:
        """Take notice of a change of the answers that was at ``at``."""
        if self.last_change is None or at > self.last_change:
            self.last_change = at

    def near(self, vector: Matrix, limit: int) -> list[Near]:
        """Up to ``limit`` exemplars nearest to ``vector``: nearest first, then newest first."""
        if not self._exemplars:
            return []
        matches = self._graph.search(vector, min(limit, len(self._asked)))
        points = np.asarray(matches.keys)
        vectors = np.asarray(self._graph.get(points), dtype=np.float32)
        found = (
            Near(self._exemplars[log_id], row, 1.0 - float(distance))
            for point, row, distance in zip(
                points.tolist(), vectors, matches.distances, strict=True
            )
            for log_id in reversed(self._asked.get(point, {}))
        )
        return list(islice(found, limit))
