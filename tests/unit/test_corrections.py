"""Corrections over knowledge: whose wording it is, and what is terse."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import msgspec
import pytest

from audiobot.answering.corrections import is_terse, lay_over, name_of
from audiobot.answering.words import plain
from audiobot.domain import Correction, KnowledgeItem
from audiobot.proving.company import shipped

pytestmark = pytest.mark.unit
NOW = datetime.now(UTC)
WINDOWS = KnowledgeItem(
    item_id="w", title="Когда моют окна?", answer="Окна моем в мае.",
    questions=("Когда моют окна?", "Окна моете?"),
)  # fmt: skip
RULES = KnowledgeItem(item_id="d", title="Договор: Оплата", answer="Платят до пятого числа.")


def correct(answer: str, *wordings: str, version: int = 1) -> Correction:
    return Correction(
        correction_id=uuid.uuid4(), answer=answer, wordings=wordings, language="ru",
        corrected_at=NOW, version=version,
    )  # fmt: skip


def told(known, question: str) -> str | None:
    found = known.pins.get(("ru", plain(question)))
    return next((i.answer for i in known.items if i.item_id == found), None)


def test_what_has_no_title_is_called_as_it_begins_and_found_by_that_name() -> None:
    long = "Окна на лестнице моем дважды в год, в мае и в сентябре, изнутри и снаружи."
    name = "Окна на лестнице моем дважды в год, в мае и в сентябре,…"
    (item,) = lay_over([], [correct(long, "когда?")]).items
    assert name_of(item) == name
    known = lay_over([], [correct(long, "когда?")])
    assert known.pinned(name, "ru") == known.items[0]
    assert known.pinned(name.upper(), "ru") == known.items[0]
    assert name_of(msgspec.structs.replace(item, answer="Да, раз в год.")) == "Да, раз в год."
    assert name_of(msgspec.structs.replace(item, answer="Да, моем.")) == ""
    assert name_of(msgspec.structs.replace(item, title="Окна")) == "Окна"
    assert name_of(msgspec.structs.replace(item, answer=f"{'x' * 70} да да да")) == ""


def test_told_is_what_operators_said_and_no_name_of_an_answer() -> None:
    known = lay_over(
        [WINDOWS], [correct("Лифт моем по средам утром.", "Здравствуйте, а лифт?", "Лифт моете?")]
    )
    (lift,) = known.taught
    assert known.told_to("а лифт?") == known.told_to("лифт моете") == lift
    assert known.told_to("Лифт моем по средам утром.") is None
    assert known.told_to(WINDOWS.title) is None
    again = lay_over([WINDOWS], [correct("Лифт моем.", "лифт?"), correct("Не моем.", "Лифт?")])
    assert again.by_id[again.told_to("лифт") or ""].answer == "Не моем."


def test_a_new_answer_is_an_item_that_shows_nobodys_words_as_its_title() -> None:
    given = correct("Лифт моем по средам.", "а лифт?")
    known = lay_over([WINDOWS], [given])
    new = known.items[-1]
    assert (new.answer, new.questions, new.title) == ("Лифт моем по средам.", ("а лифт?",), "")
    assert known.taught == {new.item_id: (given.correction_id,)}
    assert told(known, "А ЛИФТ") == "Лифт моем по средам."


def test_an_answer_that_is_known_gets_the_wordings() -> None:
    given = correct("Окна  моем в мае.", "стёкла когда?")
    known = lay_over([WINDOWS, RULES], [given])
    assert len(known.items) == 2
    assert known.items[0].questions == (*WINDOWS.questions, "стёкла когда?")
    assert known.taught == {"w": (given.correction_id,)}


def test_two_corrections_with_one_answer_are_one_item() -> None:
    known = lay_over([], [correct("Да.", "раз"), correct("Да.", "два", version=2)])
    assert [item.questions for item in known.items] == [("раз", "два")]


def test_a_wording_belongs_to_the_last_who_answered_it() -> None:
    first, last = correct("В мае.", "Окна моете?"), correct("В июне.", "окна моете", version=2)
    known = lay_over([WINDOWS], [first, last])
    assert told(known, "Окна моете?") == "В июне."
    by_answer = {item.answer: item.questions for item in known.items}
    assert by_answer["Окна моем в мае."] == ("Когда моют окна?",)
    assert by_answer["В мае."] == ()
    assert by_answer["В июне."] == ("окна моете",)


def test_the_same_words_in_another_language_are_another_question() -> None:
    english = Correction(
        correction_id=uuid.uuid4(), answer="In May.", wordings=("Окна моете?",), language="en",
        corrected_at=NOW, version=1,
    )  # fmt: skip
    known = lay_over([WINDOWS], [english])
    assert known.items[0].questions == WINDOWS.questions


def test_a_passage_is_told_to_who_names_it_unless_an_operator_answered_that() -> None:
    assert told(lay_over([WINDOWS, RULES], []), "договор оплата") == RULES.answer
    known = lay_over([RULES], [correct("До десятого.", "договор: оплата")])
    assert told(known, "Договор: Оплата") == "До десятого."


def test_without_corrections_knowledge_is_what_it_was() -> None:
    known = lay_over([WINDOWS, RULES], [])
    assert known.items == [WINDOWS, RULES]
    assert known.taught == {}


def test_plain_words_are_those_that_matter() -> None:
    assert plain("  Ёлка — ГДЕ?! ") == plain("елка где") == "елка где"


def test_a_terse_answer_is_told_from_a_full_one_on_the_tuning_part() -> None:
    for style, terse in (("full", 0), ("terse", 22)):
        intents = shipped("tuning", style).intents
        assert sum(is_terse(i.answer, i.stream[:1]) for i in intents) == terse


def test_an_answer_that_names_another_topic_is_terse_until_it_is_long() -> None:
    assert is_terse("Делаем так каждую среду после обеда.", ["лифт когда моете"]) is True
    assert is_terse("Лифт в доме моем каждую среду после обеда.", ["лифт когда моете"]) is False


def test_an_answer_to_a_message_without_words_is_not_one_to_all_of_them() -> None:
    known = lay_over([WINDOWS, KnowledgeItem(item_id="t", title="***", answer="Звёзды.")],
                     [correct("Спасибо и вам.", "👍", "Отлично!")])  # fmt: skip
    for asked, answer in (("👍", "Спасибо и вам."), (" 👍 ", "Спасибо и вам."),
                          ("ОТЛИЧНО", "Спасибо и вам.")):  # fmt: skip
        found = known.pinned(asked, "ru")
        assert found is not None
        assert found.answer == answer
    for asked in ("???", "🤬", "+", "...", "***", ""):
        assert known.pinned(asked, "ru") is None
