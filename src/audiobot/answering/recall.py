"""Recall: past dialogues that were rated well, found by nearness without looking at each.

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
        self._exemplars: OrderedDict[int, Exemplar] = OrderedDict()
        self._keys: dict[UUID, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._exemplars)

    def add(self, exemplars: Sequence[Exemplar], vectors: Matrix) -> None:
        """Take exemplars in, oldest first; of a dialogue that is in already the words stay."""
        self.generation += 1
        new = [i for i, exemplar in enumerate(exemplars) if exemplar.log_id not in self._keys]
        if new:
            keys = np.arange(self._next, self._next + len(new), dtype=np.uint64)
            self._next += len(new)
            self._graph.add(keys, vectors[new])
            self._keys.update(zip((exemplars[i].log_id for i in new), keys.tolist(), strict=True))
        for exemplar in exemplars:
            key = self._keys[exemplar.log_id]
            self._exemplars[key] = exemplar
            self._exemplars.move_to_end(key)
            self._changed(exemplar, exemplar.at)
        while len(self._exemplars) > self.limit:
            self.partial = True
            self.discard(next(iter(self._exemplars.values())).log_id)

    def discard(self, log_id: UUID, at: datetime | None = None) -> None:
        """Let go of a dialogue that no longer counts; unknown ones are no error."""
        key = self._keys.pop(log_id, None)
        if key is None:
            return
        self.generation += 1
        gone = self._exemplars.pop(key)
        self._graph.remove(key)
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
        """Up to ``limit`` exemplars nearest to ``vector``, nearest first."""
        if not self._exemplars:
            return []
        matches = self._graph.search(vector, min(limit, len(self._exemplars)))
        keys = np.asarray(matches.keys)
        vectors = np.asarray(self._graph.get(keys), dtype=np.float32)
        return [
            Near(self._exemplars[key], row, 1.0 - float(distance))
            for key, row, distance in zip(keys.tolist(), vectors, matches.distances, strict=True)
            if key in self._exemplars
        ]
