"""What one process takes in, others on the same PostgreSQL hear; it does not hear itself."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from audiobot.domain import KnowledgeItem
from audiobot.ports import ChangeMark
from audiobot.storage.adapter import StorageAdapter
from tests.conformance.hybrid import hybrid, wait_for_mode, wait_until_carried
from tests.faults.crowd import older_dialogues
from tests.postgres import Cluster
from tests.proxy import Proxy


class Ear:
    """Everything that a store was told of, from now on."""

    def __init__(self, store: StorageAdapter, mark: ChangeMark) -> None:
        self._store, self._mark = store, mark
        self.rated: list[UUID] = []

    @classmethod
    async def of(cls, store: StorageAdapter) -> Ear:
        return cls(store, (await store.changes(None)).mark)

    async def listen(self) -> list[UUID]:
        heard = await self._store.changes(self._mark)
        self._mark = heard.mark
        self.rated += heard.rated
        return self.rated


async def test_g12_a_rating_is_heard_once_by_others_and_not_by_its_own_process(
    tmp_path: Path, cluster: Cluster, database: str
):
    dsn = cluster.dsn(database)
    async with hybrid(tmp_path / "one", dsn) as one, hybrid(tmp_path / "two", dsn) as two:
        kept = await one.add_conversation(None, "q", "a", "s")
        own, other = await Ear.of(one), await Ear.of(two)
        await one.update_rating(kept.log_id, 5)
        for _ in range(3):
            assert await own.listen() == []
            assert await other.listen() == [kept.log_id]
        await two.update_rating(kept.log_id, 1)
        assert await own.listen() == [kept.log_id]
        assert (await one.get_conversation(kept.log_id)).rating == 1  # type: ignore[union-attr]


async def test_g12_what_was_rated_out_of_reach_is_learned_when_it_meets_its_dialogue(
    tmp_path: Path, cluster: Cluster, database: str
):
    """In the outage this process could not know what was rated: afterwards it can."""
    rated, unknown = await older_dialogues(tmp_path / "before", cluster.dsn(database), 2)
    with Proxy(cluster.host, cluster.port) as proxy:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        async with hybrid(tmp_path / "data", dsn) as store:
            ear = await Ear.of(store)
            proxy.refuse()
            assert (await store.update_rating(unknown, 5)).status == "pending"
            assert await ear.listen() == []
            proxy.pass_through()
            await wait_for_mode(store, "recovering")
            await wait_for_mode(store, "postgres")
            await wait_until_carried(store)
            # The first one was rated by another process, just before.
            assert set(await ear.listen()) == {rated, unknown}
            assert (await store.get_conversation(unknown)).rating == 5  # type: ignore[union-attr]


async def test_g20_a_dialogue_that_came_after_its_rating_is_readable_in_an_outage(
    tmp_path: Path, cluster: Cluster, database: str
):
    with Proxy(cluster.host, cluster.port) as proxy:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        async with hybrid(tmp_path / "data", dsn) as store:
            log_id = store._ids.issue()
            assert (await store.update_rating(log_id, 4)).status == "pending"
            await store.add_conversation(log_id, "q", "a", "s")
            proxy.refuse()
            await wait_for_mode(store, "fallback")
            found = await store.get_conversation(log_id)
            assert found is not None
            assert (found.user_message, found.rating) == ("q", 4)


async def test_g20_knowledge_imported_in_an_outage_stays_known_in_the_next_one(
    tmp_path: Path, cluster: Cluster, database: str
):
    """What PostgreSQL said before it was carried over must not come back."""
    with Proxy(cluster.host, cluster.port) as proxy:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        async with hybrid(tmp_path / "data", dsn) as store:
            for title in ("first", "second"):
                item = KnowledgeItem(item_id=title, title=title, answer="a")
                proxy.refuse()
                await store.replace_knowledge("a.csv", [item])
                proxy.pass_through()
                await wait_for_mode(store, "recovering")
                await wait_for_mode(store, "postgres")
            proxy.refuse()
            await wait_for_mode(store, "fallback")
            [known] = await store.get_knowledge()
            assert [item.title for item in known.items] == ["second"]


async def test_g12_a_rating_carried_before_its_dialogue_is_learned_everywhere_when_they_meet(
    tmp_path: Path, cluster: Cluster, database: str
):
    with Proxy(cluster.host, cluster.port) as early, Proxy(cluster.host, cluster.port) as late:
        dsns = [cluster.dsn(database, host=p.host, port=p.port) for p in (early, late)]
        async with (
            hybrid(tmp_path / "rates", dsns[0]) as rates,
            hybrid(tmp_path / "asks", dsns[1]) as asks,
            hybrid(tmp_path / "third", cluster.dsn(database)) as third,
        ):
            ears = [await Ear.of(store) for store in (rates, third)]
            early.refuse()
            late.refuse()
            kept = await asks.add_conversation(None, "q", "a", "s")
            rates._ids.accept(asks._ids._keys)
            assert (await rates.update_rating(kept.log_id, 5)).status == "pending"
            early.pass_through()
            await wait_for_mode(rates, "recovering")
            await wait_until_carried(rates)
            for ear in ears:
                await ear.listen()
                ear.rated.clear()
                assert await ear.listen() == []
            late.pass_through()
            await wait_for_mode(asks, "recovering")
            await wait_until_carried(asks)
            for ear in ears:
                assert await ear.listen() == [kept.log_id]
                assert await ear.listen() == [kept.log_id]
            found = await third.get_conversation(kept.log_id)
            assert found is not None
            assert found.rating == 5
