"""The words of a text, as they are compared: without case, punctuation and the dots of ё."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_STOP: Final = re.compile(r"(?<=[.!?:;,])\s+|\s+[—–-]\s+")
_WORDS_OF_A_CLAUSE: Final = 4


def words(text: str) -> list[str]:
    """Letters and digits that stand together, in their order."""
    return re.findall(r"[^\W_]+", text.casefold().replace("ё", "е"))


def plain(text: str) -> str:
    """A question without what does not change it."""
    return " ".join(words(text))


def exact(text: str) -> str:
    """``plain``, and of a text without words itself: "👍" is not what "???" is."""
    return plain(text) or " ".join(text.casefold().split())


def clauses(text: str) -> Iterator[str]:
    """The parts of a text that each say something: cut at stops and dashes, of a few words each.

    A long text is read no further than the clause after the last one taken.
    """
    whole: list[str] = []
    begun: list[str] = []
    for part in _parts(text.strip()):
        begun += part.split()
        if len(begun) >= _WORDS_OF_A_CLAUSE:
            if whole:
                yield " ".join(whole)
            whole, begun = begun, []
    if whole or begun:
        yield " ".join([*whole, *begun])


def _parts(text: str) -> Iterator[str]:
    start = 0
    for stop in _STOP.finditer(text):
        yield text[start : stop.start()]
        start = stop.end()
    yield text[start:]
