"""A store over PostgreSQL for one block of a test, and what lies in the database, read past it."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, KeySet
from audiobot.storage.directory import DialogueIds as Ids
from audiobot.storage.dsn import parse_dsn
from tests.postgres import Cluster


async def wait_for_mode(store: StorageAdapter, mode: str, seconds: float = 20) -> None:
    """Wait until the store says that it is in ``mode``."""
    deadline = time.monotonic() + seconds
    while store.status().mode != mode:
        assert time.monotonic() < deadline, store.status()
        await asyncio.sleep(0.005)


async def wait_until_carried(store: StorageAdapter, seconds: float = 20) -> None:
    """Wait until PostgreSQL is in charge and has all that the journal had."""
    deadline = time.monotonic() + seconds
    while store.status().mode != "postgres" or store.status().journal_backlog:
        assert time.monotonic() < deadline, store.status()
        await asyncio.sleep(0.005)


async def wait_for_reason(store: StorageAdapter, reason: str, seconds: float = 20) -> None:
    """Wait until the store says that this is why it is as it is."""
    deadline = time.monotonic() + seconds
    while store.status().reason != reason:
        assert time.monotonic() < deadline, store.status()
        await asyncio.sleep(0.005)


async def open_hybrid(path: Path, dsn: str, *, mode: str = "postgres", **limits: int):
    """An opened store over ``dsn``, in ``mode``."""
    directory = DataDirectory(path)
    keys = KeySet(path / "keys.json", None)
    store = StorageAdapter(directory, Ids(keys.ids), dsn=parse_dsn(dsn), keys=keys, **limits)
    store.open()
    await store.start()
    await wait_for_mode(store, mode)
    return store


async def close_hybrid(store: StorageAdapter) -> None:
    """Close it; not one connection may be left in use."""
    if store._postgres is not None and store.status().mode == "postgres":
        deadline = time.monotonic() + 10
        while store._postgres.checked_out:  # a heartbeat has one for a moment
            assert time.monotonic() < deadline, store.status()
            await asyncio.sleep(0.005)
    await store.close()
    store._directory.release()


@asynccontextmanager
async def hybrid(path: Path, dsn: str, *, mode: str = "postgres", **limits: int) -> AsyncIterator:
    store = await open_hybrid(path, dsn, mode=mode, **limits)
    try:
        yield store
    finally:
        await close_hybrid(store)


def dialogues_in(cluster: Cluster, database: str) -> dict[uuid.UUID, int | None]:
    """Every dialogue with its current rating."""
    return dict(cluster.execute("SELECT id, rating FROM voice_logs", database))


def ratings_in(cluster: Cluster, database: str) -> int:
    """How many ratings were ever kept."""
    return cluster.execute("SELECT count(*) FROM voice_ratings", database)[0][0]
