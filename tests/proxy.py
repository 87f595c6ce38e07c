"""A TCP proxy in this process that does to connections what bad networks do.

It stands in front of PostgreSQL and runs on a thread of its own, so that a test may switch it
from an event loop or from blocking code. Every switch has taken effect when its method returns.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

_CHUNK = 1 << 16
_LINGER_ZERO = struct.pack("ii", 1, 0)
_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_COMMIT = r"(COMMIT|END)(\s+(WORK|TRANSACTION))?"
_chance = random.SystemRandom()  # the global one is seeded alike in every test process


def free_port() -> int:
    """A free port that no outgoing connection is given by chance.

    A client that keeps trying a dead port of the ephemeral range can be given that very port for
    its own end and connect to itself; the server then finds its port taken.
    """
    for _ in range(1000):
        port = _chance.randrange(15000, 32000)
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError("no free port between 15000 and 32000 on 127.0.0.1")


class _ClientStream:
    """What the client says: the text of every statement, and how many answers it must cause."""

    def __init__(self) -> None:
        self.syncs = 1  # the server is ready once before the first statement
        self.plain_answers = 0  # single bytes that refuse TLS; no message has begun yet
        self._started = False
        self._held = bytearray()
        self._statements: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}

    def feed(self, chunk: bytes) -> list[tuple[str, int]]:
        """The statements this chunk completes, each with the number of its ReadyForQuery."""
        self._held += chunk
        begun = []
        while True:
            offset = 1 if self._started else 0
            if len(self._held) < offset + 4:
                return begun
            size = offset + int.from_bytes(self._held[offset : offset + 4], "big")
            if len(self._held) < size:
                return begun
            kind, body = bytes(self._held[:offset]), bytes(self._held[offset + 4 : size])
            del self._held[:size]
            if self._started:
                begun += self._message(kind, body)
            elif int.from_bytes(body[:4], "big") in {_SSL_REQUEST, _GSS_REQUEST}:
                self.plain_answers += 1
            else:
                self._started = True

    def _message(self, kind: bytes, body: bytes) -> list[tuple[str, int]]:
        if kind == b"Q":
            self.syncs += 1
            text = body[:-1].decode(errors="replace")
            return [(part, self.syncs) for part in (text, *text.split(";"))]
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._statements[name] = text.decode(errors="replace")
        elif kind == b"B":
            portal, name, _ = body.split(b"\0", 2)
            self._portals[portal] = self._statements.get(name, "")
        elif kind == b"E":
            portal = body.split(b"\0", 1)[0]
            return [(self._portals.get(portal, ""), self.syncs + 1)]
        elif kind in {b"S", b"F"}:
            self.syncs += 1
        return []


class _ServerStream:
    """What the server says: where in a chunk each ReadyForQuery ends."""

    def __init__(self, client: _ClientStream) -> None:
        self.ready = 0
        self._client = client
        self._head = bytearray()
        self._body = 0

    def feed(self, chunk: bytes) -> list[int]:
        """The offsets in ``chunk`` just behind every ReadyForQuery that ends in it."""
        ends = []
        at = 0
        while at < len(chunk):
            if self._client.plain_answers and not self._head:
                self._client.plain_answers -= 1
                at += 1
                continue
            if len(self._head) < 5:
                taken = chunk[at : at + 5 - len(self._head)]
                self._head += taken
                at += len(taken)
                if len(self._head) < 5:
                    break
                self._body = int.from_bytes(self._head[1:], "big") - 4
            step = min(self._body, len(chunk) - at)
            self._body -= step
            at += step
            if not self._body:
                if self._head[:1] == b"Z":
                    self.ready += 1
                    ends.append(at)
                self._head.clear()
        return ends


class _Connection:
    """One client, and the server behind it once there is one."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None
        self.said = _ClientStream()
        self.answered = _ServerStream(self.said)
        self.last_answer: int | None = None  # the ReadyForQuery that must not arrive
        self.task: asyncio.Task[None] | None = None

    def close(self) -> None:
        """An orderly end for both."""
        for end in self._ends():
            end.close()

    def reset(self) -> None:
        """RST, so that both get an error; an end that is closed already stays as it is."""
        for end in self._ends():
            if end.fileno() != -1:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
                end.close()

    def _ends(self) -> list[socket.socket]:
        return [self.client] if self.server is None else [self.client, self.server]


class Proxy:
    """Listens on ``host`` and ``port`` in front of ``(to_host, to_port)``; passes everything on.

    ``accepted`` counts the connections accepted so far, ``replies_dropped`` the replies that
    reached the proxy and not the client.
    """

    def __init__(self, to_host: str, to_port: int) -> None:
        self.host, self.port = "127.0.0.1", free_port()
        self.accepted = 0
        self.replies_dropped = 0
        self._to = (to_host, to_port)
        self._connections: set[_Connection] = set()
        self._listener = self._bind()
        self._listening = False
        self._greeting: Callable = self._carry
        self._delay = 0.0
        self._unwanted: re.Pattern[str] | None = None
        self._flowing = asyncio.Event()
        # Not the policy's loop: the proxy must not depend on what the test runs on.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.pass_through()

    @property
    def open_connections(self) -> int:
        """The connections whose client has not been closed yet, by either end."""
        return len(self._connections)

    def pass_through(self) -> None:
        """Serve everybody; what was held while stalled is delivered now."""
        self._set(self._carry, flowing=True)

    def refuse(self) -> None:
        """Stop listening, and cut what is open: a machine that is up with nothing on its port."""
        self._set(None, flowing=True)

    def cut(self) -> None:
        """Reset every open connection; new ones fare as before."""
        self._run(self._cut)

    def reset_new(self) -> None:
        """Accept new connections and reset them at once; open ones go on."""
        self._set(self._slam, flowing=True)

    def stall(self) -> None:
        """Accept and keep connections, deliver nothing either way: a black hole."""
        self._set(self._carry, flowing=False)

    def deaf(self) -> None:
        """Accept new connections and never say a word on them; open ones go on."""
        self._set(self._ignore, flowing=True)

    def delay(self, seconds: float) -> None:
        """Serve everybody, with every piece of data this much late in each direction."""
        self._set(self._carry, flowing=True, delay=seconds)

    def drop_next_commit_reply(self) -> None:
        """Let the next COMMIT through; when the server has answered, reset its connection.

        The client then cannot know that its rows are there. ``replies_dropped`` goes up before
        the client learns anything.
        """
        self.drop_next_reply_to(_COMMIT)

    def drop_next_reply_to(self, statement: str) -> None:
        """The same for the next statement that matches this pattern from its start to its end."""
        pattern = re.compile(rf"\s*(?:{statement})[\s;]*", re.IGNORECASE | re.DOTALL)

        async def arm() -> None:
            self._unwanted = pattern

        self._run(arm)

    def drop_no_reply(self) -> None:
        """Forget a statement that was waited for in vain."""
        self.drop_next_reply_to("(?!)")

    def close(self) -> None:
        """Cut everything and end the thread."""
        if self._loop.is_closed():
            return
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What follows runs on the proxy's own loop, but for _run, _set and _bind.

    def _run(self, action: Callable) -> None:
        asyncio.run_coroutine_threadsafe(action(), self._loop).result(30)

    def _set(self, greeting: Callable | None, *, flowing: bool, delay: float = 0.0) -> None:
        async def switch() -> None:
            if greeting is None:
                self._stop_listening()
                await self._cut()  # before the gate opens: what was held is lost
            else:
                self._greeting = greeting
            self._delay = delay
            if flowing:
                self._flowing.set()
            else:
                self._flowing.clear()
            if greeting is not None and not self._listening:
                self._listener.listen(128)
                self._loop.add_reader(self._listener, self._accept)
                self._listening = True

        self._run(switch)

    def _bind(self) -> socket.socket:
        """The port is held, so that nobody else takes it, but connections are refused."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.setblocking(False)
        return listener

    def _stop_listening(self) -> None:
        if self._listening:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = self._bind()
            self._listening = False

    def _accept(self) -> None:
        while self._listening:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            self.accepted += 1
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client)
            self._connections.add(connection)
            connection.task = self._loop.create_task(self._serve(connection, self._greeting))
            # Not in the task's own finally: a task cancelled before its first step has none.
            connection.task.add_done_callback(lambda _, ended=connection: self._forget(ended))

    async def _cut(self) -> None:
        self._accept()  # who waits to be accepted believes to be connected
        tasks = [connection.task for connection in self._connections if connection.task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _serve(self, connection: _Connection, greeting: Callable) -> None:
        try:
            await greeting(connection)
            connection.close()
        except* OSError:  # one end broke: the other one is told when this task is done
            pass

    def _forget(self, connection: _Connection) -> None:
        connection.reset()
        self._connections.discard(connection)

    async def _slam(self, connection: _Connection) -> None:
        raise ConnectionResetError

    async def _ignore(self, connection: _Connection) -> None:
        while await self._loop.sock_recv(connection.client, _CHUNK):
            pass

    async def _carry(self, connection: _Connection) -> None:
        await self._flowing.wait()
        connection.server = server = socket.socket()
        server.setblocking(False)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self._loop.sock_connect(server, self._to)
        async with asyncio.TaskGroup() as both_ways:
            both_ways.create_task(self._upwards(connection, server))
            both_ways.create_task(self._downwards(connection, server))

    async def _upwards(self, connection: _Connection, server: socket.socket) -> None:
        while chunk := await self._loop.sock_recv(connection.client, _CHUNK):
            await self._in_time()
            for text, answer in connection.said.feed(chunk):
                if self._unwanted is not None and self._unwanted.fullmatch(text):
                    self._unwanted = None
                    connection.last_answer = answer
            await self._loop.sock_sendall(server, chunk)
        await self._in_time()
        server.shutdown(socket.SHUT_WR)

    async def _downwards(self, connection: _Connection, server: socket.socket) -> None:
        answered = connection.answered
        while chunk := await self._loop.sock_recv(server, _CHUNK):
            await self._in_time()
            before = answered.ready
            ends = answered.feed(chunk)
            if connection.last_answer is not None:
                welcome = connection.last_answer - 1 - before  # how many more may arrive
                if welcome <= len(ends):
                    chunk = chunk[: ends[welcome - 1]] if welcome > 0 else b""
            await self._loop.sock_sendall(connection.client, chunk)
            if connection.last_answer is not None and answered.ready >= connection.last_answer:
                self.replies_dropped += 1
                raise ConnectionResetError
        await self._in_time()
        connection.client.shutdown(socket.SHUT_WR)

    async def _in_time(self) -> None:
        """Wait as long as the mode says."""
        if self._delay:
            await asyncio.sleep(self._delay)
        await self._flowing.wait()
