"""``audiobot serve`` under a watchdog: every step of the event loop that took long is written down.

A step's own time is its time by the clock without the time in which it was ready to run and had no
CPU, which the kernel counts for each thread: on a machine that is busy elsewhere a step that does
nothing takes long too. What is left is work, sleep, a wait for a disk, a lock or the interpreter.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path

SLOW_SECONDS = 0.1


def watch(report: Path) -> None:
    """Append a line to ``report`` for each slow step of this thread's loop from now on."""
    run = asyncio.events.Handle._run
    main = threading.get_native_id()
    schedstat = os.open(f"/proc/self/task/{main}/schedstat", os.O_RDONLY)
    lines = report.open("a", buffering=1)

    def waited() -> float:
        return int(os.pread(schedstat, 100, 0).split()[1]) / 1e9

    def timed(handle: asyncio.Handle) -> None:
        if threading.get_native_id() != main:
            run(handle)
            return
        queued, started = waited(), time.perf_counter()
        run(handle)
        took = time.perf_counter() - started
        if took > SLOW_SECONDS and (own := took - (waited() - queued)) > SLOW_SECONDS:
            step = getattr(handle._callback, "__self__", handle._callback)
            coroutine = step.get_coro() if isinstance(step, asyncio.Task) else step
            name = getattr(coroutine, "__qualname__", type(coroutine).__name__)
            line = {"at": time.monotonic(), "step": name, "seconds": round(own, 3)}
            lines.write(json.dumps(line) + "\n")

    asyncio.events.Handle._run = timed


if __name__ == "__main__":
    watch(Path(sys.argv.pop(1)))
    from audiobot.cli import main

    main()
