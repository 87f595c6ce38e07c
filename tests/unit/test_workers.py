"""The parent of several workers: told to stop at any moment, it stops."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import os, signal, sys, time
from pathlib import Path
from audiobot.workers import run_workers

here = Path(sys.argv[1])

def serve(slot):
    if not here.joinpath(f"died-{slot}").exists():
        here.joinpath(f"died-{slot}").touch()
        os._exit(1)
    here.joinpath(f"serves-{slot}").touch()
    time.sleep(60)

run_workers(2, serve)
"""


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["died-0", "died-1", "serves-0", "serves-1"])
def test_g14_told_to_stop_while_a_worker_that_died_is_started_again(
    moment: str, stop: signal.Signals, tmp_path: Path
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / moment).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        parent.send_signal(stop)
        assert parent.wait(20) == 0
    finally:
        parent.kill()
        parent.wait()
