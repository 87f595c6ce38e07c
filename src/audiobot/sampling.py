"""What is sampled in the background: the machine's load, the event loop's lag, every gauge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

from audiobot.telemetry import Metrics

LAG_SECONDS: Final = 0.1
GAUGES_SECONDS: Final = 1.0
MACHINE_SECONDS: Final = 5.0


class Sampler:
    """Looks at the machine and at this process now and then; a request never waits for it.

    ``take`` brings the gauges of everything else up to date.
    """

    def __init__(self, metrics: Metrics, path: Path, take: Callable[[Metrics], None]) -> None:
        self._metrics = metrics
        self._path = path
        self._take = take
        self._process = psutil.Process()
        self.cpu_percent = self.memory_percent = self.disk_percent = 0.0
        metrics.started.set(time.time())
        metrics.workers.set(1)

    def take(self) -> None:
        """Bring every gauge up to date that costs nothing to read."""
        self._take(self._metrics)

    async def run(self) -> None:
        """Sample for ever; cancel it to stop."""
        psutil.cpu_percent(interval=None)
        gauges_at = machine_at = 0.0
        while True:
            now = time.monotonic()
            if now - gauges_at >= GAUGES_SECONDS:
                gauges_at = now
                self.take()
            if now - machine_at >= MACHINE_SECONDS:
                machine_at = now
                self._look_at_machine()
            asked = time.perf_counter()
            await asyncio.sleep(LAG_SECONDS)
            late = time.perf_counter() - asked - LAG_SECONDS
            self._metrics.loop_lag.observe(max(0.0, late))

    def _look_at_machine(self) -> None:
        disk = psutil.disk_usage(str(self._path))
        self.cpu_percent = psutil.cpu_percent(interval=None)
        self.memory_percent = psutil.virtual_memory().percent
        self.disk_percent = disk.percent
        self._metrics.disk_free.set(disk.free)
        self._metrics.memory.set(self._process.memory_info().rss)
