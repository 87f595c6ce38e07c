"""Small talk: greetings, thanks and goodbyes, answered when they are all that was said."""

from __future__ import annotations

import re
from typing import Final

from audiobot.answering.words import words
from audiobot.domain import Language
from audiobot.messages import sentence

_PHRASES: Final[dict[str, tuple[str, ...]]] = {
    "small_talk_hello": (
        "здравствуйте", "здравствуй", "здрасте", "здрасьте", "привет", "приветик", "приветствую",
        "добрый день", "доброе утро", "добрый вечер", "доброго дня", "доброго времени суток",
        "алло", "ау", "hello", "hi", "hey", "good morning", "good afternoon", "good evening",
    ),
    "small_talk_thanks": (
        "спасибо", "большое спасибо", "спасибо большое", "спасибо вам", "благодарю", "спс",
        "благодарю вас", "понятно спасибо", "спасибо за ответ", "thanks", "thank you",
        "thank you very much", "thanks a lot",
    ),
    "small_talk_bye": (
        "пока", "до свидания", "всего доброго", "всего хорошего", "до встречи", "хорошего дня",
        "bye", "goodbye", "good bye", "see you", "have a nice day",
    ),
    "small_talk_who": (
        "кто ты", "ты кто", "кто вы", "вы кто", "ты бот", "вы бот", "ты робот", "вы робот",
        "ты человек", "вы человек", "что ты умеешь", "что вы умеете", "как тебя зовут",
        "who are you", "are you a bot", "are you human", "what can you do", "what is your name",
    ),
}  # fmt: skip
_FILLERS: Final = frozenset(
    [
        "ну",
        "а",
        "и",
        "же",
        "ой",
        "вам",
        "тебе",
        "огромное",
        "очень",
        "there",
        "you",
        "so",
        "very",
        "well",
    ]
)
_BY_WORDS: Final = {phrase: code for code, phrases in _PHRASES.items() for phrase in phrases}
_GREETINGS: Final = re.compile(
    r"^\W*(?:"
    + "|".join(sorted(_PHRASES["small_talk_hello"], key=len, reverse=True))
    + r")\b(?!-)\W*",
    re.IGNORECASE,
)


def small_talk(text: str, language: Language) -> str | None:
    """The reply to an utterance that is nothing but small talk, else None.

    "Здравствуйте, спасибо" gets the reply to its last part.
    """
    left = words(text)
    code = None
    while left:
        for length in range(min(4, len(left)), 0, -1):
            found = _BY_WORDS.get(" ".join(left[:length]))
            if found:
                code, left = found, left[length:]
                break
        else:
            if left[0] not in _FILLERS:
                return None
            left = left[1:]
    return sentence(code, language) if code else None


def without_greeting(text: str) -> str:
    """The question behind a greeting: the greeting tells nothing about what is asked."""
    return _GREETINGS.sub("", text, count=1) or text
