"""Heads without an end, requests that never come whole, and more connections than there may be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import select
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import psutil
import pytest
import uvicorn

from audiobot.http import protocol
from audiobot.http.protocol import BoundedProtocol
from audiobot.main import listen
from tests.integration.raw import (
    PROCESS,
    assert_error,
    connect,
    head,
    read_answer,
    send,
    send_until_answered,
)
from tests.servers import Server, serving

START = b"GET /api/ready HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = head(PROCESS, b"Content-Type: application/json", b"Transfer-Encoding: chunked")
A_BODY = b"10\r\n" + b'{"message": "a"}' + b"\r\n"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (START + b"X-Long: ", b"a" * 4_096),
        (START, b"X-One: two\r\n" * 400),
        (START + b"X-", b"a" * 4_096),
        (b"GET /", b"a" * 4_096),
        (CHUNKED + A_BODY + b"0\r\nX-Trailer: ", b"a" * 4_096),
        (CHUNKED + b"1;", b"a" * 4_096),
    ],
    ids=["a value", "lines", "a name", "a path", "a trailer", "a chunk's extension"],
)
def test_a_head_without_an_end_is_refused_and_fills_no_memory(
    shared: Server, start: bytes, piece: bytes
) -> None:
    process = psutil.Process(shared.process.pid)
    before = process.memory_info().rss
    sent, answer = send_until_answered(shared, start, piece, 64 << 20)
    assert_error(answer, 431, "head_too_large")
    assert answer.headers["connection"] == "close"
    assert sent < 8 << 20
    assert process.memory_info().rss < before + (16 << 20)


def test_a_whole_head_is_taken_up_to_32_kib(shared: Server) -> None:
    for size, status in ((31 << 10, 200), (33 << 10, 431)):
        line = b"X-Long: " + b"a" * size
        assert send(shared, head("/api/ready", line, method="GET"), "GET").status == status


def test_many_small_requests_in_one_piece_are_no_large_head(shared: Server) -> None:
    with closing(connect(shared)) as connection:
        connection.sendall((START + b"\r\n") * 1_000)
        read = b""
        while read.count(b"HTTP/1.1 200 OK") < 1_000:
            received = connection.recv(1 << 16)
            assert received
            read += received


def test_what_is_no_http_is_refused_in_the_form_of_every_error(shared: Server) -> None:
    assert_error(send(shared, b"\x16\x03\x01\x02\x00\r\n\r\n"), 400, "bad_request")


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (b"\x16\x03\r\n\r\n", 400, "bad_request"),
        (head(PROCESS, b"X-Long: " + b"a" * (40 << 10)), 431, "head_too_large"),
    ],
    ids=["no HTTP", "a long head"],
)
def test_what_is_refused_below_the_application_is_counted(
    shared: Server, request_: bytes, status: int, reason: str
) -> None:
    def counted() -> float:
        told = shared.client.get("/api/metrics").text
        return float(re.search(rf'requests_refused_total.reason="{reason}". (\S+)', told)[1])

    before = counted()
    assert_error(send(shared, request_), status, reason)
    assert counted() == before + 1


@asynccontextmanager
async def waiting(
    bounded: type[BoundedProtocol],
) -> AsyncIterator[tuple[str, int]]:
    """A server of this very protocol before an app that reads the body and answers with it."""

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        read, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            read += message["body"]
            more = message["more_body"]
        length = str(len(read)).encode()
        start = {"status": 200, "headers": [(b"content-length", length)]}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": read})

    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, log_config=None, lifespan="off", http=bounded)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:  # noqa: ASYNC110  # uvicorn offers nothing to wait for
        await asyncio.sleep(0.01)
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        await task


class Hurried(BoundedProtocol):
    wait_seconds = 0.4
    linger_seconds = 0.2


POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize("start", [b"G", START, POST, POST + b"he"])
async def test_a_request_that_stalls_is_ended_by_a_408(start: bytes) -> None:
    async with waiting(Hurried) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(start)
        read = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    status, body = read.split(b"\r\n", 1)[0], read.rsplit(b"\r\n\r\n", 1)[1]
    assert status == b"HTTP/1.1 408 Request Timeout"
    assert json.loads(body)["code"] == "request_timeout"


@pytest.mark.parametrize("piece", [b"X-Slow: a\r\n", b"h"])
async def test_a_request_that_trickles_is_ended_too(piece: bytes) -> None:
    start = (
        START if len(piece) > 1 else b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"
    )
    async with waiting(Hurried) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(start)
        answer = asyncio.create_task(reader.read())
        began = time.monotonic()
        while not answer.done():
            assert time.monotonic() < began + 5
            writer.write(piece)
            await asyncio.sleep(0.1)
        assert b" 408 " in answer.result().split(b"\r\n", 1)[0]
        writer.close()


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\r\n"])
async def test_a_connection_that_asks_nothing_more_is_closed_without_a_word(start: bytes) -> None:
    async with waiting(Hurried) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(start)
        read = await asyncio.wait_for(reader.read(), 5)
        assert read.count(b"HTTP/1.1") == start.count(b"GET")
        writer.close()


async def test_a_request_that_comes_slowly_but_steadily_is_answered() -> None:
    async with waiting(Hurried) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n")
        for _ in range(10):
            writer.write(b"a" * 200)
            await asyncio.sleep(0.1)
        assert await asyncio.wait_for(reader.readline(), 5) == b"HTTP/1.1 200 OK\r\n"
        writer.close()


async def test_one_connection_too_many_is_told_so_and_the_others_go_on() -> None:
    class Few(BoundedProtocol):
        most_connections = 3

    async with waiting(Few) as place:
        held = [await asyncio.open_connection(*place) for _ in range(3)]
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection(*place)
        read = await asyncio.wait_for(reader.read(), 5)
        assert read.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5\r\n" in read
        writer.close()
        for reader, writer in held:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 200 ")
            writer.close()


def test_connections_never_take_the_files_that_the_journal_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for files, most in ((1_024, 896), (100, 64), (1 << 20, 4_096), (-1, 4_096)):
        protocol.most_connections.cache_clear()
        monkeypatch.setattr(protocol.resource, "getrlimit", lambda _, files=files: (files, files))
        assert protocol.most_connections() == most
    protocol.most_connections.cache_clear()


def test_a_body_that_stalls_at_a_stop_is_told_so_without_a_trace(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server, closing(connect(server)) as stalled:
        length = b"Content-Length: 1000"
        stalled.sendall(head(PROCESS, b"Content-Type: application/json", length) + b'{"mess')
        idle = connect(server)
        assert not select.select([stalled], [], [], 0.3)[0]
        server.process.send_signal(signal.SIGTERM)
        assert_error(read_answer(stalled), 503, "shutting_down")
        assert server.process.wait(9) == 0
        with contextlib.suppress(ConnectionResetError):
            assert idle.recv(1) == b""
        idle.close()
    assert "Traceback" not in server.log
    assert "Exception in ASGI" not in server.log
