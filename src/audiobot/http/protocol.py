"""The wire below ASGI: how much of a request's head is kept, how long its bytes are waited for.

uvicorn's own protocol keeps an endless header line in memory and waits for ever for the rest of a
request. Each connection here has one timer and one count; an ordinary request pays for neither.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from audiobot.messages import sentence
from audiobot.ports import Refusal

MAX_HEAD: Final = 32 << 10
"""Bytes of a request's head: what nginx takes by default, and no browser sends more."""
WAIT_SECONDS: Final = 20.0
"""How long the next byte may take, and how long a head may."""
SLOWEST: Final = 500.0
"""Bytes a second: a request that arrives more slowly than this is given up."""
_MOST_CONNECTIONS: Final = 4_096
_FILES_OF_OURS: Final = 128
_LEAST_CONNECTIONS: Final = 64
_LINGER_SECONDS: Final = 2.0
_RETRY_AFTER: Final = {503: b"retry-after: 5\r\n"}


@cache
def most_connections() -> int:
    """How many connections are held at once: always fewer than the process may open files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(_LEAST_CONNECTIONS, min(_MOST_CONNECTIONS, files - _FILES_OF_OURS))


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a bound on every head, every wait and the number of connections.

    431 for a head that is too large, 408 for a request that does not come whole in time, 503 for
    one connection too many; after any of them the connection ends.
    """

    told: Callable[[Refusal], None] | None = None
    """Hears of each refusal."""
    max_head = MAX_HEAD
    wait_seconds = WAIT_SECONDS
    linger_seconds = _LINGER_SECONDS
    most_connections: int | None = None

    _timer: asyncio.TimerHandle | None = None
    _leaving = False
    _waiting = True
    """True while bytes are the client's to send: before a request's first, until its last."""
    _head = True
    _begun = False
    _refused = False
    _quiet = 0
    """Bytes since anything of them was used: a head or a trailer that is still being parsed."""
    _received = 0
    _since = 0.0
    _heard = 0.0

    # -- the connection --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        """Take a connection, unless there are too many."""
        super().connection_made(transport)
        self._since = self._heard = self.loop.time()
        if len(self.connections) > (self.most_connections or most_connections()):
            self._refuse(503, "too_many_connections")
        else:
            self._timer = self.loop.call_later(self.wait_seconds, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        """Another protocol takes over, with its own time."""
        self._stop_timer()
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        """Parse what came, if the request is still wanted."""
        if self._refused:
            return
        self._heard = self.loop.time()
        self._quiet += len(data)
        self._received += len(data)
        if self._waiting:
            self._begun = True
        super().data_received(data)
        if self._waiting and self._quiet > self.max_head and not self._refused:
            self._refuse(431, "head_too_large")

    def shutdown(self) -> None:
        """Finish what came whole; what did not has two seconds left for its next byte."""
        super().shutdown()
        if not self._refused and not self.transport.is_closing():
            self._leaving, self.wait_seconds = True, self.linger_seconds
            self._stop_timer()
            self._look()

    # -- the parser's callbacks ------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request's first byte: its time begins."""
        super().on_message_begin()
        self._waiting = self._head = self._begun = True
        self._since = self._heard
        self._received = 0

    def on_headers_complete(self) -> None:
        """The head is whole; one that came in a single piece is measured here."""
        if self._quiet > self.max_head:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.max_head:
                self._refuse(431, "head_too_large")
        self._quiet = 0
        self._head = False
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of the body, for whoever reads it."""
        self._quiet = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request came whole: from here on it is for us to act."""
        self._quiet = 0
        self._waiting = self._begun = False
        if not self._refused:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        async def served(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                # uvicorn cancels what outlasts the grace of a stop: no fault to log a trace of.
                self._refuse(503, "shutting_down")

        super()._start_asgi_task(cycle, served)

    # -- giving up -------------------------------------------------------------------------

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Give up on what should be here by now, or look again when it may be due."""
        now = self.loop.time()
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (busy and not self._waiting):  # it is our turn
            self._since, self._heard, self._received = now, now, 0
        due = self._heard + self.wait_seconds
        if self._waiting:
            due = min(due, self._since + self.wait_seconds + self._received / SLOWEST)
        if due > now:
            self._timer = self.loop.call_later(due - now, self._look)
        elif self._begun and self._leaving:
            self._refuse(503, "shutting_down")
        elif self._begun:
            self._refuse(408, "request_timeout")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # the base class's shape
        """What is no HTTP is refused in the one form every error has."""
        if not self._refused:
            self._refuse(400, "bad_request")

    def _refuse(self, status: int, code: Refusal) -> None:
        """Say why, if nothing else is being said, and end; what still comes is thrown away."""
        self._refused = True
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self.told is not None:
            self.told(code)
        cycle = self.cycle
        answering = cycle is not None and not cycle.response_complete
        # In the midst of a reply, or with an earlier request's reply to come, silence is clearer.
        speechless = answering and (cycle.response_started or self._head)
        if answering:
            cycle.disconnected = True
            cycle.message_event.set()
        if speechless or (self._waiting and not self._head and not answering):
            self.transport.close()
            return
        detail = sentence(code, "ru", limit=self.max_head, retry_after=5)
        body = msgspec.json.encode({"detail": detail, "code": code})
        head = [
            STATUS_LINE[status],
            *(b"%b: %b\r\n" % header for header in self.server_state.default_headers),
            b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body),
            b"x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n",
            _RETRY_AFTER.get(status, b""),
        ]
        self.transport.write(b"".join([*head, b"\r\n", body]))
        # Closed at once, a socket with unread bytes is reset and the reply with it.
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(self.linger_seconds, self.transport.abort)


def bounded(told: Callable[[Refusal], None]) -> type[BoundedProtocol]:
    """The protocol for uvicorn, which makes one for each connection; ``told`` hears of refusals."""
    return type("ToldProtocol", (BoundedProtocol,), {"told": staticmethod(told)})
