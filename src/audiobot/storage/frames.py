"""The journal's bytes: frames with checksums, segments of frames, and how a damaged one is mended.

Frame: magic (4 bytes, not valid UTF-8), kind (u8), sequence number (u64), payload length (u32),
CRC-32 (u32) of kind, number, length and payload, then the payload; little-endian. Sequence
numbers are contiguous from 1. A frame of kind *gap* stands where frames were lost to damage: its
payload is the last lost number (u64).

Everything here is pure: bytes in, bytes and findings out. Resynchronising at the next whole frame
after damage is what LevelDB's log format does at its block boundaries.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

MAGIC: Final = b"\xf5AB\xff"
FRAME: Final = struct.Struct("<4sBQII")
HEADER: Final = struct.Struct("<8sHQI")
U64: Final = struct.Struct("<Q")
_CHECKED: Final = struct.Struct("<BQI")
_HEADER_MAGIC: Final = b"\xf5ABJRNL\xff"
FORMAT: Final = 1

KIND_OPERATION: Final = 1
KIND_GAP: Final = 2

MAX_PAYLOAD: Final = 16 << 20
"""Bytes in one record at most."""


class Gap(NamedTuple):
    """Records ``first``..``last`` (both included; none when ``last < first``) lost to damage."""

    first: int
    last: int
    segment: int


def frame(kind: int, sequence: int, payload: bytes) -> bytes:
    """A whole frame."""
    checked = _CHECKED.pack(kind, sequence, len(payload))
    crc = zlib.crc32(payload, zlib.crc32(checked))
    return FRAME.pack(MAGIC, kind, sequence, len(payload), crc) + payload


def header(first: int) -> bytes:
    """A segment's header: ``first`` is the number of its first frame."""
    body = struct.pack("<8sHQ", _HEADER_MAGIC, FORMAT, first)
    return body + struct.pack("<I", zlib.crc32(body))


def header_first(data: bytes | memoryview) -> int | None:
    """The first sequence number that a segment's header promises; None when it is damaged."""
    if len(data) < HEADER.size:
        return None
    magic, version, first, crc = HEADER.unpack_from(data)
    whole = magic == _HEADER_MAGIC and version == FORMAT
    return first if whole and crc == zlib.crc32(bytes(data[: HEADER.size - 4])) else None


class Frame(NamedTuple):
    """A whole frame's kind, number, and bytes ``offset``..``end`` of its segment."""

    kind: int
    sequence: int
    offset: int
    end: int


def read_frame(data: bytes, offset: int) -> Frame | None:
    """The frame that starts at ``offset``, or None when no whole one does."""
    if offset + FRAME.size > len(data):
        return None
    magic, kind, sequence, length, crc = FRAME.unpack_from(data, offset)
    end = offset + FRAME.size + length
    if magic != MAGIC or length > MAX_PAYLOAD or end > len(data):
        return None
    checked = zlib.crc32(_CHECKED.pack(kind, sequence, length))
    if zlib.crc32(memoryview(data)[offset + FRAME.size : end], checked) != crc:
        return None
    return Frame(kind, sequence, offset, end)


class Damage(NamedTuple):
    """Bytes ``start``..``end`` of a segment that hold no whole frame."""

    start: int
    end: int


def scan(data: bytes) -> Iterator[Frame | Damage]:
    """Walk a segment's bytes: every whole frame in order, and every stretch that is none."""
    # With its header damaged the first frame may still stand in its place, or anywhere.
    offset = HEADER.size if header_first(data) is not None else 0
    while offset < len(data):
        whole = read_frame(data, offset)
        if whole is not None:
            yield whole
            offset = whole.end
            continue
        start, found = offset, offset
        while whole is None and (found := data.find(MAGIC, found + 1)) >= 0:
            whole = read_frame(data, found)
        yield Damage(start, found if whole is not None else len(data))
        if whole is None:
            return
        offset = found


class Mended(NamedTuple):
    """What a segment looks like once it is mended, and what was found in it.

    ``changed`` is ``None`` when the bytes are good as they are, else why they were not.
    """

    data: bytes
    next_sequence: int
    gaps: list[Gap]
    torn: bytes
    changed: str | None


def mend(data: bytes, due: int, end_due: int, *, segment: int, is_last: bool) -> Mended:
    """Check one segment's bytes and say what they should be.

    ``due`` is the sequence number that should come first, ``end_due`` the one that should
    follow the segment's last. Pure: every damage a test can invent ends here.
    """
    first = header_first(data)
    gaps: list[Gap] = []
    body = bytearray()
    torn = b""
    changed = None if first is not None else "header"

    def lost(first_lost: int, last_lost: int) -> None:
        gaps.append(Gap(first_lost, last_lost, segment))
        body.extend(frame(KIND_GAP, first_lost, U64.pack(last_lost)))

    begins = due
    for part in scan(data):
        if isinstance(part, Damage):
            if is_last and part.end == len(data) and due >= end_due:
                torn = data[part.start :]  # as far as anything on disk says, never acknowledged
                changed = changed if changed and data[: part.start] else "torn"
            elif part.end > HEADER.size:
                changed = "damage"
            continue
        if part.sequence > due:
            lost(due, part.sequence - 1)
            changed = "damage"
        if part.kind == KIND_GAP:
            (last,) = U64.unpack_from(data, part.offset + FRAME.size)
            gaps.append(Gap(part.sequence, last, segment))
            due = max(due, last + 1)
        else:
            due = max(due, part.sequence + 1)
        body.extend(memoryview(data)[part.offset : part.end])
    if due < end_due:
        lost(due, end_due - 1)
        due, changed = end_due, "damage"
    if changed is None:
        return Mended(data, due, gaps, b"", None)
    return Mended(header(begins) + bytes(body), due, gaps, torn, changed)
