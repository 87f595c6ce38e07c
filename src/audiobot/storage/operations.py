"""The Operation record: the one form in which a change is made, journaled and replayed.

Whoever keeps dialogues (index, memory, later PostgreSQL) has one ``apply`` for these records and
no other way in. Operations commute: adds and evaluations are insert-once by id, all others are
last-write-wins by version with ties broken by ``op_id``, so any order and any number of repeats
end in the same state.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import time
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from audiobot.domain import (
    Conversation,
    Correction,
    Idempotency,
    KnowledgeSource,
    ModelMetrics,
)

DAY: Final = timedelta(hours=24)
"""How long a key is known, and a dialogue counts as recent, in every home."""


class OperationIds:
    """Ids for the operations of one process: 48 bits that are its own, then 74 at random.

    UUIDs of version 8 (RFC 9562, section 5.8). What lies from ``first`` to ``last`` was made
    here, so a process that asks for what others did need not be told of itself.
    """

    def __init__(self) -> None:
        self._random = random.Random(secrets.randbits(256))  # noqa: S311  # unlike, not secret
        self._own = secrets.randbits(48) << 80 | 8 << 76 | 2 << 62
        self.first = UUID(int=self._own)
        self.last = UUID(int=self._own | 0xFFF << 64 | (1 << 62) - 1)

    def new(self) -> UUID:
        """An id that nothing has yet."""
        drawn = self._random.getrandbits(74)
        return UUID(int=self._own | drawn >> 62 << 64 | drawn & (1 << 62) - 1)


class AddConversation(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="add", omit_defaults=True
):
    """A dialogue as it was told; ``explicit`` when its caller chose the id and may repeat it."""

    op_id: UUID
    conversation: Conversation
    explicit: bool = False
    idempotency: Idempotency | None = None


def rank_of(version: int, op_id: UUID | None = None) -> int:
    """One number for a rating's version and, where two have the same, its id; 0 for no rating."""
    return version << 128 | (op_id.int if op_id is not None else 0)


class RateConversation(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, tag="rate", omit_defaults=True
):
    """A rating, with what was said beside it.

    ``version`` is microseconds since the epoch, raised above the stored version by whoever
    commits it, so an acknowledged rating is never ignored because another clock runs ahead.
    ``corrected_response`` is a suggestion unless ``by_operator``.
    """

    op_id: UUID
    log_id: UUID
    rating: int
    version: int
    rated_at: datetime
    feedback_text: str | None = None
    corrected_response: str | None = None
    rater: str | None = None
    by_operator: bool = False
    idempotency: Idempotency | None = None

    @property
    def rank(self) -> int:
        """Its place among the ratings of its dialogue: the highest counts."""
        return rank_of(self.version, self.op_id)


class ReplaceKnowledge(
    msgspec.Struct, frozen=True, kw_only=True, tag="knowledge", omit_defaults=True
):
    """All items of one imported file, in place of what that file held before."""

    op_id: UUID
    source: KnowledgeSource
    version: int


class Correct(msgspec.Struct, frozen=True, kw_only=True, tag="correct", omit_defaults=True):
    """An operator's answer, in place of what was said under its ``correction_id`` before.

    To withdraw it, and to undo that, are further versions of it.
    """

    op_id: UUID
    correction: Correction


class Dismiss(msgspec.Struct, frozen=True, kw_only=True, tag="dismiss", omit_defaults=True):
    """Turns that an operator needs no more to see, or suggestions, by the ``op_id`` of each.

    Each of ``subjects`` is on its own: the newest word on it counts.
    """

    op_id: UUID
    subjects: tuple[UUID, ...]
    version: int
    dismissed_at: datetime
    dismissed: bool = True


class Evaluate(msgspec.Struct, frozen=True, kw_only=True, tag="evaluate"):
    """What an evaluation found; the first one under its ``evaluation_id`` stays."""

    op_id: UUID
    metrics: ModelMetrics


Operation = AddConversation | RateConversation | ReplaceKnowledge | Correct | Dismiss | Evaluate


class Committed(NamedTuple):
    """What a commit came to, in whichever home.

    ``operation`` is the one that counts: another than the one handed in when that was a repeat
    (then ``fresh`` is false), a rating with the version that it took. ``known`` says whether its
    dialogue is there, ``answered`` whether that person got an answer. ``rating`` is one that came
    before its dialogue, ``rated`` the same with its words where the journal has them, ``before``
    the one that a rating replaced where PostgreSQL took it.
    ``replaced`` is the correction that was in the place of a new one.
    """

    operation: Operation
    fresh: bool
    known: bool = False
    answered: bool = True
    rating: int | None = None
    before: int | None = None
    replaced: Correction | None = None
    rated: RateConversation | None = None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Operation)


def encode(operation: Operation) -> bytes:
    """The operation as MessagePack, the journal's payload."""
    return _encoder.encode(operation)


def decode(payload: bytes | memoryview) -> Operation:
    """The operation in ``payload``; raises ``msgspec.ValidationError`` when it is none."""
    operation: Operation = _decoder.decode(payload)
    return operation


def with_rating(conversation: Conversation, rating: RateConversation) -> Conversation:
    """The dialogue with a rating as the one that counts."""
    return msgspec.structs.replace(
        conversation,
        rating=rating.rating,
        feedback_text=rating.feedback_text,
        updated_at=rating.rated_at,
        rater=rating.rater,
    )


def moment_of(operation: Operation) -> datetime:
    """When the operation was accepted."""
    match operation:
        case AddConversation(conversation=told):
            return told.created_at
        case RateConversation(rated_at=rated_at):
            return rated_at
        case ReplaceKnowledge(source=source):
            return source.imported_at
        case Correct(correction=correction):
            return correction.corrected_at
        case Dismiss(dismissed_at=dismissed_at):
            return dismissed_at
        case Evaluate(metrics=metrics):
            return metrics.created_at


def key_of(operation: Operation) -> Idempotency | None:
    """The caller's key, which turns and ratings may bear."""
    match operation:
        case AddConversation() | RateConversation():
            return operation.idempotency
        case _:
            return None


def stamped(operation: Operation, version: int) -> Operation:
    """The operation with the version that it took; what is insert-once has none."""
    match operation:
        case AddConversation() | Evaluate():
            return operation
        case Correct(correction=correction):
            kept = msgspec.structs.replace(correction, version=version)
            return msgspec.structs.replace(operation, correction=kept)
        case _:
            return msgspec.structs.replace(operation, version=version)


def items_hash(source: KnowledgeSource) -> bytes:
    """SHA-256 over the items of a source (32 bytes)."""
    return hashlib.sha256(msgspec.msgpack.encode(source.items)).digest()


_last_version = 0


def clock_version() -> int:
    """Microseconds since the epoch, the version a live write starts from; never twice the same."""
    global _last_version  # noqa: PLW0603  # one clock for the process
    _last_version = max(time.time_ns() // 1_000, _last_version + 1)
    return _last_version
