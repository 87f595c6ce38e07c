"""Random bytes of the operating system, fetched many at a time.

CPython lets go of its lock around each call for random bytes, and a busy loop then waits up to
its switch interval (5 ms) behind another thread to get it back: once for each id that is made.
"""

from __future__ import annotations

import base64
import os
import threading
from typing import Final

_FETCHED: Final = 4_096


class _Stock:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes, self._place = b"", 0

    def take(self, count: int) -> bytes:
        with self._lock:
            if self._place + count > len(self._bytes):
                self._bytes, self._place = os.urandom(max(_FETCHED, count)), 0
            self._place += count
            return self._bytes[self._place - count : self._place]


_stock = _Stock()


def _begin_anew() -> None:
    """Two processes must not draw the same; the lock may have been held at the fork."""
    global _stock  # noqa: PLW0603  # one stock for a process
    _stock = _Stock()


os.register_at_fork(after_in_child=_begin_anew)


def random_bytes(count: int) -> bytes:
    """So many bytes that nobody can guess."""
    return _stock.take(count)


def random_bits(count: int) -> int:
    """A number of at most so many bits."""
    return int.from_bytes(random_bytes(-(-count // 8))) >> -count % 8


def random_name(count: int) -> str:
    """A name of ``count`` random bytes, fit for URLs and cookies."""
    return base64.urlsafe_b64encode(random_bytes(count)).rstrip(b"=").decode()
