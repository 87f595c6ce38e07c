"""Damage beside the segments, and damage met while running: named, and never a dead store."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest

from audiobot.domain import Idempotency, KnowledgeItem
from audiobot.errors import AudioBotError
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.journal import Gap, Journal
from tests.conformance.local import IDS, opened, slot

EVERY_NTH_BYTE = 61
"""Of the index: a prime, so that no row length hides from it."""

PATIENCE = 5
"""Seconds after which a caller counts as forgotten."""


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: damage is judged by bytes, not by fsync."""
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=memory)) if memory.is_dir() else tmp_path
    yield root
    shutil.rmtree(root)


def flip(path: Path, offset: int, mask: int = 0xFF) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def damage_record_with(path: Path, words: bytes) -> None:
    """Flip one bit of ``words`` where a running store's journal holds them."""
    log = slot(path) / "00000001.log"
    flip(log, log.read_bytes().index(words), 0x01)


async def eight_dialogues(store: StorageAdapter) -> dict[UUID, int | None]:
    """Eight dialogues, every other one rated, and what their ratings must be."""
    told: dict[UUID, int | None] = {}
    for i in range(8):
        kept = await store.add_conversation(None, f"q{i}", f"a{i}", "s")
        told[kept.log_id] = 1 + i % 5 if i % 2 else None
        if i % 2:
            await store.update_rating(kept.log_id, 1 + i % 5)
    return told


async def faults_seen(path: Path, told: dict[UUID, int | None]) -> list[str]:
    """How the store at ``path`` differs from ``told``; the words first of what went wrong."""
    try:
        async with opened(path, max_conversations=1) as store:
            found = {i: await store.get_conversation(i) for i in told}
            stats = await store.get_stats()
            missing = store.status().missing_records
            listed = [c.log_id async for c in store.get_rated_conversations(1)]
    except Exception as error:  # any error here is the finding
        return [f"{type(error).__name__}: {error}"]
    rated = [rating for rating in told.values() if rating is not None]
    checks = {
        "a dialogue is lost": all(found.values()),
        "a rating is wrong": {i: c.rating for i, c in found.items() if c} == told,
        "the totals are wrong": (stats.total_interactions, stats.rating_sum)
        == (len(told), sum(rated)),
        "the last day is wrong": stats.recent == len(told),
        "the export is wrong": sorted(listed) == sorted(i for i, r in told.items() if r),
        "a loss is named that is none": missing == 0,
    }
    return [words for words, good in checks.items() if not good]


async def test_g11_a_flipped_byte_of_the_index_changes_nothing_that_is_told(quick: Path) -> None:
    """The index is derived: whatever its medium does to it, the journal is the truth."""
    async with opened(quick / "whole") as store:
        told = await eight_dialogues(store)
    index = slot(quick / "whole") / "index.sqlite"
    used = [i for i, byte in enumerate(index.read_bytes()) if byte][::EVERY_NTH_BYTE]
    found: dict[int, list[str]] = {}
    for offset in used:
        shutil.copytree(quick / "whole", quick / "hurt")
        flip(slot(quick / "hurt") / "index.sqlite", offset)
        if faults := await faults_seen(quick / "hurt", told):
            found[offset] = faults
        shutil.rmtree(quick / "hurt")
    assert not found, f"{len(found)} of {len(used)} flips were believed: {found}"


async def test_g11_no_flipped_byte_of_an_index_that_a_kill_left_stops_the_start(
    quick: Path,
) -> None:
    """Nothing vouches for such an index byte by byte; a start it must not prevent all the same."""
    async with opened(quick / "alive") as store:
        await eight_dialogues(store)
    async with opened(quick / "alive"):
        shutil.copytree(quick / "alive", quick / "killed")
    index = slot(quick / "killed") / "index.sqlite"
    used = [i for i, byte in enumerate(index.read_bytes()) if byte][::EVERY_NTH_BYTE]
    found: dict[int, str] = {}
    for offset in used:
        shutil.copytree(quick / "killed", quick / "hurt")
        flip(slot(quick / "hurt") / "index.sqlite", offset)
        try:
            async with opened(quick / "hurt") as store:
                await store.add_conversation(None, "and on", "we go", "s")
                await store.get_stats()
        except Exception as error:  # any error here is the finding
            found[offset] = repr(error)
        shutil.rmtree(quick / "hurt")
    assert not found, f"{len(found)} of {len(used)} flips stopped the store: {found}"


async def test_g11_an_index_that_promises_too_much_makes_no_gap(quick: Path) -> None:
    """One bit high in ``applied`` must not name a quintillion records that never were."""
    async with opened(quick / "d") as store:
        told = await eight_dialogues(store)
    with sqlite3.connect(slot(quick / "d") / "index.sqlite") as index:
        index.execute("UPDATE meta SET value = value | (1 << 40) WHERE name = 'applied'")
    index.close()
    assert await faults_seen(quick / "d", told) == []


async def test_g11_a_lost_tail_that_only_the_index_knows_of_is_named(quick: Path) -> None:
    """As half a second after a kill: the mark is behind, the index is not."""
    async with opened(quick / "alive") as store:
        told = await eight_dialogues(store)
        assert (await store.get_stats()).total_interactions == len(told)  # the index knows them
        shutil.copytree(quick / "alive", quick / "killed")
    (slot(quick / "killed") / "high-water").unlink()
    os.truncate(slot(quick / "killed") / "00000001.log", 22)
    async with opened(quick / "killed") as store:
        assert store.status().missing_records == 12
        assert await store.get_conversation(next(iter(told))) is None
        assert (await store.get_stats()).total_interactions == 0


def test_g11_either_slot_of_the_mark_may_be_damaged(quick: Path) -> None:
    """Marks at 2 and 4: the one before the last still names what it knew."""
    journal = Journal(quick / "j", segment_bytes=1 << 20)
    for _ in range(2):
        journal.stage(b"a record")
        journal.stage(b"another")
        journal.commit()
        journal._write_high_water(journal.last_sequence)
    shutil.copytree(quick / "j", quick / "killed")
    journal.close()
    log, mark = quick / "killed" / "00000001.log", quick / "killed" / "high-water"
    os.truncate(log, 22)
    newest = mark.read_bytes().index((4).to_bytes(8, "little"))
    flip(mark, newest)
    again = Journal(quick / "killed")
    assert again.gaps == [Gap(1, 2, 1)], "the older mark is gone with the newer one"
    again.close()


async def test_g11_a_whole_record_that_says_nothing_known_does_not_stop_the_start(
    quick: Path,
) -> None:
    """As after a step back from a later version: it starts, and the record stays and is told."""
    async with opened(quick / "d") as store:
        told = await eight_dialogues(store)
    journal = Journal(slot(quick / "d"))
    journal.stage(b"\x81\xa4type\xa5later")
    journal.commit()
    journal.close()
    async with opened(quick / "d") as store:
        assert (await store.get_stats()).total_interactions == len(told)
        assert store.status().missing_records == 1
        await store.add_conversation(None, "and on", "we go", "s")
    async with opened(quick / "d") as store:
        assert (await store.get_stats()).total_interactions == len(told) + 1


# -- while running ---------------------------------------------------------------------------


@contextmanager
def no_more_files() -> Iterator[None]:
    """Every descriptor this process may have is taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_g03_running_out_of_files_does_not_stop_the_commits_for_ever(tmp_path: Path) -> None:
    async with opened(tmp_path / "d", max_conversations=1) as store:
        early = IDS.issue()
        await store.update_rating(early, 5)
        with no_more_files(), suppress(TimeoutError, OSError, AudioBotError):
            # The dialogue joins its rating: the store reads the journal, and cannot open it.
            await asyncio.wait_for(store.add_conversation(early, "q", "a", "s"), PATIENCE)
        late = store.add_conversation(None, "after", "a", "s")
        assert (await asyncio.wait_for(late, PATIENCE)).user_message == "after"
        assert (await store.get_stats()).total_interactions == 2
        found = await store.get_conversation(early)
        assert found is not None
        assert found.rating == 5


async def test_g11_reading_what_the_medium_lost_is_no_crash(tmp_path: Path) -> None:
    """Every read either leaves the record out or raises an error that has a sentence."""
    key = Idempotency(b"k" * 16, b"r" * 16)
    item = KnowledgeItem(item_id="i", title="lifts", answer="damaged-knowledge")
    async with opened(tmp_path / "d", max_conversations=1) as store:
        whole = await store.add_conversation(None, "whole", "a", "s")
        await store.update_rating(whole.log_id, 5)
        kept = await store.add_conversation(None, "damaged-words", "a", "s", idempotency=key)
        await store.update_rating(kept.log_id, 5)
        await store.replace_knowledge("lifts.csv", [item])
        damage_record_with(tmp_path / "d", b"damaged-words")
        damage_record_with(tmp_path / "d", b"damaged-knowledge")

        assert [c.user_message async for c in store.get_rated_conversations(5)] == ["whole"]
        assert await store.get_conversation(kept.log_id) is None
        with suppress(AudioBotError):
            await store.find_reply(key)
        with suppress(AudioBotError):
            await store.get_knowledge()
        assert store.status().missing_records > 0


async def test_g11_a_damaged_record_counts_once_however_often_it_is_read(tmp_path: Path) -> None:
    async with opened(tmp_path / "d", max_conversations=1) as store:
        kept = await store.add_conversation(None, "damaged-words", "a", "s")
        await store.add_conversation(None, "fills memory", "a", "s")
        damage_record_with(tmp_path / "d", b"damaged-words")
        for _ in range(3):
            assert await store.get_conversation(kept.log_id) is None
        assert store.status().missing_records == 1


async def test_g11_damage_met_while_writing_fails_nobody_else(tmp_path: Path) -> None:
    key = Idempotency(b"k" * 16, b"r" * 16)
    async with opened(tmp_path / "d", max_conversations=1) as store:
        kept = await store.add_conversation(None, "damaged-words", "a", "s", idempotency=key)
        await store.add_conversation(None, "fills memory", "a", "s")
        damage_record_with(tmp_path / "d", b"damaged-words")
        written = await asyncio.gather(
            store.add_conversation(None, "before", "a", "s"),
            store.add_conversation(None, "repeat", "a", "s", idempotency=key),
            store.add_conversation(kept.log_id, "repeat", "a", "s"),
            store.add_conversation(None, "after", "a", "s"),
            return_exceptions=True,
        )
        neighbours = [w for w in (written[0], written[3]) if not isinstance(w, Exception)]
        assert [c.user_message for c in neighbours] == ["before", "after"]
        now = await store.get_stats()
    for file in slot(tmp_path / "d").glob("index.sqlite*"):
        file.unlink()
    async with opened(tmp_path / "d") as store:
        rebuilt = await store.get_stats()
        lost = store.status().missing_records
        assert rebuilt.total_interactions == now.total_interactions - lost
        for told in neighbours:
            assert await store.get_conversation(told.log_id) == told
