"""PostgreSQL as a home of dialogues: the same operations, the same answers, another place.

Writes go in batches, each in one transaction. Every call has a bound in time that holds whatever
the server does: the work runs in a task of its own, and when its time is up it is abandoned and
its socket is shut, because no timeout of a driver bounds a server that was frozen in the middle.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import os
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import TextClause, event, exc
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from audiobot.domain import (
    Candidate,
    Conversation,
    Embedding,
    Idempotency,
    KnowledgeItem,
    KnowledgeSource,
    Source,
    Stats,
    content_hash,
    utc_now,
)
from audiobot.errors import IdempotencyMismatch, InvalidValue
from audiobot.ports import ChangeMark
from audiobot.storage import statements as sql
from audiobot.storage import trouble
from audiobot.storage.batching import GroupCommit
from audiobot.storage.dsn import Dsn
from audiobot.storage.operations import (
    AddConversation,
    Committed,
    Operation,
    RateConversation,
    ReplaceKnowledge,
    items_hash,
    moment_of,
)
from audiobot.storage.trouble import DatabaseTrouble, DataRefused

_T = TypeVar("_T")

WRITE_SECONDS: Final = 1.5
"""The operation deadline: what a live turn or rating may ask of PostgreSQL altogether."""
READ_SECONDS: Final = 3.0
_BEAT_SECONDS: Final = 1.0
_STATEMENT_MS: Final = 2_000
_LOCK_MS: Final = 1_000
_POOL: Final = 5
_BATCH: Final = 256
_PAGE: Final = 64
_LOCK_SPACE: Final = 0x61756469
_LOCKS: Final = 1_024
_FOLD_ABOVE: Final = 2_000
_FOLD_AT_ONCE: Final = 50_000
_OVERLAP: Final = timedelta(seconds=8)
"""A rating is dated before its transaction commits: what is heard is heard again for so long."""
_DAY: Final = timedelta(hours=24)
Version = tuple[int, bytes]
"""A rating's version with its ``op_id``, which breaks ties."""
NO_VERSION: Final[Version] = (0, b"")
_FIRST: Final = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of a dialogue that is kept as JSON: what its answer rests on."""

    sources: tuple[Source, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    propensity: float | None = None
    versions: dict[str, str] = {}


class PostgresStore:
    """Dialogues in PostgreSQL. Every method raises ``DatabaseTrouble`` within its time.

    ``follow`` hears of each fresh live commit before its caller does.
    """

    def __init__(
        self,
        dsn: Dsn,
        follow: Callable[[Committed], None] = lambda committed: None,
        *,
        write_seconds: float = WRITE_SECONDS,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self.dsn = dsn
        self.replica = uuid4()
        self.write_seconds = write_seconds
        self.read_seconds = read_seconds
        # A transaction's statements are not prepared by name: a pooler gives the next one
        # to another server connection.
        self._engine = create_async_engine(
            "postgresql+psycopg://",
            isolation_level="READ COMMITTED",  # whatever the database's own is
            connect_args={**dsn.parameters, "prepare_threshold": None},
            pool_size=_POOL,
            max_overflow=_POOL,
            pool_timeout=write_seconds,
            pool_use_lifo=True,
            hide_parameters=True,  # an error's text must not hold what a person said
        )
        self._generation = 0
        event.listen(self._engine.sync_engine, "connect", self._opened)
        event.listen(self._engine.sync_engine, "checkout", self._must_be_new)
        self._commits = GroupCommit(self._commit_batch, follow, most=_BATCH)
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._waiting: set[asyncio.Future[DatabaseTrouble]] = set()

    def start(self) -> None:
        """Begin to commit."""
        self._commits.start()

    async def close(self) -> None:
        """Commit what waits, close every connection."""
        await self._commits.close()
        await self._engine.dispose()
        if self._abandoned:
            await asyncio.wait(self._abandoned, timeout=1)

    def forget_sessions(self) -> None:
        """Use no session again that is open now.

        A session keeps what it was opened with (read-only by default, a standby's answer, a
        search path) long after the server was put right.
        """
        self._generation += 1

    def _opened(self, raw: object, record: ConnectionPoolEntry) -> None:  # noqa: ARG002  # an event's shape
        record.info["generation"] = self._generation

    def _must_be_new(self, raw: object, record: ConnectionPoolEntry, used: object) -> None:  # noqa: ARG002
        if record.info.get("generation") != self._generation:
            raise exc.InvalidatePoolError

    def interrupt(self, trouble: DatabaseTrouble) -> None:
        """Let nobody wait for PostgreSQL any longer: the circuit has opened."""
        self.forget_sessions()
        self._commits.interrupt(trouble)
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(trouble)

    @property
    def pause(self) -> asyncio.Lock:
        """Who holds it sees no live batch on its way."""
        return self._commits.pause

    @property
    def checked_out(self) -> int:
        """Connections in use at this moment."""
        count: int = self._engine.pool.checkedout()  # type: ignore[attr-defined]
        return count

    # -- bounded in time -------------------------------------------------------------------

    async def _within(self, seconds: float, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        """Do ``work`` in a transaction, in at most ``seconds``, and commit it."""
        held: list[AsyncConnection] = []

        async def whole() -> _T:
            async with self._engine.connect() as connection:
                held.append(connection)
                async with connection.begin():
                    await connection.execute(
                        sql.BEGIN, {"statement_ms": str(_STATEMENT_MS), "lock_ms": str(_LOCK_MS)}
                    )
                    return await work(connection)

        task = asyncio.create_task(whole(), name="postgres")
        interrupted: asyncio.Future[DatabaseTrouble] = asyncio.get_running_loop().create_future()
        self._waiting.add(interrupted)
        try:
            either: set[asyncio.Future[Any]] = {task, interrupted}
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            # Its caller hung up: let it end by itself, but not for ever.
            self._leave(task)
            asyncio.get_running_loop().call_later(seconds, self._cut, task, held)
            raise
        finally:
            self._waiting.discard(interrupted)
        if not task.done():
            self._leave(task)
            self._cut(task, held)
            raise interrupted.result() if interrupted.done() else DatabaseTrouble("timeout")
        try:
            return task.result()
        except (msgspec.MsgspecError, InvalidValue, IdempotencyMismatch):
            raise
        except Exception as error:
            trouble.let_go(error)
            found = trouble.of(error)
            if isinstance(found, DatabaseTrouble) and found.reason == "lost" and not held:
                found = await trouble.why_refused(self.dsn.parameters, min(1.0, seconds))
            raise found from error

    def _leave(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.add(task)
        task.add_done_callback(self._gone)

    @staticmethod
    def _cut(task: asyncio.Task[Any], held: list[AsyncConnection]) -> None:
        """End a task by shutting its socket; its connection is not used again."""
        if task.done():
            return
        for connection in held:
            with contextlib.suppress(Exception):
                raw = connection.sync_connection.connection.driver_connection  # type: ignore[union-attr]
                shut(raw.pgconn.socket)  # type: ignore[union-attr]

    def _gone(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            trouble.let_go(error)  # told to nobody: its caller has gone to the journal

    # -- writing ---------------------------------------------------------------------------

    async def commit(self, operation: Operation, seconds: float | None = None) -> Committed:
        """Make a live ``operation`` durable, or raise within ``seconds``.

        After ``DatabaseTrouble`` nobody knows whether it was committed: the same operation
        goes to the journal, and replay finds out. ``DataRefused`` and ``IdempotencyMismatch``
        mean that it was not.
        """
        future = self._commits.submit(operation)
        done, _ = await asyncio.wait({future}, timeout=seconds or self.write_seconds)
        if not done:
            future.set_exception(DatabaseTrouble("timeout"))
        return future.result()

    async def _commit_batch(self, operations: list[Operation]) -> Sequence[Committed | Exception]:
        results: dict[UUID, Committed | Exception] = {}
        for part in _rounds(operations):
            results |= await self._commit_part(part)
        return [results[operation.op_id] for operation in operations]

    async def _commit_part(self, part: list[Operation]) -> dict[UUID, Committed | Exception]:
        careful = any(isinstance(o, AddConversation) and o.explicit for o in part)
        try:
            found = await self._apply(part, live=True, careful=careful)
            missed = [o for o in part if o.op_id not in found]
            if missed:
                found |= await self._apply(missed, live=True, careful=True)
            return found
        except DataRefused as refused:
            if len(part) == 1:
                return {part[0].op_id: refused}
            # One value spoils the whole transaction: find it, and let the others through.
            half = len(part) // 2
            return await self._commit_part(part[:half]) | await self._commit_part(part[half:])

    async def replay(
        self, operations: list[Operation], journal: UUID, sequence: int, seconds: float = 5.0
    ) -> None:
        """Take in what a journal holds up to ``sequence``; any number of times, to one effect.

        Raises ``DataRefused`` when a value among them is one that PostgreSQL will never take.
        """
        rounds = list(_rounds(operations))
        for i, part in enumerate(rounds):
            last = sequence if i + 1 == len(rounds) else None
            await self._apply(
                part, live=False, careful=True, cursor=(journal, last), seconds=seconds
            )
        if not rounds:
            await self._apply([], live=False, careful=True, cursor=(journal, sequence))

    async def _apply(
        self,
        operations: list[Operation],
        *,
        live: bool,
        careful: bool,
        cursor: tuple[UUID, int | None] | None = None,
        seconds: float | None = None,
    ) -> dict[UUID, Committed | Exception]:
        """One transaction; again, once, when it met a deadlock."""

        async def work(connection: AsyncConnection) -> dict[UUID, Committed | Exception]:
            batch = _Batch(connection, live=live, careful=careful)
            found = await batch.apply(operations)
            if cursor is not None and cursor[1] is not None:
                await connection.execute(
                    sql.MOVE_CURSOR, {"journal": cursor[0], "sequence": cursor[1]}
                )
            return found

        bound = seconds or self.write_seconds
        try:
            return await self._within(bound, work)
        except DatabaseTrouble as met:
            if met.state not in trouble.RETRIED:
                raise
            return await self._within(bound, work)

    # -- reading ---------------------------------------------------------------------------

    async def _read(
        self, statement: TextClause, values: dict[str, Any], seconds: float | None = None
    ) -> Sequence[Any]:
        async def work(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(statement, values)).all()

        return await self._within(seconds or self.read_seconds, work)

    async def get(self, log_id: UUID) -> tuple[Conversation | None, Version]:
        """The dialogue with its current rating, if it is there, and that rating's version."""
        rows = await self._read(sql.GET, {"id": log_id}, self.write_seconds)
        if not rows:
            return None, NO_VERSION
        row = rows[0]
        rated = row.rating_version is not None
        version = (row.rating_version, row.rating_op.bytes) if rated else NO_VERSION
        return _conversation(row), version

    async def earlier(self, idempotency: Idempotency) -> Committed | None:
        """The operation committed under this key within 24 hours, if there is one."""

        async def work(connection: AsyncConnection) -> Committed | None:
            batch = _Batch(connection, live=True, careful=False)
            kept = (await batch.known([idempotency])).get(idempotency.key)
            if kept is None or kept.at < utc_now() - _DAY:
                return None
            if kept.request != idempotency.request:
                raise IdempotencyMismatch("idempotency_mismatch")
            return await batch.earlier(kept)

        return await self._within(self.write_seconds, work)

    async def stats(self, doubtful: Iterable[Operation] = ()) -> tuple[Stats, set[UUID]]:
        """Totals at this moment, and which of the ``doubtful`` operations they count."""
        now = utc_now()
        asked = [
            {"op_id": o.op_id, "log_id": _about(o) if isinstance(o, AddConversation) else None}
            for o in doubtful
        ]
        values: dict[str, object] = {"since": now - _DAY}
        statement = sql.STATS
        if asked:
            statement, values["doubtful"] = sql.STATS_AND_PRESENT, _json(asked)
        rows = await self._read(statement, values, self.write_seconds)
        present = {UUID(row[0]) for row in rows if row[1] == -1}
        return stats_of([row for row in rows if row[1] != -1], now), present

    async def handed_over(self, most: int) -> list[Conversation]:
        """The newest dialogues that were handed over, newest first."""
        return [_conversation(row) for row in await self._read(sql.HANDED_OVER, {"most": most})]

    async def newest_rating(self, log_id: UUID) -> RateConversation | None:
        """The rating that counts, or will when its dialogue arrives."""
        rows = await self._read(sql.NEWEST_RATING, {"id": log_id}, self.write_seconds)
        if not rows:
            return None
        op_id, rating, version, rated_at, feedback = rows[0]
        return RateConversation(
            op_id=op_id,
            log_id=log_id,
            rating=rating,
            version=version,
            rated_at=rated_at,
            feedback_text=feedback,
        )

    async def rated(
        self, min_rating: int, *, answered: bool, newest: int | None = None
    ) -> AsyncIterator[Conversation]:
        """Rated dialogues, oldest first, read page by page; the ``newest`` so many if given."""
        after = _FIRST
        if newest is not None:
            rows = await self._read(
                sql.NEWEST_RATED,
                {"min_rating": min_rating, "answered": answered, "newest": newest},
            )
            after = (rows[0][0], rows[0][1]) if rows else _FIRST
        while True:
            rows = await self._read(
                sql.RATED,
                {
                    "min_rating": min_rating,
                    "answered": answered,
                    "after_at": after[0],
                    "after_id": after[1],
                    "page": _PAGE,
                },
            )
            for row in rows:
                yield _conversation(row)
            if len(rows) < _PAGE:
                return
            after = (rows[-1].created_at, rows[-1].id)

    async def knowledge(self) -> list[KnowledgeSource]:
        """Every source, by name, also those that were emptied."""
        rows = await self._read(sql.SOURCES, {})
        return [
            KnowledgeSource(
                name=name,
                items=tuple(msgspec.convert(items, list[KnowledgeItem])),
                imported_at=at,
            )
            for name, items, at in rows
        ]

    async def changes(self, mark: ChangeMark) -> tuple[ChangeMark, dict[UUID, UUID], bool]:
        """The next mark, ratings (``op_id`` → dialogue) since, and whether knowledge changed."""
        rows = await self._read(sql.CHANGES, {"since": mark.at, "overlap": _OVERLAP})
        at, knowledge = rows[0].now, rows[0].knowledge
        rated = {row.op_id: row.log_id for row in rows if row.op_id is not None}
        new = {op_id: log_id for op_id, log_id in rated.items() if op_id not in mark.seen}
        changed = mark.at is not None and knowledge != mark.knowledge
        return ChangeMark(at, frozenset(rated), knowledge), new, changed

    async def findings(self) -> tuple[int, int]:
        """How many dialogues came under a taken id, and how many ratings have no dialogue."""
        ((conflicts, orphans),) = await self._read(sql.FINDINGS, {})
        return conflicts, orphans

    # -- being reached ---------------------------------------------------------------------

    async def beat(self, seconds: float | None = None) -> None:
        """Write a heartbeat, and nothing into every table that live writes touch."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(sql.BEAT, {"replica": self.replica})

        await self._within(seconds or min(_BEAT_SECONDS, self.write_seconds), work)

    async def revision(self) -> str | None:
        """The schema's revision, None for a database without one."""
        try:
            rows = await self._read(sql.REVISION, {})
        except DatabaseTrouble as trouble_met:
            if trouble_met.state == "42P01":
                return None
            raise
        return str(rows[0][0]) if rows else None

    async def exchange_keys(self, keys: Iterable[bytes]) -> list[bytes]:
        """Give the keys that ids are checked with, and get every replica's, oldest first."""
        rows = await self._read(sql.EXCHANGE_KEYS, {"keys": _json([_base64(k) for k in keys])})
        return [bytes(row[0]) for row in rows]

    async def has_adopted(self) -> bool:
        """True when dialogues of the first AudioBot are here: their ids prove nothing."""
        return bool((await self._read(sql.ADOPTED, {}))[0][0])

    async def cursor(self, journal: UUID) -> int:
        """Up to where a journal has been carried over."""
        rows = await self._read(sql.CURSOR, {"journal": journal})
        return int(rows[0][0]) if rows else 0

    async def keep_house(self) -> None:
        """Fold the summary, forget old keys."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sql.FOLD,
                {"space": _LOCK_SPACE, "most": _FOLD_ABOVE, "at_once": _FOLD_AT_ONCE},
            )
            await connection.execute(sql.FORGET_KEYS)

        await self._within(self.read_seconds, work)


class _Kept(msgspec.Struct, frozen=True):
    """An Idempotency-Key as PostgreSQL has it."""

    request: bytes
    op_id: UUID
    log_id: UUID
    at: datetime


class _Batch:
    """One batch of operations inside one transaction.

    ``live`` operations take versions above what is stored and stop at a used key; replayed ones
    keep theirs. A ``careful`` batch holds its ids against others that bring the same ones, and
    takes ratings whose dialogue is not there yet.
    """

    def __init__(self, connection: AsyncConnection, *, live: bool, careful: bool) -> None:
        self._connection = connection
        self._live = live
        self._careful = careful

    async def _run(self, statement: TextClause, **values: object) -> Sequence[Any]:
        result = await self._connection.execute(statement, values)
        return result.all() if result.returns_rows else ()

    async def apply(self, operations: list[Operation]) -> dict[UUID, Committed | Exception]:
        """What came of each operation, by ``op_id``; a rating left out was not taken."""
        if self._careful:
            await self._lock(operations)
        found = await self._remember(operations)
        left = [o for o in operations if o.op_id not in found]
        found |= await self._add([o for o in left if isinstance(o, AddConversation)])
        found |= await self._rate([o for o in left if isinstance(o, RateConversation)])
        for operation in left:
            if isinstance(operation, ReplaceKnowledge):
                found[operation.op_id] = await self._replace(operation)
        if self._careful:
            ids = {str(i) for o in left if (i := _about(o)) is not None}
            await self._run(sql.RECONCILE, ids=_json(sorted(ids)))
        return found

    async def _lock(self, operations: list[Operation]) -> None:
        ids = {i for o in operations if (i := _about(o)) is not None}
        numbers = sorted({zlib.crc32(i.bytes) % _LOCKS for i in ids})
        if numbers:
            await self._run(sql.LOCK, space=_LOCK_SPACE, numbers=_json(numbers))

    # -- idempotency keys --------------------------------------------------------------------

    async def _remember(self, operations: list[Operation]) -> dict[UUID, Committed | Exception]:
        """Claim the keys; what came of an operation whose key was used by another one."""
        bearing = {
            o.idempotency.key: o
            for o in operations
            if not isinstance(o, ReplaceKnowledge) and o.idempotency is not None
        }
        if not bearing:
            return {}
        rows = [
            {
                "key": _base64(key),
                "request": _base64(_key_of(o).request),
                "op_id": o.op_id,
                "log_id": _about(o),
                "at": moment_of(o),
            }
            for key, o in bearing.items()
        ]
        claimed = {row[0] for row in await self._run(sql.REMEMBER, rows=_json(rows))}
        used = {key: o for key, o in bearing.items() if o.op_id not in claimed}
        if not used or not self._live:
            return {}
        found: dict[UUID, Committed | Exception] = {}
        for key, kept in (await self.known([_key_of(o) for o in used.values()])).items():
            operation = used[key]
            if kept.op_id == operation.op_id:
                continue
            if kept.request != _key_of(operation).request:
                found[operation.op_id] = IdempotencyMismatch("idempotency_mismatch")
            elif (before := await self.earlier(kept)) is not None:
                found[operation.op_id] = before
        return found

    async def known(self, keys: Iterable[Idempotency]) -> dict[bytes, _Kept]:
        """The keys among these that were used, whenever that was."""
        rows = await self._run(sql.KNOWN, keys=_json([_base64(k.key) for k in keys]))
        return {bytes(key): _Kept(bytes(r), op, log, at) for key, r, op, log, at in rows}

    async def earlier(self, kept: _Kept) -> Committed | None:
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
        return _conversation(rows[0]) if rows else None

    # -- dialogues, ratings, knowledge -------------------------------------------------------

    async def _add(self, adds: list[AddConversation]) -> dict[UUID, Committed | Exception]:
        if not adds:
            return {}
        rows = [_dialogue_row(add) for add in adds]
        come = dict(map(tuple, await self._run(sql.ADD, rows=_json(rows))))
        found: dict[UUID, Committed | Exception] = {}
        repeated = [add for add in adds if add.conversation.log_id not in come]
        if repeated:
            ids = {add.op_id for add in repeated}
            brief = [
                {name: row[name] for name in ("op_id", "id", "content_hash")}
                for row in rows
                if row["op_id"] in ids
            ]
            await self._run(sql.CONFLICTS, rows=_json(brief))
        for add in adds:
            told = add.conversation
            if told.log_id in come:
                answered, early = told.outcome == "answered", come[told.log_id]
                found[add.op_id] = Committed(add, True, True, answered, early)
                continue
            first = await self._dialogue(told.log_id) if self._live else None
            kept = msgspec.structs.replace(add, conversation=first) if first else add
            answered = kept.conversation.outcome == "answered"
            found[add.op_id] = Committed(kept, False, True, answered)
        return found

    async def _rate(self, rates: list[RateConversation]) -> dict[UUID, Committed | Exception]:
        if not rates:
            return {}
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
        found: dict[UUID, Committed | Exception] = {}
        for place, version, outcome, fresh, before in await self._run(
            sql.RATE, rows=_json(rows), live=self._live, careful=self._careful
        ):
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
            items=_json(source.items),
            imported_at=source.imported_at,
            live=self._live,
        )
        if not taken:
            return Committed(operation, False)
        return Committed(msgspec.structs.replace(operation, version=taken[0][0]), True)


def _rounds(operations: list[Operation]) -> Iterable[list[Operation]]:
    """The operations in order, cut where one repeats a key, an id or a source of its round."""
    part: list[Operation] = []
    seen: set[object] = set()
    for operation in operations:
        marks: set[object] = set()
        match operation:
            case AddConversation(conversation=told):
                marks = {told.log_id}
            case ReplaceKnowledge(source=source):
                marks = {source.name}
        if not isinstance(operation, ReplaceKnowledge) and operation.idempotency is not None:
            marks.add(operation.idempotency.key)
        if marks & seen:
            yield part
            part, seen = [], set()
        part.append(operation)
        seen |= marks
    if part:
        yield part


def _about(operation: Operation) -> UUID | None:
    match operation:
        case AddConversation(conversation=told):
            return told.log_id
        case RateConversation(log_id=log_id):
            return log_id
        case ReplaceKnowledge():
            return None


def _key_of(operation: Operation) -> Idempotency:
    assert not isinstance(operation, ReplaceKnowledge)
    assert operation.idempotency is not None
    return operation.idempotency


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


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
        "content_hash": _base64(content_hash(told)),
    }
    if told.embedding is not None:
        row["vector"] = _base64(told.embedding.vector)
        row["dimension"] = told.embedding.dimension
        row["embedding_model"] = told.embedding.model
    return row


def _conversation(row: Any) -> Conversation:
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


def stats_of(rows: Iterable[Any], now: datetime) -> Stats:
    """Statistics from rows of (rating or 0, dialogues, dialogues of the last day)."""
    counts, recent = dict.fromkeys(range(6), 0), dict.fromkeys(range(6), 0)
    for rating, dialogues, of_last_day in rows:
        counts[int(rating)] += int(dialogues)
        recent[int(rating)] += int(of_last_day)
    rated = sum(counts[r] for r in range(1, 6))
    return Stats(
        total_interactions=rated + counts[0],
        rated_interactions=rated,
        rating_sum=sum(r * counts[r] for r in range(1, 6)),
        positive_ratings=counts[4] + counts[5],
        negative_ratings=counts[1] + counts[2],
        recent=sum(recent.values()),
        recent_positive=recent[4] + recent[5],
        complete=True,
        as_of=now,
    )


def shut(fd: int) -> None:
    """Shut a socket under its owner's hands: whoever waits on it is told at once."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as doomed:
        doomed.shutdown(socket.SHUT_RDWR)
