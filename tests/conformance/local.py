"""A local store for one block of a test, opened on a directory and closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, DialogueIds

IDS = DialogueIds([b"0" * 32])


@asynccontextmanager
async def opened(path: Path, **limits: int) -> AsyncIterator[StorageAdapter]:
    """An opened store; what the block handed in is committed when it ends."""
    directory = DataDirectory(path)
    try:
        store = StorageAdapter(directory, IDS, **limits)
        store.open()
        await store.start()
        try:
            yield store
        finally:
            await store.close()
    finally:
        directory.release()


def slot(path: Path) -> Path:
    """Where the journal's files lie."""
    return path / "journal" / "0"
