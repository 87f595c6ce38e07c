"""A store against a small independent model, through kills and restarts (Hypothesis).

The model is a few dicts. A kill is a copy of the directory at that moment, opened as it is: what
the dead process had in its hands is gone, what it acknowledged must not be.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from pathlib import Path

import hypothesis.strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from audiobot.domain import Idempotency, KnowledgeItem
from audiobot.errors import IdempotencyMismatch, UnknownCorrection
from audiobot.ports import Reply
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, DialogueIds

IDS = DialogueIds([b"0" * 32])
NAMES = [uuid.UUID(int=1), uuid.UUID(int=2)]
"""Of the corrections."""
ratings = st.integers(1, 5)
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=40
)


class StoreAndModel(RuleBasedStateMachine):
    """The rules. A subclass may open its store elsewhere, and let go of one that was killed."""

    dialogues = Bundle("dialogues")
    orphans = Bundle("orphans")

    @initialize(limit=st.sampled_from([1, 3, 10_000]))
    def open(self, limit: int) -> None:
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="audiobot-state-"))
        self.lives = 0
        self.limit = limit
        self.told: dict = {}
        self.rated: dict = {}
        self.keys: dict[bytes, object] = {}
        self.knowledge: dict[str, list[str]] = {}
        self.handed: set = set()
        self.corrections: dict[uuid.UUID, tuple[str, frozenset, bool]] = {}
        self.dismissed: set = set()
        self._open(self.root / "0")

    def _open(self, path: Path) -> None:
        self.directory = DataDirectory(path)
        self.store = StorageAdapter(self.directory, IDS, max_conversations=self.limit)
        self.store.open()
        self.runner.run(self.store.start())

    def _close(self) -> None:
        self.runner.run(self.store.close())
        self.directory.release()

    def _abandon(self) -> None:
        """The process is dead; only what it holds of this one is given back."""
        self._close()

    @rule(target=dialogues, text=texts)
    def add(self, text: str):
        kept = self.runner.run(self.store.add_conversation(None, text, text[::-1], "s"))
        self.told[kept.log_id] = (text, text[::-1])
        return kept.log_id

    @rule(target=dialogues, text=texts)
    def hand_over(self, text: str):
        reply = Reply(text=text[::-1], outcome="handed_over", model_used="handover")
        call = self.store.add_conversation(None, text, reply.text, "s", reply=reply)
        kept = self.runner.run(call)
        self.told[kept.log_id] = (text, reply.text)
        self.handed.add(kept.log_id)
        return kept.log_id

    @rule(
        name=st.sampled_from(NAMES),
        text=texts,
        log_ids=st.lists(dialogues, max_size=3, unique=True),
        withdrawn=st.booleans(),
        seen=st.booleans(),
    )
    def correct(self, name, text: str, log_ids, withdrawn: bool, seen: bool) -> None:
        text = f"answer {text}"
        known = self.runner.run(self.store.get_corrections(withdrawn=True))
        versions = {c.correction_id: c.version for c in known}
        call = self.store.correct(
            text,
            [text],
            "ru",
            log_ids=log_ids,
            correction_id=name,
            withdrawn=withdrawn,
            seen_version=versions.get(name) if seen else None,
        )
        outcome = self.runner.run(call)
        before, now = self.corrections.get(name), (text, frozenset(log_ids), withdrawn)
        unseen = before is not None and not seen and not before[2] and before != now
        told = outcome.replaced
        assert (told is not None) == unseen
        assert told is None or (told.answer, frozenset(told.log_ids)) == before[:2]
        self.corrections[name] = now

    @rule(name=st.sampled_from(NAMES), withdrawn=st.booleans())
    def withdraw(self, name, withdrawn: bool) -> None:
        call = self.store.withdraw(name, withdrawn=withdrawn)
        if name not in self.corrections:
            try:
                self.runner.run(call)
            except UnknownCorrection:
                return
            raise AssertionError("nobody made that correction")
        self.runner.run(call)
        self.corrections[name] = (*self.corrections[name][:2], withdrawn)

    @rule(log_ids=st.lists(dialogues, max_size=3, unique=True), dismissed=st.booleans())
    def dismiss(self, log_ids, dismissed: bool) -> None:
        self.runner.run(self.store.dismiss(log_ids, dismissed))
        self.dismissed = self.dismissed - set(log_ids) | (set(log_ids) if dismissed else set())

    @rule()
    def list_corrections(self) -> None:
        kept = self.runner.run(self.store.get_corrections(withdrawn=True))
        assert {
            c.correction_id: (c.answer, frozenset(c.log_ids), c.withdrawn) for c in kept
        } == self.corrections

    @rule(most=st.sampled_from([2, 1_000]))
    def list_inbox(self, most: int) -> None:
        settled = {i for _, ids, withdrawn in self.corrections.values() for i in ids
                   if not withdrawn}  # fmt: skip
        low = {i for i in self.told if self.rated.get(i, 5) <= 2}
        expected = (self.handed | low) - settled - self.dismissed
        found = self.runner.run(self.store.get_inbox(most))
        assert [c.created_at for c in found] == sorted((c.created_at for c in found), reverse=True)
        ids = {c.log_id for c in found}
        assert len(ids) == len(found) == min(most, len(expected))
        assert ids <= expected

    @rule(log_id=dialogues, text=texts)
    def add_under_an_id_that_is_taken(self, log_id, text: str) -> None:
        kept = self.runner.run(self.store.add_conversation(log_id, text, text, "s"))
        assert (kept.user_message, kept.ai_response) == self.told[log_id]

    @rule(target=dialogues, text=texts, key=st.sampled_from([b"a" * 16, b"b" * 16, b"c" * 16]))
    def add_under_a_key(self, text: str, key: bytes):
        idempotency = Idempotency(key, b"r" * 16)
        call = self.store.add_conversation(None, text, text, "s", idempotency=idempotency)
        kept = self.runner.run(call)
        if key in self.keys:
            assert kept.log_id == self.keys[key]
            return multiple()
        self.keys[key] = kept.log_id
        self.told[kept.log_id] = (text, text)
        return kept.log_id

    @rule(key=st.sampled_from([b"a" * 16, b"b" * 16, b"c" * 16]))
    def another_request_under_a_key(self, key: bytes) -> None:
        if key not in self.keys:
            return
        other = Idempotency(key, b"R" * 16)
        try:
            self.runner.run(self.store.add_conversation(None, "x", "y", "s", idempotency=other))
        except IdempotencyMismatch:
            return
        raise AssertionError("a used key took another request")

    @rule(log_id=dialogues, rating=ratings)
    def rate(self, log_id, rating: int) -> None:
        outcome = self.runner.run(self.store.update_rating(log_id, rating))
        assert outcome.status == "stored"
        self.rated[log_id] = rating

    @rule(log_ids=st.lists(dialogues, min_size=2, max_size=6), rating=ratings)
    def rate_many_at_once(self, log_ids, rating: int) -> None:
        async def all_at_once() -> None:
            await asyncio.gather(*(self.store.update_rating(i, rating) for i in log_ids))

        self.runner.run(all_at_once())
        self.rated.update(dict.fromkeys(log_ids, rating))

    @rule(target=orphans, rating=ratings)
    def rate_one_that_has_not_arrived(self, rating: int):
        log_id = self.store._ids.issue()
        assert self.runner.run(self.store.update_rating(log_id, rating)).status == "pending"
        self.rated[log_id] = rating
        return log_id

    @rule(target=dialogues, log_id=consumes(orphans), text=texts)
    def it_arrives(self, log_id, text: str):
        self.runner.run(self.store.add_conversation(log_id, text, text, "s"))
        self.told[log_id] = (text, text)
        return log_id

    @rule(name=st.sampled_from(["a.csv", "b.md"]), titles=st.lists(texts, max_size=3, unique=True))
    def replace_knowledge(self, name: str, titles: list[str]) -> None:
        items = [KnowledgeItem(item_id=t, title=t, answer=t) for t in titles]
        changed = self.runner.run(self.store.replace_knowledge(name, items))
        assert changed == (self.knowledge.get(name, []) != titles)
        self.knowledge[name] = titles

    @rule()
    def restart(self) -> None:
        self._close()
        self._open(self.directory.path)

    @rule()
    def kill_and_restart(self) -> None:
        self.lives += 1
        after = self.root / str(self.lives)
        shutil.copytree(self.directory.path, after)
        self._abandon()
        self._open(after)

    @rule(log_id=dialogues)
    def read(self, log_id) -> None:
        found = self.runner.run(self.store.get_conversation(log_id))
        assert found is not None
        assert (found.user_message, found.ai_response) == self.told[log_id]
        assert found.rating == self.rated.get(log_id)

    @rule(least=ratings)
    def list_rated(self, least: int) -> None:
        async def listed():
            return [c.log_id async for c in self.store.get_rated_conversations(least)]

        expected = {i for i in self.told if self.rated.get(i, 0) >= least}
        found = self.runner.run(listed())
        assert len(found) == len(set(found))
        assert set(found) == expected

    @rule()
    def list_knowledge(self) -> None:
        kept = self.runner.run(self.store.get_knowledge())
        expected = {name: titles for name, titles in self.knowledge.items() if titles}
        assert {s.name: [i.title for i in s.items] for s in kept} == expected

    @invariant()
    def totals_are_true(self) -> None:
        if not hasattr(self, "store"):
            return
        stats = self.runner.run(self.store.get_stats())
        rated = [self.rated[i] for i in self.told if i in self.rated]
        told = len(self.told)
        assert (stats.total_interactions, stats.recent) == (told, told), self.store.status()
        assert (stats.rated_interactions, stats.rating_sum) == (len(rated), sum(rated))
        assert len(self.store.in_memory_storage.conversations) <= self.limit

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self._close()
            self.runner.close()
            shutil.rmtree(self.root)
