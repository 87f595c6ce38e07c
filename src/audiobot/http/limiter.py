"""How often one caller may call: a moving window for each, and a bound on how many are known."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import Final

MOST_CALLERS: Final = 16_384
"""Beyond these, whoever called longest ago is forgotten, and may call as if for the first time."""
_SECONDS: Final = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


class Limiter:
    """``rate`` such as ``60/minute``: no more calls than that within any minute.

    A call costs the same whoever else has called: nothing here looks at all callers.
    """

    def __init__(self, rate: str, clock: Callable[[], float] = time.monotonic) -> None:
        calls, _, span = rate.partition("/")
        self._calls, self._seconds, self._clock = int(calls), _SECONDS[span], clock
        self._callers: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        """When each caller's last calls were; who called last stands last."""

    def wait(self, caller: tuple[str, str]) -> float:
        """0 for a call that may be, which is counted; else the seconds until one may."""
        now = self._clock()
        moments = self._callers.setdefault(caller, deque(maxlen=self._calls))
        if len(moments) == self._calls and moments[0] + self._seconds > now:
            return moments[0] + self._seconds - now
        moments.append(now)
        self._callers.move_to_end(caller)
        for longest_ago in list(islice(self._callers, 2)):  # at most one has come: two keep up
            left = self._callers[longest_ago][-1] + self._seconds <= now
            if left or len(self._callers) > MOST_CALLERS:
                del self._callers[longest_ago]
        return 0.0
