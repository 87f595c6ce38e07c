"""Run by test_outages_of_processes.py: carry a journal into PostgreSQL, and die on the way.

    python -m tests.faults.child_replayer DIRECTORY DSN POINT

At POINT the process kills itself. It ends by itself, with 0, only when that point never came.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from audiobot.storage import index, journal, local, postgres
from tests.conformance.hybrid import hybrid, wait_for_mode

POINTS = {
    "before a batch": (postgres.PostgresStore, "replay", True, 2),
    "after a batch's commit": (postgres.PostgresStore, "replay", False, 2),
    "before the local cursor moves": (local.LocalStore, "_carried", True, 2),
    "after the local cursor moved": (local.LocalStore, "_carried", False, 2),
    "before the trim": (journal.Journal, "trim", True, 1),
    "between the new segment and the mark": (journal.Journal, "_start_segment", False, 1),
    "after the trim": (journal.Journal, "trim", False, 1),
    "after the index is made anew": (index.Index, "rebuild", False, 1),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Make the n-th call of a method the last thing that this process does."""
    holder, name, before, nth = POINTS[point]
    whole: Any = getattr(holder, name)
    calls = 0

    def due() -> bool:
        nonlocal calls
        calls += 1
        return calls == nth

    def dying(*arguments: Any, **named: Any) -> Any:
        last = due()
        if last and before:
            die()
        result = whole(*arguments, **named)
        if not last:
            return result
        if not asyncio.iscoroutine(result):
            die()

        async def then_die() -> Any:
            await result
            die()

        return then_die()

    setattr(holder, name, dying)


async def main(directory: Path, dsn: str, point: str) -> None:
    store = hybrid(directory, dsn, mode="fallback")
    if point != "at random":
        # The journal that was left behind is opened first: its own repairs are not the point.
        opened = local.LocalStore.open

        def then_arm(self: local.LocalStore, *arguments: Any) -> None:
            opened(self, *arguments)
            arm(point)

        local.LocalStore.open = then_arm  # type: ignore[method-assign]
    async with store as running:
        sys.stdout.write("open\n")
        sys.stdout.flush()
        await wait_for_mode(running, "postgres")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
