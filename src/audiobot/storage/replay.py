"""Carrying a journal into PostgreSQL: one's own, and those of processes that died."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from audiobot.errors import Unavailable
from audiobot.storage.directory import lock_slot
from audiobot.storage.frames import HEADER
from audiobot.storage.journal import Entry, Journal, replace_file
from audiobot.storage.operations import Operation, decode, encode
from audiobot.storage.trouble import DataRefused

if TYPE_CHECKING:
    from audiobot.storage.postgres import PostgresStore

_BATCH: Final = 200


async def replay(
    postgres: PostgresStore, journal: Journal, operations: list[Operation], span: tuple[int, int]
) -> int:
    """Hand a batch over and move the cursor from the first to the second number of ``span``.

    What PostgreSQL will never take is set aside in a file of its own, never deleted; returns how
    many operations that were. Raises ``DatabaseTrouble``: then the batch may go again.
    """
    before, last = span
    try:
        await postgres.replay(operations, journal.identity, last)
    except DataRefused:
        if len(operations) <= 1:
            for operation in operations:
                name = str(operation.op_id)
                await asyncio.to_thread(_set_aside, journal, name, encode(operation))
            await postgres.replay([], journal.identity, last)
            return len(operations)
        half = len(operations) // 2
        refused = await replay(postgres, journal, operations[:half], (before, before))
        return refused + await replay(postgres, journal, operations[half:], span)
    return 0


def operation_in(journal: Journal, entry: Entry) -> list[Operation]:
    """The operation in a record; none in a later version's, which is set aside; blocks."""
    try:
        return [decode(entry.payload)]
    except msgspec.MsgspecError:
        _set_aside(journal, str(entry.sequence), entry.payload)
        return []


def _set_aside(journal: Journal, name: str, operation: bytes) -> None:
    journal.aside.mkdir(exist_ok=True)
    replace_file(journal.aside / f"refused-{name}.msgpack", operation)


def count_refused(journals: Path) -> int:
    """How many operations lie set aside, in whichever slot; blocks."""
    return sum(1 for _ in journals.glob("*/set-aside/refused-*.msgpack"))


@dataclass
class Adoption:
    """What came of dead processes' journals so far.

    ``reached`` is how far each was carried before that was broken off, ``lost`` how many records
    of them nobody could read.
    """

    reached: dict[UUID, int] = field(default_factory=dict)
    lost: int = 0


async def adopt(
    journals: Path,
    own: int,
    postgres: PostgresStore,
    so_far: Adoption,
    tell: Callable[[int], None] = lambda operations: None,
) -> int:
    """Carry over what dead processes left in their slots; returns how many operations.

    ``tell`` hears of each slot that is done.

    A slot whose lock is held belongs to someone who lives. Two adopters do no harm: one gets the
    lock, and replay may be repeated. One that cannot be opened just now keeps nobody waiting.
    """
    carried = 0
    for slot in await asyncio.to_thread(_left_behind, journals, own):
        with contextlib.suppress(OSError, Unavailable):
            lock = await asyncio.to_thread(lock_slot, slot)
            if lock is None:
                continue
            try:
                operations = await _carry_whole(slot, postgres, so_far)
                tell(operations)
                carried += operations
            finally:
                os.close(lock)
    return carried


def _left_behind(journals: Path, own: int) -> list[Path]:
    """Other slots that hold records, whoever owns them."""
    others = (slot for slot in journals.iterdir() if slot.name.isdigit() and slot.name != str(own))
    return sorted(slot for slot in others if _holds_records(slot))


def _holds_records(slot: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(path.stat().st_size > HEADER.size for path in slot.glob("*.log"))
    return False


def _let_go(journal: Journal) -> None:
    journal.trim()
    for path in journal.directory.glob("index.sqlite*"):
        path.unlink(missing_ok=True)  # it points into what was carried


async def _carry_whole(slot: Path, postgres: PostgresStore, so_far: Adoption) -> int:
    journal = await asyncio.to_thread(Journal, slot)
    reached = so_far.reached
    try:
        # What PostgreSQL says of this journal's name may be of another copy of the directory.
        cursor = max(journal.trimmed, reached.get(journal.identity, 0))
        batches = _batches(journal, cursor)
        carried = 0
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            operations, last, lost = batch
            await replay(postgres, journal, operations, (cursor, last))
            cursor = reached[journal.identity] = last
            so_far.lost += lost
            carried += len(operations)
        await asyncio.to_thread(_let_go, journal)
        reached.pop(journal.identity, None)
        return carried
    finally:
        await asyncio.to_thread(journal.close)


def _batches(journal: Journal, cursor: int) -> Iterator[tuple[list[Operation], int, int]]:
    """Operations, the number of the last one, and how many were lost among them."""
    operations: list[Operation] = []
    last, lost = cursor, 0
    for record in journal.read_from(cursor + 1):
        if isinstance(record, Entry):
            last = record.sequence
            operations += operation_in(journal, record)
        else:
            last, lost = record.last, lost + record.last - record.first + 1
        if len(operations) >= _BATCH:
            yield operations, last, lost
            operations, lost = [], 0
    if last > cursor:
        yield operations, last, lost
