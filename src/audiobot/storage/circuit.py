"""When to stop asking PostgreSQL: counts of calls that failed, missed their deadline or crept.

After Nygard, "Release It!" (2007), chapter 5: a circuit that opens lets nobody wait for what is
known to be away. Closing again is the prober's business.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from audiobot.storage.trouble import Reason

MISSES: Final = 3
WINDOW_SECONDS: Final = 10.0
LEAST_CALLS: Final = 5
FAILED_SHARE: Final = 0.5
SLOW_SHARE: Final = 0.8
SLOW_SECONDS: Final = 1.0
AT_ONCE: Final[frozenset[Reason]] = frozenset(
    {"refused", "dns", "lost", "read_only", "too_many_connections", "password",
     "database_missing", "schema", "full", "restarting"}
)  # fmt: skip
"""What is no accident of one call: it opens the circuit after one probe that confirms it."""


class Circuit:
    """Pure counting: told of each call and its time, it says whether that is enough."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, bool, bool]] = deque()
        self._misses = self._failures = self._crept = 0

    def succeeded(self, now: float, seconds: float) -> bool:
        """A call came back after ``seconds``; true when so many crept that it should open."""
        self._misses = 0
        return self._count(now, failed=False, slow=seconds > SLOW_SECONDS)

    def failed(self, now: float, reason: Reason) -> bool:
        """A call failed; true when the circuit should open."""
        self._misses = self._misses + 1 if reason == "timeout" else 0
        return self._count(now, failed=True, slow=True) or self._misses >= MISSES

    def reset(self) -> None:
        """Begin again, with nothing held against PostgreSQL."""
        self._calls.clear()
        self._misses = self._failures = self._crept = 0

    def _count(self, now: float, *, failed: bool, slow: bool) -> bool:
        self._calls.append((now, failed, slow))
        self._failures += failed
        self._crept += slow
        while self._calls[0][0] < now - WINDOW_SECONDS:
            _, failed, slow = self._calls.popleft()
            self._failures -= failed
            self._crept -= slow
        total = len(self._calls)
        if total < LEAST_CALLS:
            return False
        return self._failures >= FAILED_SHARE * total or self._crept >= SLOW_SHARE * total
