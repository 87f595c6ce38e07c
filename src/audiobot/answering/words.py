"""The words of a text, as they are compared: without case, punctuation and the dots of ё."""

from __future__ import annotations

import re
from typing import Final

_STOP: Final = re.compile(r"(?<=[.!?:;,])\s+|\s+[—–-]\s+")
_WORDS_OF_A_CLAUSE: Final = 4


def words(text: str) -> list[str]:
    """Letters and digits that stand together, in their order."""
    return re.findall(r"[^\W_]+", text.casefold().replace("ё", "е"))


def plain(text: str) -> str:
    """A question without what does not change it."""
    return " ".join(words(text))


def clauses(text: str) -> list[str]:
    """The parts of a text that each say something: cut at stops and dashes, of a few words each."""
    found: list[str] = []
    begun: list[str] = []
    for part in _STOP.split(text.strip()):
        begun += part.split()
        if len(begun) >= _WORDS_OF_A_CLAUSE:
            found.append(" ".join(begun))
            begun = []
    if begun and found:
        found[-1] = " ".join([found[-1], *begun])
    elif begun:
        found.append(" ".join(begun))
    return found
