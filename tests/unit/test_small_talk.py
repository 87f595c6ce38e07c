"""Small talk: what is nothing else, what is a question behind it, and in which language."""

from __future__ import annotations

import pytest

from audiobot.answering.small_talk import small_talk, without_greeting
from audiobot.messages import sentence


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("привет", "small_talk_hello"),
        ("ПРИВЕТ!!!", "small_talk_hello"),
        ("Здравствуйте.", "small_talk_hello"),
        ("Добрый день", "small_talk_hello"),
        ("ой, ну привет", "small_talk_hello"),
        ("привет привет", "small_talk_hello"),
        ("Hi there", "small_talk_hello"),
        ("спасибо", "small_talk_thanks"),
        ("Огромное вам спасибо!", "small_talk_thanks"),
        ("привет, спасибо", "small_talk_thanks"),
        ("Thank you very much!", "small_talk_thanks"),
        ("спасибо, до свидания", "small_talk_bye"),
        ("пока", "small_talk_bye"),
        ("Ты кто?", "small_talk_who"),
        ("Who are you?", "small_talk_who"),
        ("Привет, ты бот?", "small_talk_who"),
    ],
)
@pytest.mark.parametrize("language", ["ru", "en"])
def test_nothing_but_small_talk_is_answered_in_the_language_asked_for(
    text: str, code: str, language: str
) -> None:
    assert small_talk(text, language) == sentence(code, language)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?!",
        "123",
        "ну",
        "привет, сколько стоит уборка",
        "спасибо, а когда вы приедете",
        "пока не знаю",
        "приветствие",
        "hello world program",
        "bye bye birdie",
        "кто ты такой и сколько стоит уборка",
        "до",
    ],
)
def test_anything_more_is_a_question(text: str) -> None:
    assert small_talk(text, "ru") is None


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("Здравствуйте! Сколько стоит уборка?", "Сколько стоит уборка?"),
        ("добрый день, моют ли окна", "моют ли окна"),
        ("Hello, do you wash windows?", "do you wash windows?"),
        ("Приветливы ли ваши уборщицы?", "Приветливы ли ваши уборщицы?"),
        ("Hi-tech дом моете?", "Hi-tech дом моете?"),
        ("Сколько стоит? Здравствуйте", "Сколько стоит? Здравствуйте"),
        ("привет", "привет"),
    ],
)
def test_a_greeting_is_taken_off_a_question_and_nothing_else_is(text: str, question: str) -> None:
    assert without_greeting(text) == question
