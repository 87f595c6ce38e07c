"""The store on one machine, held to the contract: as it is, evicting all the time, and reopened."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from audiobot.domain import Conversation, CorrectionOutcome, RatingOutcome
from audiobot.ports import Store
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, DialogueIds
from audiobot.storage.frames import KIND_OPERATION, Frame, scan
from audiobot.storage.operations import AddConversation, RateConversation, decode
from tests.conformance.store_contract import StoreContract

IDS = DialogueIds([b"0" * 32])


def journaled(place: Path) -> list[AddConversation | RateConversation]:
    """Every dialogue and rating in the journal's files, in order."""
    found = []
    for path in sorted((place / "data" / "journal" / "0").glob("*.log")):
        data = path.read_bytes()
        for part in scan(data):
            if isinstance(part, Frame) and part.kind == KIND_OPERATION:
                operation = decode(data[part.offset + 21 : part.end])
                if isinstance(operation, AddConversation | RateConversation):
                    found.append(operation)
    return found


class TestLocalStore(StoreContract):
    max_conversations = 10_000

    async def open_store(self, place: Path) -> StorageAdapter:
        store = StorageAdapter(
            DataDirectory(place / "data"), IDS, max_conversations=self.max_conversations
        )
        store.open()
        await store.start()
        return store

    async def close_store(self, store: Store) -> None:
        assert isinstance(store, StorageAdapter)
        await store.close()
        store._directory.release()

    async def raw_dialogues(self, place: Path) -> dict[uuid.UUID, int | None]:
        ratings: dict[uuid.UUID, tuple[int, bytes, int]] = {}
        dialogues: list[uuid.UUID] = []
        for operation in journaled(place):
            if isinstance(operation, AddConversation):
                if operation.conversation.log_id not in dialogues:
                    dialogues.append(operation.conversation.log_id)
                continue
            version = (operation.version, operation.op_id.bytes, operation.rating)
            ratings[operation.log_id] = max(ratings.get(operation.log_id, version), version)
        return {i: ratings[i][2] if i in ratings else None for i in dialogues}

    async def raw_rating_count(self, place: Path) -> int:
        return sum(isinstance(o, RateConversation) for o in journaled(place))

    def genuine_id(self, store: Store) -> uuid.UUID:
        return IDS.issue()

    async def test_g06_conflicts_are_counted(self, tmp_path: Path) -> None:
        store = await self.open_store(tmp_path)
        kept = await store.add_conversation(None, "a", "b", "s")
        await store.add_conversation(kept.log_id, "another", "b", "s")
        await self.close_store(store)
        store = await self.open_store(tmp_path)
        await store.add_conversation(None, "x", "y", "s")
        assert store._local.index.meta("conflicts") == 1
        await self.close_store(store)

    async def test_g21_memory_holds_no_more_than_it_may(self, tmp_path: Path) -> None:
        store = await self.open_store(tmp_path)
        for i in range(30):
            kept = await store.add_conversation(None, f"m{i}", "r", "s")
            if i % 3 == 0:
                await store.update_rating(kept.log_id, 5)
        memory = store.in_memory_storage
        assert len(memory.conversations) == min(30, self.max_conversations)
        assert (await store.get_stats()).total_interactions == 30
        assert len([c async for c in store.get_rated_conversations(5)]) == 10
        await self.close_store(store)


class TestLocalStoreEvicting(TestLocalStore):
    """The same with next to no memory: everything is read back from the journal."""

    max_conversations = 2


class Reopening:
    """A store that is closed and opened again after every write: what is told is what is kept."""

    def __init__(self, suite: TestLocalStoreReopened, place: Path, store: StorageAdapter) -> None:
        self._suite, self._place, self._store = suite, place, store

    def __getattr__(self, name: str):
        return getattr(self._store, name)

    async def _reopen(self) -> None:
        await self._suite.close_store(self._store)
        self._store = await TestLocalStore.open_store(self._suite, self._place)

    async def add_conversation(self, *arguments, **named) -> Conversation:
        kept = await self._store.add_conversation(*arguments, **named)
        await self._reopen()
        return kept

    async def update_rating(self, *arguments, **named) -> RatingOutcome:
        outcome = await self._store.update_rating(*arguments, **named)
        await self._reopen()
        return outcome

    async def replace_knowledge(self, *arguments) -> bool:
        changed = await self._store.replace_knowledge(*arguments)
        await self._reopen()
        return changed

    async def correct(self, *arguments, **named) -> CorrectionOutcome:
        outcome = await self._store.correct(*arguments, **named)
        await self._reopen()
        return outcome

    async def withdraw(self, *arguments, **named) -> CorrectionOutcome:
        outcome = await self._store.withdraw(*arguments, **named)
        await self._reopen()
        return outcome

    async def add_evaluation(self, *arguments) -> None:
        await self._store.add_evaluation(*arguments)
        await self._reopen()

    async def dismiss(self, *arguments) -> int:
        many = await self._store.dismiss(*arguments)
        await self._reopen()
        return many


class TestLocalStoreReopened(TestLocalStore):
    """The contract across restarts, where it does not need two callers at once."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        reopening = Reopening(self, tmp_path, await self.open_store(tmp_path))
        yield reopening  # type: ignore[misc]
        await self.close_store(reopening._store)

    # These hand in several writes at once, or hundreds: a restart between is another test.
    test_g05_a_cancelled_caller_neither_undoes_nor_tears_a_write = None
    test_g07_versions_of_concurrent_ratings_never_tie = None
    test_g06_twenty_at_once_under_one_key_make_one_dialogue = None
    test_g07_of_corrections_at_once_the_highest_version_counts_and_each_is_told = None
    test_g07_dismissed_and_taken_back_at_once_the_later_counts = None
    test_a_group_answered_and_dismissed_at_once_is_settled = None
    test_rated_dialogues_come_oldest_first_from_the_rating_asked_for = None
