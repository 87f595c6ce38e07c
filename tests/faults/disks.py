"""Small disks for tests: a tmpfs of its own, mounted where the test says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of ``megabytes`` at ``place``; fails, and says so, where that needs root."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    prefix: list[str] = []
    if subprocess.run(mount, capture_output=True).returncode:
        prefix = ["sudo", "-n"]
        done = subprocess.run([*prefix, *mount], capture_output=True, text=True)
        assert done.returncode == 0, f"the disk tests mount a tmpfs and need root: {done.stderr}"
    try:
        yield place
    finally:
        subprocess.run([*prefix, "umount", "-l", str(place)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A ballast file that leaves ``leave`` bytes free; remove it to make room."""
    import os

    ballast = disk / "ballast"
    usage = os.statvfs(disk)
    with ballast.open("wb") as file:
        left = usage.f_bavail * usage.f_frsize - leave
        while left > 0:
            left -= file.write(b"\0" * min(left, 1 << 20))
    return ballast
