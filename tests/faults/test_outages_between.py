"""What stands between the bot and PostgreSQL, and the disk under the journal, in an outage."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from audiobot.errors import StorageFull
from audiobot.storage.directory import LEAST_FREE_BYTES
from tests.conformance.hybrid import dialogues_in, wait_for_mode
from tests.faults.crowd import eventually, place
from tests.faults.disks import fill, small_disk
from tests.pgbouncer import PgBouncer
from tests.postgres import Cluster
from tests.proxy import Proxy
from tests.servers import serving


@pytest.fixture
def running(cluster: Cluster):
    """The cluster, which runs again whatever a test did to it."""
    yield cluster
    cluster.thaw()
    cluster.start()


# -- PgBouncer -------------------------------------------------------------------------------------


async def test_g16_postgresql_stopped_behind_a_pooler(
    tmp_path: Path, running: Cluster, database: str
):
    """Connecting goes on to succeed, and the answer never comes."""
    with PgBouncer(running, retry=1) as pooler:
        async with place(
            tmp_path, running, database, dsn=pooler.dsn(database), pooled=True
        ) as here:
            await asyncio.to_thread(running.stop, "immediate")
            await here.falls_back("timeout", "lost", "refused", "restarting", "unknown")
            await asyncio.to_thread(running.start)
            await here.recovers()


async def test_g16_a_pooler_that_dies_and_comes_back_elsewhere(
    tmp_path: Path, cluster: Cluster, database: str
):
    with PgBouncer(cluster) as pooler, Proxy(pooler.host, pooler.port) as proxy:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        async with place(tmp_path, cluster, database, dsn=dsn, pooled=True) as here:
            proxy.refuse()
            await here.falls_back("refused")
            proxy.pass_through()
            await here.recovers()


# -- a full disk -----------------------------------------------------------------------------------


async def test_g12_a_disk_full_in_an_outage_refuses_then_drains_while_it_is_full(
    tmp_path: Path, cluster: Cluster, database: str
):
    with Proxy(cluster.host, cluster.port) as proxy, small_disk(tmp_path / "disk", 40) as disk:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        async with place(disk, cluster, database, dsn=dsn) as here:
            proxy.refuse()
            await here.falls_back("refused")
            ballast = fill(disk, leave=LEAST_FREE_BYTES // 2)
            await eventually(lambda: here.crowd.refused > 5, "a refusal")
            await eventually(lambda: not here.store.status().accepting, "health's word for it")
            assert here.store.status().reason == "full"
            before = here.crowd.acknowledged
            with pytest.raises(StorageFull):
                await here.store.add_conversation(None, "m", "r", "s")
            proxy.pass_through()
            # The disk is full all the while: what was acknowledged is carried over nevertheless.
            await here.recovers()
            assert here.crowd.acknowledged > before
            assert here.store.status().accepting
            assert disk.joinpath("ballast").exists()
            proxy.refuse()
            await wait_for_mode(here.store, "fallback")
            refused = here.crowd.refused
            await eventually(lambda: here.crowd.refused > refused, "another refusal")
            ballast.unlink()
            await here.falls_back("refused")
            assert here.store.status().accepting
            proxy.pass_through()
            await here.recovers()


def test_g03_a_server_with_a_full_disk_in_an_outage_says_507(
    tmp_path: Path, cluster: Cluster, database: str
):
    with Proxy(cluster.host, cluster.port) as proxy, small_disk(tmp_path / "disk", 40) as disk:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        with serving(disk / "data", DATABASE_URL=dsn) as server:
            wait_until(lambda: server.health()["storage"]["mode"] == "postgres")
            told = [server.ask(f"вопрос {n}?") for n in range(3)]
            proxy.refuse()
            wait_until(lambda: server.health()["storage"]["mode"] == "fallback")
            told += [server.ask(f"ещё вопрос {n}?") for n in range(3)]
            ballast = fill(disk, leave=LEAST_FREE_BYTES // 2)
            refused = server.client.post("/api/voice/process", json={"message": "и ещё?"})
            assert refused.status_code == 507
            assert int(refused.headers["Retry-After"]) > 0
            assert server.rate(told[0]["log_id"], 5).status_code == 507
            assert server.stats()["total_interactions"] == 6
            proxy.pass_through()
            wait_until(lambda: server.health()["storage"]["mode"] == "postgres")
            assert server.health()["storage"]["journal_backlog"] == 0
            assert server.rate(told[-1]["log_id"], 5).status_code == 200
            ballast.unlink()
        assert len(dialogues_in(cluster, database)) == 6


def wait_until(condition, seconds: float = 30) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
