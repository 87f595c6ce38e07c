"""Everything a sceptical DBA does to PostgreSQL while people talk to the bot.

Each fault is caused for real, ends in ``fallback`` with its reason named, and is over by itself
when it is undone; what every one of them must leave behind is in ``crowd.place``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.dialects.postgresql import dialect
from sqlalchemy.schema import CreateTable

from audiobot.errors import InvalidValue
from audiobot.storage.schema import metadata
from tests.conformance.hybrid import dialogues_in, hybrid, wait_for_mode
from tests.faults.crowd import eventually, older_dialogues, place
from tests.postgres import Cluster
from tests.proxy import Proxy


async def administer(
    cluster: Cluster,
    statement: str,
    *names: str,
    database: str = "postgres",
    params: object = None,
) -> list[tuple]:
    """One statement in a thread: it may wait for a lock that our own people hold."""
    whole = sql.SQL(statement).format(*map(sql.Identifier, names))
    return await asyncio.to_thread(cluster.execute, whole, database, params)


async def terminate(cluster: Cluster, database: str) -> None:
    await asyncio.to_thread(
        cluster.execute,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = %s AND pid <> pg_backend_pid()",
        params=[database],
    )


@pytest.fixture
def running(cluster: Cluster):
    """The cluster, which runs again whatever a test did to it."""
    yield cluster
    cluster.thaw()
    cluster.start()


# -- the server ------------------------------------------------------------------------------------


async def test_g16_a_server_stopped_as_in_a_crash(tmp_path: Path, running: Cluster, database: str):
    async with place(tmp_path, running, database) as here:
        await asyncio.to_thread(running.stop, "immediate")
        await here.falls_back("refused")
        await asyncio.to_thread(running.start)
        await here.recovers()


async def test_g16_the_postmaster_and_all_its_children_killed(
    tmp_path: Path, running: Cluster, database: str
):
    async with place(tmp_path, running, database) as here:
        await asyncio.to_thread(running.kill)
        await here.falls_back("refused")
        await asyncio.to_thread(running.start)
        await here.recovers()


async def test_g16_killed_backends_restart_the_server_in_the_middle_of_transactions(
    tmp_path: Path, running: Cluster, database: str
):
    async with place(tmp_path, running, database) as here:
        for _ in range(3):
            await asyncio.to_thread(running.kill_backends, database)
            await asyncio.to_thread(running.wait_until_ready)
            await here.recovers()
        # It is back so soon that a probe may not even see it away.
        assert set(here.reasons()) <= {"restarting", "lost", "refused", "timeout"}


async def test_g02_a_frozen_server_holds_nobody_up_and_thaws_harmlessly(
    tmp_path: Path, running: Cluster, database: str
):
    async with place(tmp_path, running, database) as here:
        await asyncio.to_thread(running.freeze)
        await here.falls_back("timeout")
        await here.crowd.more(50)
        # A probe is under way all the time: not one connection more for each.
        assert here.store._postgres.checked_out <= 10
        await asyncio.to_thread(running.thaw)
        await here.recovers()


# -- the network -----------------------------------------------------------------------------------


@pytest.fixture
def proxy(cluster: Cluster):
    with Proxy(cluster.host, cluster.port) as between:
        yield between


def by_way_of(proxy: Proxy, cluster: Cluster, database: str) -> str:
    return cluster.dsn(database, host=proxy.host, port=proxy.port)


@pytest.mark.parametrize(
    ("fault", "reasons"),
    [("refuse", {"refused"}), ("stall", {"timeout"}), ("reset", {"lost"}), ("deaf", {"timeout"})],
)
async def test_g16_a_network_that_does(
    fault: str, reasons: set[str], tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = by_way_of(proxy, cluster, database)
    async with place(tmp_path, cluster, database, dsn=dsn) as here:
        match fault:
            case "refuse":
                proxy.refuse()
            case "stall":
                proxy.stall()
            case "reset":
                proxy.reset_new()
                proxy.cut()
            case "deaf":
                proxy.deaf()
                proxy.cut()
        await here.falls_back(*reasons)
        proxy.pass_through()
        await here.recovers()
    assert proxy.accepted > 0


async def test_g02_a_server_that_creeps_is_left_alone(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = by_way_of(proxy, cluster, database)
    async with place(tmp_path, cluster, database, dsn=dsn) as here:
        proxy.delay(0.45)
        await here.falls_back("timeout")
        proxy.pass_through()
        await here.recovers()


async def test_g08_cut_connections_lose_and_double_nothing(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = by_way_of(proxy, cluster, database)
    async with place(tmp_path, cluster, database, dsn=dsn) as here:
        for _ in range(6):
            proxy.cut()
            await here.crowd.more(8)
        await here.recovers()
        assert set(here.reasons()) <= {"lost", "refused", "timeout"}


@pytest.mark.parametrize("asked", [True, False], ids=["read while back", "never read"])
async def test_g20_a_rating_carried_for_a_dialogue_unknown_here_stays_in_the_totals(
    asked: bool, tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    """Nobody could know in the outage what it changed; whoever read that it counts keeps that."""
    dsn = by_way_of(proxy, cluster, database)
    _, unknown = await older_dialogues(tmp_path / "before", cluster.dsn(database), 2)
    async with hybrid(tmp_path / "data", dsn) as store:
        before = (await store.get_stats()).rated_interactions
        await asyncio.sleep(1.5)  # house is kept, and not again for five seconds
        proxy.refuse()
        assert (await store.update_rating(unknown, 5)).status == "pending"
        proxy.pass_through()
        await wait_for_mode(store, "recovering")
        await wait_for_mode(store, "postgres")
        if asked:
            assert (await store.get_stats()).rated_interactions == before + 1
        proxy.refuse()
        proxy.cut()
        await wait_for_mode(store, "fallback")
        assert (await store.get_stats()).rated_interactions == before + 1 == 2


async def test_g20_totals_that_were_read_while_a_commits_reply_was_lost_do_not_fall(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    """Whoever asked just then was told of a rating whose effect nobody here knows."""
    dsn = by_way_of(proxy, cluster, database)
    _, unknown = await older_dialogues(tmp_path / "before", cluster.dsn(database), 2)
    async with hybrid(tmp_path / "data", dsn) as store:
        await store.get_stats()
        await asyncio.sleep(1.5)  # house is kept, and not again for five seconds
        # Not to the rows that a look at the database tries and takes back.
        proxy.drop_next_reply_to(r"(?!WITH try_).*INSERT INTO voice_ratings.*")
        proxy.delay(0.1)
        rating = asyncio.create_task(store.update_rating(unknown, 5))
        readers = []
        while not rating.done():
            readers.append(asyncio.create_task(store.get_stats()))
            await asyncio.sleep(0.02)
        assert rating.result().status == "pending"
        told = max(stats.rated_interactions for stats in await asyncio.gather(*readers))
        proxy.refuse()
        proxy.cut()
        await wait_for_mode(store, "fallback")
        assert (await store.get_stats()).rated_interactions >= told


async def test_g08_a_commit_whose_reply_is_dropped_is_there_once(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = by_way_of(proxy, cluster, database)
    async with place(tmp_path, cluster, database, dsn=dsn) as here:
        for dropped in range(1, 9):
            proxy.drop_next_commit_reply()
            await eventually(lambda n=dropped: proxy.replies_dropped >= n, "a dropped reply")
            await here.crowd.more(4)
        await here.recovers()


@pytest.mark.parametrize("kind", ["add", "rate"])
async def test_g08_what_was_committed_without_a_reply_is_joined_with_its_journaled_self(
    kind: str, tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = by_way_of(proxy, cluster, database)
    async with hybrid(tmp_path / "data", dsn) as store:
        first = await store.add_conversation(None, "m", "r", "first")
        await store.update_rating(first.log_id, 2)
        # A batch of this one write, whose commit is the next but for heartbeats: they have none.
        for _ in range(50):
            dropped = proxy.replies_dropped
            proxy.drop_next_reply_to("COMMIT")
            if kind == "add":
                kept = await store.add_conversation(None, "m", "r", "second")
                journaled = kept.durability == "journal"
            else:
                told = await store.update_rating(first.log_id, 5, "better")
                journaled = told.status == "pending"
            if journaled:
                break
        assert journaled
        assert proxy.replies_dropped > dropped
        newer = await store.update_rating(first.log_id, 3, "the last word")
        await wait_for_mode(store, "postgres")
        assert await store.get_stats() is not None
        found = await store.get_conversation(first.log_id)
        assert found is not None
        assert (found.rating, found.feedback_text) == (3, "the last word")
        rows = cluster.execute(
            "SELECT op_id, rating, version FROM voice_ratings ORDER BY version", database
        )
        assert len({op_id for op_id, *_ in rows}) == len(rows)
        assert rows[-1][1:] == (3, newer.version)
        stats = await store.get_stats()
        total = cluster.execute("SELECT count(*) FROM voice_logs", database)[0][0]
        assert (stats.total_interactions, stats.rated_interactions) == (total, 1)


async def test_g16_a_name_that_no_longer_resolves(tmp_path: Path):
    dsn = "postgresql://audiobot@no-such-host.invalid/audiobot"
    async with hybrid(tmp_path / "data", dsn, mode="fallback") as store:
        await eventually(lambda: store.status().reason == "dns", "dns")
        assert (await store.add_conversation(None, "m", "r", "s")).durability == "journal"


# -- what an administrator does --------------------------------------------------------------------


async def test_g16_a_database_made_read_only(tmp_path: Path, cluster: Cluster, database: str):
    async with place(tmp_path, cluster, database) as here:
        await administer(
            cluster, "ALTER DATABASE {} SET default_transaction_read_only = on", database
        )
        await terminate(cluster, database)
        await here.falls_back("read_only")
        # Sessions keep the setting they were opened with: ours must not be among those kept.
        await administer(cluster, "ALTER DATABASE {} RESET default_transaction_read_only", database)
        await here.recovers()


async def test_g16_a_server_made_read_only(tmp_path: Path, cluster: Cluster, database: str):
    async with place(tmp_path, cluster, database) as here:
        cluster.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        try:
            cluster.execute("SELECT pg_reload_conf()")
            await here.falls_back("read_only")
        finally:
            dsn = cluster.dsn("postgres", user=cluster.admin)
            writing = "-c default_transaction_read_only=off"
            with psycopg.connect(dsn, autocommit=True, options=writing) as connection:
                connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
                connection.execute("SELECT pg_reload_conf()")
        await here.recovers()


@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        (
            "ALTER TABLE voice_logs RENAME COLUMN language TO tongue",
            "ALTER TABLE voice_logs RENAME COLUMN tongue TO language",
        ),
        (
            "ALTER TABLE voice_embeddings RENAME TO voice_vectors",
            "ALTER TABLE voice_vectors RENAME TO voice_embeddings",
        ),
        (
            "REVOKE INSERT ON voice_logs FROM {}",
            "GRANT INSERT ON voice_logs TO {}",
        ),
        (
            "REVOKE UPDATE ON voice_logs FROM {}",
            "GRANT UPDATE ON voice_logs TO {}",
        ),
        (
            "REVOKE SELECT ON voice_ratings FROM {}",
            "GRANT SELECT ON voice_ratings TO {}",
        ),
        (
            "REVOKE INSERT ON voice_conflicts FROM {}",
            "GRANT INSERT ON voice_conflicts TO {}",
        ),
        (
            "REVOKE UPDATE ON replay_cursors FROM {}",
            "GRANT UPDATE ON replay_cursors TO {}",
        ),
        (
            "REVOKE INSERT ON voice_log_counts FROM {}",
            "GRANT INSERT ON voice_log_counts TO {}",
        ),
    ],
    ids=["column", "table", "insert", "update", "history", "conflicts", "cursors", "counts"],
)
async def test_g16_a_schema_that_does_not_fit(
    break_it: str, mend_it: str, tmp_path: Path, cluster: Cluster, database: str
):
    who = [cluster.owner] * break_it.count("{}")
    async with place(tmp_path, cluster, database) as here:
        await administer(cluster, break_it, *who, database=database)
        await here.falls_back("schema")
        await administer(cluster, mend_it, *who, database=database)
        await here.recovers()


@pytest.mark.parametrize("table", ["idempotency_keys", "replay_cursors", "voice_conflicts"])
async def test_g16_a_table_dropped_and_made_again(
    table: str, tmp_path: Path, cluster: Cluster, database: str
):
    async with place(tmp_path, cluster, database) as here:
        await administer(cluster, "DROP TABLE {}", table, database=database)
        await here.falls_back("schema")
        made = metadata.tables[table]
        with psycopg.connect(cluster.dsn(database)) as connection:
            connection.execute(str(CreateTable(made).compile(dialect=dialect())))
        await here.recovers()


async def test_g16_no_connection_is_allowed(tmp_path: Path, cluster: Cluster, database: str):
    async with place(tmp_path, cluster, database) as here:
        await administer(cluster, "ALTER DATABASE {} CONNECTION LIMIT 0", database)
        await terminate(cluster, database)
        await here.falls_back("too_many_connections")
        await administer(cluster, "ALTER DATABASE {} CONNECTION LIMIT -1", database)
        await here.recovers()


async def test_g16_a_rotated_password(tmp_path: Path, cluster: Cluster, database: str):
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
    owner = sql.Identifier(cluster.owner)
    async with place(tmp_path, cluster, database) as here:
        cluster.execute(statement.format(owner, sql.Literal("rotated")))
        try:
            await terminate(cluster, database)
            await here.falls_back("password")
        finally:
            cluster.execute(statement.format(owner, sql.Literal(cluster.password)))
        await here.recovers()


async def test_g16_a_database_that_is_gone(tmp_path: Path, cluster: Cluster, database: str):
    async def rename(before: str, after: str) -> None:
        await administer(cluster, "ALTER DATABASE {} ALLOW_CONNECTIONS false", before)
        await terminate(cluster, before)
        await administer(cluster, "ALTER DATABASE {} RENAME TO {}", before, after)
        await administer(cluster, "ALTER DATABASE {} ALLOW_CONNECTIONS true", after)

    async with place(tmp_path, cluster, database) as here:
        await rename(database, "away_for_a_while")
        await here.falls_back("database_missing")
        await rename("away_for_a_while", database)
        await here.recovers()


# -- locks -----------------------------------------------------------------------------------------


async def test_g16_a_table_locked_by_someone_else(tmp_path: Path, cluster: Cluster, database: str):
    dsn = cluster.dsn(database, user=cluster.admin)
    async with place(tmp_path, cluster, database) as here:
        with psycopg.connect(dsn) as other:
            await asyncio.to_thread(other.execute, "LOCK TABLE voice_logs IN ACCESS EXCLUSIVE MODE")
            await here.falls_back("timeout", "locked")
        await here.recovers()


async def test_g16_one_locked_dialogue(tmp_path: Path, cluster: Cluster, database: str):
    dsn = cluster.dsn(database, user=cluster.admin)
    async with place(tmp_path, cluster, database) as here:
        locked = here.crowd.older[0]
        if locked in here.crowd._free:
            here.crowd._free.remove(locked)
        with psycopg.connect(dsn) as other:
            await asyncio.to_thread(
                other.execute, "SELECT FROM voice_logs WHERE id = %s FOR UPDATE", [locked]
            )
            for _ in range(3):
                assert (await here.crowd.rate(locked)).status is not None
                await here.crowd.more()
        await here.recovers()
        assert set(here.reasons()) <= {"timeout", "locked"}


async def test_g20_a_replay_that_is_held_up_leaves_everything_readable(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    """``recovering`` for as long as the lock lasts: live writes go to PostgreSQL, reads overlay."""
    by_proxy = by_way_of(proxy, cluster, database)
    async with place(tmp_path, cluster, database, dsn=by_proxy) as here:
        proxy.refuse()
        await here.falls_back("refused")
        with psycopg.connect(cluster.dsn(database, user=cluster.admin)) as other:
            # Somebody else's transaction is about to move the same cursor.
            other.execute(
                "INSERT INTO replay_cursors AS kept VALUES (%s, 0) ON CONFLICT (journal)"
                " DO UPDATE SET sequence = kept.sequence",
                [here.store._local.journal.identity],
            )
            proxy.pass_through()
            await wait_for_mode(here.store, "recovering")
            await here.crowd.more(40)
            assert here.store.status().journal_backlog > 0
        await here.recovers()


# -- data that no server takes ---------------------------------------------------------------------


async def test_g16_a_value_that_postgresql_refuses_is_no_trouble(
    tmp_path: Path, cluster: Cluster, database: str
):
    cluster.execute(
        "ALTER TABLE voice_logs ADD CHECK (user_message <> 'poison') NOT VALID", database
    )
    async with place(tmp_path, cluster, database) as here:
        for _ in range(12):
            with pytest.raises(InvalidValue):
                await here.store.add_conversation(None, "poison", "r", "s")
            await here.crowd.more(2)
        assert here.switches == [s for s in here.switches if s.after != "fallback"]
        assert here.store.status().mode == "postgres"


async def test_g16_a_journaled_value_that_postgresql_refuses_holds_up_nothing_else(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    cluster.execute(
        "ALTER TABLE voice_logs ADD CHECK (user_message <> 'poison') NOT VALID", database
    )
    dsn = by_way_of(proxy, cluster, database)
    async with hybrid(tmp_path / "data", dsn) as store:
        proxy.refuse()
        await wait_for_mode(store, "fallback")
        kept = [await store.add_conversation(None, m, "r", "s") for m in ("one", "poison", "two")]
        proxy.pass_through()
        await wait_for_mode(store, "postgres")
        stored = dialogues_in(cluster, database)
        assert set(stored) == {kept[0].log_id, kept[2].log_id}
        # Never deleted: it lies where a person can look at it.
        aside = list((tmp_path / "data" / "journal" / "0" / "set-aside").iterdir())
        assert len(aside) == 1


# -- schemas of another time -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("revision", "reason"), [("initial_001", "schema"), ("of_the_future", "foreign")]
)
async def test_g16_a_start_on_a_schema_of_another_time_waits_for_it(
    revision: str, reason: str, tmp_path: Path, cluster: Cluster, database: str
):
    """The number of the revision alone is wrong: nothing is migrated by guesswork."""
    ((today,),) = cluster.execute("SELECT version_num FROM alembic_version", database)
    cluster.execute("UPDATE alembic_version SET version_num = %s", database, [revision])
    async with place(tmp_path, cluster, database, mode="fallback", older=False) as here:
        await here.falls_back(reason)
        cluster.execute("UPDATE alembic_version SET version_num = %s", database, [today])
        await here.recovers()


# -- up and down -----------------------------------------------------------------------------------


async def test_g05_up_and_down_while_a_fifth_of_the_callers_hang_up(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = by_way_of(proxy, cluster, database)
    async with place(tmp_path, cluster, database, dsn=dsn, callers=8, cancelled=0.2) as here:
        for _ in range(5):
            proxy.refuse()
            await asyncio.sleep(1)  # the fault itself: down for a second, up for a second
            proxy.pass_through()
            await asyncio.sleep(1)
        await here.recovers()
        assert len(here.reasons()) >= 2
        # One prober at a time, and no more connections than the pool has.
        assert proxy.open_connections <= 12


async def test_g16_a_start_while_postgresql_is_away(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = by_way_of(proxy, cluster, database)
    proxy.refuse()
    async with place(tmp_path, cluster, database, dsn=dsn, mode="fallback", older=False) as here:
        await here.falls_back("refused")
        proxy.pass_through()
        await here.recovers()
