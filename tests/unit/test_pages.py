"""Mapping a file whole: what of it is in this process's memory, by the kernel's own account."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from audiobot.pages import map_whole

SIZE = 4 << 20


def resident(file: Path) -> int:
    """Kilobytes of ``file`` that this process has mapped and at hand."""
    parts = re.split(
        r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE
    )
    mine = [part for part in parts if part.split("\n", 1)[0].endswith(str(file))]
    return sum(int(re.search(r"^Rss: +(\d+) kB", part, re.MULTILINE)[1]) for part in mine)


def test_a_mapped_file_is_at_hand_from_end_to_end_and_no_other_is(tmp_path: Path) -> None:
    wanted, other = tmp_path / "wanted file", tmp_path / "wanted file too"
    maps = []
    for file in (wanted, other):
        file.write_bytes(b"x" * SIZE)
        with file.open("rb") as opened:
            maps.append(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    assert resident(wanted) < SIZE >> 10
    map_whole(wanted)
    assert resident(wanted) == SIZE >> 10
    assert resident(other) < SIZE >> 10
    for mapped in maps:
        mapped.close()


def test_a_file_that_is_not_mapped_is_left_alone(tmp_path: Path) -> None:
    map_whole(tmp_path / "not there")
