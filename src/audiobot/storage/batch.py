"""One batch of operations inside one transaction, and dialogues to rows and back."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import TextClause

from audiobot.domain import (
    Candidate,
    Conversation,
    Correction,
    Embedding,
    Idempotency,
    ModelMetrics,
    Source,
    content_hash,
)
from audiobot.errors import IdempotencyMismatch
from audiobot.storage import statements as sql
from audiobot.storage import statements_teaching as teaching
from audiobot.storage.operations import (
    AddConversation,
    Committed,
    Correct,
    Dismiss,
    Evaluate,
    Operation,
    RateConversation,
    ReplaceKnowledge,
    items_hash,
    key_of,
    moment_of,
    stamped,
)
from audiobot.storage.session import Session, Step

LOCK_SPACE: Final = 0x61756469
"""The advisory locks of this program, apart from those of others in the same database."""
_LOCKS: Final = 1_024
_EVALUATIONS: Final = UUID(int=0)
"""Of two at once neither would see that the other is newer: they hold the lock of this id."""


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of a dialogue that is kept as JSON: what its answer rests on."""

    sources: tuple[Source, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    propensity: float | None = None
    versions: dict[str, str] = {}


class UsedKey(msgspec.Struct, frozen=True):
    """An Idempotency-Key as PostgreSQL has it."""

    request: bytes
    op_id: UUID
    log_id: UUID
    at: datetime


class Batch:
    """One batch of operations inside one transaction.

    ``live`` operations take versions above what is stored and stop at a used key; replayed ones
    keep theirs. A ``careful`` batch holds its ids against others that bring the same ones, and
    takes ratings whose dialogue is not there yet.
    """

    def __init__(self, session: Session, *, live: bool, careful: bool) -> None:
        self._session = session
        self._live = live
        self._careful = careful

    async def _run(self, statement: TextClause, **values: object) -> Sequence[Any]:
        return await self._session.execute(statement, values)

    async def apply_at_once(self, operations: list[Operation]) -> dict[UUID, Committed | Exception]:
        """The whole transaction in one message, for :func:`simple` operations.

        What is left out was not taken: an id that was there, a rating without its dialogue.
        """
        adds = [o for o in operations if isinstance(o, AddConversation)]
        rates = [o for o in operations if isinstance(o, RateConversation)]
        steps: list[Step] = []
        if adds:
            steps.append((sql.ADD, _add_values(adds)))
        if rates:
            steps.append((sql.RATE, self._rate_values(rates)))
        results = await self._session.at_once(steps, named=False)
        found: dict[UUID, Committed | Exception] = {}
        if adds:
            found |= _added(adds, results[0])
        if rates:
            found |= self._rated(rates, results[-1])
        return found

    async def apply(self, operations: list[Operation]) -> dict[UUID, Committed | Exception]:
        """What came of each operation, by ``op_id``; a rating left out was not taken."""
        await self._lock(operations)
        found = await self._remember(operations)
        left = [o for o in operations if o.op_id not in found]
        found |= await self._add([o for o in left if isinstance(o, AddConversation)])
        found |= await self._rate([o for o in left if isinstance(o, RateConversation)])
        for operation in left:
            if isinstance(operation, ReplaceKnowledge):
                found[operation.op_id] = await self._replace(operation)
        found |= await self._correct([o for o in left if isinstance(o, Correct)])
        found |= await self._dismiss([o for o in left if isinstance(o, Dismiss)])
        found |= await self._evaluate([o for o in left if isinstance(o, Evaluate)])
        if self._careful:
            ids = {str(i) for o in left if (i := about(o)) is not None}
            await self._run(sql.RECONCILE, ids=as_json(sorted(ids)))
        return found

    async def _lock(self, operations: list[Operation]) -> None:
        ids = {i for o in operations if (i := about(o)) is not None} if self._careful else set()
        ids |= {o.correction.correction_id for o in operations if isinstance(o, Correct)}
        ids |= {_EVALUATIONS for o in operations if isinstance(o, Evaluate)}
        numbers = sorted({zlib.crc32(i.bytes) % _LOCKS for i in ids})
        if numbers:
            await self._run(sql.LOCK, space=LOCK_SPACE, numbers=as_json(numbers))

    # -- idempotency keys --------------------------------------------------------------------

    async def _remember(self, operations: list[Operation]) -> dict[UUID, Committed | Exception]:
        """Claim the keys; what came of an operation whose key was used by another one."""
        bearing = {used.key: o for o in operations if (used := key_of(o)) is not None}
        if not bearing:
            return {}
        rows = [
            {
                "key": as_base64(key),
                "request": as_base64(_needed_key(o).request),
                "op_id": o.op_id,
                "log_id": about(o),
                "at": moment_of(o),
            }
            for key, o in bearing.items()
        ]
        claimed = {row[0] for row in await self._run(sql.REMEMBER, rows=as_json(rows))}
        spent = {key: o for key, o in bearing.items() if o.op_id not in claimed}
        if not spent or not self._live:
            return {}
        found: dict[UUID, Committed | Exception] = {}
        for key, kept in (await self.known([_needed_key(o) for o in spent.values()])).items():
            operation = spent[key]
            if kept.op_id == operation.op_id:
                continue
            if kept.request != _needed_key(operation).request:
                found[operation.op_id] = IdempotencyMismatch("idempotency_mismatch")
            elif (before := await self.earlier(kept)) is not None:
                found[operation.op_id] = before
        return found

    async def known(self, keys: Iterable[Idempotency]) -> dict[bytes, UsedKey]:
        """The keys among these that were used, whenever that was."""
        rows = await self._run(sql.KNOWN, keys=as_json([as_base64(k.key) for k in keys]))
        return {bytes(key): UsedKey(bytes(r), op, log, at) for key, r, op, log, at in rows}

    async def earlier(self, kept: UsedKey) -> Committed | None:
        """What the operation under a key came to; None when it is not to be found."""
        rated = await self._run(sql.OPERATION, op_id=kept.op_id)
        if rated:
            rating, version, outcome = rated[0]
            operation: Operation = RateConversation(
                op_id=kept.op_id,
                log_id=kept.log_id,
                rating=rating,
                version=version,
                rated_at=kept.at,
            )
            return Committed(operation, False, outcome is not None, outcome in (None, "answered"))
        dialogue = await self._dialogue(kept.log_id)
        if dialogue is None:
            return None
        operation = AddConversation(op_id=kept.op_id, conversation=dialogue)
        return Committed(operation, False, True, dialogue.outcome == "answered")

    async def _dialogue(self, log_id: UUID) -> Conversation | None:
        rows = await self._run(sql.GET, id=log_id)
        return conversation_of(rows[0]) if rows else None

    # -- dialogues, ratings, knowledge -------------------------------------------------------

    async def _add(self, adds: list[AddConversation]) -> dict[UUID, Committed | Exception]:
        if not adds:
            return {}
        found = _added(adds, await self._run(sql.ADD, **_add_values(adds)))
        repeated = [add for add in adds if add.op_id not in found]
        if repeated:
            brief = [
                {
                    "op_id": add.op_id,
                    "id": add.conversation.log_id,
                    "content_hash": as_base64(content_hash(add.conversation)),
                }
                for add in repeated
            ]
            await self._run(sql.CONFLICTS, rows=as_json(brief))
        for add in repeated:
            first = await self._dialogue(add.conversation.log_id) if self._live else None
            kept = msgspec.structs.replace(add, conversation=first) if first else add
            answered = kept.conversation.outcome == "answered"
            found[add.op_id] = Committed(kept, False, True, answered)
        return found

    async def _rate(self, rates: list[RateConversation]) -> dict[UUID, Committed | Exception]:
        if not rates:
            return {}
        return self._rated(rates, await self._run(sql.RATE, **self._rate_values(rates)))

    def _rate_values(self, rates: list[RateConversation]) -> dict[str, object]:
        rows = [
            {
                "place": place,
                "op_id": o.op_id,
                "log_id": o.log_id,
                "rating": o.rating,
                "version": o.version,
                "rated_at": o.rated_at,
                "feedback_text": o.feedback_text,
                "corrected_response": o.corrected_response,
                "rater": o.rater,
                "by_operator": o.by_operator,
            }
            for place, o in enumerate(rates)
        ]
        return {"rows": as_json(rows), "live": self._live, "careful": self._careful}

    def _rated(
        self, rates: list[RateConversation], rows: Sequence[Any]
    ) -> dict[UUID, Committed | Exception]:
        found: dict[UUID, Committed | Exception] = {}
        for place, version, outcome, fresh, before in rows:
            if outcome is None and not self._careful:
                continue
            taken = msgspec.structs.replace(rates[place], version=version)
            known = outcome is not None
            answered = outcome in (None, "answered")
            found[taken.op_id] = Committed(taken, fresh, known, answered, before=before)
        return found

    async def _replace(self, operation: ReplaceKnowledge) -> Committed:
        source = operation.source
        taken = await self._run(
            sql.REPLACE,
            name=source.name,
            version=operation.version,
            op_id=operation.op_id,
            content=items_hash(source),
            items=as_json(source.items),
            imported_at=source.imported_at,
            live=self._live,
        )
        if not taken:
            return Committed(operation, False)
        return Committed(msgspec.structs.replace(operation, version=taken[0][0]), True)

    # -- what operators teach ----------------------------------------------------------------

    async def _correct(self, corrects: list[Correct]) -> dict[UUID, Committed | Exception]:
        if not corrects:
            return {}
        rows = [{"op_id": o.op_id, **msgspec.structs.asdict(o.correction)} for o in corrects]
        given = {o.op_id: o for o in corrects}
        found: dict[UUID, Committed | Exception] = {o: Committed(given[o], False) for o in given}
        for row in await self._run(teaching.CORRECT, rows=as_json(rows), live=self._live):
            replaced = None
            if row.replaces:
                replaced = correction_of(row, row.old_version)
            taken = stamped(given[row.op_id], row.version)
            found[row.op_id] = Committed(taken, True, replaced=replaced)
        return found

    async def _dismiss(self, dismisses: list[Dismiss]) -> dict[UUID, Committed | Exception]:
        if not dismisses:
            return {}
        rows = [msgspec.structs.asdict(o) for o in dismisses]
        given = {o.op_id: o for o in dismisses}
        found: dict[UUID, Committed | Exception] = {o: Committed(given[o], False) for o in given}
        for op_id, _ in await self._run(teaching.DISMISS, rows=as_json(rows), live=self._live):
            found[op_id] = Committed(given[op_id], True)
        return found

    async def _evaluate(self, done: list[Evaluate]) -> dict[UUID, Committed | Exception]:
        if not done:
            return {}
        rows = [msgspec.structs.asdict(o.metrics) for o in done]
        taken = {row[0] for row in await self._run(teaching.EVALUATE, rows=as_json(rows))}
        await self._run(teaching.CURRENT)
        return {o.op_id: Committed(o, o.metrics.evaluation_id in taken) for o in done}


def simple(operations: Iterable[Operation]) -> bool:
    """True when what becomes of each is known from one answer: nothing new hangs on it."""
    return all(
        isinstance(operation, AddConversation | RateConversation) and operation.idempotency is None
        for operation in operations
    )


def _added(adds: list[AddConversation], rows: Iterable[Any]) -> dict[UUID, Committed | Exception]:
    """What became of the dialogues that came to be; one whose id was there is left out."""
    exceptions = {log_id: (came, rating) for log_id, came, rating in rows}
    found: dict[UUID, Committed | Exception] = {}
    for add in adds:
        told = add.conversation
        came, before = exceptions.get(told.log_id, (True, None))
        if came:
            found[add.op_id] = Committed(add, True, True, told.outcome == "answered", before)
    return found


def rounds(operations: list[Operation]) -> Iterable[list[Operation]]:
    """The operations in order, cut where one repeats what another of its round is about."""
    part: list[Operation] = []
    seen: set[object] = set()
    for operation in operations:
        marks: set[object] = set()
        match operation:
            case AddConversation(conversation=told):
                marks = {told.log_id}
            case ReplaceKnowledge(source=source):
                marks = {source.name}
            case Correct(correction=correction):
                marks = {correction.correction_id}
            case Evaluate(metrics=metrics):
                marks = {metrics.evaluation_id}
            case Dismiss(subjects=subjects):
                # Not a dialogue's own id: that it is added here too is no repeat.
                marks = {("dismiss", subject) for subject in subjects}
        if (key := key_of(operation)) is not None:
            marks.add(key.key)
        if marks & seen:
            yield part
            part, seen = [], set()
        part.append(operation)
        seen |= marks
    if part:
        yield part


def about(operation: Operation) -> UUID | None:
    """The dialogue that an operation is about, if it is about one."""
    match operation:
        case AddConversation(conversation=told):
            return told.log_id
        case RateConversation(log_id=log_id):
            return log_id
        case _:
            return None


def _needed_key(operation: Operation) -> Idempotency:
    key = key_of(operation)
    assert key is not None
    return key


def as_json(value: object) -> str:
    """The one parameter of a batch's statement."""
    return msgspec.json.encode(value).decode()


def as_base64(data: bytes) -> str:
    """Bytes as they travel in JSON."""
    return base64.b64encode(data).decode()


def _add_values(adds: list[AddConversation]) -> dict[str, object]:
    embeddings = [add.conversation.embedding for add in adds]
    return {
        "rows": as_json([_dialogue_row(add) for add in adds]),
        "vectors": b"".join(embedding.vector for embedding in embeddings if embedding),
    }


def _dialogue_row(add: AddConversation) -> dict[str, object]:
    told = add.conversation
    row: dict[str, object] = {
        "op_id": add.op_id,
        "id": told.log_id,
        "session_id": told.session_id,
        "user_message": told.user_message,
        "ai_response": told.ai_response,
        "model_used": told.model_used,
        "response_time": told.response_time,
        "token_count": told.token_count,
        "created_at": told.created_at,
        "outcome": told.outcome,
        "language": told.language,
        "durability": told.durability,
        "similar_found": told.similar_found,
        "learning_improved": told.learning_improved,
        "confidence": told.confidence,
        "receipt": Receipt(told.sources, told.candidates, told.propensity, told.versions),
        "content_hash": as_base64(content_hash(told)),
    }
    if told.embedding is not None:
        row["vector_bytes"] = len(told.embedding.vector)
        row["dimension"] = told.embedding.dimension
        row["embedding_model"] = told.embedding.model
    return row


def correction_of(row: Any, version: int) -> Correction:
    """The correction in a row of the statements that read some."""
    return Correction(
        correction_id=row.correction_id,
        answer=row.answer,
        wordings=tuple(row.wordings),
        language=row.language,
        corrected_at=row.corrected_at.astimezone(UTC),
        version=version,
        log_ids=tuple(UUID(log_id) for log_id in row.log_ids),
        withdrawn=row.withdrawn,
    )


def metrics_of(row: Any) -> ModelMetrics:
    """The evaluation in a row; the first AudioBot left some columns empty."""
    start, end = row.evaluation_period_start, row.evaluation_period_end
    return ModelMetrics(
        evaluation_id=row.evaluation_id,
        model_version=row.model_version,
        created_at=row.created_at.astimezone(UTC),
        avg_rating=row.avg_rating,
        total_interactions=row.total_interactions or 0,
        positive_ratings=row.positive_ratings or 0,
        negative_ratings=row.negative_ratings or 0,
        user_satisfaction=row.user_satisfaction,
        held_out_accuracy=row.held_out_accuracy,
        evaluation_period_start=start.astimezone(UTC) if start else None,
        evaluation_period_end=end.astimezone(UTC) if end else None,
        is_current_model=bool(row.is_current_model),
        requires_retraining=bool(row.requires_retraining),
        details=row.details or {},
    )


def conversation_of(row: Any) -> Conversation:
    """The dialogue in a row of the reading statements."""
    receipt = msgspec.convert(row.receipt, Receipt)
    embedding = None
    if row.vector is not None and row.dimension is not None:
        embedding = Embedding(bytes(row.vector), row.dimension, row.embedding_model or "")
    return Conversation(
        log_id=row.id,
        session_id=row.session_id or "",
        user_message=row.user_message,
        ai_response=row.ai_response,
        created_at=row.created_at.astimezone(UTC),
        model_used=row.model_used or "",
        response_time=_finite(row.response_time),
        outcome=row.outcome,
        language=row.language,
        durability=row.durability,
        token_count=row.token_count,
        similar_found=row.similar_found,
        learning_improved=row.learning_improved,
        confidence=row.confidence,
        sources=receipt.sources,
        candidates=receipt.candidates,
        propensity=receipt.propensity,
        versions=receipt.versions,
        embedding=embedding,
        rating=row.rating,
        feedback_text=row.feedback_text,
        updated_at=row.updated_at.astimezone(UTC) if row.updated_at else None,
        rater=row.rater,
    )


def _finite(seconds: float | None) -> float:
    """The first AudioBot may have kept NaN, which no JSON can tell."""
    return seconds if seconds is not None and math.isfinite(seconds) else 0.0
