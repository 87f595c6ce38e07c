"""The store over PostgreSQL held to the contract, in every mode that it can be in."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from audiobot.answering.sources import EmptyStart
from audiobot.domain import KnowledgeItem, utc_now
from audiobot.ports import Store
from audiobot.storage.adapter import StorageAdapter
from tests.conformance import hybrid
from tests.conformance.store_contract import StoreContract
from tests.conformance.test_local_store import journaled
from tests.postgres import Cluster
from tests.proxy import free_port


class TestPostgresStore(StoreContract):
    """Mode ``postgres``."""

    mode = "postgres"

    @pytest.fixture(autouse=True)
    def _home(self, cluster: Cluster, database: str) -> None:
        self.cluster, self.database = cluster, database

    async def open_store(self, place: Path) -> StorageAdapter:
        return await hybrid.open_hybrid(
            place / "data", self.cluster.dsn(self.database), mode=self.mode
        )

    async def close_store(self, store: Store) -> None:
        assert isinstance(store, StorageAdapter)
        await hybrid.close_hybrid(store)

    async def raw_dialogues(self, place: Path) -> dict[uuid.UUID, int | None]:
        return hybrid.dialogues_in(self.cluster, self.database)

    async def raw_rating_count(self, place: Path) -> int:
        return hybrid.ratings_in(self.cluster, self.database)

    def genuine_id(self, store: Store) -> uuid.UUID:
        assert isinstance(store, StorageAdapter)
        return store._ids.issue()

    async def test_it_says_where_dialogues_lie(self, store: StorageAdapter, tmp_path: Path):
        kept = await store.add_conversation(None, "m", "r", "s")
        assert kept.durability == "postgres"
        status = store.status()
        assert (status.mode, status.durability, status.journal_backlog) == (
            "postgres", "postgres", 0,
        )  # fmt: skip
        assert store.database_available
        assert journaled(tmp_path) == []


class TestPostgresStoreEvicting(TestPostgresStore):
    """The same with next to no memory."""

    async def open_store(self, place: Path) -> StorageAdapter:
        dsn = self.cluster.dsn(self.database)
        return await hybrid.open_hybrid(place / "data", dsn, max_conversations=2)


class TestFallbackStore(StoreContract):
    """Mode ``fallback``: a DATABASE_URL is set and nobody listens there."""

    complete = False

    async def open_store(self, place: Path) -> StorageAdapter:
        dsn = f"postgresql://owner@127.0.0.1:{free_port()}/nowhere"
        return await hybrid.open_hybrid(place / "data", dsn, mode="fallback")

    async def close_store(self, store: Store) -> None:
        assert isinstance(store, StorageAdapter)
        await hybrid.close_hybrid(store)

    async def raw_dialogues(self, place: Path) -> dict[uuid.UUID, int | None]:
        from tests.conformance.test_local_store import TestLocalStore

        return await TestLocalStore.raw_dialogues(self, place)  # type: ignore[arg-type]

    async def raw_rating_count(self, place: Path) -> int:
        from tests.conformance.test_local_store import TestLocalStore

        return await TestLocalStore.raw_rating_count(self, place)  # type: ignore[arg-type]

    def genuine_id(self, store: Store) -> uuid.UUID:
        assert isinstance(store, StorageAdapter)
        return store._ids.issue()

    @pytest.mark.parametrize("foreign", [uuid.uuid4(), uuid.UUID(int=0)])
    async def test_g10_an_id_that_was_never_issued_is_unknown(self, store: Store, foreign):
        # The key set of the other replicas is not known yet: any id may be one of theirs.
        assert (await store.update_rating(foreign, 5)).status == "pending"
        assert await store.get_conversation(foreign) is None


async def test_what_one_process_imports_again_after_an_empty_start_is_heard_by_another(
    tmp_path: Path, cluster: Cluster, database: str
):
    dsn = cluster.dsn(database)
    item = KnowledgeItem(item_id="i", title="t", answer="a", questions=("q",))
    async with (
        hybrid.hybrid(tmp_path / "one", dsn) as one,
        hybrid.hybrid(tmp_path / "two", dsn) as two,
    ):
        await one.replace_knowledge("faq.csv", [item])
        since = utc_now()
        here, there = EmptyStart.over(one, since), EmptyStart.over(two, since)
        assert await there.get_knowledge() == []
        mark = (await two.changes(None)).mark
        assert await here.replace_knowledge("faq.csv", [item])
        assert (await two.changes(mark)).knowledge
        assert [source.items for source in await there.get_knowledge()] == [(item,)]


async def test_g20_ratings_that_share_a_batch_are_counted_once_should_postgres_go(
    tmp_path: Path, cluster: Cluster, database: str
):
    async with hybrid.hybrid(tmp_path / "data", cluster.dsn(database)) as store:
        kept = [await store.add_conversation(None, "m", "r", "s") for _ in range(2)]
        await store._snapshot.renew(store._postgres)
        # The first rating leaves alone; the others gather behind it and share a batch.
        ratings = [(kept[0], 3), (kept[1], 1), (kept[1], 5), (kept[1], 4)]
        await asyncio.gather(*(store.update_rating(c.log_id, r) for c, r in ratings))
        told = store._tally.told()  # what would be told in an outage that begins now
        assert (told.rated_interactions, told.rating_sum) == (2, 7)
