"""Metrics of several workers in one exposition: files that each worker writes and any can read.

prometheus_client keeps every number in a memory-mapped file. The files are named by the worker's
slot, not by its process, so a worker that was started again goes on counting where the one before
it stopped, and their number stays what it was. They are allocated whole before the workers start:
a hole in a mapped file on a full disk would kill the process that writes to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
GAUGE_MODES: Final = ("livesum", "livemax", "livemin", "livemostrecent")
_GAUGE_BYTES: Final = 128 << 10
_BYTES: Final = {
    "counter": 512 << 10,
    "histogram": 1 << 20,
    **{f"gauge_{mode}": _GAUGE_BYTES for mode in GAUGE_MODES},
}


class SharedFiles(Collector):
    """The files in ``directory``, which belongs to the parent of the workers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def clear(self, workers: int) -> None:
        """Begin anew, with room for so many workers; raises ``OSError`` when there is none."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True, mode=0o700)
        for slot in range(workers):
            for kind, size in _BYTES.items():
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                fd = os.open(self._path(kind, slot), flags, 0o600)
                try:
                    os.posix_fallocate(fd, 0, size)
                finally:
                    os.close(fd)

    def take(self, slot: int) -> None:
        """Keep every number that this process makes from now on in the files of ``slot``."""
        os.environ[_VARIABLE] = str(self.directory)
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]

    def died(self, slot: int) -> None:
        """A worker is gone: what it counted stays, what it was no longer is."""
        for mode in GAUGE_MODES:
            with (
                contextlib.suppress(OSError),
                self._path(f"gauge_{mode}", slot).open("r+b") as file,
            ):
                file.write(bytes(8))  # the length in use: its room stays allocated

    def registry(self) -> CollectorRegistry:
        """What all workers have counted, and what those that live are."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterable[Metric]:
        """Every worker's numbers in one; see prometheus_client's ``Collector``."""
        # Not by its own collector: that one globs, and a data directory may be called [a].
        files = sorted(map(str, self.directory.glob("*.db")))
        merged: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return merged

    def _path(self, kind: str, slot: int) -> Path:
        return self.directory / f"{kind}_{slot}.db"
