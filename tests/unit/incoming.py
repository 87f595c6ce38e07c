"""A request as the rules of access see it."""

from __future__ import annotations

from starlette.requests import Request


def request(headers: dict[str, str], client: str = "203.0.113.7") -> Request:
    """A GET of the server's page with these headers."""
    named = {"host": "bot.example", **headers}
    return Request(
        {
            "type": "http", "method": "GET", "path": "/console", "query_string": b"",
            "scheme": "http", "server": ("bot.example", 80), "client": (client, 40_000),
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        }
    )  # fmt: skip
