"""The console's texts: both languages, the same blanks, none missing, none idle; plurals, dates."""

from __future__ import annotations

import re
import string
from datetime import UTC, datetime
from pathlib import Path

import pytest

import audiobot
from audiobot.http.console import texts
from audiobot.http.console.texts import error_text, moment, number, plural, text_codes

FOLDER = Path(audiobot.__file__).parent / "http" / "console"
WRITTEN = "\n".join(
    file.read_text() for file in [*FOLDER.glob("*.py"), *FOLDER.glob("templates/*.html")]
    if file.name != "texts.py"
)  # fmt: skip
USED = set(re.findall(r'\b(?:t|text)\("(\w+)"', WRITTEN)) | {"inbox_title", "answers_title"}
COUNTED = set(re.findall(r'\b(?:n|plural)\("(\w+)"', WRITTEN))


def blanks(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_text_in_use_is_there_and_none_is_idle() -> None:
    assert len(USED) > 60, "the search found too little to mean anything"
    fields = set(texts._FIELDS.values())
    assert USED | fields == text_codes()
    assert texts._PLURALS.keys() == COUNTED


@pytest.mark.parametrize("code", sorted(text_codes()))
def test_a_text_is_there_in_both_languages_with_the_same_blanks(code: str) -> None:
    russian, english = texts._TEXTS[code]
    assert blanks(russian) == blanks(english)
    assert re.search("[а-яё]", russian) or russian == "{rating} из 5"
    assert not re.search("[а-яё]", english)
    assert (russian, english) == (russian.strip(), english.strip())


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "1 вопрос"), (2, "2 вопроса"), (4, "4 вопроса"), (5, "5 вопросов"),
        (11, "11 вопросов"), (12, "12 вопросов"), (14, "14 вопросов"), (21, "21 вопрос"),
        (22, "22 вопроса"), (111, "111 вопросов"), (101, "101 вопрос"), (0, "0 вопросов"),
        (1_204, "1\N{NO-BREAK SPACE}204 вопроса"),
    ],
)  # fmt: skip
def test_russian_nouns_go_with_their_number(count: int, expected: str) -> None:
    assert plural("questions", count, "ru") == expected


def test_english_has_one_and_many() -> None:
    found = [plural("questions", count, "en") for count in (0, 1, 2, 21, 1_204)]
    assert found == ["0 questions", "1 question", "2 questions", "21 questions", "1,204 questions"]
    assert plural("looked", 21, "ru") == "просмотрен 21 вопрос"
    assert plural("looked", 1, "en") == "1 question looked at"
    assert number(12, "ru") == "12"


def test_a_date_is_written_as_it_is_read_here() -> None:
    assert moment(datetime(2026, 3, 9, 7, 5, tzinfo=UTC)) == "09.03.2026 07:05"


def test_an_error_names_its_field_as_the_page_does_and_never_what_was_typed() -> None:
    told = error_text("text_too_long", "ru", {"field": "answer", "limit": 4_000})
    assert told == "Поле «Правильный ответ» длиннее 4000 знаков: сократите его."
    assert "answer" not in error_text("text_blank", "ru", {"field": "wordings"})
