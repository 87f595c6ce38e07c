"""The server itself killed, stopped and started while PostgreSQL is in trouble."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from audiobot.storage.directory import lock_slot
from audiobot.storage.dsn import parse_dsn
from audiobot.storage.postgres import PostgresStore
from audiobot.storage.replay import Adoption, adopt
from tests.conformance.hybrid import close_hybrid, hybrid, open_hybrid
from tests.faults.child_replayer import POINTS
from tests.faults.crowd import Crowd
from tests.outage import Load
from tests.postgres import Cluster
from tests.proxy import Proxy, free_port
from tests.servers import Server, client_of, serving, start

BARE = {"AUDIOBOT_KNOWLEDGE": "none"}
"""No knowledge whose vectors a start would wait for."""


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def in_mode(server: Server, mode: str) -> None:
    wait_until(lambda: server.health()["storage"]["mode"] == mode)


@pytest.fixture
def running(cluster: Cluster):
    """The cluster, which runs again whatever a test did to it."""
    yield cluster
    cluster.thaw()
    cluster.start()


@pytest.fixture
def proxy(cluster: Cluster):
    with Proxy(cluster.host, cluster.port) as between:
        yield between


def stored_in(cluster: Cluster, database: str) -> set[str]:
    return {str(log_id) for (log_id,) in cluster.execute("SELECT id FROM voice_logs", database)}


def gone(cluster: Cluster, database: str) -> None:
    """Killed clients are noticed when PostgreSQL looks."""
    wait_until(lambda: cluster.connections(database) == 0)


# -- killed ----------------------------------------------------------------------------------------


async def test_g01_killed_in_the_middle_of_the_outage_and_started_again(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    port = free_port()
    server = await asyncio.to_thread(start, tmp_path / "data", port=port, DATABASE_URL=dsn, **BARE)
    load = Load(server.address, seed=5, rate=40)
    try:
        await load.until("postgres")
        await load.run(1)
        proxy.refuse()
        await load.until("fallback")
        await load.run(1)
        server.kill()
        await load.quiet()
        killed = len(load.errors)
        server.client.close()
        # It starts while PostgreSQL is away, and serves at once.
        server = await asyncio.to_thread(
            start, tmp_path / "data", port=port, DATABASE_URL=dsn, **BARE
        )
        await load.run(1)
        await load.quiet()
        assert len(load.errors) == killed
        proxy.pass_through()
        await load.run(1)
        await load.quiet()
        await load.until("postgres")
        found = await asyncio.to_thread(load.verify, cluster, database)
        assert (found["lost"], found["wrong"], found["doubled"], found["5xx"]) == (0, 0, 0, 0)
        assert len(load.errors) == killed
        assert server.health()["storage"]["missing_records"] == 0
    finally:
        await load.client.aclose()
        assert await asyncio.to_thread(server.stop) == 0
        server.client.close()
        await asyncio.to_thread(gone, cluster, database)


@pytest.mark.parametrize("point", [*POINTS, "at random"])
async def test_g06_killed_in_the_middle_of_the_replay(
    point: str, tmp_path: Path, cluster: Cluster, database: str
):
    nowhere = cluster.dsn(database, port=free_port())
    store = await open_hybrid(tmp_path / "data", nowhere, mode="fallback")
    crowd = Crowd(store, seed=len(point), callers=16)
    crowd.start()
    await crowd.more(700)
    await crowd.stop()
    await close_hybrid(store)
    dsn, chance = cluster.dsn(database), random.Random(len(point))
    command = [sys.executable, "-m", "tests.faults.child_replayer", str(tmp_path / "data")]
    for _ in range(3 if point == "at random" else 1):
        child = await asyncio.create_subprocess_exec(
            *command, dsn, point, stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        assert await child.stdout.readline() == b"open\n"
        if point == "at random":
            await asyncio.sleep(chance.random() * 0.3)
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        async with asyncio.timeout(30):
            code = await child.wait()
        assert code == -signal.SIGKILL or (point == "at random" and code == 0)
    async with hybrid(tmp_path / "data", dsn) as again:
        crowd.store = again
        assert again.status().missing_records == 0
        await crowd.verify(cluster, database)
    await asyncio.to_thread(gone, cluster, database)


# -- stopped ---------------------------------------------------------------------------------------


def last_words(server: Server) -> dict:
    """What the log says of the last change of mode."""
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "storage mode changed"][-1]


def stopped_in(
    state: str, tmp_path: Path, running: Cluster, database: str, proxy: Proxy
) -> list[str]:
    """What a server was told before it was stopped in a state."""
    dsn = running.dsn(database, host=proxy.host, port=proxy.port)
    settings = BARE if state == "memory" else {"DATABASE_URL": dsn, **BARE}
    if state == "starting":
        proxy.deaf()
    server = start(tmp_path / "data", **settings)
    told: list[str] = []
    try:
        if state in ("postgres", "fallback", "recovering", "frozen"):
            in_mode(server, "postgres")
        told += [server.ask(f"вопрос {n}?")["log_id"] for n in range(4)]
        if state in ("fallback", "recovering"):
            proxy.refuse()
            in_mode(server, "fallback")
            told += [server.ask(f"ещё вопрос {n}?")["log_id"] for n in range(4)]
        with psycopg.connect(running.dsn(database, user=running.admin)) as other:
            if state == "recovering":
                identity = (tmp_path / "data" / "journal" / "0" / "identity").read_text()
                other.execute("INSERT INTO replay_cursors VALUES (%s, 0)", [identity])
                proxy.pass_through()
                in_mode(server, "recovering")
                told += [server.ask(f"третий вопрос {n}?")["log_id"] for n in range(4)]
            if state == "frozen":
                running.freeze()
            assert server.stop(30) == 0, server.log
            if state == "frozen":
                running.thaw()
            other.rollback()
        words = last_words(server)
        assert words["after"] == "draining"
        assert words["backlog"] >= (4 if state in ("fallback", "recovering", "starting") else 0)
        assert '"event": "stopped"' in server.log
        assert "Traceback" not in server.log
    finally:
        server.client.close()
        if server.process.poll() is None:
            server.kill()
    return told


@pytest.mark.parametrize(
    "state", ["memory", "postgres", "fallback", "recovering", "frozen", "starting"]
)
async def test_g14_sigterm_in_every_state(
    state: str, tmp_path: Path, running: Cluster, database: str, proxy: Proxy
):
    told = await asyncio.to_thread(stopped_in, state, tmp_path, running, database, proxy)
    async with hybrid(tmp_path / "data", running.dsn(database)) as again:
        assert (await again.get_stats()).total_interactions == len(told)
        assert again.status().missing_records == 0
        for log_id in told:
            assert (await again.update_rating(uuid.UUID(log_id), 5)).status == "stored"
    assert stored_in(running, database) == set(told)
    await asyncio.to_thread(gone, running, database)


# -- several workers -------------------------------------------------------------------------------


def workers_of(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def slot_of(process: psutil.Process) -> str:
    """Which journal slot a worker holds, seen from outside."""
    paths = [Path(file.path) for file in process.open_files()]
    slots = {path.parent.name for path in paths if path.parent.parent.name == "journal"}
    return slots.pop() if len(slots) == 1 else ""


def records_in(data: Path, slot: str) -> int:
    return sum(path.stat().st_size > 100 for path in (data / "journal" / slot).glob("*.log"))


def post(server: Server, path: str, **request: Any) -> httpx.Response:
    """Over a connection of its own: any worker may take it."""
    with client_of(server.address) as client:
        return client.post(path, **request)


def ask_anew(server: Server, message: str) -> dict:
    reply = post(server, "/api/voice/process", json={"message": message})
    assert reply.status_code == 200, reply.text
    return reply.json()


def fill_both_slots(server: Server, data: Path) -> list[str]:
    told: list[str] = []

    def ask() -> bool:
        told.append(ask_anew(server, f"вопрос {len(told)}?")["log_id"])
        return bool(records_in(data, "0") and records_in(data, "1"))

    wait_until(ask)
    return told


def test_g13_a_worker_killed_in_an_outage_leaves_its_slot_to_the_next(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    data = tmp_path / "data"
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    proxy.refuse()
    with serving(data, "--workers", "2", DATABASE_URL=dsn, **BARE) as server:
        wait_until(lambda: len(workers_of(server)) == 2)
        wait_until(lambda: {slot_of(p) for p in workers_of(server)} == {"0", "1"})
        told = fill_both_slots(server, data)
        victim = next(p for p in workers_of(server) if slot_of(p) == "1")
        victim.kill()
        wait_until(lambda: victim.pid not in {p.pid for p in workers_of(server)})
        wait_until(lambda: {slot_of(p) for p in workers_of(server)} == {"0", "1"})
        proxy.pass_through()
        wait_until(lambda: stored_in(cluster, database) == set(told))
    assert stored_in(cluster, database) == set(told)
    gone(cluster, database)


def test_g13_fewer_workers_adopt_the_slots_that_more_of_them_left(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    data = tmp_path / "data"
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    proxy.refuse()
    with serving(data, "--workers", "2", DATABASE_URL=dsn, **BARE) as server:
        told = fill_both_slots(server, data)
    assert records_in(data, "1")
    proxy.pass_through()
    with serving(data, DATABASE_URL=dsn, **BARE) as server:
        wait_until(lambda: stored_in(cluster, database) == set(told))
        wait_until(lambda: not records_in(data, "1"))
        assert server.stats()["total_interactions"] == len(told)
    assert stored_in(cluster, database) == set(told)
    gone(cluster, database)


async def test_g13_two_adopters_of_one_slot_do_no_harm(
    tmp_path: Path, cluster: Cluster, database: str
):
    data = tmp_path / "data"
    nowhere = cluster.dsn(database, port=free_port())
    store = await open_hybrid(data, nowhere, mode="fallback")
    crowd = Crowd(store, callers=8)
    crowd.start()
    await crowd.more(300)
    await crowd.stop()
    await close_hybrid(store)
    journals = data / "journal"
    adopters = [PostgresStore(parse_dsn(cluster.dsn(database))) for _ in range(2)]
    lock = lock_slot(journals / "0")
    assert lock is not None
    assert await adopt(journals, 7, adopters[0], Adoption()) == 0  # its owner lives
    os.close(lock)
    carried = await asyncio.gather(*(adopt(journals, 7, each, Adoption()) for each in adopters))
    assert min(carried) == 0
    assert max(carried) >= 300
    for each in adopters:
        await each.close()
    async with hybrid(data, cluster.dsn(database)) as again:
        crowd.store = again
        assert again.status().missing_records == 0
        await crowd.verify(cluster, database)


def test_g20_what_one_worker_learns_the_other_answers_with(
    tmp_path: Path, cluster: Cluster, database: str
):
    dsn = cluster.dsn(database)
    settings = {"DATABASE_URL": dsn, "AUDIOBOT_OPERATOR_TOKEN": "t" * 24, **BARE}
    with serving(tmp_path / "data", "--workers", "2", **settings) as server:
        wait_until(lambda: {slot_of(p) for p in workers_of(server)} == {"0", "1"})
        in_mode(server, "postgres")
        row = {"question": "Как зовут кота в конторе?", "answer": "Кота в конторе зовут Барсик."}
        done = post(
            server,
            "/api/knowledge/cat.jsonl",
            content=json.dumps(row).encode(),
            headers={"Authorization": f"Bearer {settings['AUDIOBOT_OPERATOR_TOKEN']}"},
        )
        assert done.status_code == 200, done.text
        wait_until(
            lambda: all(
                "Барсик" in ask_anew(server, "Как зовут кота в конторе?")["response"]
                for _ in range(12)
            )
        )
        told = ask_anew(server, "Как зовут кота?")["log_id"]
        for rating in (5, 1):
            body = {"log_id": told, "rating": rating}
            for _ in range(6):  # whoever takes it knows the dialogue
                reply = post(server, "/api/voice/feedback", json=body)
                assert reply.json()["status"] == "stored"
        assert uuid.UUID(told) in dict(
            cluster.execute("SELECT id, rating FROM voice_logs WHERE rating = 1", database)
        )
    gone(cluster, database)
