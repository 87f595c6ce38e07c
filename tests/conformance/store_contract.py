"""The contract of a Store, sentence by sentence; every store joins by a subclass.

A subclass gives ``open_store`` (an opened store over ``place``) and ``raw_dialogues`` (what lies
there, read past the store).
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiobot.domain import (
    MAX_SESSION_ID,
    Conversation,
    Embedding,
    Idempotency,
    KnowledgeItem,
    ModelMetrics,
)
from audiobot.errors import (
    IdempotencyMismatch,
    InvalidValue,
    UnknownCorrection,
    UnknownDialogue,
)
from audiobot.ports import Reply, Store

TRICKY = [
    "ё́ — «кавычки», №5 и 50 ₽",
    "👩‍👩‍👧 emoji, \u202eRTL\u202c, \u2028 and \u2029",
    "line\r\nfeeds\tand tabs",
    "'; DROP TABLE voice_logs; --",
    " leading and trailing ",
    "\ufeffBOM, \x01control, \x7f",
]


def vector(seed: int) -> Embedding:
    numbers = np.random.default_rng(seed).normal(size=8).astype("<f4")
    return Embedding(numbers.tobytes(), 8, "test-8")


class StoreContract:
    """What ports.Store promises; ``complete`` is whether its totals cover everything."""

    complete = True

    async def open_store(self, place: Path) -> Store:
        raise NotImplementedError

    async def close_store(self, store: Store) -> None:
        raise NotImplementedError

    async def raw_dialogues(self, place: Path) -> dict[uuid.UUID, int | None]:
        """Every dialogue that lies at ``place`` with its current rating, read past the store."""
        raise NotImplementedError

    async def raw_rating_count(self, place: Path) -> int:
        """How many ratings lie at ``place``, those that no longer count included."""
        raise NotImplementedError

    def genuine_id(self, store: Store) -> uuid.UUID:
        """An id that AudioBot issued, of a dialogue that never arrived."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        opened = await self.open_store(tmp_path)
        yield opened
        await self.close_store(opened)

    # -- adding ------------------------------------------------------------------------------

    @pytest.mark.parametrize("text", TRICKY)
    async def test_g01_what_is_added_is_read_back_to_the_letter(self, store: Store, text: str):
        reply = Reply(
            text=text, model_used="retrieval", language="en", similar_found=2, token_count=7,
            versions={"encoder": "e"}, embedding=vector(1),
        )  # fmt: skip
        kept = await store.add_conversation(
            None, text, text, text[:200], reply=reply, response_time=0.25
        )
        assert (kept.user_message, kept.ai_response, kept.session_id) == (text, text, text[:200])
        assert (kept.response_time, kept.token_count, kept.rating) == (0.25, 7, None)
        assert await store.get_conversation(kept.log_id) == kept

    async def test_g06_the_first_dialogue_under_an_id_wins_and_another_is_counted(
        self, store: Store
    ):
        first = await store.add_conversation(None, "first", "a", "s")
        again = await store.add_conversation(first.log_id, "second", "b", "s")
        assert again == first
        assert await store.get_conversation(first.log_id) == first
        assert (await store.get_stats()).total_interactions == 1

    async def test_g05_a_cancelled_caller_neither_undoes_nor_tears_a_write(self, store: Store):
        ids = [(await store.add_conversation(None, "q", "a", "s")).log_id for _ in range(2)]
        tasks = [asyncio.create_task(store.update_rating(i, 5)) for i in ids]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        await store.update_rating(ids[1], 4)  # whatever was handed in before this is committed
        assert (await store.get_stats()).rated_interactions in (1, 2)
        found = [await store.get_conversation(i) for i in ids]
        assert found[0] is not None
        assert found[0].rating in (None, 5)

    # -- bad values --------------------------------------------------------------------------

    @pytest.mark.parametrize("bad", ["\x00", "a\x00b", "\ud800", "x\udfff"])
    @pytest.mark.parametrize("field", ["message", "response", "session", "feedback"])
    async def test_g04_text_that_no_store_could_take_is_refused_and_nothing_is_written(
        self, store: Store, tmp_path: Path, field: str, bad: str
    ):
        values = {"message": "m", "response": "r", "session": "s", "feedback": "f", field: bad}
        kept = await store.add_conversation(None, "m", "r", "s")
        with pytest.raises(InvalidValue):
            if field == "feedback":
                await store.update_rating(kept.log_id, 5, values["feedback"])
            else:
                await store.add_conversation(
                    None, values["message"], values["response"], values["session"]
                )
        assert await self.raw_dialogues(tmp_path) == {kept.log_id: None}

    async def test_g04_text_over_its_limit_is_refused(self, store: Store):
        for message, response, session in [
            ("м" * 2_001, "", ""),
            ("", "r" * 8_001, ""),
            ("", "", "s" * 201),
        ]:
            with pytest.raises(InvalidValue):
                await store.add_conversation(None, message, response, session)

    @pytest.mark.parametrize("rating", [0, 6, -1, True, 4.0, "5", None])
    async def test_g04_a_rating_that_is_no_whole_number_from_1_to_5_is_refused(
        self, store: Store, rating: object
    ):
        kept = await store.add_conversation(None, "m", "r", "s")
        with pytest.raises(InvalidValue):
            await store.update_rating(kept.log_id, rating)  # type: ignore[arg-type]
        assert (await store.get_stats()).rated_interactions == 0

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
    async def test_g04_a_vector_that_is_not_finite_is_refused(self, store: Store, number: float):
        broken = Embedding(np.array([1.0, number], dtype="<f4").tobytes(), 2, "m")
        with pytest.raises(InvalidValue):
            await store.add_conversation(
                None, "m", "r", "s", reply=Reply(text="r", embedding=broken)
            )

    async def test_g04_a_vector_of_another_size_than_it_says_is_refused(self, store: Store):
        broken = Embedding(b"\0" * 8, 3, "m")
        with pytest.raises(InvalidValue):
            await store.add_conversation(
                None, "m", "r", "s", reply=Reply(text="r", embedding=broken)
            )

    # -- rating ------------------------------------------------------------------------------

    async def test_g07_the_newest_rating_counts_and_every_rating_is_kept(
        self, store: Store, tmp_path: Path
    ):
        kept = await store.add_conversation(None, "m", "r", "s")
        for rating in (5, 1, 3):
            outcome = await store.update_rating(kept.log_id, rating, f"because {rating}")
            assert (outcome.status, outcome.rating) == ("stored", rating)
        now = await store.get_conversation(kept.log_id)
        assert now is not None
        assert (now.rating, now.feedback_text) == (3, "because 3")
        assert now.updated_at is not None
        assert await self.raw_dialogues(tmp_path) == {kept.log_id: 3}
        assert await self.raw_rating_count(tmp_path) == 3

    async def test_g07_versions_of_concurrent_ratings_never_tie(self, store: Store):
        kept = await store.add_conversation(None, "m", "r", "s")
        outcomes = await asyncio.gather(
            *(store.update_rating(kept.log_id, 1 + i % 5) for i in range(50))
        )
        assert len({o.version for o in outcomes}) == 50
        newest = max(outcomes, key=lambda o: o.version)
        now = await store.get_conversation(kept.log_id)
        assert now is not None
        assert now.rating == newest.rating

    async def test_g10_a_rating_of_a_genuine_id_out_of_reach_is_pending_and_joins_later(
        self, store: Store
    ):
        log_id = self.genuine_id(store)
        assert (await store.update_rating(log_id, 5, "early")).status == "pending"
        assert await store.get_conversation(log_id) is None
        assert (await store.get_stats()).rated_interactions == 0
        await store.add_conversation(log_id, "late", "answer", "s")
        now = await store.get_conversation(log_id)
        assert now is not None
        assert (now.user_message, now.rating, now.feedback_text) == ("late", 5, "early")
        assert (await store.get_stats()).positive_ratings == 1

    @pytest.mark.parametrize("forged", [uuid.uuid4(), uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)])
    async def test_g10_an_id_that_was_never_issued_is_unknown(
        self, store: Store, forged: uuid.UUID
    ):
        with pytest.raises(UnknownDialogue):
            await store.update_rating(forged, 5)
        with pytest.raises(UnknownDialogue):
            await store.get_conversation(forged)

    async def test_a_dialogue_handed_over_is_said_to_be_no_answer(self, store: Store):
        reply = Reply(text="r", outcome="handed_over", model_used="handover")
        kept = await store.add_conversation(None, "m", "r", "s", reply=reply)
        assert not (await store.update_rating(kept.log_id, 5)).answered

    # -- idempotency keys ----------------------------------------------------------------------

    async def test_g06_the_same_key_and_request_give_the_first_dialogue(self, store: Store):
        key = Idempotency(b"k" * 16, b"r" * 16)
        first = await store.add_conversation(None, "m", "r", "s", idempotency=key)
        again = await store.add_conversation(None, "m", "other", "s", idempotency=key)
        assert again == first
        assert await store.find_reply(key) == first
        assert (await store.get_stats()).total_interactions == 1

    async def test_g06_twenty_at_once_under_one_key_make_one_dialogue(self, store: Store):
        key = Idempotency(b"k" * 16, b"r" * 16)
        kept = await asyncio.gather(
            *(store.add_conversation(None, "m", str(i), "s", idempotency=key) for i in range(20))
        )
        assert len({c.log_id for c in kept}) == 1
        assert (await store.get_stats()).total_interactions == 1

    async def test_g06_the_same_key_with_another_request_is_refused(self, store: Store):
        key, other = Idempotency(b"k" * 16, b"r" * 16), Idempotency(b"k" * 16, b"R" * 16)
        await store.add_conversation(None, "m", "r", "s", idempotency=key)
        with pytest.raises(IdempotencyMismatch):
            await store.add_conversation(None, "n", "r", "s", idempotency=other)
        with pytest.raises(IdempotencyMismatch):
            await store.find_reply(other)
        assert (await store.get_stats()).total_interactions == 1

    async def test_g06_a_repeated_rating_under_its_key_is_one_rating(
        self, store: Store, tmp_path: Path
    ):
        kept = await store.add_conversation(None, "m", "r", "s")
        key = Idempotency(b"q" * 16, b"r" * 16)
        first = await store.update_rating(kept.log_id, 4, idempotency=key)
        await store.update_rating(kept.log_id, 2)
        assert await store.update_rating(kept.log_id, 4, idempotency=key) == first
        assert await self.raw_dialogues(tmp_path) == {kept.log_id: 2}
        assert await store.find_reply(Idempotency(b"none" * 4, b"r" * 16)) is None

    # -- totals and lists ----------------------------------------------------------------------

    async def test_g09_statistics_equal_a_recount_after_random_operations(
        self, store: Store, tmp_path: Path
    ):
        chance = random.Random(7)
        ids: list[uuid.UUID] = []
        for step in range(300):
            if not ids or chance.random() < 0.5:
                ids.append((await store.add_conversation(None, f"m{step}", "r", "s")).log_id)
            else:
                await store.update_rating(chance.choice(ids), chance.randint(1, 5))
            if step % 60 == 59:
                await self.check_totals(store, tmp_path)

    async def check_totals(self, store: Store, place: Path) -> None:
        ratings = [r for r in (await self.raw_dialogues(place)).values()]
        rated = [r for r in ratings if r is not None]
        stats = await store.get_stats()
        assert stats.total_interactions == stats.recent == len(ratings)
        assert (stats.rated_interactions, stats.rating_sum) == (len(rated), sum(rated))
        assert stats.positive_ratings == stats.recent_positive == sum(r >= 4 for r in rated)
        assert stats.negative_ratings == sum(r <= 2 for r in rated)
        assert stats.complete == self.complete

    async def test_an_empty_store_has_zeros_and_lists_nothing(self, store: Store):
        stats = await store.get_stats()
        assert (stats.total_interactions, stats.avg_rating, stats.improvement_rate) == (0, 0.0, 0.0)
        assert [c async for c in store.get_rated_conversations(1)] == []
        assert await store.get_knowledge() == []

    async def test_rated_dialogues_come_oldest_first_from_the_rating_asked_for(self, store: Store):
        kept: list[Conversation] = []
        for i in range(600):  # over two pages
            kept.append(await store.add_conversation(None, f"m{i}", "r", "s"))
        await asyncio.gather(
            *(store.update_rating(c.log_id, 1 + i % 5) for i, c in enumerate(kept))
        )
        for least in (1, 4, 5):
            found = [c.user_message async for c in store.get_rated_conversations(least)]
            assert found == [f"m{i}" for i in range(600) if 1 + i % 5 >= least]

    async def test_only_answered_dialogues_are_listed_when_that_is_asked(self, store: Store):
        handed = Reply(text="r", outcome="handed_over", model_used="handover")
        for reply in (handed, Reply(text="r")):
            kept = await store.add_conversation(None, reply.outcome, "r", "s", reply=reply)
            await store.update_rating(kept.log_id, 5)
        answered = [c async for c in store.get_rated_conversations(4, answered=True)]
        assert [c.user_message for c in answered] == ["answered"]
        assert len([c async for c in store.get_rated_conversations(4)]) == 2

    async def test_the_newest_handed_over_dialogues_are_listed_newest_first(self, store: Store):
        handed = Reply(text="r", outcome="handed_over", model_used="handover")
        for i in range(6):
            reply = handed if i % 2 else Reply(text="r")
            await store.add_conversation(None, f"m{i}", "r", "s", reply=reply)
        assert [c.user_message for c in await store.get_handed_over(2)] == ["m5", "m3"]
        assert await self.unanswered(store) == ["m5", "m3", "m1"]

    async def unanswered(self, store: Store) -> list[str]:
        return [turn.user_message for turn in await store.get_handed_over(9)]

    async def test_what_was_handed_over_is_listed_until_it_is_answered_or_dismissed(
        self, store: Store
    ):
        turns = [await self.handed_over(store, f"q{i}") for i in range(3)]
        rated = await store.add_conversation(None, "rated low", "r", "s")
        await store.update_rating(rated.log_id, 1)
        kept = (await store.correct("a", ["q"], "ru", log_ids=[turns[0].log_id])).correction
        await store.dismiss([turns[1].log_id])
        assert await self.unanswered(store) == ["q2"]
        await store.withdraw(kept.correction_id)
        await store.dismiss([turns[1].log_id], False)
        assert await self.unanswered(store) == ["q2", "q1", "q0"]

    async def test_the_newest_rated_dialogues_come_oldest_first(self, store: Store):
        for i in range(6):
            kept = await store.add_conversation(None, f"m{i}", "r", "s")
            await store.update_rating(kept.log_id, 5 if i != 4 else 1)
        found = [c.user_message async for c in store.get_rated_conversations(4, newest=2)]
        assert found == ["m3", "m5"]
        assert len([c async for c in store.get_rated_conversations(4, newest=50)]) == 5

    async def test_the_rater_of_the_rating_that_counts_goes_along(self, store: Store):
        kept = await store.add_conversation(None, "m", "r", "s")
        for rater in ("one", "two"):
            await store.update_rating(kept.log_id, 5, rater=rater)
        now = await store.get_conversation(kept.log_id)
        assert now is not None
        assert now.rater == "two"
        assert [c.rater async for c in store.get_rated_conversations(4)] == ["two"]

    async def test_vectors_come_back_to_the_byte(self, store: Store):
        for seed in range(20):
            reply = Reply(text="r", embedding=vector(seed))
            kept = await store.add_conversation(None, "m", "r", "s", reply=reply)
            found = await store.get_conversation(kept.log_id)
            assert found is not None
            assert found.embedding == vector(seed)

    # -- knowledge -----------------------------------------------------------------------------

    async def test_knowledge_is_replaced_source_by_source_and_unchanged_is_no_change(
        self, store: Store
    ):
        def item(name: str) -> KnowledgeItem:
            return KnowledgeItem(item_id=name, title=name, answer=f"{name} ₽", questions=(name,))

        assert await store.replace_knowledge("a.csv", [item("1"), item("2")])
        assert await store.replace_knowledge("b.csv", [item("3")])
        assert not await store.replace_knowledge("a.csv", [item("1"), item("2")])
        assert await store.replace_knowledge("a.csv", [item("2")])
        kept = {s.name: [i.item_id for i in s.items] for s in await store.get_knowledge()}
        assert kept == {"a.csv": ["2"], "b.csv": ["3"]}
        await store.replace_knowledge("b.csv", [])
        assert [s.name for s in await store.get_knowledge()] == ["a.csv"]

    # -- corrections ---------------------------------------------------------------------------

    @pytest.mark.parametrize("text", TRICKY)
    async def test_g01_a_correction_is_read_back_to_the_letter(self, store: Store, text: str):
        turn = await store.add_conversation(None, "q", "a", "s")
        kept = (await store.correct(text, [text, "q"], "en", log_ids=[turn.log_id])).correction
        assert (kept.answer, kept.wordings, kept.language) == (text, (text, "q"), "en")
        assert (kept.log_ids, kept.withdrawn) == ((turn.log_id,), False)
        assert await store.get_corrections() == [kept]

    async def test_g07_the_later_of_two_corrections_counts_and_the_earlier_is_told(
        self, store: Store
    ):
        first = await store.correct("one", ["q"], "ru")
        assert first.replaced is None
        name, seen = first.correction.correction_id, first.correction.version
        second = await store.correct("two", ["q"], "ru", correction_id=name, seen_version=seen)
        assert second.replaced is None  # its author saw what was there
        third = await store.correct("three", ["q"], "ru", correction_id=name, seen_version=seen)
        assert third.replaced == second.correction
        blind = await store.correct("four", ["q"], "ru", correction_id=name)
        assert blind.replaced == third.correction
        same = await store.correct("four", ["q"], "ru", correction_id=name)
        assert same.replaced is None  # it says the same
        versions = [o.correction.version for o in (first, second, third, blind, same)]
        assert versions == sorted(set(versions))
        assert [c.answer for c in await store.get_corrections()] == ["four"]

    async def test_g07_of_corrections_at_once_the_highest_version_counts_and_each_is_told(
        self, store: Store
    ):
        name = uuid.uuid4()
        outcomes = await asyncio.gather(
            *(store.correct(f"{i}", ["q"], "ru", correction_id=name) for i in range(8))
        )
        last = max(outcomes, key=lambda o: o.correction.version)
        assert await store.get_corrections() == [last.correction]
        told = {o.replaced.answer for o in outcomes if o.replaced is not None}
        assert told == {o.correction.answer for o in outcomes} - {last.correction.answer}

    async def test_a_correction_is_withdrawn_and_counts_again(self, store: Store):
        kept = (await store.correct("a", ["q"], "ru")).correction
        gone = (await store.withdraw(kept.correction_id)).correction
        assert (gone.withdrawn, gone.answer) == (True, "a")
        assert gone.version > kept.version
        assert await store.get_corrections() == []
        assert await store.get_corrections(withdrawn=True) == [gone]
        again = (await store.withdraw(kept.correction_id, withdrawn=False)).correction
        assert await store.get_corrections() == [again]
        assert (again.answer, again.wordings, again.withdrawn) == ("a", ("q",), False)
        assert (await store.withdraw(kept.correction_id, withdrawn=False)).correction == again
        with pytest.raises(UnknownCorrection):
            await store.withdraw(uuid.uuid4())

    async def test_corrections_come_oldest_version_first(self, store: Store):
        kept = [(await store.correct(f"{i}", ["q"], "ru")).correction for i in range(3)]
        name = kept[0].correction_id
        kept.append((await store.correct("later", ["q"], "ru", correction_id=name)).correction)
        assert await store.get_corrections() == kept[1:]

    @pytest.mark.parametrize(
        ("answer", "wordings"),
        [
            ("", ["q"]), (" \n", ["q"]), ("x" * 4_001, ["q"]), ("a\x00", ["q"]), ("\ud800", ["q"]),
            ("a", []), ("a", ["q"] * 51), ("a", ["q", ""]), ("a", ["x" * 2_001]), ("a", ["\udfff"]),
            ("a", ["\x00"]),
        ],
    )  # fmt: skip
    async def test_g04_a_correction_that_no_store_could_take_is_refused(
        self, store: Store, answer: str, wordings: list[str]
    ):
        kept = (await store.correct("in force", ["q"], "ru")).correction
        with pytest.raises(InvalidValue):
            await store.correct(answer, wordings, "ru", correction_id=kept.correction_id)
        assert await store.get_corrections() == [kept]

    async def test_the_longest_correction_is_taken(self, store: Store):
        wordings = [f"{i}" + "ы" * 1_990 for i in range(50)]
        kept = (await store.correct("ы" * 4_000, wordings, "ru")).correction
        assert await store.get_corrections() == [kept]

    async def test_a_correction_without_wordings_answers_the_question_of_its_turn_once_it_is_there(
        self, store: Store
    ):
        log_id = self.genuine_id(store)
        await store.correct("a", [], "ru", log_ids=[log_id])
        assert await store.get_corrections() == []
        reply = Reply(text="r", language="en")
        await store.add_conversation(log_id, "how much?", "r", "s", reply=reply)
        (found,) = await store.get_corrections()
        assert (found.answer, found.wordings, found.language) == ("a", ("how much?",), "en")

    # -- what waits for an operator --------------------------------------------------------------

    async def handed_over(self, store: Store, question: str) -> Conversation:
        reply = Reply(text="r", outcome="handed_over", model_used="handover")
        return await store.add_conversation(None, question, "r", "s", reply=reply)

    async def waiting(self, store: Store, most: int = 100) -> list[str]:
        return [turn.user_message for turn in await store.get_inbox(most)]

    async def test_turns_handed_over_or_rated_low_wait_newest_first(self, store: Store):
        await self.handed_over(store, "handed over")
        asked = Reply(text="r", outcome="asked")
        await store.add_conversation(None, "asked back", "r", "s", reply=asked)
        for rating in (1, 2, 3, 5):
            kept = await store.add_conversation(None, f"rated {rating}", "r", "s")
            await store.update_rating(kept.log_id, rating)
        praised = await self.handed_over(store, "handed over, and thanked for")
        await store.update_rating(praised.log_id, 5)
        await store.add_conversation(None, "unrated", "r", "s")
        expected = ["handed over, and thanked for", "rated 2", "rated 1", "handed over"]
        assert await self.waiting(store) == expected
        assert await self.waiting(store, 2) == expected[:2]
        assert len(await store.get_handed_over(9)) == 2

    async def test_a_turn_that_is_rated_well_after_all_waits_no_more(self, store: Store):
        kept = await store.add_conversation(None, "q", "r", "s")
        await store.update_rating(kept.log_id, 1)
        (waiting,) = await store.get_inbox(10)
        assert (waiting.log_id, waiting.rating) == (kept.log_id, 1)
        await store.update_rating(kept.log_id, 4)
        assert await self.waiting(store) == []

    async def test_a_turn_waits_until_a_correction_settles_it_and_again_when_it_does_no_more(
        self, store: Store
    ):
        one, two = [await self.handed_over(store, f"q{i}") for i in (1, 2)]
        both = [one.log_id, two.log_id]
        kept = (await store.correct("a", ["q"], "ru", log_ids=both)).correction
        assert await self.waiting(store) == []
        await store.withdraw(kept.correction_id)
        assert await self.waiting(store) == ["q2", "q1"]
        await store.withdraw(kept.correction_id, withdrawn=False)
        assert await self.waiting(store) == []
        other = (await store.correct("b", ["q"], "ru", log_ids=[two.log_id])).correction
        await store.correct(
            "a", ["q"], "ru", log_ids=[one.log_id], correction_id=kept.correction_id
        )
        assert await self.waiting(store) == []  # the other one settles it still
        await store.withdraw(other.correction_id)
        assert await self.waiting(store) == ["q2"]

    async def test_what_is_dismissed_waits_no_more_until_it_is_taken_back(self, store: Store):
        turns = [await self.handed_over(store, f"q{i}") for i in range(3)]
        ids = [turn.log_id for turn in turns]
        assert await store.dismiss(ids[:2]) == 2
        assert await self.waiting(store) == ["q2"]
        assert await store.dismiss(ids[1:], False) == 2
        assert await self.waiting(store) == ["q2", "q1"]
        assert await store.dismiss([]) == 0
        assert await store.dismiss([ids[0], ids[0]]) == 1
        with pytest.raises(InvalidValue):
            await store.dismiss([uuid.uuid4() for _ in range(1_001)])

    async def test_g07_dismissed_and_taken_back_at_once_the_later_counts(self, store: Store):
        turn = await self.handed_over(store, "q")
        for dismissed in (True, False, True):
            await asyncio.gather(
                store.dismiss([turn.log_id], not dismissed),
                store.dismiss([turn.log_id], dismissed),
            )
            assert await self.waiting(store) == ([] if dismissed else ["q"])

    async def test_a_group_answered_and_dismissed_at_once_is_settled(self, store: Store):
        turn = await self.handed_over(store, "q")
        await asyncio.gather(
            store.dismiss([turn.log_id]),
            store.correct("a", ["q"], "ru", log_ids=[turn.log_id]),
        )
        assert await self.waiting(store) == []
        assert [c.answer for c in await store.get_corrections()] == ["a"]

    async def suggestions(self, store: Store) -> list[tuple[str, bool]]:
        return [(s.text, s.quarantined) for s in await store.get_suggestions(10)]

    async def test_a_customers_better_answer_waits_for_an_operator(self, store: Store):
        turns = [await store.add_conversation(None, f"q{i}", "told", "s") for i in range(5)]
        given = ["plain words", "see https://evil.example", " \n", "told", "an operator's"]
        for turn, text in zip(turns, given, strict=True):
            await store.update_rating(
                turn.log_id, 3, corrected_response=text, rater="r",
                by_operator=text == "an operator's",
            )  # fmt: skip
        assert await self.suggestions(store) == [(given[1], True), (given[0], False)]
        first = (await store.get_suggestions(10))[1]
        assert first.conversation.log_id == turns[0].log_id
        assert first.conversation.user_message == "q0"
        assert [s.text for s in await store.get_suggestions(1)] == [given[1]]
        assert await store.get_corrections() == []
        assert await self.waiting(store) == []

    async def test_a_suggestion_is_gone_when_it_is_rejected_or_its_turn_is_corrected(
        self, store: Store
    ):
        turns = [await store.add_conversation(None, f"q{i}", "told", "s") for i in range(2)]
        for turn in turns:
            await store.update_rating(turn.log_id, 1, corrected_response="better")
        later, earlier = await store.get_suggestions(10)
        await store.dismiss([later.op_id])
        assert [s.op_id for s in await store.get_suggestions(10)] == [earlier.op_id]
        assert await self.waiting(store) == ["q1", "q0"]  # it is the words that were rejected
        kept = await store.correct("better", ["q0"], "ru", log_ids=[turns[0].log_id])
        assert await store.get_suggestions(10) == []
        # What comes after the correction waits again.
        await store.update_rating(turns[0].log_id, 2, corrected_response="even better")
        assert await self.suggestions(store) == [("even better", False)]
        await store.withdraw(kept.correction.correction_id)
        assert len(await store.get_suggestions(10)) == 2
        await store.dismiss([later.op_id], False)
        assert len(await store.get_suggestions(10)) == 3

    async def test_what_is_out_of_sight_is_told_of_those_asked_for(self, store: Store):
        turns = [await store.add_conversation(None, f"q{i}", "told", "s") for i in range(3)]
        first, second, third = (turn.log_id for turn in turns)
        assert await store.get_dismissed([]) == set()
        await store.dismiss([first, second, third])
        await store.dismiss([second], False)
        assert await store.get_dismissed([first, second, uuid.uuid4()]) == {first}

    async def test_the_newest_at_hand_come_newest_first(self, store: Store):
        assert store.newest_at_hand(9) == []
        turns = [await store.add_conversation(None, f"q{i}", "told", "s") for i in range(3)]
        await store.update_rating(turns[0].log_id, 5)
        held = store.newest_at_hand(2)
        assert [turn.log_id for turn in held] == [turns[2].log_id, turns[1].log_id][: len(held)]
        assert held

    async def test_a_sessions_newest_dialogue_is_found(self, store: Store):
        assert await store.get_last_of_session("mine") is None
        for question, session in (("q0", "mine"), ("q1", "mine"), ("q2", "other")):
            last = await store.add_conversation(None, question, "r", session)
        newest = await store.get_last_of_session("mine")
        assert newest is not None
        assert newest.user_message == "q1"
        assert await store.get_last_of_session("other") == last
        with pytest.raises(InvalidValue):
            await store.get_last_of_session("s" * (MAX_SESSION_ID + 1))

    async def test_who_asked_hears_what_an_operator_answered_since(self, store: Store):
        mine = [await store.add_conversation(None, f"q{i}", "r", "mine") for i in range(3)]
        other = await store.add_conversation(None, "q", "r", "other")
        assert await store.get_answers("mine", 20) == []
        ids = [mine[0].log_id, mine[2].log_id, other.log_id]
        kept = (await store.correct("a", ["q"], "ru", log_ids=ids)).correction
        found = await store.get_answers("mine", 20)
        assert [(a.log_id, a.question, a.answer) for a in found] == [
            (mine[2].log_id, "q2", "a"), (mine[0].log_id, "q0", "a"),
        ]  # fmt: skip
        assert (found[0].asked_at, found[0].answered_at) == (mine[2].created_at, kept.corrected_at)
        assert len(await store.get_answers("mine", 1)) == 1
        assert await store.get_answers("nobody's", 20) == []
        later = (await store.correct("b", ["q"], "ru", log_ids=[mine[0].log_id])).correction
        assert [a.answer for a in await store.get_answers("mine", 20)] == ["a", "b"]
        await store.withdraw(kept.correction_id)
        assert [a.answer for a in await store.get_answers("mine", 20)] == ["b"]
        await store.withdraw(later.correction_id)
        assert await store.get_answers("mine", 20) == []

    # -- evaluations ---------------------------------------------------------------------------

    @staticmethod
    def metrics(day: int, **more: Any) -> ModelMetrics:
        return ModelMetrics(
            evaluation_id=uuid.UUID(int=day),
            model_version=f"v{day}",
            created_at=datetime(2026, 1, day, 12, 30, tzinfo=UTC),
            **more,
        )

    async def test_evaluations_are_kept_once_and_come_newest_first(self, store: Store):
        full = self.metrics(
            2, avg_rating=4.25, total_interactions=10, positive_ratings=6, negative_ratings=1,
            user_satisfaction=0.6, held_out_accuracy=0.75, is_current_model=True,
            requires_retraining=True, evaluation_period_start=datetime(2026, 1, 1, tzinfo=UTC),
            evaluation_period_end=datetime(2026, 1, 2, tzinfo=UTC),
            details={"arms": [1, 2.5, None, "ё 👩‍👩‍👧"], "curve": {"0": [0.1, 0.2]}},
        )  # fmt: skip
        assert await store.get_evaluations(10) == []
        for done in (full, self.metrics(3), self.metrics(1)):
            await store.add_evaluation(done)
            await store.add_evaluation(self.metrics(done.evaluation_id.int, avg_rating=1.0))
        assert await store.get_evaluations(10) == [self.metrics(3), full, self.metrics(1)]
        assert await store.get_evaluations(1) == [self.metrics(3)]

    async def test_of_evaluations_the_newest_alone_is_of_the_current_model(self, store: Store):
        for day, current in ((2, True), (3, True), (1, True), (4, False)):
            await store.add_evaluation(self.metrics(day, is_current_model=current))
        told = [m.is_current_model for m in await store.get_evaluations(10)]
        assert told == [False, True, False, False]
        await store.add_evaluation(self.metrics(5, is_current_model=True))
        assert [m.is_current_model for m in await store.get_evaluations(2)] == [True, False]

    @pytest.mark.parametrize(
        "bad",
        [
            {"avg_rating": float("nan")}, {"held_out_accuracy": float("inf")},
            {"total_interactions": -1}, {"positive_ratings": 1 << 31},
            {"details": {"x": float("nan")}}, {"details": {"x": 1 << 64}},
            {"details": {"x": "a\x00"}}, {"details": {"x": "\ud800"}}, {"details": {"x": object()}},
            {"details": {"x": "y" * 1_000_001}},
        ],
    )  # fmt: skip
    async def test_g04_an_evaluation_that_no_store_could_take_is_refused(
        self, store: Store, bad: dict[str, Any]
    ):
        with pytest.raises(InvalidValue):
            await store.add_evaluation(self.metrics(1, **bad))
        assert await store.get_evaluations(1) == []

    async def test_status_says_where_dialogues_lie(self, store: Store):
        status = store.status()
        assert status.accepting
        assert status.database_available == store.database_available
