"""The journal: an append-only, checksummed, segmented log on disk; what it acknowledges survives.

Shape on disk, in one slot directory::

    00000001.log …   segments: a header, then frames
    high-water       the last durable sequence number, at most about a second behind
    trimmed          up to which number records were carried elsewhere and removed here
    identity         a UUID: what this journal is called in PostgreSQL
    suspect          there while an old segment is known to be damaged: the next opening mends
    set-aside/       damaged segments and torn tails, as they were found; never deleted

What opening promises (guarantee 11): a torn tail loses only the record that was never
acknowledged; after damage every readable record is kept, the missing range of numbers is named,
the damaged file is set aside, and the journal opens.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID, uuid4

from audiobot.errors import StorageFull, StorageUnavailable
from audiobot.storage.frames import (
    FRAME,
    HEADER,
    KIND_GAP,
    KIND_OPERATION,
    MAX_PAYLOAD,
    U64,
    Damage,
    Frame,
    Gap,
    Mended,
    frame,
    header,
    header_first,
    mend,
    read_frame,
    scan,
)

_HIGH_WATER: Final = struct.Struct("<QI")
SEGMENT_BYTES: Final = 16 << 20
VERIFY_BYTES: Final = 128 << 20
_HIGH_WATER_SLOT: Final = 512
_A_SECOND_OF_RECORDS: Final = 100_000
_OPEN_READERS: Final = 16
_BLOCK_BYTES: Final = 4_096

_SEGMENT_NAME: Final = re.compile(r"(\d{8})\.log")


class Position(NamedTuple):
    """Where a frame lies: segment number, byte offset of its first byte, its length in bytes."""

    segment: int
    offset: int
    length: int


class Entry(NamedTuple):
    """One operation read back: its sequence number, its place, its payload."""

    sequence: int
    position: Position
    payload: bytes


class DamagedRecord(Exception):
    """A frame that was whole when it was written cannot be read back any more."""


def fsync_directory(path: Path) -> None:
    """Make renames and new names in ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """Put ``data`` in ``path``'s place durably and in one step, readable by the owner only."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_directory(path.parent)


class Journal:
    """One writer's log in one directory; the caller holds the directory's lock.

    A commit is ``stage`` once per record, then ``commit``, or ``abort``; all from one thread at
    a time. ``read`` and ``read_from`` may run in any thread. When ``commit`` returns, every
    staged record survives the process and the power. When it raises, none of them counts: the
    file is cut back to its last durable byte before anything else is written.

    ``promised`` is a sequence number that something outside the journal knows to have been
    acknowledged (the index's); like the high-water mark it turns a lost tail into a named gap.

    Opening verifies the newest ``verify_bytes`` of segments, every byte; older ones are left to
    ``verify_segment``, which a background task calls, so that a start stays short.

    After opening: ``gaps`` are the ranges lost to damage in what was verified, now or earlier;
    ``damaged`` says that this opening found new damage; ``torn_bytes`` counts what was cut from
    an unfinished tail; ``unverified`` are the older segments; ``trimmed`` is the number up to
    which records were removed, ``oldest_segment`` the first that may hold any.
    """

    def __init__(
        self,
        directory: Path,
        *,
        promised: int = 0,
        segment_bytes: int = SEGMENT_BYTES,
        verify_bytes: int = VERIFY_BYTES,
    ) -> None:
        self.directory = directory
        self.aside = directory / "set-aside"
        self.gaps: list[Gap] = []
        self.damaged = False
        self.torn_bytes = 0
        self.unverified: list[int] = []
        self._segment_bytes = segment_bytes
        self._verify_bytes = verify_bytes
        self._staged: list[bytes] = []
        self._staged_bytes = 0
        self._suspect = False
        self._sound: set[int] = set()
        self._damaged: set[int] = set()
        self._readers: dict[int, int] = {}
        self._readers_lock = threading.Lock()
        directory.mkdir(parents=True, exist_ok=True)
        for made in (directory, directory.parent):
            fsync_directory(made.parent)  # a journal whose folder is forgotten is forgotten too
        self._high_water_fd = os.open(
            directory / "high-water", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        self._fd = -1
        self._slot = 0
        try:
            self.identity = self._identify()
            mark = self._read_high_water()
            # The mark is a second behind at most: a promise far beyond it is itself damaged.
            self._recover(max(mark, promised if promised <= mark + _A_SECOND_OF_RECORDS else 0))
            self._write_high_water(self.last_sequence)
        except BaseException:
            self._close_files()
            raise

    # -- opening ---------------------------------------------------------------------------

    def _segment_path(self, number: int) -> Path:
        return self.directory / f"{number:08d}.log"

    def segments(self) -> list[int]:
        """Numbers of the segments on disk, oldest first."""
        matches = (_SEGMENT_NAME.fullmatch(p.name) for p in self.directory.iterdir())
        return sorted(int(m[1]) for m in matches if m)

    def _recover(self, promised: int) -> None:
        """Verify every segment, mend what is damaged, and stand ready to append."""
        trimmed = self.trimmed = self._trimmed()
        numbers = self.segments()
        firsts = [self._first_of(number) for number in numbers]
        while len(numbers) > 1 and firsts[1] is not None and firsts[1] <= trimmed + 1:
            # The process died between writing the mark and removing what it speaks of.
            self._let_go(numbers.pop(0), sure=False)
            del firsts[0]
        trusted = self._trusted(numbers, firsts)
        due = trimmed + 1
        for i, number in enumerate(numbers):
            if number in trusted:
                due = firsts[i + 1] or due
                continue
            later = (first for first in firsts[i + 1 :] if first is not None)
            is_last = i + 1 == len(numbers)
            end_due = promised + 1 if is_last else next(later, due)
            data = self._bytes_of(number)
            mended = mend(data, due, end_due, segment=number, is_last=is_last)
            if mended.changed is not None:
                self._set_aside(self._segment_path(number), data, mended)
            self.gaps += mended.gaps
            due = mended.next_sequence
        self.last_sequence = due - 1
        self.oldest_segment = numbers[0] if numbers else 1
        if numbers:
            self._segment = numbers[-1]
            self._written_to = str(self._segment_path(self._segment))
            self._fd = os.open(self._written_to, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            self._durable = os.fstat(self._fd).st_size
        else:
            self._segment = 0
            self._start_segment()
            if promised > trimmed:
                self.damaged = True
                self.gaps.append(Gap(due, promised, self._segment))
                self._write(frame(KIND_GAP, due, U64.pack(promised)))
                self.last_sequence = promised

    def _trusted(self, numbers: list[int], firsts: list[int | None]) -> set[int]:
        """The old segments that this opening takes as they are, unless one is known to be bad."""
        suspect = self.directory / "suspect"
        if suspect.exists():
            suspect.unlink()
            return set()
        left = self._verify_bytes
        trusted: set[int] = set()
        for i in range(len(numbers) - 1, 0, -1):
            left -= self._segment_path(numbers[i]).stat().st_size
            whole = firsts[i - 1] is not None and firsts[i] is not None
            if left < 0 and whole and numbers[i - 1] + 1 == numbers[i]:
                trusted.add(numbers[i - 1])
        self.unverified = sorted(trusted)
        return trusted

    def verify_segment(self, number: int) -> bool:
        """Read one segment from end to end, in any thread; False when it is damaged.

        Then the next opening mends it.
        """
        good = self._is_sound(number)
        if not good:
            (self.directory / "suspect").touch()
        return good

    def _is_sound(self, number: int) -> bool:
        data = self._bytes_of(number)
        due = header_first(data)
        for part in scan(data):
            if isinstance(part, Damage) or part.sequence != due:
                due = None
                break
            body = data[part.offset + FRAME.size : part.end]
            due = (U64.unpack(body)[0] if part.kind == KIND_GAP else part.sequence) + 1
        (self._damaged if due is None else self._sound).add(number)
        return due is not None

    def _bytes_of(self, number: int) -> bytes:
        """A segment's bytes: zeros stand where the medium gives none back."""
        path = self._segment_path(number)
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            blocks = range(0, size, _BLOCK_BYTES)
            return b"".join(_block(fd, at, min(_BLOCK_BYTES, size - at)) for at in blocks)
        finally:
            os.close(fd)

    def _first_of(self, number: int) -> int | None:
        """A segment's first sequence number: its header's, else its first whole frame's."""
        with contextlib.suppress(OSError), self._segment_path(number).open("rb") as file:
            first = header_first(file.read(HEADER.size))
            if first is not None:
                return first
        whole = (part for part in scan(self._bytes_of(number)) if isinstance(part, Frame))
        return next((part.sequence for part in whole), None)

    def _set_aside(self, path: Path, data: bytes, mended: Mended) -> None:
        """Keep what was found beside the journal, then put the mended segment in its place."""
        if mended.changed == "torn":
            self.torn_bytes += len(mended.torn)
            replace_file(self._aside(path, ".torn"), mended.torn)
        else:
            self.damaged = True
            replace_file(self._aside(path, ".damaged"), data)
        replace_file(path, mended.data)

    def _aside(self, path: Path, suffix: str) -> Path:
        """Where something of a segment is kept beside the journal."""
        self.aside.mkdir(exist_ok=True)
        return self.aside / f"{path.stem}-{time.time_ns()}{suffix}"

    def _start_segment(self) -> None:
        """Begin the next segment; the one before stays as it is, whole and synced."""
        number = self._segment + 1
        path = self._segment_path(number)
        replace_file(path, header(self.last_sequence + 1))
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._segment, self._durable = fd, number, HEADER.size
        self._written_to = str(path)  # asked for at each commit: a path costs more than the asking

    # -- what was carried elsewhere ----------------------------------------------------------

    def _identify(self) -> UUID:
        path = self.directory / "identity"
        with contextlib.suppress(FileNotFoundError, ValueError):
            return UUID(path.read_text(encoding="ascii"))
        identity = uuid4()
        replace_file(path, str(identity).encode())
        return identity

    def _trimmed(self) -> int:
        """Up to which number nothing is here any more, by intention."""
        try:
            data = (self.directory / "trimmed").read_bytes()
        except FileNotFoundError:
            return 0
        if len(data) == _HIGH_WATER.size:
            value, crc = _HIGH_WATER.unpack(data)
            if crc == zlib.crc32(data[: U64.size]):
                return int(value)
        # The mark is damaged: the oldest segment there is says where it begins.
        numbers = self.segments()
        return (self._first_of(numbers[0]) or 1) - 1 if numbers else 0

    def trim(self) -> None:
        """Remove every record so far: the caller has seen them safe elsewhere.

        Raises ``StorageFull`` or ``StorageUnavailable``; then some of them may still be here.
        """
        self._make_ready()
        try:
            self._start_segment()
            body = U64.pack(self.last_sequence)
            crc = struct.pack("<I", zlib.crc32(body))
            replace_file(self.directory / "trimmed", body + crc)
            self.trimmed = self.last_sequence
            with self._readers_lock:
                while self._readers:
                    os.close(self._readers.popitem()[1])
            self.oldest_segment = self._segment
            for number in self.segments():
                if number < self._segment:
                    self._let_go(number, sure=number not in self.unverified)
            self.unverified = []
        except OSError as error:
            raise _as_storage_error(error) from error

    def _let_go(self, number: int, *, sure: bool) -> None:
        """Remove a segment, or put it aside when not all of it could be carried.

        Unless it is ``sure`` that its damage would be known it is looked through before.
        """
        path = self._segment_path(number)
        if number in self._damaged or not (sure or number in self._sound or self._is_sound(number)):
            path.rename(self._aside(path, ".damaged"))
        else:
            path.unlink()

    # -- the high-water mark ---------------------------------------------------------------

    def _read_high_water(self) -> int:
        """The higher of the two slots that are whole; 0 when neither is."""
        data = os.pread(self._high_water_fd, 2 * _HIGH_WATER_SLOT, 0)
        best = 0
        for start in (0, _HIGH_WATER_SLOT):
            slot = data[start : start + _HIGH_WATER.size]
            if len(slot) == _HIGH_WATER.size:
                value, crc = _HIGH_WATER.unpack(slot)
                if crc == zlib.crc32(slot[: U64.size]) and value >= best:
                    best, self._slot = value, start
        return best

    def _write_high_water(self, value: int) -> None:
        # Two slots in turn: a torn write damages one of them, the other still speaks.
        body = U64.pack(value)
        self._slot = _HIGH_WATER_SLOT - self._slot
        os.pwrite(self._high_water_fd, body + struct.pack("<I", zlib.crc32(body)), self._slot)
        os.fdatasync(self._high_water_fd)
        self._high_water = value

    def check_in_place(self) -> None:
        """Raise ``StorageUnavailable`` when the file written to is no longer in the directory.

        What is written to a deleted file is gone with the process, however well it is synced.
        """
        try:
            here, there = os.fstat(self._fd), os.stat(self._written_to)
        except OSError as error:
            raise StorageUnavailable("journal_unwritable", retry_after=10) from error
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise StorageUnavailable("journal_unwritable", retry_after=10)

    def mark(self) -> None:
        """Bring the high-water mark up to date; it costs a sync, so twice a second is often."""
        if self._high_water != self.last_sequence:
            self._write_high_water(self.last_sequence)

    # -- writing ---------------------------------------------------------------------------

    @property
    def next_sequence(self) -> int:
        """The number that the next staged record will bear."""
        return self.last_sequence + len(self._staged) + 1

    def stage(self, payload: bytes) -> Position:
        """Take a record into the coming commit and say where it will lie."""
        if len(payload) > MAX_PAYLOAD:
            raise ValueError("a journal record is at most 16 MiB")
        if not self._staged:
            self._make_ready()
        framed = frame(KIND_OPERATION, self.next_sequence, payload)
        position = Position(self._segment, self._durable + self._staged_bytes, len(framed))
        self._staged.append(framed)
        self._staged_bytes += len(framed)
        return position

    def abort(self) -> None:
        """Forget what was staged."""
        self._staged.clear()
        self._staged_bytes = 0

    def commit(self) -> None:
        """Write and fsync everything staged.

        Raises ``StorageFull`` or ``StorageUnavailable``; then nothing staged counts.
        """
        if not self._staged:
            return
        count = len(self._staged)
        data = b"".join(self._staged)
        self.abort()
        try:
            self._write(data)
        except OSError as error:
            self._suspect = True
            with contextlib.suppress(StorageUnavailable):
                self._make_ready()
            raise _as_storage_error(error) from error
        self.last_sequence += count

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        os.fdatasync(self._fd)
        self._durable += len(data)

    def _make_ready(self) -> None:
        """Cut off what a failed commit may have left, and turn the page when it is full."""
        try:
            if self._suspect:
                # After a failed fsync the pages may be gone or half there: only the bytes
                # below the last good fsync are known, so the file goes back to them.
                os.ftruncate(self._fd, self._durable)
                os.fsync(self._fd)
                self._suspect = False
            if self._durable >= self._segment_bytes:
                self._start_segment()
        except OSError as error:
            raise _as_storage_error(error) from error

    # -- reading ---------------------------------------------------------------------------

    def read(self, position: Position) -> bytes:
        """The payload at ``position``; ``DamagedRecord`` when the medium lost it.

        ``StorageUnavailable`` when the file cannot be read just now.
        """
        try:
            with self._readers_lock:  # so that nobody closes the file under the read
                fd = self._reader(position.segment)
                data = os.pread(fd, position.length, position.offset)
        except OSError as error:
            if error.errno == errno.EIO:  # the medium's word: it will not be otherwise later
                raise DamagedRecord(f"segment {position.segment}: {error.strerror}") from error
            raise StorageUnavailable("journal_unreadable", retry_after=10) from error
        found = read_frame(data, 0)
        if found is None:
            raise DamagedRecord(f"segment {position.segment}, byte {position.offset}")
        return data[FRAME.size : found.end]

    def _reader(self, segment: int) -> int:
        fd = self._readers.get(segment)
        if fd is None:
            while len(self._readers) >= _OPEN_READERS:
                os.close(self._readers.pop(next(iter(self._readers))))
            try:
                fd = os.open(self._segment_path(segment), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise DamagedRecord(f"segment {segment} is gone") from None
            self._readers[segment] = fd
        return fd

    def read_from(self, sequence: int) -> Iterator[Entry | Gap]:
        """Every durable record with a number of at least ``sequence``, oldest first, and every gap.

        Damage that no opening has mended yet is told as a gap too: nothing is passed over in
        silence. What is written meanwhile is not told of, for it may be taken back.
        """
        last, due = self.last_sequence, max(sequence, self.trimmed + 1)
        hurt: set[int] = set()
        for number, data, part in self._parts_from(due):
            if due > last or (isinstance(part, Frame) and part.sequence > last):
                break
            if isinstance(part, Damage):
                hurt.add(number)
                continue
            if part.sequence < due:
                continue
            if part.sequence > due:
                self._damaged |= hurt
                yield Gap(due, part.sequence - 1, number)
            payload = data[part.offset + FRAME.size : part.end]
            if part.kind == KIND_GAP:
                due = U64.unpack(payload)[0] + 1
                yield Gap(part.sequence, due - 1, number)
            else:
                due = part.sequence + 1
                yield Entry(
                    part.sequence, Position(number, part.offset, part.end - part.offset), payload
                )
        if due <= last:
            self._damaged |= hurt
            yield Gap(due, last, self._segment)

    def _parts_from(self, sequence: int) -> Iterator[tuple[int, bytes, Frame | Damage]]:
        """What may have ``sequence`` or a later one: a segment, its bytes, a part of them."""
        numbers = self.segments()
        following = [*[self._first_of(number) for number in numbers[1:]], None]
        for number, first in zip(numbers, following, strict=True):
            if first is None or first > sequence:
                data = self._bytes_of(number)
                yield from ((number, data, part) for part in scan(data))

    def size(self) -> int:
        """Bytes that the segments take on disk."""
        return sum(self._segment_path(number).stat().st_size for number in self.segments())

    def close(self) -> None:
        """Leave the high-water mark true and close every file."""
        self.abort()
        with contextlib.suppress(OSError):
            self._write_high_water(self.last_sequence)
        self._close_files()

    def _close_files(self) -> None:
        with self._readers_lock:
            while self._readers:
                os.close(self._readers.popitem()[1])
        for fd in (self._fd, self._high_water_fd):
            if fd >= 0:
                os.close(fd)


def _block(fd: int, at: int, size: int) -> bytes:
    """So many bytes from ``at`` on, or zeros where they cannot be read."""
    try:
        return os.pread(fd, size, at).ljust(size, b"\0")
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return bytes(size)


def _as_storage_error(error: OSError) -> StorageFull | StorageUnavailable:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull("disk_full", retry_after=30)
    return StorageUnavailable("journal_unwritable", retry_after=10)
