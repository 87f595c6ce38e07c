"""Writes that meet on the way, come late, come twice, or never hear back: each made to happen."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from audiobot.domain import Conversation, Idempotency, utc_now
from audiobot.storage import statements
from audiobot.storage.batch import Batch
from audiobot.storage.dsn import parse_dsn
from audiobot.storage.operations import AddConversation, RateConversation, rank_of
from audiobot.storage.postgres import PostgresStore
from audiobot.storage.session import Session
from audiobot.storage.trouble import DatabaseTrouble
from tests.conformance.hybrid import hybrid, wait_for_mode, wait_for_reason, wait_until_carried
from tests.faults.crowd import older_dialogues
from tests.faults.world import IDS, READ_SECONDS, WRITE_SECONDS, scaled_down
from tests.postgres import Cluster
from tests.proxy import Proxy

JOURNAL = uuid.UUID(int=7)


def add() -> AddConversation:
    told = Conversation(
        log_id=IDS.issue(), session_id="s", user_message="q", ai_response="a", created_at=utc_now()
    )
    return AddConversation(op_id=uuid.uuid4(), conversation=told)


def rate(dialogue: AddConversation, rating: int, version: int) -> RateConversation:
    return RateConversation(
        op_id=uuid.uuid4(),
        log_id=dialogue.conversation.log_id,
        rating=rating,
        version=version,
        rated_at=utc_now(),
    )


@pytest.fixture
async def postgres(cluster: Cluster, database: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(parse_dsn(cluster.dsn(database)))
    store.start()
    yield store
    await store.close()


@pytest.fixture
def by_proxy(cluster: Cluster, database: str):
    with Proxy(cluster.host, cluster.port) as proxy, scaled_down():
        proxy.dsn = cluster.dsn(database, port=proxy.port)
        yield proxy


@asynccontextmanager
async def connected(cluster: Cluster, database: str) -> AsyncIterator[Session]:
    """A session on a connection of the test's own."""
    dsn = cluster.dsn(database)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield Session(connection)


async def blocked_or_done(cluster: Cluster, database: str, task: asyncio.Task) -> None:
    """Wait until a task's transaction waits for a lock, or the task has ended."""
    waiting = (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s LIMIT 1"
    )
    async with asyncio.timeout(10):
        while not task.done():
            if await asyncio.to_thread(cluster.execute, waiting, params=[database]):
                return
            await asyncio.sleep(0.01)


async def test_g07_a_rating_and_its_dialogue_in_two_transactions_at_once_do_not_miss_each_other(
    cluster: Cluster, database: str, postgres: PostgresStore
):
    dialogue = add()
    async with connected(cluster, database) as session:
        await session.begin()
        await Batch(session, live=False, careful=True).apply([dialogue])
        late = asyncio.create_task(postgres.replay([rate(dialogue, 5, 1)], JOURNAL, 1))
        await blocked_or_done(cluster, database, late)
        await session.commit()
        await late
    found, _ = await postgres.get(dialogue.conversation.log_id)
    assert found is not None
    assert found.rating == 5
    assert await postgres.findings() == (0, 0)


async def test_g07_history_told_before_a_newer_rating_commits_does_not_overwrite_it(
    cluster: Cluster, database: str, postgres: PostgresStore
):
    dialogue = add()
    log_id, newest = dialogue.conversation.log_id, uuid.uuid4()
    await postgres.replay([dialogue, rate(dialogue, 1, 1)], JOURNAL, 2)
    async with (
        await psycopg.AsyncConnection.connect(cluster.dsn(database)) as other,
        connected(cluster, database) as session,
    ):
        await session.begin()
        # A live rating of another process, on its way to its commit.
        await other.execute(
            "INSERT INTO voice_ratings (op_id, log_id, rating, version, rated_at, by_operator,"
            " joined) VALUES (%s, %s, 5, 2, now(), false, true)",
            (newest, log_id),
        )
        await other.execute(
            "UPDATE voice_logs SET rating = 5, rating_version = 2, rating_op = %s WHERE id = %s",
            (newest, log_id),
        )
        batch = Batch(session, live=False, careful=True)
        last = asyncio.create_task(batch._run(statements.RECONCILE, ids=f'["{log_id}"]'))
        await blocked_or_done(cluster, database, last)
        await other.commit()
        await last
        await session.commit()
    found, rank = await postgres.get(log_id)
    assert found is not None
    assert (found.rating, rank) == (5, rank_of(2, newest))


async def test_g07_a_late_rating_does_not_overwrite_a_newer_one(postgres: PostgresStore):
    dialogue = add()
    early, late = rate(dialogue, 1, 1), rate(dialogue, 5, 2)
    await postgres.replay([dialogue, late], JOURNAL, 2)
    await postgres.replay([early], JOURNAL, 3)
    found, _ = await postgres.get(dialogue.conversation.log_id)
    assert found is not None
    assert found.rating == 5


async def test_g06_the_same_operations_any_number_of_times_and_at_once_make_the_same_tables(
    cluster: Cluster, database: str, postgres: PostgresStore
):
    dialogue = add()
    operations = [dialogue, rate(dialogue, 2, 1), rate(dialogue, 4, 2)]
    await asyncio.gather(*(postgres.replay(operations, JOURNAL, 3) for _ in range(4)))
    await postgres.replay(operations[1:], JOURNAL, 3)
    counts = "SELECT (SELECT count(*) FROM voice_logs), (SELECT count(*) FROM voice_ratings)"
    assert cluster.execute(counts, database) == [(1, 2)]
    assert cluster.execute("SELECT rating FROM voice_logs", database) == [(4,)]


@pytest.mark.parametrize("what", ["dialogue", "rating"])
async def test_g08_a_commit_that_was_not_answered_is_journaled_and_there_once(
    cluster: Cluster, database: str, by_proxy: Proxy, tmp_path: Path, what: str
):
    async with hybrid(tmp_path / "data", by_proxy.dsn, write_seconds=WRITE_SECONDS) as store:
        first = await store.add_conversation(None, "first", "a", "s")
        by_proxy.drop_next_commit_reply()
        if what == "rating":
            await store.update_rating(first.log_id, 5)
        else:
            await store.add_conversation(None, "second", "a", "s")
        assert (await store.get_stats()).total_interactions == (1 if what == "rating" else 2)
        await wait_until_carried(store)
        assert store._switch.refused == 0
        stats = await store.get_stats()
        assert (stats.total_interactions, stats.rated_interactions) == (
            (1, 1) if what == "rating" else (2, 0)
        )
    assert not [file for _, _, files in os.walk(tmp_path) for file in files if "refused" in file]
    counts = "SELECT (SELECT count(*) FROM voice_logs), (SELECT count(*) FROM voice_ratings)"
    assert cluster.execute(counts, database) == [(1, 1) if what == "rating" else (2, 0)]


@pytest.mark.parametrize("call", ["write", "read", "heartbeat", "totals"])
async def test_g02_whatever_is_asked_of_a_hung_postgres_ends_at_its_deadline(
    by_proxy: Proxy, call: str
):
    store = PostgresStore(
        parse_dsn(by_proxy.dsn), write_seconds=WRITE_SECONDS, read_seconds=READ_SECONDS
    )
    store.start()
    dialogue = add()
    asked = {
        "write": lambda: store.commit(dialogue),
        "read": lambda: store.get(dialogue.conversation.log_id),
        "heartbeat": store.beat,
        "totals": store.stats,
    }[call]
    await store.beat()
    by_proxy.stall()
    with pytest.raises(DatabaseTrouble) as met:
        await asked()
    assert met.value.reason == "timeout", "not when the kernel gives up, which is later"
    await store.close()
    by_proxy.pass_through()


async def test_g02_a_hung_postgres_costs_a_deadline_and_then_nothing(by_proxy: Proxy, tmp_path):
    store = hybrid(
        tmp_path / "data", by_proxy.dsn, write_seconds=WRITE_SECONDS, read_seconds=READ_SECONDS
    )
    async with store as store:
        by_proxy.stall()
        async with asyncio.timeout(10):  # how long a deadline is, is the virtual clock's matter
            for number in range(4):
                kept = await store.add_conversation(None, f"{number}", "a", "s")
            assert kept.durability == "journal"
            await wait_for_mode(store, "fallback")
            assert (await store.get_stats()).total_interactions == 4
        by_proxy.pass_through()
        await wait_for_mode(store, "postgres")


async def test_g17_a_hung_postgres_is_found_out_without_a_call_of_anyones(
    by_proxy: Proxy, tmp_path
):
    async with hybrid(tmp_path / "data", by_proxy.dsn, write_seconds=WRITE_SECONDS) as store:
        by_proxy.stall()
        await wait_for_mode(store, "fallback", 10)
        assert store.status().reason == "timeout"
        by_proxy.pass_through()
        await wait_for_mode(store, "postgres", 10)


async def test_g17_a_server_that_only_reads_is_found_out_without_a_write_of_anyones(
    cluster: Cluster, database: str, by_proxy: Proxy, tmp_path: Path
):
    only_reads = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
    async with hybrid(tmp_path / "data", by_proxy.dsn) as store:
        cluster.execute(only_reads.format(sql.Identifier(database), sql.SQL("on")))
        by_proxy.cut()
        await wait_for_mode(store, "fallback", 10)
        await wait_for_reason(store, "read_only")
        cluster.execute(only_reads.format(sql.Identifier(database), sql.SQL("off")))
        await wait_for_mode(store, "postgres", 10)


async def test_g06_a_key_of_the_last_outage_is_known_in_the_next(by_proxy: Proxy, tmp_path: Path):
    key = Idempotency(b"k" * 16, b"r" * 16)
    async with hybrid(tmp_path / "data", by_proxy.dsn, write_seconds=WRITE_SECONDS) as store:
        by_proxy.refuse()
        await wait_for_mode(store, "fallback")
        first = await store.add_conversation(None, "q", "a", "s", idempotency=key)
        by_proxy.pass_through()
        await wait_until_carried(store)
        by_proxy.refuse()
        await wait_for_mode(store, "fallback")
        assert await store.find_reply(key) == first
        again = await store.add_conversation(None, "q", "a", "s", idempotency=key)
        assert again.log_id == first.log_id
        by_proxy.pass_through()
        await wait_until_carried(store)


async def test_g08_a_list_in_the_middle_of_replay_has_the_ratings_that_only_the_journal_has(
    cluster: Cluster, database: str, by_proxy: Proxy, tmp_path: Path
):
    """Dialogues that PostgreSQL has and memory not, rated anew in an outage."""
    better, worse, same = await older_dialogues(tmp_path / "before", cluster.dsn(database), 3)
    for log_id, rating in ((better, 1), (worse, 5), (same, 4)):
        await rate_elsewhere(cluster, database, tmp_path / "before", log_id, rating)
    held = "SELECT id FROM voice_logs ORDER BY id FOR UPDATE"
    async with (
        hybrid(tmp_path / "data", by_proxy.dsn) as store,
        await psycopg.AsyncConnection.connect(cluster.dsn(database)) as blocking,
    ):
        assert store.at_hand(better) is None
        by_proxy.refuse()
        await wait_for_mode(store, "fallback")
        for log_id, rating in ((better, 5), (worse, 2)):
            assert (await store.update_rating(log_id, rating)).status == "pending"
        await blocking.execute(held)
        by_proxy.pass_through()
        await wait_for_mode(store, "recovering")
        assert store.status().journal_backlog
        found = {c.log_id: c.rating async for c in store.get_rated_conversations(4)}
        assert found == {better: 5, same: 4}
        await blocking.rollback()
        await wait_until_carried(store)
        assert {c.log_id: c.rating async for c in store.get_rated_conversations(4)} == found


async def rate_elsewhere(
    cluster: Cluster, database: str, path: Path, log_id: uuid.UUID, rating: int
) -> None:
    """As another process rates it."""
    async with hybrid(path, cluster.dsn(database)) as other:
        await other.update_rating(log_id, rating)


async def test_g06_what_was_given_up_while_it_connected_is_not_done_when_it_has(
    by_proxy: Proxy, cluster: Cluster, database: str
):
    """It went to the journal: done late as well, a rating would count above a newer one."""
    store = PostgresStore(parse_dsn(by_proxy.dsn), write_seconds=WRITE_SECONDS)
    store.start()
    by_proxy.delay(WRITE_SECONDS / 3)
    with pytest.raises(DatabaseTrouble):
        await store.commit(add())
    async with asyncio.timeout(20):
        while store._tasks:  # noqa: ASYNC110  # nobody tells of what was given up
            await asyncio.sleep(0.01)
    by_proxy.pass_through()
    await store.beat(READ_SECONDS)
    await store.close()
    assert cluster.execute("SELECT count(*) FROM voice_logs", database) == [(0,)]
