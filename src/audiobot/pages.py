"""A file that a library has mapped is mapped whole: no first use waits for a page of it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

_MADV_POPULATE_READ: Final = 22


def map_whole(file: Path) -> None:
    """Have the kernel map every page of ``file`` wherever this process has mapped it.

    They stay the system's to take back (madvise(2), Linux 5.14; elsewhere nothing is done). An
    encoder's words are thousands of pages, and a rare one would be read from the disk while a
    question waits for it.
    """
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    maps = Path("/proc/self/maps")
    if madvise is None or not maps.exists():
        return
    for line in maps.read_text(errors="replace").splitlines():
        place, _, _, _, _, *name = line.split(maxsplit=5)
        if name == [str(file)]:
            first, end = (int(half, 16) for half in place.split("-"))
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _MADV_POPULATE_READ)
