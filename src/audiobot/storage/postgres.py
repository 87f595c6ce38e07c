"""PostgreSQL as a home of dialogues: the same operations, the same answers, another place.

Writes go in batches, each in one transaction. Every call has a bound in time that holds whatever
the server does: the work runs in a task of its own, and when its time is up it is abandoned and
its socket is shut, because no timeout of a driver bounds a server that was frozen in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import msgspec
import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from sqlalchemy import TextClause, event, exc
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from audiobot.domain import (
    Conversation,
    Correction,
    Idempotency,
    KnowledgeItem,
    KnowledgeSource,
    ModelMetrics,
    OperatorAnswer,
    Stats,
    stats_of_counts,
    utc_now,
)
from audiobot.errors import IdempotencyMismatch, InvalidValue
from audiobot.ports import NO_METER, ChangeMark, Meter
from audiobot.storage import driver
from audiobot.storage import statements as sql
from audiobot.storage import statements_teaching as teaching
from audiobot.storage.batch import (
    LOCK_SPACE,
    Batch,
    about,
    as_base64,
    as_json,
    conversation_of,
    correction_of,
    metrics_of,
    rounds,
    simple,
)
from audiobot.storage.batching import GroupCommit
from audiobot.storage.dsn import Dsn
from audiobot.storage.homes import AT_ONCE, READ_SECONDS, WRITE_SECONDS, Ahead
from audiobot.storage.index_teaching import Verdict
from audiobot.storage.operations import (
    DAY,
    AddConversation,
    Committed,
    Operation,
    OperationIds,
    RateConversation,
    rank_of,
)
from audiobot.storage.session import Session, Step, prepare
from audiobot.storage.trouble import DatabaseTrouble, DataRefused

_T = TypeVar("_T")

_BEAT_SECONDS: Final = 1.0
_POOL: Final = 5
MAX_BATCH: Final = 256
_PAGE: Final = 64
_FOLD_ABOVE: Final = 2_000
_FOLD_AT_ONCE: Final = 50_000
_OVERLAP: Final = timedelta(seconds=8)
"""A rating is dated before its transaction commits: what is heard is heard again for so long."""
_FIRST: Final = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))


def _values_of(ahead: Ahead) -> dict[str, str]:
    """What the journal knows better, as the statements take it."""
    return {
        "verdicts": as_json([verdict._asdict() for verdict in ahead.verdicts]),
        "overruled": as_json(ahead.overruled),
        "settled": as_json([{"log_id": i, "version": v} for i, v in ahead.settled]),
    }


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
        meter: Meter = NO_METER,
    ) -> None:
        self.dsn = dsn
        self._meter = meter
        self.replica = uuid4()
        self.write_seconds = write_seconds
        self.read_seconds = read_seconds
        # A transaction's statements are not prepared by name: a pooler gives the next one
        # to another server connection.
        self._engine = create_async_engine(
            "postgresql+psycopg://",
            # A session begins and commits by itself, and what failed is undone right there.
            connect_args={**dsn.parameters, "prepare_threshold": None, "autocommit": True},
            pool_reset_on_return=None,
            pool_size=_POOL,
            max_overflow=_POOL,
            pool_timeout=write_seconds,
            pool_use_lifo=True,
            hide_parameters=True,  # an error's text must not hold what a person said
        )
        self._generation = 0
        event.listen(self._engine.sync_engine, "connect", self._opened)
        event.listen(self._engine.sync_engine, "checkout", self._must_be_new)
        self._commits = GroupCommit(
            self._commit_batch, follow, most=MAX_BATCH, home="postgres", meter=meter
        )
        self._tasks: dict[asyncio.Task[Any], list[psycopg.AsyncConnection[Any]]] = {}
        self._outcomes: set[asyncio.Future[Any]] = set()

    def start(self) -> None:
        """Begin to commit."""
        self._commits.start()

    async def close(self) -> None:
        """Commit what waits, close every connection."""
        await self._commits.close()
        # What comes back to the pool after its end would be closed by nobody.
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.5)
        for task, held in [*self._tasks.items()]:
            self._cut(task, held)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.5)
        await self._engine.dispose()

    def forget_sessions(self) -> None:
        """Use no session again that is open now.

        A session keeps what it was opened with (read-only by default, a standby's answer, a
        search path) long after the server was put right.
        """
        self._generation += 1

    def _opened(self, raw: Any, record: ConnectionPoolEntry) -> None:
        prepare(raw.driver_connection)
        record.info["generation"] = self._generation

    def _must_be_new(self, raw: object, record: ConnectionPoolEntry, used: object) -> None:  # noqa: ARG002
        if record.info.get("generation") != self._generation:
            raise exc.InvalidatePoolError

    def interrupt(self, trouble: DatabaseTrouble) -> None:
        """Let nobody wait for PostgreSQL any longer: the circuit has opened."""
        self.forget_sessions()
        self._commits.interrupt(trouble)
        for outcome in self._outcomes:
            if not outcome.done():
                outcome.set_exception(trouble)

    def paused(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Meanwhile no live batch is on its way."""
        return self._commits.paused()

    @property
    def waiting(self) -> int:
        """Operations that wait for the next commit."""
        return self._commits.waiting

    @property
    def checked_out(self) -> int:
        """Connections in use at this moment."""
        count: int = self._engine.pool.checkedout()  # type: ignore[attr-defined]
        return count

    # -- bounded in time -------------------------------------------------------------------

    async def _within(self, seconds: float, work: Callable[[Session], Awaitable[_T]]) -> _T:
        """Do ``work`` in a transaction, in at most ``seconds``, and commit it."""

        async def step_by_step(session: Session) -> _T:
            await session.begin()
            found = await work(session)
            await session.commit()
            return found

        return await self._bounded(seconds, step_by_step)

    async def _at_once(self, seconds: float, *steps: Step) -> list[Sequence[Any]]:
        """The same for statements that do not hang on each other: each one's rows."""
        return await self._bounded(seconds, lambda session: session.at_once(steps))

    async def _bounded(self, seconds: float, work: Callable[[Session], Awaitable[_T]]) -> _T:
        """Do ``work`` on a connection, which is given up when its time is."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_T] = loop.create_future()
        held: list[psycopg.AsyncConnection[Any]] = []

        work_on_it = self._connected(work, held, outcome)
        task = loop.create_task(_into(outcome, work_on_it), name="postgres")
        self._tasks[task] = held
        task.add_done_callback(self._tasks.pop)
        self._outcomes.add(outcome)
        timer = loop.call_later(seconds, _miss, outcome)
        started = loop.time()
        try:
            return await outcome
        except asyncio.CancelledError:
            # Its caller hung up: let it end by itself, but not for ever.
            loop.call_later(seconds, self._cut, task, held)
            raise
        except (msgspec.MsgspecError, InvalidValue, IdempotencyMismatch):
            raise
        except Exception as error:
            if not task.done():
                self._cut(task, held)
                self._meter.abandoned(loop.time() - started)
                raise
            driver.let_go(error)
            found = driver.of(error)
            if isinstance(found, DatabaseTrouble) and found.reason == "lost" and not held:
                found = await driver.why_refused(self.dsn.parameters, min(1.0, seconds))
            raise found from (None if found is error else error)
        finally:
            timer.cancel()
            self._outcomes.discard(outcome)
            del outcome  # an error's trace names this frame, and the outcome bears the error

    async def _connected(
        self,
        work: Callable[[Session], Awaitable[_T]],
        held: list[psycopg.AsyncConnection[Any]],
        outcome: asyncio.Future[_T],
    ) -> _T:
        """Do ``work`` on a connection of the pool, which is ``held`` from then on."""
        pooled = await self._engine.raw_connection()
        try:
            raw = pooled.driver_connection
            assert isinstance(raw, psycopg.AsyncConnection)
            held.append(raw)
            if outcome.done():  # connected too late: it is done elsewhere by now
                raise DatabaseTrouble("timeout")
            try:
                return await work(Session(raw))
            except BaseException as error:
                await self._undo(pooled, raw, error)
                raise
        finally:
            await greenlet_spawn(pooled.close)

    async def _undo(
        self,
        pooled: PoolProxiedConnection,
        raw: psycopg.AsyncConnection[Any],
        error: BaseException,
    ) -> None:
        """Leave no transaction open; a connection that is lost is not alone."""
        if not raw.closed:
            with contextlib.suppress(psycopg.Error):
                await raw.rollback()
        if raw.closed:
            self.forget_sessions()
        left = raw.pgconn.transaction_status, raw.pgconn.pipeline_status
        if left != (TransactionStatus.IDLE, PipelineStatus.OFF):
            await greenlet_spawn(pooled.invalidate, error)

    @staticmethod
    def _cut(task: asyncio.Task[Any], held: list[psycopg.AsyncConnection[Any]]) -> None:
        """End a task by shutting its socket; its connection is not used again."""
        if task.done():
            return
        for raw in held:
            with contextlib.suppress(psycopg.Error):
                shut(raw.pgconn.socket)

    # -- writing ---------------------------------------------------------------------------

    async def commit(self, operation: Operation, seconds: float | None = None) -> Committed:
        """Make a live ``operation`` durable, or raise within ``seconds``.

        After ``DatabaseTrouble`` nobody knows whether it was committed: the same operation
        goes to the journal, and replay finds out. ``DataRefused`` and ``IdempotencyMismatch``
        mean that it was not.
        """
        future = self._commits.submit(operation)
        bound = seconds or self.write_seconds
        deadline = future.get_loop().call_later(bound, _miss, future)
        try:
            return await future
        finally:
            deadline.cancel()

    async def _commit_batch(self, operations: list[Operation]) -> Sequence[Committed | Exception]:
        results: dict[UUID, Committed | Exception] = {}
        for part in rounds(operations):
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
        parts = list(rounds(operations))
        for i, part in enumerate(parts):
            last = sequence if i + 1 == len(parts) else None
            await self._apply(
                part, live=False, careful=True, cursor=(journal, last), seconds=seconds
            )
        if not parts:
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

        async def work(session: Session) -> dict[UUID, Committed | Exception]:
            found = await Batch(session, live=live, careful=careful).apply(operations)
            if cursor is not None and cursor[1] is not None:
                await session.execute(
                    sql.MOVE_CURSOR, {"journal": cursor[0], "sequence": cursor[1]}
                )
            return found

        async def at_once(session: Session) -> dict[UUID, Committed | Exception]:
            return await Batch(session, live=live, careful=False).apply_at_once(operations)

        async def once() -> dict[UUID, Committed | Exception]:
            if careful or cursor is not None or not simple(operations):
                return await self._within(bound, work)
            return await self._bounded(bound, at_once)

        bound = seconds or self.write_seconds
        try:
            return await once()
        except DatabaseTrouble as met:
            if met.state not in driver.RETRIED:
                raise
            return await once()

    # -- reading ---------------------------------------------------------------------------

    async def _read(
        self, statement: TextClause, values: dict[str, Any], seconds: float | None = None
    ) -> Sequence[Any]:
        return (await self._at_once(seconds or self.read_seconds, (statement, values)))[0]

    async def get(self, log_id: UUID) -> tuple[Conversation | None, int]:
        """The dialogue with its current rating, if it is there, and that rating's rank."""
        rows = await self._read(sql.GET, {"id": log_id}, self.write_seconds)
        if not rows:
            return None, 0
        row = rows[0]
        rated = row.rating_version is not None
        return conversation_of(row), rank_of(row.rating_version, row.rating_op) if rated else 0

    async def earlier(self, idempotency: Idempotency) -> Committed | None:
        """The operation committed under this key within 24 hours, if there is one."""

        async def work(session: Session) -> Committed | None:
            batch = Batch(session, live=True, careful=False)
            kept = (await batch.known([idempotency])).get(idempotency.key)
            if kept is None or kept.at < utc_now() - DAY:
                return None
            if kept.request != idempotency.request:
                raise IdempotencyMismatch("idempotency_mismatch")
            return await batch.earlier(kept)

        return await self._within(self.write_seconds, work)

    async def stats(self, doubtful: Iterable[Operation] = ()) -> tuple[Stats, set[UUID]]:
        """Totals at this moment, and which of the ``doubtful`` operations they count."""
        now = utc_now()
        values: dict[str, object] = {"since": now - DAY}
        statement = sql.STATS
        if asked := _asked(doubtful):
            statement, values["perhaps"] = sql.STATS_AND_PRESENT, as_json(asked)
        rows = await self._read(statement, values, self.write_seconds)
        present = {UUID(row[0]) for row in rows if row[1] == -1}
        return stats_of([row for row in rows if row[1] != -1], now), present

    async def present(self, perhaps: Iterable[Operation]) -> set[UUID]:
        """Which of these dialogues and ratings are here, by ``op_id``."""
        rows = await self._read(sql.PRESENT, {"perhaps": as_json(_asked(perhaps))})
        return {UUID(row[0]) for row in rows}

    async def rated(
        self, min_rating: int, *, answered: bool, newest: int | None = None
    ) -> AsyncIterator[list[Conversation]]:
        """Rated dialogues, oldest first, page by page; the ``newest`` so many if given."""
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
            page = []
            for row in rows:
                page.append(conversation_of(row))
                if len(page) % AT_ONCE == 0:
                    await asyncio.sleep(0)
            yield page
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

    async def changes(
        self, mark: ChangeMark, own: OperationIds
    ) -> tuple[ChangeMark, set[UUID], bool, bool]:
        """The next mark, dialogues rated since; whether knowledge, whether corrections changed."""
        values = {"since": mark.at, "overlap": _OVERLAP, "first": own.first, "last": own.last}
        rows = await self._read(sql.CHANGES, values)
        at, knowledge, corrections = rows[0].now, rows[0].knowledge, rows[0].corrections
        rated = {(row.op_id, row.joined_at): row.log_id for row in rows if row.op_id is not None}
        new = {log_id for one, log_id in rated.items() if one not in mark.seen}
        heard = mark.at is not None
        return (
            ChangeMark(at, frozenset(rated), knowledge, corrections),
            new,
            heard and knowledge != mark.knowledge,
            heard and corrections != mark.corrections,
        )

    # -- teaching --------------------------------------------------------------------------

    async def corrections(self) -> list[Correction]:
        """Each correction as it is now, in force or not, oldest version first."""
        rows = await self._read(teaching.CORRECTIONS, {})
        return [correction_of(row, row.version) for row in rows]

    async def inbox(self, most: int, ahead: Ahead, *, low: bool) -> list[Conversation]:
        """Turns that wait for an operator, newest first; with ``low`` those rated so too."""
        waiting = teaching.INBOX if low else teaching.HANDED_OVER
        rows = await self._read(waiting, {"most": most, **_values_of(ahead)})
        return [conversation_of(row) for row in rows]

    async def suggestions(self, most: int, ahead: Ahead) -> list[RateConversation]:
        """Ratings whose suggestion waits for an operator, newest first."""
        rows = await self._read(teaching.SUGGESTIONS, {"most": most, **_values_of(ahead)})
        return [
            RateConversation(
                op_id=row.op_id,
                log_id=row.log_id,
                rating=row.rating,
                version=row.version,
                rated_at=row.rated_at.astimezone(UTC),
                feedback_text=row.feedback_text,
                corrected_response=row.corrected_response,
                rater=row.rater,
            )
            for row in rows
        ]

    async def verdicts(self, subjects: Iterable[UUID]) -> list[Verdict]:
        """The newest word on each of ``subjects``, where there is one."""
        rows = await self._read(teaching.VERDICTS, {"ids": as_json(list(subjects))})
        return [Verdict(*row) for row in rows]

    async def evaluations(self, most: int) -> list[ModelMetrics]:
        """The newest evaluations, newest first."""
        rows = await self._read(teaching.EVALUATIONS, {"most": most})
        return [metrics_of(row) for row in rows]

    async def of_session(self, session_id: str, most: int) -> list[Conversation]:
        """The newest dialogues of a session, newest first."""
        values = {"session": session_id, "most": most}
        return [conversation_of(row) for row in await self._read(teaching.OF_SESSION, values)]

    async def answers(self, session_id: str, most: int) -> list[OperatorAnswer]:
        """What operators answered to the newest questions of a session, newest question first."""
        values = {"session": session_id, "most": most}
        return [
            OperatorAnswer(
                log_id=log_id,
                question=question,
                answer=answer,
                asked_at=asked_at.astimezone(UTC),
                answered_at=answered_at.astimezone(UTC),
            )
            for log_id, question, answer, asked_at, answered_at in await self._read(
                teaching.ANSWERS, values, self.write_seconds
            )
        ]

    async def findings(self) -> tuple[int, int]:
        """How many dialogues came under a taken id, and how many ratings have no dialogue."""
        ((conflicts, orphans),) = await self._read(sql.FINDINGS, {})
        return conflicts, orphans

    # -- being reached ---------------------------------------------------------------------

    async def beat(self, seconds: float | None = None) -> None:
        """Write a heartbeat, and nothing into every table that live writes touch."""
        bound = seconds or min(_BEAT_SECONDS, self.write_seconds)
        await self._at_once(bound, (sql.BEAT, {"replica": self.replica}))

    async def revision(self) -> str | None:
        """The schema's revision, None for a database without one."""
        if not (await self._read(sql.HAS_REVISION, {}))[0][0]:
            return None
        rows = await self._read(sql.REVISION, {})
        return str(rows[0][0]) if rows else None

    async def exchange_keys(self, keys: Iterable[bytes]) -> list[bytes]:
        """Give the keys that ids are checked with, and get every replica's, oldest first."""
        rows = await self._read(sql.EXCHANGE_KEYS, {"keys": as_json([as_base64(k) for k in keys])})
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
        folding = {"space": LOCK_SPACE, "most": _FOLD_ABOVE, "at_once": _FOLD_AT_ONCE}
        await self._at_once(self.read_seconds, (sql.FOLD, folding), (sql.FORGET_KEYS, {}))


async def _into(outcome: asyncio.Future[_T], work: Awaitable[_T]) -> None:
    """Let ``outcome`` end as ``work`` does, unless it has ended before."""
    try:
        found = await work
    except Exception as error:  # noqa: BLE001  # whoever waits for it is told
        if outcome.done():
            driver.let_go(error)  # its caller has gone to the journal
        else:
            outcome.set_exception(error)
    except BaseException:
        outcome.cancel()
        raise
    else:
        if not outcome.done():
            outcome.set_result(found)


def _miss(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(DatabaseTrouble("timeout"))


def stats_of(rows: Iterable[Any], now: datetime) -> Stats:
    """Statistics from rows of (rating or 0, dialogues, dialogues of the last day)."""
    counts, recent = dict.fromkeys(range(6), 0), dict.fromkeys(range(6), 0)
    for rating, dialogues, of_last_day in rows:
        counts[int(rating)] += int(dialogues)
        recent[int(rating)] += int(of_last_day)
    return stats_of_counts(
        counts, recent=sum(recent.values()), recent_positive=recent[4] + recent[5], as_of=now
    )


def shut(fd: int) -> None:
    """Shut a socket under its owner's hands: whoever waits on it is told at once."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as doomed:
        doomed.shutdown(socket.SHUT_RDWR)


def _asked(perhaps: Iterable[Operation]) -> list[dict[str, UUID | None]]:
    """What an operation is known by: a dialogue by its id, a rating by the operation's."""
    return [
        {"op_id": o.op_id, "log_id": about(o) if isinstance(o, AddConversation) else None}
        for o in perhaps
    ]
