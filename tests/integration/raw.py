"""HTTP by hand, for what no client library would send; and what every error reply looks like."""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from tests.servers import Server

MARK = "Zqxmark7Ежевика"
"""Put into inputs: no error reply may repeat it."""
PROCESS, FEEDBACK = "/api/voice/process", "/api/voice/feedback"
UUID_FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def connect(server: Server) -> socket.socket:
    place = urlsplit(server.address)
    assert place.hostname
    return socket.create_connection((place.hostname, place.port or 80), timeout=15)


def read_answer(connection: socket.socket, method: str = "POST") -> Answer:
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    with response:
        return Answer(response.status, headers, response.read())


def send(server: Server, request: bytes, method: str = "POST") -> Answer:
    """One request as these very bytes, on a connection of its own."""
    with closing(connect(server)) as connection:
        connection.sendall(request)
        return read_answer(connection, method)


def head(path: str, *lines: bytes, method: str = "POST") -> bytes:
    """A request's head; the caller adds the blank line's body."""
    start = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    return start + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post_json(server: Server, path: str, body: bytes, *lines: bytes) -> Answer:
    length = f"Content-Length: {len(body)}".encode()
    return send(server, head(path, b"Content-Type: application/json", length, *lines) + body)


def send_until_answered(
    server: Server, start: bytes, piece: bytes, most: int
) -> tuple[int, Answer]:
    """Send ``piece`` over and over until the server answers; how many bytes that took."""
    with closing(connect(server)) as connection:
        connection.sendall(start)
        sent = 0
        while sent < most and not select.select([connection], [], [], 0)[0]:
            select.select([connection], [connection], [], 15)
            try:
                sent += connection.send(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
        return sent, read_answer(connection)


def assert_error(
    response: httpx.Response | Answer, status: int | set[int], code: str | None = None
) -> None:
    """The one form of an error: a short sentence, a code, no echo."""
    status_code = response.status if isinstance(response, Answer) else response.status_code
    wanted = {status} if isinstance(status, int) else status
    assert status_code in wanted, f"{status_code} {response.text[:300]}"
    assert response.headers["content-type"].split(";")[0] == "application/json"
    body = json.loads(response.text)
    assert set(body) == {"detail", "code"}, body
    assert isinstance(body["detail"], str)
    assert 3 <= len(body["detail"]) <= 300
    assert re.fullmatch(r"[a-z_]+", body["code"])
    assert "Traceback" not in response.text
    assert MARK not in response.text
    assert MARK not in str(response.headers)
    if code is not None:
        assert body["code"] == code, body


def good_body(path: str, log_id: str, **changes: object) -> dict[str, object]:
    """A good body for ``path`` with ``changes``."""
    good: dict[str, object] = (
        {"message": f"привет {MARK}"} if path == PROCESS else {"log_id": log_id, "rating": 5}
    )
    return good | changes
