"""The mind: all that can be told, and what it is ranked with, put together at once.

It is immutable and swapped as one: vectors of one encoder never meet another's, nor a head the
items of another day.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from audiobot.answering.beliefs import IN_FULL, NO_VERDICT, Trust, trust
from audiobot.answering.corrections import Known
from audiobot.answering.embedding import Side
from audiobot.answering.experience import Snapshot
from audiobot.answering.ranking import Ranker, Vectors, as_rows
from audiobot.answering.small_talk import without_greeting
from audiobot.answering.weights import Weights, load_background
from audiobot.answering.whitening import Whitening
from audiobot.answering.words import clauses
from audiobot.domain import KnowledgeItem, Language
from audiobot.ports import Matrix

Key = tuple[Side, str]

QUESTION_CHARACTERS: Final = 512
ANSWER_CHARACTERS: Final = 2_400
"""What a text is about is said by then; the encoder's time grows faster than its text."""
CLAUSES: Final = 6
"""So many of an answer's clauses are looked at one by one."""


class Mind(NamedTuple):
    """What is known, the encoder of its vectors and how to ask it, the ranker and its head.

    ``ranker`` is None when nothing is known, or nothing but what was corrected just now.
    ``imported`` is what of the knowledge no operator taught, as far as its vectors are there;
    ``learned`` names what raters taught the head, and ``trust`` is how far each was heard;
    ``version`` grows with every change.
    """

    encoder: str
    encode: Callable[[str], Awaitable[Matrix]]
    known: Known
    ranker: Ranker | None = None
    head: Matrix | None = None
    learned: str = ""
    trust: Trust = IN_FULL
    version: int = 0
    imported: Sequence[KnowledgeItem] = ()

    def pinned(self, question: str, language: Language) -> KnowledgeItem | None:
        """The item that answers this very question, greeting or not."""
        found = self.known.pinned(question, language)
        return found or self.known.pinned(without_greeting(question), language)


def question_key(question: str) -> Key:
    """What the encoder is given of a question."""
    return "query", question[:QUESTION_CHARACTERS]


def answer_key(item: KnowledgeItem) -> Key:
    """What the encoder is given of an item's answer."""
    text = f"{item.title}\n{item.answer}" if item.title else item.answer
    return "passage", text[:ANSWER_CHARACTERS]


def clause_keys(answer: str) -> list[Key]:
    """What the encoder is given of an answer's clauses: each as if somebody asked it."""
    return [question_key(clause) for clause in islice(clauses(answer), CLAUSES)]


def keys_of(known: Known) -> Iterator[Key]:
    """Every text whose vector a mind over ``known`` needs, looked for as it is taken."""
    yield from (question_key(q) for item in known.items for q in item.questions)
    yield from (answer_key(item) for item in known.items)
    yield from (key for item in known.items for key in clause_keys(item.answer))
    yield from (question_key(line) for line in load_background())


def make_ranker(
    known: Known,
    vectors: Mapping[Key, Matrix],
    dimension: int,
    weights: Weights,
    whitening: Whitening,
    encoder: str,
    before: Ranker | None = None,
) -> Ranker | None:
    """A ranker over ``known``; where it differs little from the one ``before``, it is soon made."""
    if not known.items:
        return None

    def rows(keys: list[Key]) -> Matrix:
        return as_rows([vectors[key] for key in keys], dimension)

    said = [clause_keys(item.answer) for item in known.items]
    return Ranker(
        known.items,
        Vectors(
            rows([question_key(q) for item in known.items for q in item.questions]),
            rows([answer_key(item) for item in known.items]),
            rows([key for keys in said for key in keys]),
            [len(keys) for keys in said],
            rows([question_key(line) for line in load_background()]),
        ),
        weights,
        whitening,
        encoder,
        frozenset(known.taught),
        before,
    )


class Head(NamedTuple):
    """What raters taught of all questions, its name, and how far each of them was heard.

    The name is the same for the same numbers.
    """

    matrix: Matrix | None
    name: str
    trust: Trust = IN_FULL


def fitted(known: Known, ranker: Ranker | None, experience: Snapshot | None) -> Head:
    """The head with all that raters taught; without a matrix where there is nothing to fit."""
    if ranker is None or experience is None or not experience.said:
        return Head(None, "")
    heard = trust(_checked(known, experience))
    matrix = experience.head(ranker, heard)
    numbers = np.ascontiguousarray(matrix).data
    return Head(matrix, hashlib.blake2b(numbers, digest_size=4).hexdigest(), heard)


def _checked(known: Known, experience: Snapshot) -> Iterator[tuple[str, bool]]:
    """Who rated what an operator has said to this very question, and whether he praised it."""
    for question, dialogues in zip(experience.questions, experience.said, strict=True):
        of_operators = [rated for rated in dialogues if rated.item_id in known.taught]
        right = known.told_to(question) if of_operators else None
        for rated in of_operators:
            if rated.item_id == right and rated.rater and rated.rating != NO_VERDICT:
                yield rated.rater, rated.rating > NO_VERDICT
