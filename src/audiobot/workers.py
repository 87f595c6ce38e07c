"""Several processes behind one socket: a parent that only watches, children that serve.

The parent owns the data directory, each child a journal slot in it. A child that dies is started
again in its slot; when the parent dies its children stop as if they had been told to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

from audiobot.telemetry import get_logger

log = get_logger(__name__)

_STEADY_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 1.0
_STOPS: Final = {signal.SIGTERM, signal.SIGINT}


def run_workers(
    count: int, serve: Callable[[int], None], died: Callable[[int], None] = lambda slot: None
) -> None:
    """Fork ``count`` children that each ``serve`` a slot; returns when they were told to stop.

    ``died`` hears of a slot whose child is gone, before the next one starts in it.

    Call it before any thread or event loop exists in this process.
    """
    lifeline_read, lifeline_write = os.pipe()
    children: dict[int, tuple[int, float]] = {}
    stopping = False

    def stop(received: int, frame: FrameType | None) -> None:  # noqa: ARG001  # signal's shape
        nonlocal stopping
        stopping = True
        for pid in children:
            with contextlib.suppress(ProcessLookupError):  # it died, and that was not noted yet
                os.kill(pid, signal.SIGTERM)

    def start(slot: int) -> None:
        # Told to stop between the fork and its note, the parent would wait for the child for ever.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        if not stopping:
            pid = os.fork()
            if pid == 0:
                os.close(lifeline_write)
                _be_child(lifeline_read, slot, serve)
            children[pid] = (slot, time.monotonic())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for slot in range(count):
        start(slot)
    while children:
        pid, status = os.wait()
        slot, since = children.pop(pid)
        if stopping:
            continue
        died(slot)
        log.error("a worker died and is started again", slot=slot, status=status)
        if time.monotonic() - since < _STEADY_SECONDS:
            time.sleep(_PAUSE_SECONDS)
        start(slot)


def _be_child(lifeline: int, slot: int, serve: Callable[[int], None]) -> None:
    """Serve, and never return into the parent's code."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C comes through the parent
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    def watch() -> None:
        os.read(lifeline, 1)  # ends when the parent does
        os.kill(os.getpid(), signal.SIGTERM)

    code = 1
    try:
        threading.Thread(target=watch, daemon=True).start()
        serve(slot)
        code = 0
    except BaseException:  # the parent starts it again
        log.exception("a worker failed", slot=slot)
    finally:
        sys.stderr.flush()
        os._exit(code)
