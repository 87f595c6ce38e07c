"""Which knowledge counts after a start: what ``AUDIOBOT_KNOWLEDGE`` names, or nothing at first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from audiobot.answering.knowledge import find_files, read_file, source_name
from audiobot.domain import KnowledgeItem, KnowledgeSource
from audiobot.ports import Imported, KnowledgeImporter, Store


class StartingKnowledge:
    """Imports a file or folder at each start and withdraws what it brought before and lost since.

    ``remembered`` is a file that keeps what a start brought in, by name and moment: a source that
    was imported by hand since then is nobody's but its importer's.
    """

    def __init__(self, store: Store, importer: KnowledgeImporter, remembered: Path) -> None:
        self._store = store
        self._importer = importer
        self._remembered = remembered

    async def bring(self, path: Path) -> list[Imported]:
        """Import every file at ``path``, withdraw the sources whose files are gone."""
        files = {source_name(file, path): file for file in find_files(path)}
        imported = [
            await self._importer.import_file(name, await asyncio.to_thread(read_file, file))
            for name, file in files.items()
        ]
        before, now = self._recall(), await _moments(self._store)
        for name, moment in before.items():
            if name not in files and now.get(name) == moment:
                await self._store.replace_knowledge(name, [])
                imported.append(Imported(name, 0, changed=True, bad_rows=[]))
        self._remember({name: moment for name, moment in now.items() if name in files})
        return imported

    def _recall(self) -> dict[str, datetime]:
        try:
            return msgspec.json.decode(self._remembered.read_bytes(), type=dict[str, datetime])
        except (OSError, msgspec.DecodeError):
            return {}

    def _remember(self, moments: dict[str, datetime]) -> None:
        # Lost, it only costs that a file that is gone is not noticed: no reason not to start.
        partial = self._remembered.with_suffix(".part")
        with contextlib.suppress(OSError):
            partial.write_bytes(msgspec.json.encode(moments))
            partial.replace(self._remembered)


class EmptyStart:
    """A store as ``AUDIOBOT_KNOWLEDGE=none`` sees it: what was imported before counts no more.

    It is kept, and counts again once it is imported again, by whichever process, or the setting
    is gone. ``since`` is the server's start, the same for all its workers, whenever they start.
    """

    def __init__(self, store: Store, since: datetime) -> None:
        self._store = store
        self._since = since

    @classmethod
    def over(cls, store: Store, since: datetime) -> Store:
        """The view over ``store``; all that it does not change is the store's own."""
        return cast("Store", cls(store, since))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def replace_knowledge(self, name: str, items: Sequence[KnowledgeItem]) -> bool:
        """Keep a source's items, which count from now on."""
        ignored = await self._is_ignored(name)
        changed = await self._store.replace_knowledge(name, items)
        if changed or not ignored:
            return changed
        if await self._is_ignored(name):
            # The store has just these items and would keep their moment: no other process, which
            # ignores them too, would hear of it.
            await self._store.replace_knowledge(name, [])
            await self._store.replace_knowledge(name, items)
        return True

    async def get_knowledge(self) -> list[KnowledgeSource]:
        """Every source that was imported since the start."""
        sources = await self._store.get_knowledge()
        return [source for source in sources if source.imported_at >= self._since]

    async def _is_ignored(self, name: str) -> bool:
        moment = (await _moments(self._store)).get(name)
        return moment is not None and moment < self._since


async def _moments(store: Store) -> dict[str, datetime]:
    return {source.name: source.imported_at for source in await store.get_knowledge()}
