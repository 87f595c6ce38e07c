"""The use case of teaching: what an operator says becomes a correction, taken up within a bound."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest

from audiobot import conversation as module
from audiobot.conversation import ConversationService
from audiobot.domain import Correction, CorrectionOutcome, utc_now
from audiobot.errors import InvalidValue, StorageUnavailable, UnknownDialogue
from tests.unit.test_conversation import Recorder


class Desk(Recorder):
    """A store and an answerer that also hear of corrections."""

    def __init__(self) -> None:
        super().__init__()
        self.corrections: list[dict[str, Any]] = []
        self.in_force: list[Correction] = []
        self.refreshing: list[Any] = []
        self.refreshed = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def correct(self, answer: str, wordings: Any, language: Any, **more: Any) -> Any:
        self.calls.append("correct")
        said = {"answer": answer, "wordings": list(wordings), "language": language, **more}
        self.corrections.append(said)
        return CorrectionOutcome(correction=made(answer, more["correction_id"]))

    async def get_corrections(self) -> list[Correction]:
        return self.in_force

    async def withdraw(self, correction_id: uuid.UUID, *, withdrawn: bool) -> CorrectionOutcome:
        self.calls.append("withdraw" if withdrawn else "restore")
        return CorrectionOutcome(correction=made("a", correction_id))

    async def get_inbox(self, most: int) -> list[Any]:
        self.calls.append(f"inbox {most}")
        return [f"turn {most}"]

    def newest_at_hand(self, most: int) -> list[Any]:
        self.calls.append(f"at hand {most}")
        return [f"held {most}"]

    async def group(self, turns: list[Any]) -> list[Any]:
        self.calls.append("group")
        return ["grouped", *turns]

    async def preview(self, *given: Any) -> Any:
        self.calls.append("preview")
        return given

    async def take_corrections(self) -> None:
        self.calls.append("take up")
        await self.gate.wait()
        if self.refreshing:
            raise self.refreshing.pop(0)
        self.refreshed += 1


def made(answer: str, correction_id: uuid.UUID) -> Correction:
    return Correction(
        correction_id=correction_id, answer=answer, wordings=("q",), language="ru",
        corrected_at=utc_now(), version=1,
    )  # fmt: skip


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def service(desk: Desk) -> ConversationService:
    return ConversationService(desk, desk)  # type: ignore[arg-type]


async def test_an_operators_answer_is_a_correction_kept_and_taken_up_before_its_rating(
    service: ConversationService, desk: Desk
) -> None:
    told = await service.process("Сколько стоит?", "s", "ru")
    desk.calls.clear()
    await service.feedback(
        told.log_id, 1, None, corrected_response="Полторы тысячи.", by_operator=True
    )
    await service.settle()
    assert desk.calls == ["correct", "take up", "rate", "learn"]
    (said,) = desk.corrections
    assert (said["answer"], said["wordings"]) == ("Полторы тысячи.", ["Сколько стоит?"])
    assert (said["language"], said["log_ids"]) == ("ru", [told.log_id])
    await service.feedback(told.log_id, 1, None, corrected_response="Две.", by_operator=True)
    assert desk.corrections[1]["correction_id"] == said["correction_id"]
    other = await service.process("Сколько стоит?", "s", "ru")
    await service.feedback(other.log_id, 1, None, corrected_response="Две.", by_operator=True)
    assert desk.corrections[2]["correction_id"] != said["correction_id"]


async def test_a_customers_answer_is_no_correction(
    service: ConversationService, desk: Desk
) -> None:
    told = await service.process("Сколько стоит?", "s", "ru")
    for text in ("Полторы тысячи.", told.ai_response):
        await service.feedback(told.log_id, 1, None, corrected_response=text)
    assert desk.corrections == []


async def test_the_answer_to_a_turn_out_of_reach_is_kept_with_its_id(
    service: ConversationService, desk: Desk
) -> None:
    log_id = uuid.uuid4()
    desk.dialogues[log_id] = None  # type: ignore[assignment]
    await service.feedback(log_id, 1, None, corrected_response="Полторы.", by_operator=True)
    (said,) = desk.corrections
    assert (said["wordings"], said["log_ids"], said["language"]) == ([], [log_id], "ru")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (" re: Сколько стоит? \n", "correction_same"),
        ("x" * 4_001, "text_too_long"),
        ("a\x00", "text_has_nul"),
        ("Only on working days", "correction_language"),
    ],
)
async def test_a_bad_answer_is_refused_with_its_rating(
    service: ConversationService, desk: Desk, text: str, code: str
) -> None:
    told = await service.process("Сколько стоит?", "s", "ru")
    with pytest.raises(InvalidValue) as refused:
        await service.feedback(told.log_id, 1, None, corrected_response=text, by_operator=True)
    assert refused.value.code == code
    assert desk.calls == ["look up", "answer", "add"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Какой тариф?", "Standard Plus"), ("Какой сайт?", "Standard — тариф на год вперёд"),
        ("Когда?", "24/7"), ("Почём?", "1 500 ₽"), ("How much?", "Only 5 a day"),
        ("???", "да, всё так"),
    ],
)  # fmt: skip
async def test_names_numbers_and_words_of_both_languages_are_no_other_language(
    service: ConversationService, desk: Desk, question: str, answer: str
) -> None:
    await service.correct(answer, [question])
    assert desk.corrections[0]["answer"] == answer


async def test_an_id_that_nobody_issued_is_unknown_before_anything_is_kept(
    service: ConversationService, desk: Desk
) -> None:
    log_id = uuid.uuid4()
    desk.dialogues[log_id] = UnknownDialogue("unknown_dialogue")
    with pytest.raises(UnknownDialogue):
        await service.feedback(log_id, 1, None, corrected_response="Да.", by_operator=True)
    assert desk.calls == []


async def test_who_answers_one_group_or_one_question_unknowing_of_each_other_writes_in_one_place(
    service: ConversationService, desk: Desk
) -> None:
    group, other = uuid.uuid4(), uuid.uuid4()
    await service.correct("Раз.", ["Сколько?"], log_ids=[group, other])
    await service.correct("Два.", ["Сколько это?"], log_ids=[group])
    await service.correct("Три.", ["Сколько?"], log_ids=[other])
    await service.correct("Раз.", ["Где  вы?"])
    await service.correct("Два.", ["где вы?", "адрес"])
    await service.correct("Два.", ["адрес"])
    named = uuid.uuid4()
    await service.correct("Два.", ["адрес"], correction_id=named)
    ids = [said["correction_id"] for said in desk.corrections]
    assert ids[0] == ids[1]
    assert ids[3] == ids[4]
    assert ids[6] == named
    assert len(set(ids)) == 5


async def test_the_language_is_the_questions_unless_it_is_said(
    service: ConversationService, desk: Desk
) -> None:
    for answer, wordings, language in [
        ("Yes.", ["do you?"], None),
        ("Да.", ["123", "моете?"], None),
        ("Yes.", ["123"], None),
        ("Only on working days", ["когда?"], "en"),
    ]:
        await service.correct(answer, wordings, language=language)  # type: ignore[arg-type]
    assert [said["language"] for said in desk.corrections] == ["en", "ru", "en", "en"]


async def test_an_operator_waits_for_the_taking_up_but_not_for_long(
    service: ConversationService, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TAKEN_UP_SECONDS", 0.05)
    desk.gate.clear()
    started = time.monotonic()
    await service.withdraw(uuid.uuid4(), withdrawn=True)
    assert time.monotonic() - started < 2
    assert desk.calls == ["withdraw", "take up"]
    assert desk.refreshed == 0
    # None waits for another: the exact words count at once, however long the rest takes.
    await asyncio.gather(*(service.correct("Да.", ["q"]) for _ in range(5)))
    desk.gate.set()
    await service.settle()
    assert desk.refreshed == 6


async def test_a_correction_that_could_not_be_read_is_read_again(
    service: ConversationService, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0)
    desk.refreshing = [StorageUnavailable("database_away"), StorageUnavailable("database_away")]
    await service.correct("Да.", ["q"])
    assert desk.refreshed == 1


async def test_a_taking_up_that_fails_is_reported_and_the_next_one_works(
    service: ConversationService, desk: Desk
) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    desk.refreshing = [RuntimeError("broke")]
    await service.correct("Да.", ["q"])
    await service.correct("Да.", ["q"])
    assert desk.refreshed == 1
    assert len(reported) == 1


async def test_what_every_turn_was_told_already_is_no_correction_of_them(
    service: ConversationService, desk: Desk
) -> None:
    told = [await service.process("Сколько стоит?", "s", "ru") for _ in range(2)]
    other = await service.process("Почём?", "s", "ru")
    same = f" {told[0].ai_response}\n"
    ids = [turn.log_id for turn in told]
    with pytest.raises(InvalidValue) as refused:
        await service.correct(same, ["Сколько стоит?"], log_ids=ids)
    assert refused.value.code == "correction_same"
    assert desk.corrections == []
    for taken in ([*ids, other.log_id], [], [uuid.uuid4()]):
        await service.correct(same, ["Сколько стоит?"], log_ids=taken)
    assert len(desk.corrections) == 3


async def test_a_turn_that_was_never_held_is_for_the_store_to_refuse(
    service: ConversationService, desk: Desk
) -> None:
    log_id = uuid.uuid4()
    desk.dialogues[log_id] = UnknownDialogue("unknown_dialogue")
    await service.correct("Полторы тысячи.", ["Сколько?"], log_ids=[log_id])
    assert desk.calls == ["correct", "take up"]


async def test_what_waits_is_grouped_by_the_answerer(
    service: ConversationService, desk: Desk
) -> None:
    assert await service.inbox_groups(7) == ["grouped", "turn 7"]
    assert desk.calls == ["inbox 7", "group"]


async def test_a_preview_looks_at_the_inbox_and_keeps_nothing(
    service: ConversationService, desk: Desk
) -> None:
    found = await service.preview("Полторы тысячи.", ["Сколько?", "Почём?"])
    assert found == ("Полторы тысячи.", ["Сколько?", "Почём?"], "ru", ["turn 500", "held 2000"])
    assert desk.calls == ["inbox 500", "at hand 2000", "preview"]
    assert (await service.preview("Only by the hour.", ["Сколько?"], "en"))[2] == "en"


@pytest.mark.parametrize(
    ("answer", "wordings", "code"),
    [
        ("", ["Сколько?"], "text_blank"),
        (" \n", ["Сколько?"], "text_blank"),
        ("ы" * 4_001, ["Сколько?"], "text_too_long"),
        ("ы\x00", ["Сколько?"], "text_has_nul"),
        ("Полторы.", [], "text_blank"),
        ("Полторы.", [" "], "text_blank"),
        ("Полторы.", ["ы" * 2_001], "text_too_long"),
        ("Полторы.", ["ы"] * 51, "list_too_long"),
        ("Only by the hour", ["Сколько?"], "correction_language"),
    ],
)
async def test_a_preview_refuses_what_would_be_refused(
    service: ConversationService, desk: Desk, answer: str, wordings: list[str], code: str
) -> None:
    with pytest.raises(InvalidValue) as refused:
        await service.preview(answer, wordings)
    assert refused.value.code == code
    assert desk.calls == []
