"""Ids, keys, memory, the index's bounds: the store's parts by themselves."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from audiobot.domain import Conversation, Embedding, Idempotency, utc_now
from audiobot.storage import index_teaching as teaching
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, DialogueIds, KeySet, file_system
from audiobot.storage.index import Index
from audiobot.storage.journal import Position
from audiobot.storage.memory import MAX_EARLY, SafeInMemoryStorage
from audiobot.storage.operations import AddConversation, RateConversation

IDS = DialogueIds([b"1" * 32])


def dialogue(text: str = "q", **fields: object) -> Conversation:
    log_id = fields.pop("log_id", None) or IDS.issue()
    return Conversation(
        log_id=log_id, session_id="s", user_message=text, ai_response="a", created_at=utc_now(),
        **fields,
    )  # fmt: skip


def rating(log_id: uuid.UUID, stars: int, version: int, op: int = 1) -> RateConversation:
    return RateConversation(
        op_id=uuid.UUID(int=op), log_id=log_id, rating=stars, version=version, rated_at=utc_now()
    )


def test_g10_an_issued_id_is_a_version_8_uuid_and_proves_itself() -> None:
    ids = [IDS.issue() for _ in range(10_000)]
    assert len(set(ids)) == 10_000
    assert all(i.version == 8 and i.variant == uuid.RFC_4122 and IDS.genuine(i) for i in ids)
    assert [i.int >> 80 for i in ids] == sorted(i.int >> 80 for i in ids)


def test_g10_any_flipped_bit_makes_an_id_forged() -> None:
    genuine = IDS.issue()
    assert not [bit for bit in range(128) if IDS.genuine(uuid.UUID(int=genuine.int ^ (1 << bit)))]


def test_g10_an_id_of_another_key_is_forged() -> None:
    assert not DialogueIds([b"2" * 32]).genuine(IDS.issue())


def test_g10_ids_outlive_a_change_of_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    before = DialogueIds(KeySet(file, None).ids)
    first, second = before.issue(), DialogueIds(KeySet(file, "the first secret").ids).issue()
    now = DialogueIds(KeySet(file, "the second secret").ids)
    assert now.genuine(first)
    assert now.genuine(second)
    assert 'secret"' not in file.read_text().replace('"secret": ', "")
    assert "the first secret" not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0


def test_keys_made_here_stay_the_same_over_starts(tmp_path: Path) -> None:
    first, again = KeySet(tmp_path / "k", None), KeySet(tmp_path / "k", None)
    assert (first.ids, first.raters) == (again.ids, again.raters)


def test_g21_memory_evicts_unrated_dialogues_first_then_the_oldest() -> None:
    memory = SafeInMemoryStorage(max_conversations=3)
    kept = [dialogue(str(i)) for i in range(3)]
    for c in kept:
        memory.apply(AddConversation(op_id=uuid.uuid4(), conversation=c))
    memory.apply(rating(kept[0].log_id, 5, 1))
    memory.hold(dialogue("3"))
    assert [c.user_message for c in memory.conversations] == ["0", "2", "3"]
    for i in (1, 2):
        memory.apply(rating(memory.conversations[i].log_id, 5, 1))
    memory.hold(dialogue("4", rating=5))
    assert [c.user_message for c in memory.conversations] == ["2", "3", "4"]
    assert memory.evictions == 2


def test_g21_memory_is_bounded_in_bytes() -> None:
    memory = SafeInMemoryStorage(max_conversations=1_000, max_bytes=100_000)
    for i in range(200):
        memory.hold(dialogue("д" * 1_000 + str(i)))
    assert memory.bytes_held <= 100_000
    assert 10 < len(memory.conversations) < 100
    assert memory.conversations[-1].user_message.endswith("199")


def test_g07_memory_ignores_a_late_or_repeated_rating() -> None:
    memory = SafeInMemoryStorage()
    kept = dialogue()
    memory.hold(kept)
    for op in (rating(kept.log_id, 5, 10), rating(kept.log_id, 1, 9), rating(kept.log_id, 5, 10)):
        memory.apply(op)
    assert memory.conversations[0].rating == 5


def test_g07_memory_keeps_a_rating_for_a_dialogue_that_comes_after_it() -> None:
    memory, late = SafeInMemoryStorage(), dialogue()
    for op in (rating(late.log_id, 4, 2), rating(late.log_id, 1, 1)):
        memory.apply(op)
    memory.apply(AddConversation(op_id=uuid.uuid4(), conversation=late))
    assert memory.conversations[0].rating == 4
    memory.apply(rating(late.log_id, 5, 3))
    assert memory.conversations[0].rating == 5
    for _ in range(MAX_EARLY + 1):
        memory.apply(rating(uuid.uuid4(), 3, 1))
    assert len(memory._early) == MAX_EARLY


def test_memory_shows_vectors_by_id_and_dialogues_as_a_sequence() -> None:
    memory = SafeInMemoryStorage()
    with_vector = dialogue(embedding=Embedding(b"\0" * 8, 2, "m"))
    memory.hold(with_vector)
    memory.hold(dialogue("2"))
    assert dict(memory.embeddings) == {with_vector.log_id: b"\0" * 8}
    assert len(memory.embeddings) == 1
    assert [c.user_message for c in memory.conversations[:1]] == ["q"]
    with pytest.raises(IndexError):
        memory.conversations[2]
    with pytest.raises(KeyError):
        memory.embeddings[memory.conversations[1].log_id]


def test_g07_the_index_keeps_the_newest_version_in_whatever_order_they_come(
    tmp_path: Path,
) -> None:
    kept = dialogue()
    operations = [
        AddConversation(op_id=uuid.uuid4(), conversation=kept),
        rating(kept.log_id, 1, version=5, op=1),
        rating(kept.log_id, 2, version=7, op=2),
        rating(kept.log_id, 3, version=7, op=3),
        rating(kept.log_id, 4, version=6, op=4),
    ]
    for turn in range(len(operations)):
        index = Index(tmp_path / f"{turn}.sqlite")
        order = operations[turn:] + operations[:turn] + operations[::-1]
        with index.transaction():
            for number, operation in enumerate(order, 1):
                index.apply(number, Position(1, number, 1), operation)
        row = index.find(kept.log_id)
        assert row is not None
        assert row.rating == 3
        assert index.stats(utc_now()).rating_sum == 3
        assert index.orphans() == 0
        index.close()


def test_idempotency_keys_are_let_go_after_a_day(tmp_path: Path) -> None:
    index = Index(tmp_path / "i.sqlite")
    old, new = (Idempotency(k * 16, b"r" * 16) for k in (b"o", b"n"))
    long_ago = utc_now() - timedelta(hours=25)
    with index.transaction():
        for key, moment in ((old, long_ago), (new, utc_now())):
            kept = dialogue()
            operation = AddConversation(
                op_id=uuid.uuid4(),
                conversation=Conversation(
                    log_id=kept.log_id, session_id="s", user_message="q", ai_response="a",
                    created_at=moment,
                ),
                idempotency=key,
            )  # fmt: skip
            index.apply(1, Position(1, 1, 1), operation)
    assert index.find_known(old) is None
    assert index.find_known(new) is not None
    index.close()


def test_a_rollback_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    index = Index(tmp_path / "i.sqlite")
    with pytest.raises(RuntimeError), index.transaction():
        index.apply(
            1, Position(1, 1, 1), AddConversation(op_id=uuid.uuid4(), conversation=dialogue())
        )
        raise RuntimeError
    assert index.stats(utc_now()).total_interactions == 0
    assert index.meta("applied") == 0
    index.close()


async def test_g21_the_first_of_10001_unrated_dialogues_is_rateable_and_counted(
    tmp_path: Path,
) -> None:
    import asyncio

    directory = DataDirectory(tmp_path / "d")
    store = StorageAdapter(directory, IDS)
    store.open()
    await store.start()
    first = await store.add_conversation(None, "the very first", "a", "s")
    await asyncio.gather(*(store.add_conversation(None, f"{i}", "a", "s") for i in range(10_000)))
    assert first.log_id not in store.in_memory_storage
    assert len(store.in_memory_storage.conversations) == 10_000
    assert (await store.update_rating(first.log_id, 5)).status == "stored"
    stats = await store.get_stats()
    assert (stats.total_interactions, stats.rated_interactions) == (10_001, 1)
    assert [c.user_message async for c in store.get_rated_conversations(5)] == ["the very first"]
    await store.close()
    directory.release()


def test_the_file_system_of_a_path_is_found(tmp_path: Path) -> None:
    assert file_system(Path("/proc")) == "proc"
    assert file_system(tmp_path) not in {"", "proc"}


@pytest.mark.parametrize(
    ("query", "values", "index"),
    [
        ("SELECT log_id FROM dialogue" + teaching.INBOX, (200,), "dialogue_waiting"),
        (teaching.SUGGESTIONS, (200,), "suggestion_newest"),
        (
            "SELECT log_id FROM dialogue WHERE segment IS NOT NULL AND session = ?"
            " ORDER BY created DESC LIMIT ?",
            (b"s", 200),
            "dialogue_session",
        ),
        (
            "SELECT log_id FROM dialogue WHERE segment IS NULL AND rating <= 2"
            " ORDER BY version DESC LIMIT ?",
            (200,),
            "dialogue_orphan",
        ),
        ("SELECT log_id FROM dialogue" + teaching.HANDED_OVER, (200,), "dialogue_handed"),
    ],
)
def test_what_waits_is_read_by_an_index_and_unsorted(
    tmp_path: Path, query: str, values: tuple, index: str
) -> None:
    """On 100,000 dialogues, most of them rated low."""
    with closing(sqlite3.connect(index_of(tmp_path))) as connection:
        connection.executemany(
            "INSERT INTO dialogue (log_id, segment, byte, length, created, rating, session)"
            " VALUES (?, 1, 1, 1, ?, ?, ?)",
            ((i.to_bytes(16), i, 1 + i % 9 % 5, b"s" * 8) for i in range(100_000)),
        )
        for analyzed in (False, True):
            if analyzed:
                connection.execute("ANALYZE")
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
            assert not [step for step in plan if step.startswith("SCAN") and "INDEX" not in step]
            assert any(index in step for step in plan), plan
            sorts = index == "dialogue_orphan"  # those are few
            assert any("TEMP B-TREE" in step for step in plan) == sorts, plan


def index_of(place: Path) -> Path:
    index = Index(place / "index.sqlite")
    index.close()
    return place / "index.sqlite"


def test_g12_keys_of_other_replicas_are_known_where_nothing_can_be_written(tmp_path: Path) -> None:
    """PostgreSQL is back, and what would make room on the full disk is to be carried there."""
    folder = tmp_path / "full"
    folder.mkdir()
    keys = KeySet(folder / "keys.json", None)
    shutil.rmtree(folder)
    keys.merge([b"2" * 32])
    assert keys.ids[1:] == [b"2" * 32]
