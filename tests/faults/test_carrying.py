"""What lies on its way from the journal to PostgreSQL: copied, damaged, unknown, in bad company."""

from __future__ import annotations

import asyncio
import os
import shutil
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psutil
import psycopg
import pytest

from audiobot.domain import Idempotency, utc_now
from audiobot.storage import adapter
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.journal import Journal
from audiobot.storage.switch import BATCH
from tests.conformance.hybrid import (
    dialogues_in,
    hybrid,
    wait_for_mode,
    wait_until_carried,
)
from tests.faults.crowd import eventually
from tests.postgres import Cluster
from tests.proxy import Proxy, free_port

KEY = Idempotency(b"k" * 16, b"r" * 16)
LATER = b"\x81\xa4type\xa5later"
"""An operation of a kind that nobody here knows."""


async def asked(store: StorageAdapter, *questions: str) -> set[UUID]:
    return {(await store.add_conversation(None, q, "a", "s")).log_id for q in questions}


@pytest.fixture
def nowhere(cluster: Cluster, database: str) -> str:
    """Where the database would be if there were a server."""
    return cluster.dsn(database, port=free_port())


@pytest.fixture
def proxy(cluster: Cluster):
    with Proxy(cluster.host, cluster.port) as between:
        yield between


@pytest.mark.parametrize("slot", [0, 1], ids=["by its owner", "by who adopts it"])
async def test_g04_a_copy_of_the_directory_carries_its_own_records(
    slot: int, tmp_path: Path, cluster: Cluster, database: str, nowhere: str
):
    """Made in an outage, as the runbook advises: under the same numbers it has other records."""
    data, copy, dsn = tmp_path / "data", tmp_path / "copy", cluster.dsn(database)
    async with hybrid(data, nowhere, mode="fallback") as store:
        told = await asked(store, *"abc")
    shutil.copytree(data, copy)
    async with hybrid(data, nowhere, mode="fallback") as store:
        told |= await asked(store, *"defghijklmno")
    async with hybrid(data, dsn) as store:
        await wait_until_carried(store)
    async with hybrid(copy, dsn) as store:
        await wait_until_carried(store)
    async with hybrid(copy, nowhere, mode="fallback") as store:
        told |= await asked(store, *"vwxyz")
    async with hybrid(copy, dsn, slot=slot) as store:
        await wait_until_carried(store)
        await eventually(
            lambda: dialogues_in(cluster, database).keys() == told, "the copy's own records"
        )
        assert (await store.get_stats()).total_interactions == len(told)


def damage(data: Path, words: str, slot: int = 0) -> bytes:
    """Spoil the record that holds ``words``; returns the segment's bytes."""
    [segment] = [p for p in data.glob(f"journal/{slot}/*.log") if words.encode() in p.read_bytes()]
    spoiled = segment.read_bytes().replace(words.encode(), b"\0" * len(words.encode()))
    segment.write_bytes(spoiled)
    return spoiled


@pytest.mark.parametrize("place", [0, 4, 9], ids=["first", "in the middle", "last"])
async def test_g11_a_record_damaged_on_its_way_is_counted_and_its_file_is_set_aside(
    place: int, tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    data = tmp_path / "data"
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    async with hybrid(data, dsn) as store:
        proxy.refuse()
        told = [*await asked(store, "question-0")]
        for n in range(1, 10):
            told += await asked(store, f"question-{n}")
        spoiled = damage(data, f"question-{place}")
        proxy.pass_through()
        await wait_for_mode(store, "recovering")
        await wait_until_carried(store)
        assert dialogues_in(cluster, database).keys() == {*told} - {told[place]}
        assert store.status().missing_records == 1
    [kept] = data.glob("journal/0/set-aside/*.damaged")
    assert kept.read_bytes() == spoiled


def write_as_a_later_version(data: Path) -> None:
    """Leave such a record in a journal that nobody has open."""
    journal = Journal(data / "journal" / "0")
    journal.stage(LATER)
    journal.commit()
    journal.close()


@pytest.mark.parametrize("slot", [0, 1], ids=["by its owner", "by who adopts it"])
async def test_g11_a_record_of_a_later_version_is_set_aside_where_others_are_carried(
    slot: int, tmp_path: Path, cluster: Cluster, database: str, nowhere: str
):
    data = tmp_path / "data"
    async with hybrid(data, nowhere, mode="fallback") as store:
        told = await asked(store, "before")
    write_as_a_later_version(data)
    async with hybrid(data, nowhere, mode="fallback") as store:
        told |= await asked(store, "after")
    async with hybrid(data, cluster.dsn(database), slot=slot) as store:
        await eventually(lambda: dialogues_in(cluster, database).keys() == told, "the others")
        await wait_until_carried(store)
        await eventually(lambda: store.status().refused == 1, "the count")
    [kept] = data.glob("journal/0/set-aside/refused-*.msgpack")
    assert kept.read_bytes() == LATER


async def test_g11_where_nothing_can_be_set_aside_nothing_is_passed_over(
    tmp_path: Path, cluster: Cluster, database: str, nowhere: str
):
    data = tmp_path / "data"
    async with hybrid(data, nowhere, mode="fallback") as store:
        told = await asked(store, *map(str, range(BATCH + 1)))  # the second batch meets it
    write_as_a_later_version(data)
    async with hybrid(data, nowhere, mode="fallback") as store:
        told |= await asked(store, "after")
    aside = data / "journal" / "0" / "set-aside"
    aside.touch()  # no folder
    async with hybrid(data, cluster.dsn(database), mode="recovering") as store:
        await asyncio.sleep(1.5)  # it has tried again
        assert store.status().journal_backlog > 0
        aside.unlink()
        await wait_until_carried(store)
        assert dialogues_in(cluster, database).keys() == told
    assert [kept.read_bytes() for kept in aside.iterdir()] == [LATER]


async def test_g11_what_is_damaged_in_a_dead_workers_journal_is_counted(
    tmp_path: Path, cluster: Cluster, database: str, nowhere: str
):
    data = tmp_path / "data"
    async with hybrid(data, nowhere, mode="fallback", slot=1) as store:
        told = [*await asked(store, "one")]
        for question in ("two", "three"):
            told += await asked(store, question)
    damage(data, "two", slot=1)
    async with hybrid(data, cluster.dsn(database)) as store:
        await eventually(
            lambda: dialogues_in(cluster, database).keys() == {told[0], told[2]}, "the others"
        )
        await eventually(lambda: store.status().missing_records == 1, "the count")


async def test_g20_totals_are_right_where_the_note_of_what_was_carried_is_gone(
    tmp_path: Path, cluster: Cluster, database: str, nowhere: str
):
    """A kill or a power cut in the middle: the index is made anew, and begins at the beginning."""
    data, before = tmp_path / "data", tmp_path / "before"
    async with hybrid(data, nowhere, mode="fallback") as store:
        told = await asyncio.gather(
            *(store.add_conversation(None, f"q{n}", "a", "s") for n in range(900))
        )
        for one in told[:5]:
            await store.update_rating(one.log_id, 5)
    shutil.copytree(data, before)
    async with hybrid(data, cluster.dsn(database)) as store:
        await wait_until_carried(store)
    async with hybrid(before, cluster.dsn(database), mode="recovering") as store:
        while store.status().mode == "recovering":
            now = await store.get_stats()
            assert (now.total_interactions, now.rated_interactions) == (900, 5)
            now = store._tally.told()
            assert (now.total_interactions, now.rated_interactions) == (900, 5)
            await asyncio.sleep(0.01)


async def test_g20_totals_are_right_in_the_next_outage_too(
    tmp_path: Path, cluster: Cluster, database: str, nowhere: str, proxy: Proxy
):
    """Killed before it was carried again, and PostgreSQL is away at the next start."""
    data, before, killed = (tmp_path / name for name in ("data", "before", "killed"))
    async with hybrid(data, nowhere, mode="fallback") as store:
        await asyncio.gather(*(store.add_conversation(None, f"q{n}", "a", "s") for n in range(900)))
    shutil.copytree(data, before)
    async with hybrid(data, cluster.dsn(database)) as store:
        await wait_until_carried(store)
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    with psycopg.connect(cluster.dsn(database)) as other:
        identity = (before / "journal" / "0" / "identity").read_text()
        other.execute("UPDATE replay_cursors SET moved_at = now() WHERE journal = %s", [identity])
        async with hybrid(before, dsn, mode="recovering"):  # and it stays so: the cursor is held
            shutil.copytree(before, killed)
    async with hybrid(killed, nowhere, mode="fallback") as store:
        assert (await store.get_stats()).total_interactions == 900


async def test_g13_a_slot_that_cannot_be_opened_keeps_no_other_waiting(
    tmp_path: Path, cluster: Cluster, database: str, nowhere: str
):
    data = tmp_path / "data"
    async with hybrid(data, nowhere, mode="fallback", slot=1) as store:
        await asked(store, "torn")
    async with hybrid(data, nowhere, mode="fallback", slot=2) as store:
        told = await asked(store, "whole")
    [segment] = (data / "journal" / "1").glob("*.log")
    segment.write_bytes(segment.read_bytes() + b"half a frame")
    (data / "journal" / "1" / "set-aside").touch()  # no folder: nothing can be set aside there
    async with hybrid(data, cluster.dsn(database)) as store:
        await eventually(lambda: dialogues_in(cluster, database).keys() == told, "the whole one")
        await eventually(lambda: store.status().refused == 0)
        for _ in range(20):
            await store._snapshot.keep_house(store._postgres)
        opened = [f.path for f in psutil.Process().open_files()]
        assert not [path for path in opened if f"{os.sep}journal{os.sep}1{os.sep}" in path]


async def test_g06_a_key_of_the_journal_is_known_before_it_is_carried(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    """Its dialogue waits behind the replay, and PostgreSQL takes writes already."""
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    async with hybrid(tmp_path / "data", dsn) as store:
        proxy.refuse()
        first = await store.add_conversation(None, "q", "a", "s", idempotency=KEY)
        assert first.durability == "journal"
        with psycopg.connect(cluster.dsn(database)) as other:
            other.execute(
                "INSERT INTO replay_cursors VALUES (%s, 0)", [store._local.journal.identity]
            )
            proxy.pass_through()
            await wait_for_mode(store, "recovering")
            again = await store.add_conversation(None, "q", "a", "s", idempotency=KEY)
            assert again == first
            assert (await store.add_conversation(None, "b", "a", "s")).durability == "postgres"
        await wait_until_carried(store)
        assert len(dialogues_in(cluster, database)) == 2


async def test_g06_a_key_used_yesterday_is_free_in_an_outage_too(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    async with hybrid(tmp_path / "data", dsn) as store:
        yesterday = utc_now() - timedelta(hours=25)
        with monkeypatch.context() as clock:
            clock.setattr(adapter, "utc_now", lambda: yesterday)
            old = await store.add_conversation(None, "old", "a", "s", idempotency=KEY)
        proxy.refuse()
        await wait_for_mode(store, "fallback")
        other = Idempotency(KEY.key, b"o" * 16)
        assert await store.find_reply(other) is None
        new = await store.add_conversation(None, "new", "a", "s", idempotency=other)
        assert new.log_id != old.log_id
        proxy.pass_through()
        await wait_for_mode(store, "recovering")
        await wait_until_carried(store)
    assert dialogues_in(cluster, database).keys() == {old.log_id, new.log_id}


async def test_g02_statistics_that_wait_for_the_replay_hold_up_no_write(
    tmp_path: Path, cluster: Cluster, database: str
):
    async with hybrid(tmp_path / "data", cluster.dsn(database)) as store:
        store._tally.stale = True  # they are to be taken anew
        async with store._tally.lock:  # as while a batch is on its way
            counting = asyncio.create_task(store.get_stats())
            await asyncio.sleep(0.05)
            told = await store.add_conversation(None, "q", "a", "s")
            assert told.durability == "postgres"
        assert (await counting).total_interactions == 1
