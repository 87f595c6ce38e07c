"""The use case with a store and an answerer that record: order, language, keys, learning."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pytest

from audiobot import conversation
from audiobot.conversation import ConversationService, idempotency_of
from audiobot.domain import Conversation, Idempotency, Language, RatingOutcome, utc_now
from audiobot.errors import (
    IdempotencyMismatch,
    InvalidValue,
    StorageUnavailable,
    UnknownDialogue,
)
from audiobot.ports import Reply


def told_in(language: Language) -> Conversation:
    """A dialogue in this language."""
    return Conversation(
        log_id=uuid.uuid4(),
        user_message="q",
        ai_response="r",
        session_id="s",
        created_at=utc_now(),
        language=language,
    )


class Recorder:
    """A store and an answerer in one: everything that is asked of it is in ``calls``."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.languages: list[Language] = []
        self.kept: dict[bytes, Any] = {}
        self.fail_learning = False
        self.away = 0
        self.learned: list[uuid.UUID] = []
        self.dialogues: dict[uuid.UUID, Conversation | Exception] = {}
        self.last: Conversation | Exception | None = None
        self.slow = False

    async def get_conversation(self, log_id: uuid.UUID) -> Conversation | None:
        found = self.dialogues.get(log_id)
        if isinstance(found, Exception):
            raise found
        return found

    async def answer(self, question: str, language: Language) -> Reply:
        self.calls.append("answer")
        self.languages.append(language)
        return Reply(text=f"re: {question}", language=language)

    async def get_last_of_session(self, session_id: str) -> Conversation | None:
        self.calls.append("look up")
        if self.slow:
            await asyncio.sleep(3600)
        if isinstance(self.last, Exception):
            raise self.last
        return self.last

    def at_hand(self, log_id: uuid.UUID) -> Conversation | None:
        return None

    async def learn(self, log_ids: Sequence[uuid.UUID], *, here: bool) -> None:
        assert here
        self.calls.append("learn")
        if self.fail_learning:
            raise RuntimeError("learning broke")
        self.away -= 1
        if self.away >= 0:
            raise StorageUnavailable("database_away", retry_after=5)
        self.learned += log_ids

    async def find_reply(self, idempotency: Idempotency) -> Any:
        return self.kept.get(idempotency.key)

    async def add_conversation(self, log_id: Any, *words: str, **more: Any) -> Conversation:
        self.calls.append("add")
        made = Conversation(
            log_id=uuid.uuid4(),
            user_message=words[0],
            ai_response=words[1],
            session_id=words[2],
            created_at=utc_now(),
        )
        self.dialogues[made.log_id] = made
        if more["idempotency"]:
            self.kept[more["idempotency"].key] = made
        return made

    async def update_rating(self, log_id: uuid.UUID, rating: int, *_: Any, **more: Any) -> Any:
        self.calls.append("rate")
        return RatingOutcome(
            log_id=log_id, rating=rating, status="stored", version=1, answered=True
        )


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def service(recorder: Recorder) -> ConversationService:
    return ConversationService(recorder, recorder)


async def test_what_is_told_is_stored_before_it_is_told(
    service: ConversationService, recorder: Recorder
) -> None:
    told = await service.process("вопрос", "s", "ru")
    assert recorder.calls == ["look up", "answer", "add"]
    assert (told.user_message, told.ai_response, told.session_id) == ("вопрос", "re: вопрос", "s")


@pytest.mark.parametrize(
    ("message", "session"),
    [
        ("", None),
        (" ", None),
        ("x" * 2_001, None),
        ("a\x00", None),
        ("\ud800", None),
        ("x", "s" * 201),
        ("x", "\x00"),
        ("x", "\udfff"),
    ],
)
async def test_g04_bad_input_reaches_neither_answerer_nor_store(
    service: ConversationService, recorder: Recorder, message: str, session: str | None
) -> None:
    with pytest.raises(InvalidValue):
        await service.process(message, session, "ru")
    assert recorder.calls == []


@pytest.mark.parametrize(
    ("messages", "preferred", "languages"),
    [
        (["Сколько стоит?"], "en", ["ru"]),
        (["How much is it?"], "ru", ["en"]),
        (["???"], "en", ["en"]),
        (["123"], "ru", ["ru"]),
        (["How much is it?", "ок"], "ru", ["en", "en"]),
        (["How much is it?", "привет да"], "ru", ["en", "en"]),
        (["How much is it?", "сколько это стоит"], "ru", ["en", "ru"]),
        (["Сколько стоит?", "ok"], "en", ["ru", "ru"]),
        (["Сколько стоит?", "please answer in English"], "ru", ["ru", "en"]),
        (["Сколько стоит?", "???", "12"], "en", ["ru", "ru", "ru"]),
        (["тариф Standard"], "en", ["ru"]),
    ],
)
async def test_a_session_keeps_its_language_until_three_words_change_it(
    service: ConversationService,
    recorder: Recorder,
    messages: list[str],
    preferred: Language,
    languages: list[Language],
) -> None:
    for message in messages:
        await service.process(message, "s", preferred)
    assert recorder.languages == languages


@pytest.mark.parametrize(
    ("message", "before", "language"),
    [
        ("Wi-Fi?", "ru", "ru"),
        ("???", "en", "en"),
        ("ок", "en", "en"),
        ("Wi-Fi?", None, "en"),
        ("please answer in English", "ru", "en"),
    ],
)
async def test_a_session_that_began_elsewhere_keeps_its_language(
    service: ConversationService,
    recorder: Recorder,
    message: str,
    before: Language | None,
    language: Language,
) -> None:
    recorder.last = told_in(before) if before else None
    await service.process(message, "s", "ru")
    recorder.last = None
    await service.process("ok", "s", "ru")
    assert recorder.languages == [language, language]
    assert recorder.calls.count("look up") == (message != "please answer in English")


@pytest.mark.parametrize("trouble", ["away", "slow"])
async def test_a_question_does_not_wait_for_a_store_that_cannot_tell_its_language(
    service: ConversationService,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    monkeypatch.setattr(conversation, "_LOOK_UP_SECONDS", 0.01)
    recorder.slow = trouble == "slow"
    recorder.last = StorageUnavailable("database_away", retry_after=5)
    await service.process("ok", "s", "ru")
    assert recorder.languages == ["en"]


async def test_nobody_is_asked_about_a_session_that_begins_now(
    service: ConversationService, recorder: Recorder
) -> None:
    await service.process("ok", None, "ru")
    assert recorder.calls == ["answer", "add"]


async def test_sessions_do_not_share_a_language(
    service: ConversationService, recorder: Recorder
) -> None:
    await service.process("How much is it?", "a", "ru")
    await service.process("ок", "b", "ru")
    await service.process("ок", "a", "ru")
    assert recorder.languages == ["en", "ru", "en"]


async def test_a_repeated_request_is_answered_from_the_store_alone(
    service: ConversationService, recorder: Recorder
) -> None:
    first = await service.process("вопрос", None, "ru", "key")
    again = await service.process("вопрос", None, "ru", "key")
    assert again == first
    assert recorder.calls == ["answer", "add"]


async def test_a_rating_learns_and_a_failure_of_learning_is_not_the_raters(
    service: ConversationService, recorder: Recorder
) -> None:
    recorder.fail_learning = True
    outcome, _ = await service.feedback(uuid.uuid4(), 5, None)
    assert outcome.status == "stored"
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    await service.settle()
    assert recorder.calls == ["rate", "learn"]
    assert len(reported) == 1


async def test_a_rating_whose_dialogue_cannot_be_read_just_now_is_learned_in_a_moment(
    service: ConversationService, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "_AGAIN_SECONDS", 0.01)
    first, second = uuid.uuid4(), uuid.uuid4()
    recorder.away = 3
    await service.feedback(first, 5, None)
    await asyncio.sleep(0.005)
    await service.feedback(second, 5, None)
    await service.settle()
    assert recorder.learned == [first, second]


async def test_a_dialogue_that_stays_unreadable_is_given_up_and_reported(
    service: ConversationService, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "_AGAIN_SECONDS", 0)
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    recorder.away = 1_000
    await service.feedback(uuid.uuid4(), 5, None)
    await service.settle()
    assert (len(reported), recorder.calls.count("learn")) == (1, conversation._ATTEMPTS)


async def test_a_rating_under_the_key_of_something_else_is_refused(
    service: ConversationService, recorder: Recorder
) -> None:
    log_id = uuid.uuid4()
    idempotency = idempotency_of("key", "feedback", str(log_id), 5, None, None)
    assert idempotency is not None
    recorder.kept[idempotency.key] = "a turn"
    with pytest.raises(IdempotencyMismatch):
        await service.feedback(log_id, 5, None, idempotency_key="key")
    assert recorder.calls == []


def test_a_key_is_another_for_another_call_and_a_request_for_other_values() -> None:
    first, other_call, other_body = (
        idempotency_of("k", call, *values)
        for call, values in (
            ("process", ("a", None)),
            ("feedback", ("a", None)),
            ("process", ("a", "")),
        )
    )
    assert first is not None
    assert other_call is not None
    assert other_body is not None
    assert first.key != other_call.key
    assert first.key == other_body.key
    assert first.request != other_body.request
    assert idempotency_of(None, "process", "a") is None


async def test_a_dialogues_session_is_known_while_it_is_in_reach_and_its_id_stands_for_it_else(
    service: ConversationService, recorder: Recorder
) -> None:
    told = await service.process("вопрос", "s", "ru")
    assert await service.session_of(told.log_id) == "s"
    for out_of_reach in (None, UnknownDialogue("x"), StorageUnavailable("x")):
        log_id = uuid.uuid4()
        recorder.dialogues[log_id] = out_of_reach
        assert await service.session_of(log_id) == str(log_id)
