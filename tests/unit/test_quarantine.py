"""What a stranger must not bring under an operator's eyes unmarked, and what is plain speech."""

from __future__ import annotations

import time

import pytest

from audiobot.quarantine import is_quarantined


@pytest.mark.parametrize(
    "text",
    [
        "Смотрите https://evil.example/x", "HTTP://evil.example", "http : //evil", "www.evil.ru",
        "заходите на уборка-дёшево.рф", "пишите в t.me/cheap", "cheap-clean.com дешевле",
        "wa.me/79990000000", "почта a.b@mail.example", "boss@localhost", "пишите @cheap_clean",
        "наш ящик: boss собака mail.ru", "звоните +7 (999) 123-45-67", "8 800 555 35 35",
        "тел. 84951234567", "123-45-67", "+7\u200b999\u200b1234567", "８９９９１２３４５６７",
        "ht\u00adtps://evil.example", "Да пошли вы на хуй", "Хуйня какая-то", "это пиздец",
        "вы заебали", "какая блядь это писала", "говно ваш сервис", "мудаки", "what the fuck",
    ],
)  # fmt: skip
def test_it_is_marked(text: str) -> None:
    assert is_quarantined(text)


@pytest.mark.parametrize(
    "text",
    [
        "Уборка подъезда два раза в неделю, по вторникам и пятницам.",
        "Стоимость 1 500 ₽ за 100 кв. м.", "С 9:00 до 18:00, без выходных", "Цена 12 500 рублей",
        "Договор от 01.02.2024 № 125", "Работаем 24/7", "Дом 12, корп. 3, кв. 145", "от 3.5 до 4",
        "Оскорблять никого не нужно", "Застрахуй меня", "Колебания цены", "Употребление хлеба",
        "Мебель не моем", "Потребуется ключ", "Скипидаром не моем", "Хлебать чай",
        "Подстрахуйте, пожалуйста", "Сухой мусор", "Сук деревьев не вывозим", "Мандарины",
        "It costs 1,500 rubles a month.", "The shift starts at 8.30.", "Ask the dispatcher.",
        "Это зависит от этажа. Да, моем и окна", "и т.д. и т.п.", "Ребята моют быстро", "Небо",
    ],
)  # fmt: skip
def test_it_is_plain_speech(text: str) -> None:
    assert not is_quarantined(text)


def seconds_for(text: str) -> float:
    """Of the processor, and the best of several: what else runs is not the text's fault."""

    def once() -> float:
        started = time.thread_time()
        is_quarantined(text)
        return time.thread_time() - started

    return min(once() for _ in range(5))


@pytest.mark.parametrize(
    "piece", [*"a-.(1+@ ", "a.", "a ", "1(", "@ ", "a@", "www ", "http ", "собака ", "ху"]
)
def test_a_text_ten_times_as_long_takes_about_ten_times_as_long(piece: str) -> None:
    """No measure of speed but of its growth: a square would be a hundred times."""
    assert seconds_for(piece * 40_000) < 40 * seconds_for(piece * 4_000)
