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

SLOW_SECONDS = 0.05
WATCHING = "the loop is watched"
"""What is written down first: a report without it is not of a loop that this file sees."""


def watch(report: Path) -> None:
    """Append a line to ``report`` for each slow step of this thread's loop from now on."""
    run = asyncio.events.Handle._run
    main = threading.get_native_id()
    schedstat = os.open(f"/proc/self/task/{main}/schedstat", os.O_RDONLY)
    lines = report.open("a", buffering=1)

    def waited() -> float:
        return int(os.pread(schedstat, 100, 0).split()[1]) / 1e9

    def write(step: str, seconds: float) -> None:
        line = {"at": time.monotonic(), "step": step, "seconds": round(seconds, 3)}
        lines.write(json.dumps(line) + "\n")

    seen: list[str] = []

    def timed(handle: asyncio.Handle) -> None:
        if not seen:
            seen.append(WATCHING)
            write(WATCHING, 0.0)
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
            write(name, own)

    asyncio.events.Handle._run = timed


if __name__ == "__main__":
    watch(Path(sys.argv.pop(1)))
    import uvloop

    from audiobot.cli import main

    # uvloop's steps run where nobody sees them: the same steps on a loop in Python.
    uvloop.new_event_loop = asyncio.SelectorEventLoop
    main()
