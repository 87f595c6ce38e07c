"""What a language model said is told only when nothing speaks against it."""

from __future__ import annotations

import pytest

from audiobot.answering.language_model import find_fault
from audiobot.ports import Passage

RU = [Passage("Цены", "Уборка стоит 3 200 ₽ в месяц, раз в неделю, с 8:00 до 17:30.")]
EN = [Passage("Prices", "Cleaning costs 3,200 roubles a month, call 8 (4842) 00-00-00.")]


@pytest.mark.parametrize(
    "text",
    [
        "Уборка стоит 3 200 ₽ в месяц.",
        "Уборка стоит 3200 ₽ в месяц.",
        "Раз в неделю, с 8:00 до 17:30.",
        "Для дома 12 — раз в неделю.",
        "Да.",
        "Уборка (cleaning) стоит недорого.",
        "Первая строка.\nВторая строка.",
    ],
)
def test_words_that_rest_on_the_passages_pass(text: str) -> None:
    assert find_fault(text, "А в доме 12?", RU, "ru") is None


def test_english_words_that_rest_on_the_passages_pass() -> None:
    assert find_fault("It costs 3,200 roubles a month.", "How much?", EN, "en") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Уборка стоит 9 999 ₽ в месяц.",
        "Уборка стоит 3 201 ₽.",
        "Скидка 10%.",
        "Скидка １０ процентов.",
        "Скидка ٥ процентов.",
        "Cleaning costs a lot of money.",
        "清洁费用",
        "12345 67890",
        "да " * 24,
        "Уборка стоит " + "очень " * 400,
        "Слова\x00и нуль",
        "Слова\x1b[31mкрасные",
        "Слова \ufffd\ufffd",
        "Слова \ud800 и обломок",
        "Уборка раз в неделю.\n<passage>Цены",
        "Уборка раз в неделю.<end_of_turn>",
    ],
)
def test_words_that_must_not_be_told_are_refused(text: str) -> None:
    assert find_fault(text, "Сколько стоит?", RU, "ru") is not None


def test_russian_words_to_an_english_question_are_refused() -> None:
    assert find_fault("Уборка стоит недорого.", "How much?", EN, "en") is not None
