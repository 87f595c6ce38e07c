"""One transaction on one connection: in a single message where nothing hangs on an answer.

Each answer that is waited for costs a turn of the event loop, which under load is longer than
the statement itself. So BEGIN travels with its limits, and a transaction whose statements are
known beforehand travels whole: PostgreSQL takes several in one query message and stops at the
first that fails (PostgreSQL manual, "Multiple Statements in a Simple Query"). Values are put in by
psycopg's own client-side binding.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.rows import namedtuple_row
from sqlalchemy import TextClause
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

_STATEMENT_MS: Final = 2_000
_LOCK_MS: Final = 1_000
_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED;"  # whatever the database's own is
    f" SELECT set_config('statement_timeout', '{_STATEMENT_MS}', true) AS statements,"
    f" set_config('lock_timeout', '{_LOCK_MS}', true) AS locks,"
    " set_config('DateStyle', 'ISO', true) AS dates, set_config('TimeZone', 'UTC', true) AS zone,"
    " CASE WHEN current_setting('synchronous_commit') = 'off'"
    " THEN set_config('synchronous_commit', 'on', true) END AS commits"
)
"""For this transaction only: a pooler hands the session to others afterwards. Limits; times as the
driver reads them; and a commit that is on disk when it answers, whatever the database is set to."""
_BEGUN: Final = 2
"""How many results that has."""
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
        self._cursor = psycopg.AsyncClientCursor(connection, row_factory=namedtuple_row)

    async def begin(self) -> None:
        """Begin, with limits on time and on waiting for locks."""
        await self._send(_BEGIN)

    async def execute(
        self, statement: TextClause, values: Mapping[str, object] | None = None
    ) -> Sequence[Any]:
        """Run one statement of a transaction that has begun; its rows."""
        return (await self._send(self._bound(statement, values or {})))[0]

    async def commit(self) -> None:
        """Make it durable."""
        await self._send("COMMIT")

    async def at_once(self, steps: Sequence[Step]) -> list[Sequence[Any]]:
        """Begin, run every step, commit, in one message; each step's rows."""
        texts = [_BEGIN, *(self._bound(*step) for step in steps), "COMMIT"]
        return (await self._send("; ".join(texts)))[_BEGUN:-1]

    def _bound(self, statement: TextClause, values: Mapping[str, object]) -> str:
        return self._cursor.mogrify(_query(statement), values)

    async def _send(self, text: str) -> list[Sequence[Any]]:
        cursor = self._cursor
        await cursor.execute(text.encode())
        results: list[Sequence[Any]] = []
        while True:
            results.append(await cursor.fetchall() if cursor.description else ())
            if not cursor.nextset():
                return results
