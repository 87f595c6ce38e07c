"""Sentences of the store's contract at their edges: clocks, keys, repeats, many at once."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from audiobot.domain import Conversation, Embedding, Idempotency, RatingOutcome, utc_now
from audiobot.errors import IdempotencyMismatch, InvalidValue, StorageUnavailable
from audiobot.ports import Reply
from audiobot.storage import adapter
from audiobot.storage.batching import MAX_BATCH
from audiobot.storage.frames import Gap
from audiobot.storage.index import Index
from audiobot.storage.journal import Entry, Position
from audiobot.storage.operations import AddConversation
from tests.conformance.local import IDS, opened, slot

KEY = Idempotency(b"k" * 16, b"r" * 16)
OTHER_REQUEST = Idempotency(b"k" * 16, b"R" * 16)


@pytest.mark.parametrize("size", [0, 1, 5, 7, 9])
async def test_g04_a_vector_whose_bytes_are_no_whole_numbers_is_refused(
    tmp_path: Path, size: int
) -> None:
    broken = Reply(text="r", embedding=Embedding(b"\0" * size, 2, "m"))
    async with opened(tmp_path / "d") as store:
        with pytest.raises(InvalidValue):
            await store.add_conversation(None, "m", "r", "s", reply=broken)
        assert (await store.get_stats()).total_interactions == 0


async def test_g06_repeating_a_dialogue_under_its_id_is_no_conflict(tmp_path: Path) -> None:
    """The caller that never heard the reply sends the same again: nobody need look into it."""
    async with opened(tmp_path / "d") as store:
        kept = await store.add_conversation(None, "m", "r", "s")
        assert await store.add_conversation(kept.log_id, "m", "r", "s") == kept
        assert store._local.index.meta("conflicts") == 0


async def test_g06_of_two_requests_at_once_under_one_key_one_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        results = await asyncio.gather(
            store.add_conversation(None, "m", "r", "s", idempotency=KEY),
            store.add_conversation(None, "n", "r", "s", idempotency=OTHER_REQUEST),
            store.add_conversation(None, "m", "r", "s", idempotency=KEY),
            return_exceptions=True,
        )
        kept, refused, again = results
        assert isinstance(kept, Conversation)
        assert isinstance(refused, IdempotencyMismatch)
        assert again == kept
        assert (await store.get_stats()).total_interactions == 1


async def test_g06_of_two_dialogues_at_once_under_one_id_the_first_wins(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        log_id = IDS.issue()
        first, second = await asyncio.gather(
            store.add_conversation(log_id, "first", "a", "s"),
            store.add_conversation(log_id, "second", "b", "s"),
        )
        assert first == second == await store.get_conversation(log_id)
        assert first.user_message == "first"
        assert store._local.index.meta("conflicts") == 1


def test_g06_a_replayed_dialogue_never_takes_the_first_ones_place(tmp_path: Path) -> None:
    """The journal may hold two of one id, as when two slots are replayed: the first one wins."""
    first = Conversation(
        log_id=IDS.issue(), session_id="s", user_message="1", ai_response="a", created_at=utc_now()
    )
    second = msgspec.structs.replace(first, user_message="2")
    index = Index(tmp_path / "i.sqlite")
    with index.transaction():
        for number, told in enumerate((first, second, first), 1):
            operation = AddConversation(op_id=uuid4(), conversation=told)
            index.apply(number, Position(1, 100 * number, 50), operation)
    row = index.find(first.log_id)
    assert row is not None
    assert row.position == Position(1, 100, 50)
    assert index.meta("conflicts") == 1
    assert index.stats(utc_now()).total_interactions == 1
    index.close()


async def test_g08_who_reads_on_while_another_still_reads_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a server is told to stop in the middle of a replay."""
    async with opened(tmp_path / "d") as store:
        for n in range(6):
            await store.add_conversation(None, str(n), "a", "s")
        local, read_from = store._local, store._local.journal.read_from
        reading, go_on = threading.Event(), threading.Event()

        def slowly(sequence: int) -> Iterator[Entry | Gap]:
            for record in read_from(sequence):
                reading.set()
                assert go_on.wait(10)
                yield record

        monkeypatch.setattr(local.journal, "read_from", slowly)
        go_on.set()
        await local.unreplayed(2)
        await local.carried(2)
        go_on.clear()
        reading.clear()
        left_alone = asyncio.create_task(local.unreplayed(2))
        await asyncio.to_thread(reading.wait, 10)
        following = asyncio.create_task(local.unreplayed(2))
        await asyncio.sleep(0.05)
        go_on.set()
        await left_alone
        operations, last = await following
        assert [op.conversation.user_message for op in operations] == ["2", "3"]  # type: ignore[union-attr]
        assert last == 4


async def test_g06_a_key_is_free_again_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when nothing else came in between: cleaning up is not what ends a key."""
    async with opened(tmp_path / "d") as store:
        yesterday = utc_now() - timedelta(hours=25)
        with monkeypatch.context() as clock:
            clock.setattr(adapter, "utc_now", lambda: yesterday)
            old = await store.add_conversation(None, "old", "r", "s", idempotency=KEY)
            late = Idempotency(b"l" * 16, b"r" * 16)
            await store.add_conversation(None, "same hour", "r", "s", idempotency=late)
        assert await store.find_reply(KEY) is None
        new = await store.add_conversation(None, "new", "r", "s", idempotency=OTHER_REQUEST)
        assert new.log_id != old.log_id
        assert await store.find_reply(OTHER_REQUEST) == new


async def test_g07_an_acknowledged_rating_counts_though_the_clock_went_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "d") as store:
        kept = await store.add_conversation(None, "m", "r", "s")
        first = await store.update_rating(kept.log_id, 5)
        monkeypatch.setattr(adapter, "clock_version", lambda: 1_000)
        second = await store.update_rating(kept.log_id, 2)
        assert second.version > first.version
        shutil.copytree(tmp_path / "d", tmp_path / "killed")
    for file in slot(tmp_path / "killed").glob("index.sqlite*"):
        file.unlink()
    for place in ("d", "killed"):
        async with opened(tmp_path / place) as store:
            found = await store.get_conversation(kept.log_id)
            assert found is not None
            assert found.rating == 2


async def test_g10_a_rating_and_its_dialogue_handed_in_together_join(tmp_path: Path) -> None:
    async with opened(tmp_path / "d", max_conversations=1) as store:
        ids = [IDS.issue() for _ in range(20)]
        told = await asyncio.gather(
            *(store.update_rating(log_id, 4) for log_id in ids),
            *(store.add_conversation(log_id, "m", "r", "s") for log_id in ids),
        )
        outcomes = [t for t in told if isinstance(t, RatingOutcome)]
        assert {o.status for o in outcomes} <= {"stored", "pending"}
        stats = await store.get_stats()
        assert (stats.total_interactions, stats.rating_sum) == (20, 80)
        listed = [c async for c in store.get_rated_conversations(4)]
        assert sorted(c.log_id for c in listed) == sorted(ids)


async def test_removing_what_was_never_there_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        assert not await store.replace_knowledge("never.csv", [])
        assert await store.get_knowledge() == []


async def test_g14_closing_commits_everything_that_was_handed_in(tmp_path: Path) -> None:
    """Of three batches' worth each caller gets an answer, and each answer is true."""
    many = 3 * MAX_BATCH
    async with opened(tmp_path / "d") as store:
        callers = [
            asyncio.create_task(store.add_conversation(None, str(i), "a", "s")) for i in range(many)
        ]
        await asyncio.sleep(0)  # every caller has handed in
    done, waiting = await asyncio.wait(callers, timeout=30)
    assert not waiting
    kept = [task.result() for task in done]
    with pytest.raises(StorageUnavailable):
        await store.add_conversation(None, "too late", "a", "s")
    async with opened(tmp_path / "d") as store:
        assert (await store.get_stats()).total_interactions == many
        assert await store.get_conversation(kept[0].log_id) == kept[0]


async def test_g05_a_fifth_of_the_callers_cancelled_tears_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "d", max_conversations=10) as store:
        callers = [
            asyncio.create_task(store.add_conversation(None, str(i), "a", "s")) for i in range(200)
        ]
        await asyncio.sleep(0)
        for task in callers[::5]:
            task.cancel()
        await asyncio.wait(callers)
        kept = [task.result() for task in callers if not task.cancelled()]
        assert len(kept) == 160
        last = await store.add_conversation(None, "and on", "a", "s")
        stats = await store.get_stats()
    async with opened(tmp_path / "d") as store:
        assert (await store.get_stats()).total_interactions == stats.total_interactions == 201
        for told in [*kept, last]:
            assert await store.get_conversation(told.log_id) == told


async def test_g01_nothing_is_acknowledged_into_a_journal_that_was_removed(tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as store:
        await store.add_conversation(None, "m", "r", "s")
        shutil.rmtree(tmp_path / "data" / "journal")
        deadline = time.monotonic() + 10
        while store.status().accepting:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        with pytest.raises(StorageUnavailable):
            await store.add_conversation(None, "m", "r", "s")


def broken(index: Index) -> None:
    raise sqlite3.OperationalError("disk I/O error")


async def test_g09_who_asks_after_the_reply_waits_until_the_index_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is held up once the journal has the dialogue: the caller does not wait for it."""
    reached, go_on = threading.Event(), threading.Event()
    commit = Index.commit

    def held_up(index: Index) -> None:
        reached.set()
        assert go_on.wait(30)
        commit(index)

    async with opened(tmp_path / "d") as store:
        with monkeypatch.context() as slow:
            slow.setattr(Index, "commit", held_up)
            kept = await store.add_conversation(None, "q", "a", "s")
            assert await asyncio.to_thread(reached.wait, 30)
            assert await store.get_conversation(kept.log_id) == kept  # memory has it
            asked = asyncio.create_task(store.get_stats())
            last = asyncio.create_task(store.get_last_of_session("s"))
            await asyncio.wait([asked, last], timeout=0.2)
            assert not asked.done()
            assert not last.done()
            go_on.set()
            assert (await asked).total_interactions == 1
            assert await last == kept


async def test_g09_what_the_index_could_not_take_after_the_reply_it_takes_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "d") as store:
        with monkeypatch.context() as bad:
            bad.setattr(Index, "commit", broken)
            kept = await store.add_conversation(None, "q", "a", "s")
            stats = await store.get_stats()
            assert (stats.total_interactions, stats.complete) == (0, False)
            assert await store.get_conversation(kept.log_id) == kept
        await store.update_rating(kept.log_id, 4)
        stats = await store.get_stats()
        assert (stats.total_interactions, stats.rated_interactions) == (1, 1)
        assert stats.complete


async def test_g10_a_rating_that_came_first_is_joined_though_the_index_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over a restart, and the journal goes on."""
    log_id = IDS.issue()
    async with opened(tmp_path / "d") as store:
        assert (await store.update_rating(log_id, 4, "words")).status == "pending"
    async with opened(tmp_path / "d") as store:
        with monkeypatch.context() as bad:
            bad.setattr(Index, "commit", broken)
            await store.add_conversation(log_id, "q", "a", "s")
        found = await store.get_conversation(log_id)
        assert found is not None
        assert (found.rating, found.feedback_text) == (4, "words")
        await store.add_conversation(None, "after", "a", "s")
        assert (await store.get_stats()).total_interactions == 2
    async with opened(tmp_path / "d") as store:
        found = await store.get_conversation(log_id)
        assert found is not None
        assert (found.rating, found.feedback_text) == (4, "words")


async def test_writes_that_come_together_share_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = []
    sync = os.fdatasync

    def counted(fd: int) -> None:
        syncs.append(fd)
        sync(fd)

    async with opened(tmp_path / "d") as store:
        monkeypatch.setattr(os, "fdatasync", counted)
        adds = (store.add_conversation(None, f"q{n}", "a", "s") for n in range(200))
        assert len(await asyncio.gather(*adds)) == 200
        assert len(syncs) < 20
