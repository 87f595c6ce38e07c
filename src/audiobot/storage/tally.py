"""Totals kept beside a snapshot: what was written since, so that numbers never fall in an outage.

PostgreSQL's own statistics are the truth while it is there. This is for the time when it is not:
the last snapshot plus the effects of what this process acknowledged after it.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from audiobot.domain import Stats
from audiobot.storage.memory import SafeInMemoryStorage
from audiobot.storage.operations import AddConversation, Committed, Operation, RateConversation

_MOST: Final = 200_000
"""Effects remembered one by one; in a longer outage the rest only counts until it is carried."""


class Effect(NamedTuple):
    """One dialogue leaves a bucket (None: it is new) for another: its rating, 0 for unrated."""

    before: int | None
    after: int


def effect_of(committed: Committed, memory: SafeInMemoryStorage) -> Effect | None:
    """What a fresh operation changes in the totals; None when nobody here can know.

    Asked before memory follows: the rating that was in force is read there.
    """
    operation = committed.operation
    match operation:
        case AddConversation():
            return Effect(None, committed.rating or 0)
        case RateConversation():
            held = memory.get(operation.log_id)
            return Effect(held.rating or 0, operation.rating) if held is not None else None
        case _:
            return None


def _count(counts: list[int], effect: Effect, sign: int = 1) -> None:
    if effect.before is not None:
        counts[effect.before] -= sign
    counts[effect.after] += sign


class Tally:
    """The last snapshot, what came after it, and what of that only the journal has.

    ``doubtful`` are operations that PostgreSQL may have too: their commit never answered. Who
    holds ``lock`` sees no operation on its way from the journal into PostgreSQL.
    """

    def __init__(self, snapshot: Stats) -> None:
        self.snapshot = snapshot
        self.lock = asyncio.Lock()
        self.doubtful: dict[UUID, Operation] = {}
        self._since = [0] * 6
        self._journaled = [0] * 6
        self._effects: dict[UUID, Effect] = {}

    def wrote(self, operation: Operation, effect: Effect | None, *, journaled: bool) -> None:
        """A fresh operation was acknowledged."""
        if effect is None:
            return
        _count(self._since, effect)
        if journaled and len(self._effects) < _MOST:
            _count(self._journaled, effect)
            self._effects[operation.op_id] = effect

    def doubt(self, operation: Operation) -> None:
        """The journal will have it, and PostgreSQL perhaps too."""
        self.doubtful[operation.op_id] = operation

    def carried(self, operations: list[Operation]) -> None:
        """These are in PostgreSQL now."""
        for operation in operations:
            self.doubtful.pop(operation.op_id, None)
            effect = self._effects.pop(operation.op_id, None)
            if effect is not None:
                _count(self._journaled, effect, -1)

    def renew(self, snapshot: Stats, present: set[UUID]) -> None:
        """Take a new snapshot in, which counts the doubtful operations in ``present``.

        Nothing of this process may have been on its way to PostgreSQL while it was taken.
        """
        self.snapshot = snapshot
        self._since = self._missing(present)

    def _missing(self, present: set[UUID]) -> list[int]:
        """What the journal has and a snapshot that counts ``present`` has not."""
        missing = list(self._journaled)
        for op_id in present & self._effects.keys():
            _count(missing, self._effects[op_id], -1)
        return missing

    def overlaid(self, stats: Stats, present: set[UUID]) -> Stats:
        """PostgreSQL's totals with what only the journal has."""
        return _sum(stats, self._missing(present), complete=True)

    def told(self) -> Stats:
        """The snapshot with what came since."""
        return _sum(self.snapshot, self._since, complete=False)


def _sum(base: Stats, since: list[int], *, complete: bool) -> Stats:
    return msgspec.structs.replace(
        base,
        total_interactions=base.total_interactions + sum(since),
        rated_interactions=base.rated_interactions + sum(since[1:]),
        rating_sum=base.rating_sum + sum(r * n for r, n in enumerate(since)),
        positive_ratings=base.positive_ratings + since[4] + since[5],
        negative_ratings=base.negative_ratings + since[1] + since[2],
        recent=base.recent + sum(since),
        recent_positive=base.recent_positive + since[4] + since[5],
        complete=complete,
    )
