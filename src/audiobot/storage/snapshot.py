"""What is kept of PostgreSQL for the time when it cannot be asked, and the taking of it.

Each time PostgreSQL is reached keys are exchanged, the place in our journal from which to carry is
found, and its totals, knowledge and corrections are taken; the last three are renewed while it is
well and lie in a file, so that a start in an outage has them too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from audiobot.domain import Correction, KnowledgeSource, Stats
from audiobot.ports import Meter
from audiobot.storage.directory import DataDirectory, DialogueIds, KeySet
from audiobot.storage.homes import Homes
from audiobot.storage.journal import replace_file
from audiobot.storage.operations import AddConversation, Operation, RateConversation
from audiobot.storage.replay import Adoption, adopt, count_refused
from audiobot.storage.tally import Tally
from audiobot.storage.teaching import Teaching

if TYPE_CHECKING:
    from audiobot.storage.postgres import PostgresStore


class _Remembered(msgspec.Struct, frozen=True):
    """The file: PostgreSQL's totals, knowledge and corrections."""

    stats: Stats
    knowledge: list[KnowledgeSource]
    adopted: bool
    journal: UUID | None = None
    carried: int = 0
    """``stats`` count this journal up to this number, and beyond it ``present``."""
    present: list[UUID] = []
    corrections: list[Correction] = []


class PostgresSnapshot:
    """Taken from PostgreSQL by ``meet``, ``renew`` and ``keep_house``, which raise its trouble.

    ``open`` blocks. ``knowledge`` are the sources known last, ``conflicts`` and ``orphans`` what
    PostgreSQL found, ``refused`` how many operations lie set aside and ``lost`` how many records of
    dead processes nobody could read.
    """

    def __init__(
        self,
        directory: DataDirectory,
        ids: DialogueIds,
        keys: KeySet | None,
        homes: Homes,
        tally: Tally,
        teaching: Teaching,
        meter: Meter,
    ) -> None:
        self._journals = directory.path / "journal"
        self._file = directory.path / "cache" / f"postgres-{homes.local.slot}.msgpack"
        self._ids = ids
        self._keys = keys
        self._homes = homes
        self._local = homes.local
        self._tally = tally
        self._teaching = teaching
        self._meter = meter
        self._keys_known = not homes.hybrid
        self._adopted = False
        self._adoption = Adoption()
        self._there_up_to = 0
        self.knowledge: list[KnowledgeSource] = []
        self.conflicts = self.orphans = self.refused = 0

    @property
    def lost(self) -> int:
        """Records that dead processes left and nobody could read."""
        return self._adoption.lost

    @property
    def any_id(self) -> bool:
        """True while a well-formed id may be genuine though it does not prove itself."""
        return not self._keys_known or self._adopted

    def open(self) -> None:
        """Count what lies set aside and, where there may be a PostgreSQL, begin with the file."""
        self.refused = count_refused(self._journals)
        if self._homes.hybrid:
            counted = self._recall()
            self._tally.recall(
                (operation, counted(number, operation))
                for number, operation in self._local.operations()
            )

    def _recall(self) -> Callable[[int, Operation], bool]:
        """Take the remembered totals; returns which operations of the journal they count."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            kept = msgspec.msgpack.decode(self._file.read_bytes(), type=_Remembered)
            self._tally.renew(kept.stats, set())
            self.knowledge, self._adopted = kept.knowledge, kept.adopted
            self._teaching.learned(kept.corrections)
            if kept.journal == self._local.journal.identity:
                carried, present = max(kept.carried, self._local.replayed), set(kept.present)
                return lambda number, operation: number <= carried or operation.op_id in present
        carried = self._local.replayed
        return lambda number, operation: number <= carried

    async def meet(self, postgres: PostgresStore) -> None:
        """PostgreSQL has been reached: exchange keys, find our place, take its totals."""
        if self._keys is not None:
            keys = await postgres.exchange_keys(self._keys.ids)
            await asyncio.to_thread(self._keys.merge, keys)
            self._ids.accept(self._keys.ids)
        self._adopted = await postgres.has_adopted()
        self._keys_known = True
        cursor = await postgres.cursor(self._local.journal.identity)
        async with self._tally.lock:
            await self._take_stock(postgres, cursor)
        await self.renew(postgres)

    async def _take_stock(self, postgres: PostgresStore, cursor: int) -> None:
        """Begin to carry at the cursor, and count as there what PostgreSQL has beyond it."""
        self._there_up_to, whole = 0, True
        async for perhaps in self._local.reset_cursor(cursor):
            there = await postgres.present(operation for _, operation in perhaps)
            self._tally.carried(o for _, o in perhaps if o.op_id in there)
            for number, operation in perhaps:
                told = isinstance(operation, AddConversation | RateConversation)
                whole = whole and (operation.op_id in there or not told)
                if whole:
                    self._there_up_to = number

    async def renew(self, postgres: PostgresStore) -> None:
        """Take what PostgreSQL holds of most use for the time when it cannot be asked."""
        # The pause comes second: a batch of the replay on its way shall hold up no live write.
        async with self._tally.lock, postgres.paused():
            stats, present = await self.count(postgres)
            carried = max(self._local.replayed, self._there_up_to)
        self.knows(await postgres.knowledge())
        self._teaching.learned(await postgres.corrections())
        remembered = _Remembered(
            stats,
            self.knowledge,
            self._adopted,
            self._local.journal.identity,
            carried,
            list(present),
            list(self._teaching.remembered.values()),
        )
        with contextlib.suppress(OSError):
            data = msgspec.msgpack.encode(remembered)
            await asyncio.to_thread(partial(_replace, self._file, data))

    async def count(self, postgres: PostgresStore) -> tuple[Stats, set[UUID]]:
        """Renew the totals; they, and the doubtful operations that they count.

        With nothing of ours on its way: the caller holds the pause and the tally's lock. What
        becomes doubtful while it is asked must be asked about too.
        """
        while True:
            asked = dict(self._tally.doubtful)
            stats, present = await postgres.stats(asked.values())
            if self._tally.doubtful.keys() <= asked.keys():
                self._tally.renew(stats, present)
                return stats, present

    async def keep_house(self, postgres: PostgresStore) -> None:
        """What is due now and then: PostgreSQL's own, this snapshot, dead processes' journals."""
        await postgres.keep_house()
        self.conflicts, self.orphans = await postgres.findings()
        await self.renew(postgres)
        await adopt(self._journals, self._local.slot, postgres, self._adoption, self._meter.adopted)
        self.refused = await asyncio.to_thread(count_refused, self._journals)

    def knows(self, found: list[KnowledgeSource]) -> None:
        """PostgreSQL has these sources; while there is something to carry, it lacks that."""
        overlaid = self._homes.overlaid()
        self.knowledge = newest_of([*self.knowledge, *found]) if overlaid else found

    def replaced(self, source: KnowledgeSource) -> None:
        """This process has replaced a source."""
        self.knowledge = newest_of([*self.knowledge, source])


def newest_of(sources: Iterable[KnowledgeSource]) -> list[KnowledgeSource]:
    """Of each name the source that was imported last; of two at once the later one."""
    newest: dict[str, KnowledgeSource] = {}
    for source in sources:
        kept = newest.get(source.name)
        if kept is None or source.imported_at >= kept.imported_at:
            newest[source.name] = source
    return list(newest.values())


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    replace_file(path, data)
