"""Run by test_mending.py: open a damaged directory, dying at each step of mending in turn.

    python -m tests.faults.child_mender DAMAGED LIVES

For n = 1, 2, … the damaged directory is copied to LIVES/n and opened by a process of its own that
kills itself before or after the n-th step; the last number printed is the first life that came
through.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from audiobot.storage import index, journal, local
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory
from tests.conformance.local import IDS

STEPS = [
    (journal, "replace_file"),
    (journal.Journal, "_write_high_water"),
    (journal.Journal, "_recover"),
    (index.Index, "_create"),
    (local.LocalStore, "_apply_records"),
]


def arm(fatal: int) -> None:
    """Make this process die at its ``fatal``-th moment: each step has one before and one after."""
    moments = 0

    def moment() -> None:
        nonlocal moments
        moments += 1
        if moments == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def guard(holder: Any, name: str) -> None:
        whole = getattr(holder, name)

        def step(*arguments: Any, **named: Any) -> Any:
            moment()
            result = whole(*arguments, **named)
            moment()
            return result

        setattr(holder, name, step)

    for holder, name in STEPS:
        guard(holder, name)


def live(place: Path, fatal: int) -> int:
    """One life; its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        arm(fatal)
        StorageAdapter(DataDirectory(place), IDS).open()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main(damaged: Path, lives: Path) -> None:
    for fatal in range(1, 200):
        shutil.copytree(damaged, lives / str(fatal))
        ended = live(lives / str(fatal), fatal)
        sys.stdout.write(f"{fatal} {ended}\n")
        sys.stdout.flush()
        if ended != -signal.SIGKILL:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
