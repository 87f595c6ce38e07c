"""Totals kept beside a snapshot: what was written since, so that numbers never fall in an outage.

PostgreSQL's own statistics are the truth while it is there. This is for the time when it is not:
the last snapshot plus the effects of what this process acknowledged after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from audiobot.domain import Conversation, Stats, utc_now
from audiobot.storage.memory import SafeInMemoryStorage
from audiobot.storage.operations import (
    DAY,
    AddConversation,
    Committed,
    Operation,
    RateConversation,
)

_BUCKETS: Final = 6
_MOST: Final = 200_000
"""Operations remembered one by one; in a longer outage the rest counts until it is carried."""


class Effect(NamedTuple):
    """One dialogue leaves a bucket (None: it is new) for another: its rating, 0 for unrated.

    ``recent`` when it was told within 24 hours, as far as anybody here knows.
    """

    before: int | None
    after: int
    recent: bool = True


def effect_of(
    committed: Committed, memory: SafeInMemoryStorage, *, from_postgres: bool = False
) -> Effect | None:
    """What a fresh operation changes in the totals; None when nobody here can know.

    Asked before memory follows: the rating that was in force is read there, unless PostgreSQL
    has said it.
    """
    operation = committed.operation
    match operation:
        case AddConversation():
            early = memory.early(operation.conversation.log_id)
            return Effect(None, committed.rating or (early.rating if early else 0))
        case RateConversation():
            held = memory.get(operation.log_id)
            recent = held is None or _is_recent(held)
            if from_postgres and committed.known:
                return Effect(committed.before or 0, operation.rating, recent)
            if held is None:
                return None
            return Effect(held.rating or 0, operation.rating, recent)
        case _:
            return None


def _is_recent(told: Conversation) -> bool:
    return told.created_at >= utc_now() - DAY


class _Part(NamedTuple):
    """What one operation contributes to its dialogue: a rating with its version, or its being."""

    version: int
    rating: int
    adds: bool


def _count(counts: list[int], effect: Effect, sign: int = 1) -> None:
    """Count in six buckets for all dialogues, or in the six that follow for recent ones."""
    first = _BUCKETS if effect.recent else 0
    if effect.before is not None:
        counts[first + effect.before] -= sign
    counts[first + effect.after] += sign


class _Dialogue:
    """A dialogue that the journal knows more of than PostgreSQL does."""

    __slots__ = ("held", "newest", "pending", "recent")

    def __init__(self, effect: Effect) -> None:
        self.recent = effect.recent
        self.held = effect.before is not None
        self.newest = (0, effect.before or 0)
        self.pending: dict[UUID, _Part] = {}

    def counts_as(self, rating: RateConversation) -> Effect:
        """What a further rating changes for who counts PostgreSQL and the journal together."""
        before = max([self.newest, *(part[:2] for part in self.pending.values())])
        after = max(before, (rating.version, rating.rating))
        return Effect(before[1], after[1], self.recent)

    def take(self, part: _Part) -> None:
        """PostgreSQL has this part of it now."""
        self.held = self.held or part.adds
        self.newest = max(self.newest, (part.version, part.rating))

    def missing(self) -> Effect | None:
        """What PostgreSQL will count otherwise when it has all of it."""
        newest = max([self.newest, *(part[:2] for part in self.pending.values())])
        if not (self.held or any(part.adds for part in self.pending.values())):
            return None
        return Effect(self.newest[1] if self.held else None, newest[1], self.recent)


class Tally:
    """The last snapshot, what came after it, and what of that only the journal has.

    ``doubtful`` are operations that PostgreSQL may have too: their commit never answered. Who
    holds ``lock`` sees no operation on its way from the journal into PostgreSQL. ``stale`` once
    PostgreSQL got one whose effect nobody here knew: whoever reads its totals must renew these.
    """

    def __init__(self, snapshot: Stats) -> None:
        self.snapshot = snapshot
        self.lock = asyncio.Lock()
        self.doubtful: dict[UUID, Operation] = {}
        self.stale = False
        self._since = [0] * 2 * _BUCKETS
        self._journaled = [0] * 2 * _BUCKETS
        self._dialogues: dict[UUID, _Dialogue] = {}
        self._tracked = 0
        self._counted: set[UUID] = set()

    def wrote(self, operation: Operation, effect: Effect | None, *, journaled: bool) -> None:
        """A fresh operation was acknowledged."""
        if not isinstance(operation, AddConversation | RateConversation):
            return
        dialogue = self._dialogues.get(_about(operation))
        repeated = isinstance(operation, AddConversation) and dialogue is not None
        if dialogue is not None and effect is not None and isinstance(operation, RateConversation):
            # PostgreSQL alone does not know what it replaces: the journal may hold a newer one.
            effect = dialogue.counts_as(operation)
        if effect is not None and operation.op_id not in self._counted and not repeated:
            _count(self._since, effect)
        if dialogue is None:
            if not journaled or effect is None or self._tracked >= _MOST:
                return
            dialogue = self._dialogues[_about(operation)] = _Dialogue(effect)
        self._recount(dialogue, -1)
        if journaled:
            self._tracked += operation.op_id not in dialogue.pending
            dialogue.pending[operation.op_id] = _part(operation, effect)
        else:
            dialogue.take(_part(operation, effect))
        self._recount(dialogue)

    def recall(self, operations: Iterable[tuple[Operation, bool]]) -> None:
        """Begin with what a journal holds, oldest first, each with whether it was carried.

        What became of a dialogue that is not in it is not known.
        """
        early: dict[UUID, tuple[int, int]] = {}
        carried: list[Operation] = []
        for operation, was_carried in operations:
            match operation:
                case AddConversation(conversation=told):
                    _, rating = early.get(told.log_id, (0, 0))
                    effect = Effect(None, rating, _is_recent(told))
                    self.wrote(operation, effect, journaled=True)
                case RateConversation(log_id=log_id, rating=rating, version=version):
                    # Only a dialogue that is known by now makes an effect of its own.
                    dialogue = self._dialogues.get(log_id)
                    known = Effect(0, rating, dialogue.recent) if dialogue else None
                    if known is None:
                        early[log_id] = max(early.get(log_id, (0, 0)), (version, rating))
                    self.wrote(operation, known, journaled=True)
            if was_carried:
                carried.append(operation)
        self.carried(carried)
        self._since = list(self._journaled)

    def doubt(self, operation: Operation) -> None:
        """The journal will have it, and PostgreSQL perhaps too."""
        self.doubtful[operation.op_id] = operation

    def let_go(self, operation: Operation) -> None:
        """The journal will not have it: PostgreSQL alone can say whether it counts."""
        if self.doubtful.pop(operation.op_id, None) is not None:
            self.stale = True

    def carried(self, operations: Iterable[Operation]) -> None:
        """These are in PostgreSQL now."""
        for operation in operations:
            self.doubtful.pop(operation.op_id, None)
            if not isinstance(operation, AddConversation | RateConversation):
                continue
            dialogue = self._dialogues.get(_about(operation))
            if dialogue is None or operation.op_id not in dialogue.pending:
                self.stale = True
                continue
            self._recount(dialogue, -1)
            self._tracked -= 1
            dialogue.take(dialogue.pending.pop(operation.op_id))
            self._recount(dialogue)
            if not dialogue.pending:
                del self._dialogues[_about(operation)]

    def renew(self, snapshot: Stats, present: set[UUID]) -> None:
        """Take a new snapshot in, which counts the doubtful operations in ``present``.

        Nothing of this process may have been on its way to PostgreSQL while it was taken.
        """
        self.snapshot, self.stale = snapshot, False
        for op_id in present:
            operation = self.doubtful.get(op_id)  # let go of while PostgreSQL was asked
            if not isinstance(operation, AddConversation | RateConversation):
                continue
            dialogue = self._dialogues.get(_about(operation))
            if dialogue is not None:
                self._recount(dialogue, -1)
                dialogue.take(dialogue.pending.get(op_id) or _part(operation, None))
                self._recount(dialogue)
        self._since = list(self._journaled)
        # One that PostgreSQL has and the journal has not yet: it is counted, and will not be twice.
        self._counted = present

    def _recount(self, dialogue: _Dialogue, sign: int = 1) -> None:
        missing = dialogue.missing()
        if missing is not None:
            _count(self._journaled, missing, sign)

    def told(self, *, complete: bool = False) -> Stats:
        """The snapshot with what came since; ``complete`` right after it was renewed."""
        return _sum(self.snapshot, self._since, complete=complete)


def _about(operation: AddConversation | RateConversation) -> UUID:
    if isinstance(operation, AddConversation):
        return operation.conversation.log_id
    return operation.log_id


def _part(operation: Operation, effect: Effect | None) -> _Part:
    if isinstance(operation, RateConversation):
        return _Part(operation.version, operation.rating, adds=False)
    early = effect.after if effect is not None else 0
    return _Part(1 if early else 0, early, adds=True)


def _sum(base: Stats, since: list[int], *, complete: bool) -> Stats:
    recent = since[_BUCKETS:]
    every = [older + newer for older, newer in zip(since[:_BUCKETS], recent, strict=True)]
    in_all = base.recent + sum(recent)
    return msgspec.structs.replace(
        base,
        total_interactions=base.total_interactions + sum(every),
        rated_interactions=base.rated_interactions + sum(every[1:]),
        rating_sum=base.rating_sum + sum(r * n for r, n in enumerate(every)),
        positive_ratings=base.positive_ratings + every[4] + every[5],
        negative_ratings=base.negative_ratings + every[1] + every[2],
        recent=in_all,
        # Of some nobody here knows how old they are: a share of these is a share all the same.
        recent_positive=min(max(0, base.recent_positive + recent[4] + recent[5]), in_all),
        complete=complete,
    )
