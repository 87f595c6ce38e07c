"""Operators' answers as things the company knows: laid over the imported knowledge.

An answer that is known already gets the correction's wordings; a new one becomes an item. Whoever
asks in a corrected wording is told that answer: no rule and no built-in reply stands before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from textwrap import shorten
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from audiobot.answering.small_talk import without_greeting
from audiobot.answering.words import exact, plain, words
from audiobot.domain import Correction, KnowledgeItem, Language

_FEW_WORDS: Final = 6
_MANY_WORDS: Final = 12
_STEM: Final = 4
_NAME_CHARACTERS: Final = 60
_WORDS_OF_A_NAME: Final = 4


class Known(NamedTuple):
    """All that can be told: the ``items``, and by which corrections operators ``taught`` them.

    A pin is a wording, as ``exact`` has it, and the id of the item that answers it; ``told`` are
    those of corrections alone, greeted or not. ``edition`` names all of it: the same where the
    same is known.
    """

    items: list[KnowledgeItem]
    taught: dict[str, tuple[UUID, ...]]
    pins: dict[tuple[Language, str], str]
    by_id: dict[str, KnowledgeItem]
    told: dict[str, str]
    edition: str = ""

    def pinned(self, question: str, language: Language) -> KnowledgeItem | None:
        """What answers this very question."""
        item_id = self.pins.get((language, exact(question)))
        return None if item_id is None else self.by_id.get(item_id)

    def told_to(self, question: str) -> str | None:
        """The id of what an operator has said to this very question."""
        return self.told.get(exact(question))


def name_of(item: KnowledgeItem) -> str:
    """What an item is called before people: its title, else how its answer begins.

    Empty when that names nothing. Wordings are no names: people's own words are not for others.
    """
    said = item.answer.split()
    if item.title or len(said) < _WORDS_OF_A_NAME:
        return item.title
    name = shorten(" ".join(said), _NAME_CHARACTERS, placeholder="…")
    return name if plain(name) else ""


def lay_over(items: Sequence[KnowledgeItem], corrections: Iterable[Correction]) -> Known:
    """``items`` with ``corrections``, oldest first: of two answers to one wording the later holds.

    A new item has no title.
    """
    by_id = {item.item_id: item for item in items}
    by_answer = {(i.language, _said(i.answer)): i.item_id for i in reversed(items)}
    wordings: dict[str, dict[str, str]] = {}
    taught: dict[str, list[UUID]] = {}
    pins: dict[tuple[Language, str], str] = {}
    told: dict[str, str] = {}
    for correction in corrections:
        said = correction.language, _said(correction.answer)
        item_id = by_answer.get(said)
        if item_id is None:
            item_id = by_answer[said] = _identity(correction)
            by_id[item_id] = KnowledgeItem(
                item_id=item_id, title="", answer=correction.answer, language=correction.language
            )
        taught.setdefault(item_id, []).append(correction.correction_id)
        for wording in correction.wordings:
            key = exact(wording)
            wordings.setdefault(item_id, {}).setdefault(key, wording)
            pins[correction.language, key] = item_id
            told[key] = told[exact(without_greeting(wording))] = item_id
    known = []
    for item in by_id.values():
        own = {exact(q): q for q in item.questions} | wordings.get(item.item_id, {})
        held = item.item_id
        asked = tuple(q for k, q in own.items() if pins.get((item.language, k), held) == held)
        same = asked == item.questions
        known.append(item if same else msgspec.structs.replace(item, questions=asked))
    for item in by_id.values():
        # Asked by its own name it is meant: the bot asks back with these.
        if name := plain(name_of(item)):
            pins.setdefault((item.language, name), item.item_id)
    told_by = {item_id: tuple(ids) for item_id, ids in taught.items()}
    return Known(known, told_by, pins, {item.item_id: item for item in known}, told)


def named(known: Known) -> Known:
    """The same with the name of its edition."""
    every = repr(known[:3]).encode(errors="surrogatepass")
    return known._replace(edition=hashlib.blake2b(every, digest_size=4).hexdigest())


def is_terse(answer: str, wordings: Iterable[str]) -> bool:
    """True when an answer does not name what it is about: it then helps to find nothing."""
    if len(answer.split()) < _FEW_WORDS:
        return True
    return len(answer.split()) < _MANY_WORDS and not _stems(answer) & _stems(" ".join(wordings))


def _stems(text: str) -> set[str]:
    """The beginnings of the words that say something: endings change in Russian."""
    return {word[:_STEM] for word in words(text) if len(word) > _STEM - 1}


def _said(answer: str) -> str:
    return " ".join(answer.split())


def _identity(correction: Correction) -> str:
    said = f"{correction.language}\n{_said(correction.answer)}"
    return hashlib.blake2b(said.encode(), digest_size=12, person=b"correction").hexdigest()
