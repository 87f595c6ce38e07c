"""One transaction on one connection: in a single message where nothing hangs on an answer.

Each answer that is waited for costs a turn of the event loop, which under load is longer than
the statement itself. So BEGIN travels with its limits, and a transaction whose statements are
known beforehand travels whole, in libpq's pipeline mode (PostgreSQL manual, "Pipeline Mode"):
PostgreSQL skips what follows the first that fails. Values travel beside the statements, not in
their text: a megabyte that is not a literal need not be scanned for its end.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import AsyncRowFactory, namedtuple_row, tuple_row
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

_STATEMENT_MS: Final = 2_000
_LOCK_MS: Final = 1_000
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""Whatever the database's own is."""
_LIMITS: Final = (
    f"SELECT set_config('statement_timeout', '{_STATEMENT_MS}', true) AS statements,"
    f" set_config('lock_timeout', '{_LOCK_MS}', true) AS locks,"
    " set_config('DateStyle', 'ISO', true) AS dates, set_config('TimeZone', 'UTC', true) AS zone,"
    " CASE WHEN current_setting('synchronous_commit') = 'off'"
    " THEN set_config('synchronous_commit', 'on', true) END AS commits"
)
"""For this transaction only: a pooler hands the session to others afterwards. Limits; times as the
driver reads them; and a commit that is on disk when it answers, whatever the database is set to."""
_DIALECT: Final = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # it has no types

Step = tuple[TextClause, Mapping[str, object]]
"""A statement and its values."""


@functools.cache
def _query(statement: TextClause) -> bytes:
    """The statement with its parameters as psycopg writes them."""
    return str(statement.compile(dialect=_DIALECT)).encode()


class _IsoLoader(Loader):
    """A time as it is written within the transaction.

    psycopg looks at the session's own DateStyle, which is back by the time a whole transaction's
    results are read.
    """

    def load(self, data: Buffer) -> datetime:
        """The moment; ``DataError`` for what Python has none for."""
        try:
            return datetime.fromisoformat(bytes(data).decode())
        except ValueError as error:
            raise psycopg.DataError("a time that no datetime can hold") from error


def prepare(connection: psycopg.AsyncConnection[Any]) -> None:
    """Make a new connection fit for sessions."""
    connection.adapters.register_loader("timestamptz", _IsoLoader)


class Session:
    """A transaction on a prepared ``connection``, in autocommit and in no transaction."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    def _cursor(self, rows: AsyncRowFactory[Any] = namedtuple_row) -> psycopg.AsyncCursor[Any]:
        return psycopg.AsyncCursor(self._connection, row_factory=rows)

    async def begin(self) -> None:
        """Begin, with limits on time and on waiting for locks."""
        await self._cursor().execute(f"{_BEGIN}; {_LIMITS}".encode())

    async def execute(
        self, statement: TextClause, values: Mapping[str, object] | None = None
    ) -> Sequence[Any]:
        """Run one statement of a transaction that has begun; its rows."""
        cursor = self._cursor()
        await cursor.execute(_query(statement), values or {})
        return await _rows(cursor)

    async def commit(self) -> None:
        """Make it durable."""
        await self._cursor().execute(b"COMMIT")

    async def at_once(self, steps: Sequence[Step], *, named: bool = True) -> list[Sequence[Any]]:
        """Begin, run every step, commit, in one message; each step's rows, ``named`` or plain."""
        around = self._cursor()
        cursors = [self._cursor(namedtuple_row if named else tuple_row) for _ in steps]
        async with self._connection.pipeline():
            await around.execute(_BEGIN.encode())
            await around.execute(_LIMITS.encode())
            for cursor, (statement, values) in zip(cursors, steps, strict=True):
                await cursor.execute(_query(statement), values)
            await around.execute(b"COMMIT")
        return [await _rows(cursor) for cursor in cursors]


async def _rows(cursor: psycopg.AsyncCursor[Any]) -> Sequence[Any]:
    return await cursor.fetchall() if cursor.description else ()
