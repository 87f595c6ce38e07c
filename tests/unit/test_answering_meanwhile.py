"""What comes in while something else is on its way: the answerer over a store of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from audiobot.answering import following
from audiobot.answering.answer import KnowledgeAnswerer
from audiobot.answering.embedding import EmbeddingService, NgramEncoder
from audiobot.answering.following import follow
from audiobot.answering.mind import fitted
from audiobot.answering.weights import load_weights
from audiobot.conversation import ConversationService
from audiobot.domain import KnowledgeItem, Language
from audiobot.errors import StorageUnavailable
from audiobot.ports import ChangeMark, Changes, Completion, Matrix, Passage
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, DialogueIds

_T = TypeVar("_T")
THINGS = "окна лифт снег самокаты мусор подвал краска домофон двор газон полы лампы двери".split()


def known(number: int, question: str, answer: str) -> KnowledgeItem:
    return KnowledgeItem(item_id=f"i{number}", title=question, answer=answer, questions=(question,))


def company() -> list[KnowledgeItem]:
    return [
        known(n, f"Вопрос {thing}?", f"Ответ про {thing} и ещё немного слов о том же самом.")
        for n, thing in enumerate(THINGS)
    ]


class Echo:
    """A language model that says the first passage again."""

    usable = True

    async def complete(
        self, question: str, passages: Sequence[Passage], language: Language
    ) -> Completion:
        return Completion(passages[0].text, "echo", 1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[StorageAdapter]:
    opened = StorageAdapter(DataDirectory(tmp_path / "data"), DialogueIds([b"k" * 32]))
    opened.open()
    await opened.start()
    await opened.replace_knowledge("company.csv", company())
    yield opened
    await opened.close()


@pytest.fixture
async def answerer(store: StorageAdapter) -> AsyncIterator[KnowledgeAnswerer]:
    made = KnowledgeAnswerer(
        store, EmbeddingService(make=NgramEncoder), load_weights(), sample=list
    )
    yield made
    made.close()


async def test_a_start_that_the_database_broke_off_is_made_when_it_is_back(
    store: StorageAdapter, answerer: KnowledgeAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LISTEN_SECONDS", 0.01)
    reads, corrections = 0, store.get_corrections

    async def break_off_once(**options: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads == 1:
            raise StorageUnavailable("database_away")
        return await corrections(**options)

    async def changes(since: ChangeMark | None) -> Changes:
        heard = ChangeMark(at=store.status().since)
        return Changes(mark=heard, reload=since is not None and since.at is None)

    monkeypatch.setattr(store, "get_corrections", break_off_once)
    monkeypatch.setattr(store, "changes", changes)
    with pytest.raises(StorageUnavailable):
        await answerer.start()
    assert (await answerer.answer("Вопрос лифт?", "ru")).outcome == "handed_over"
    listening = asyncio.create_task(follow(store, answerer, ChangeMark()))
    async with asyncio.timeout(30):
        while (await answerer.answer("Вопрос лифт?", "ru")).outcome != "answered":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    listening.cancel()


async def test_what_was_taken_back_is_told_in_no_models_words_while_an_import_runs(
    store: StorageAdapter, answerer: KnowledgeAnswerer
) -> None:
    answerer._language_model = Echo()
    await answerer.start()
    service = ConversationService(store, answerer)
    wrong = "Самокаты вывозит хозяин за тысячу рублей, это неверно."
    kept = await service.correct(wrong, ["Кто вывозит самокаты?"])
    asked = "А кто вывозит самокаты со двора?"
    assert (await service.process(asked, None, "ru")).ai_response == wrong
    async with answerer._refreshing:  # held for minutes by the import of a large knowledge
        await service.withdraw(kept.correction.correction_id, withdrawn=True)
        assert (await service.process(asked, None, "ru")).ai_response != wrong
    await service.settle()


async def test_each_turn_names_what_was_known_and_learned_when_it_was_answered(
    store: StorageAdapter, answerer: KnowledgeAnswerer
) -> None:
    await answerer.start()
    service = ConversationService(store, answerer)

    async def versions() -> dict[str, str]:
        told = await service.process("Вопрос лифт?", None, "ru")
        assert answerer.version.split()[1:] == [*told.versions.values()][2:]
        return told.versions

    first = await versions()
    assert await versions() == first
    assert set(first) == {"encoder", "ranking", "knowledge"}
    await service.correct("Самокаты вывозим мы сами по средам утром.", ["Чьи самокаты?"])
    taught = await versions()
    assert taught["knowledge"] != first["knowledge"]
    told = await service.process("Вопрос снег?", None, "ru")
    names = set()
    for rating in (5, 1, 5):
        await service.feedback(told.log_id, rating, None, rater="r")
        await service.settle()
        await answerer._refit()
        names.add((await versions())["learned"])
    assert len(names) == 2
    assert (await versions())["knowledge"] == taught["knowledge"]


async def test_a_rating_that_comes_while_a_mind_is_made_teaches_it(
    store: StorageAdapter, answerer: KnowledgeAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answerer.start()
    service = ConversationService(store, answerer)
    told = await service.process("Вопрос лифт?", None, "ru")
    begun, go_on, fit = threading.Event(), threading.Event(), answerer._fit

    async def slow(work: Callable[[], _T]) -> _T:
        def waits() -> _T:
            begun.set()
            go_on.wait(30)
            return work()

        return await fit(waits)

    monkeypatch.setattr(answerer, "_fit", slow)
    correcting = asyncio.create_task(
        service.correct("Самокаты вывозим мы сами по средам утром.", ["Чьи самокаты?"])
    )
    await asyncio.to_thread(begun.wait, 30)
    await service.feedback(told.log_id, 5, None, rater="r")
    assert service._learning is not None
    await service._learning
    await asyncio.sleep(0.05)  # the head's fit waits for its turn now
    go_on.set()
    await correcting
    assert answerer._learner is not None
    async with asyncio.timeout(30):
        while True:
            mind, snapshot = answerer._mind, answerer._learner.experience.snapshot()
            assert mind is not None
            taught = fitted(mind.known, mind.ranker, snapshot).matrix
            if (
                mind.head is not None
                and taught is not None
                and mind.known.taught
                and np.allclose(mind.head, taught, atol=1e-6)
            ):
                break
            await asyncio.sleep(0.02)
    await service.settle()


async def test_a_preview_waits_for_no_knowledge_that_is_still_coming_in(
    store: StorageAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Slow(NgramEncoder):
        name = "slow"

        def query(self, texts: Sequence[str]) -> Matrix:
            if any(text.startswith("Новый вопрос") for text in texts):
                begun.set()
                go_on.wait(30)
            return super().query(texts)

        passage = query

    answerer = KnowledgeAnswerer(store, EmbeddingService(make=Slow), load_weights(), sample=list)
    await answerer.start()
    coming = [known(n, f"Новый вопрос {n}?", f"Новый ответ {n} обо всём.") for n in range(99, 400)]
    await store.replace_knowledge("coming.csv", coming)
    importing = asyncio.create_task(answerer.refresh())
    await asyncio.to_thread(begun.wait, 30)
    service = ConversationService(store, answerer)
    looking = asyncio.create_task(
        service.preview("Лифт моют каждый день утром.", ["Моют ли лифт?"])
    )
    await asyncio.sleep(0.2)
    assert answerer._embedding.waiting <= 1, "a person's question would wait behind all of it"
    go_on.set()
    await importing
    await looking
    answerer.close()


async def test_ratings_that_are_out_of_reach_when_they_are_heard_of_are_heard_of_again(
    store: StorageAdapter, answerer: KnowledgeAnswerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answerer.start()
    told = await ConversationService(store, answerer).process("Вопрос лифт?", None, "ru")
    await store.update_rating(told.log_id, 5, None, rater="r")
    found, status = store.get_conversation, store.status

    async def nothing(log_id: object) -> None:
        return None

    monkeypatch.setattr(store, "get_conversation", nothing)
    await answerer.learn([told.log_id])  # it is nowhere, and nothing is out of reach
    away = msgspec.structs.replace(status(), complete=False)
    monkeypatch.setattr(store, "status", lambda: away)
    with pytest.raises(StorageUnavailable):
        await answerer.learn([told.log_id])
    monkeypatch.setattr(store, "get_conversation", found)
    monkeypatch.setattr(store, "status", status)
    await answerer.learn([told.log_id])
    assert answerer._learner is not None
    assert len(answerer._learner.experience.recall) == 1
