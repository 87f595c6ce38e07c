"""What drivers report, told apart here and nowhere else: the same trouble comes in a dozen ways.

The word comes from the SQLSTATE (PostgreSQL's manual, appendix A) where there is one. A refused
connection brings none through libpq, and its text is in the server's language, so the code is
read from libpq's own protocol trace.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import traceback
from typing import Final

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from sqlalchemy import exc

from audiobot.one_thread import in_daemon_thread
from audiobot.storage.trouble import DatabaseTrouble, DataRefused, Reason

_BY_STATE: Final[dict[str, Reason]] = {
    "25006": "read_only",
    "28000": "password",
    "28P01": "password",
    "3D000": "database_missing",
    "3F000": "schema",
    "42501": "schema",
    "42703": "schema",
    "42883": "schema",
    "42P01": "schema",
    "42P10": "schema",
    "53100": "full",
    "53300": "too_many_connections",
    "55P03": "locked",
    "57014": "timeout",
    "57P01": "restarting",
    "57P02": "restarting",
    "57P03": "restarting",
}
_BY_CLASS: Final[dict[str, Reason]] = {"08": "lost", "42": "schema", "53": "full", "57": "lost"}
RETRIED: Final = frozenset({"40001", "40P01"})
"""Serialisation failure and deadlock: nothing is wrong, the same batch may go again."""
_DATA: Final = ("22", "23")
_TRACED_STATE: Final = re.compile(rb'\tErrorResponse\t.*? C "([0-9A-Z]{5})"')


def of(error: BaseException) -> DatabaseTrouble | DataRefused:
    """The trouble behind whatever driver or pool raised."""
    if isinstance(error, DatabaseTrouble | DataRefused):
        return error
    cause = error.orig if isinstance(error, exc.DBAPIError) and error.orig else error
    if isinstance(error, exc.TimeoutError) or isinstance(
        cause, TimeoutError | psycopg.errors.ConnectionTimeout
    ):
        return DatabaseTrouble("timeout")
    state = cause.sqlstate if isinstance(cause, psycopg.Error) else None
    if isinstance(cause, UnicodeEncodeError):
        return DataRefused("unicode")
    if state is not None:
        if state[:2] in _DATA:
            return DataRefused(state)
        return DatabaseTrouble(_BY_STATE.get(state) or _BY_CLASS.get(state[:2], "unknown"), state)
    # A name that no resolver takes, a label of 64 letters among them, raises the bare UnicodeError.
    if isinstance(cause, socket.gaierror | UnicodeError) or "failed to resolve host" in str(cause):
        return DatabaseTrouble("dns")
    if isinstance(cause, ConnectionRefusedError):
        return DatabaseTrouble("refused")
    return DatabaseTrouble("lost")


def let_go(error: BaseException | None) -> None:
    """Close the sockets that an error still holds.

    A connection that timed out on its way lives in a frame that its own error refers to: a
    circle, which the collector finds when it finds it.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


async def why_refused(parameters: dict[str, str], seconds: float) -> DatabaseTrouble:
    """Connect once more, to read why the server says no; ``lost`` when it does not say."""
    # RuntimeError: no thread can be started to ask in.
    with contextlib.suppress(OSError, TimeoutError, RuntimeError, psycopg.Error):
        trace = os.memfd_create("libpq-trace", os.MFD_CLOEXEC)
        try:
            async with asyncio.timeout(seconds):
                return await _traced_connect(parameters, trace)
        finally:
            os.close(trace)
    return DatabaseTrouble("lost")


async def _traced_connect(parameters: dict[str, str], trace: int) -> DatabaseTrouble:
    def begin() -> pq.abc.PGconn:
        return pq.PGconn.connect_start(make_conninfo(**parameters).encode())

    # libpq asks for the host's address there and then, and a resolver may take its time.
    connection = await in_daemon_thread("resolve", begin)
    try:
        if connection.status == pq.ConnStatus.BAD:
            return _from_text(connection)
        connection.trace(trace)
        while (status := connection.connect_poll()) in (
            pq.PollingStatus.READING,
            pq.PollingStatus.WRITING,
        ):
            await _ready(connection.socket, reading=status == pq.PollingStatus.READING)
        connection.untrace()
        found = _TRACED_STATE.findall(os.pread(trace, 1 << 16, 0))
        if found:
            state = found[-1].decode()
            return DatabaseTrouble(_BY_STATE.get(state, "unknown"), state)
        return _from_text(connection)
    finally:
        connection.finish()


async def _ready(fd: int, *, reading: bool) -> None:
    """Wait until a socket can be read, or written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    if reading:
        loop.add_reader(fd, tell)
    else:
        loop.add_writer(fd, tell)
    try:
        await ready
    finally:
        if reading:
            loop.remove_reader(fd)
        else:
            loop.remove_writer(fd)


def _from_text(connection: pq.abc.PGconn) -> DatabaseTrouble:
    """What libpq itself found, in its own English."""
    said = connection.get_error_message()
    if "translate host name" in said or "resolve host" in said:
        return DatabaseTrouble("dns")
    return DatabaseTrouble("refused" if "refused" in said else "lost")
