"""The C library's heap (glibc's): one for all threads, and what is free goes back to the system.

Each thread's own heap would keep what that thread once needed; threads take turns by the
interpreter's lock anyway. Large arrays come and go by mappings of their own: glibc would begin to
take them from the heap once it has seen some, and leave holes there (mallopt(3)). The rest that is
free is given back now and then (malloc_trim(3)). Where there is another C library, nothing is done.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import Final

TEND_SECONDS: Final = 30.0
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGE: Final = 256 << 10


def share() -> None:
    """Let all threads allocate from one heap; call it before there are any."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


async def tend() -> None:
    """Give back what is free, for ever; some milliseconds each time, beside the event loop."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(TEND_SECONDS)
        await asyncio.to_thread(trim, 0)
