"""The operator's desk: questions in groups, and what an answer would do before it is given."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final
from uuid import UUID

import numpy as np

from audiobot.answering.corrections import Known, is_terse, lay_over
from audiobot.answering.embedding import EmbeddingService
from audiobot.answering.experience import Snapshot
from audiobot.answering.grouping import group_by_meaning
from audiobot.answering.judging import judge
from audiobot.answering.learner import Learner, Run
from audiobot.answering.mind import Key, Mind, keys_of, question_key
from audiobot.answering.small_talk import without_greeting
from audiobot.answering.weights import load_background
from audiobot.domain import (
    AnswerPreview,
    Conversation,
    Correction,
    Language,
    PreviewedTurn,
    QuestionGroup,
    utc_now,
)
from audiobot.ports import Matrix, Store

_NEAR_ANSWER: Final = 20
"""Rated dialogues near an answer's questions that its preview looks at."""
_PREVIEWED: Final = 16
_PREVIEWED_CHARACTERS: Final = 512
"""How many of an answer's questions its preview takes up, and of how many characters."""
_MADE: Final = 500
"""So many vectors are made for a preview at most."""
_LIKELY: Final = 64
"""Of all past questions so many, the nearest to the answer's, may be caught by it."""
_AT_A_TIME: Final = 8
"""Past questions that a preview looks at before it lets others through."""
_LOW: Final = 2
_NOBODY: Final = UUID(int=0)

_OF_ONE: Final = 16
"""Of turns that asked in the same words so many are told of, the newest."""

Asked = tuple[Sequence[Conversation], Matrix]
"""Past turns that asked in the same words, and what those mean."""


class Desk:
    """What an operator sees of questions and answers; of one encoder that stays.

    ``search`` runs what is short and that people wait for, ``fit`` what takes its time.
    """

    def __init__(
        self,
        store: Store,
        embedding: EmbeddingService,
        learner: Learner,
        search: Run,
        fit: Run,
        vector_of: Callable[[Conversation], Awaitable[Matrix]],
        mind_of: Callable[[Known, Mapping[Key, Matrix], Snapshot | None], Mind],
        error_rate: float,
    ) -> None:
        self._store = store
        self._embedding = embedding
        self._learner = learner
        self._search = search
        self._fit = fit
        self._vector_of = vector_of
        self._mind_of = mind_of
        self._error_rate = error_rate

    async def group(self, turns: Sequence[Conversation]) -> list[QuestionGroup]:
        """Turns by what they ask, the most valuable group first."""
        if not turns:
            return []
        vectors = np.stack([await self._vector_of(turn) for turn in turns])
        lines = [await self._embedding.query(line) for line in load_background()]
        found = await self._fit(lambda: group_by_meaning(vectors, np.stack(lines)))
        groups = [_group([turns[i] for i in rows]) for rows in found]
        return sorted(groups, key=_worth, reverse=True)

    async def preview(
        self,
        answer: str,
        wordings: Sequence[str],
        language: Language,
        turns: Sequence[Conversation],
        mind: Mind,
    ) -> AnswerPreview:
        """What a correction would do to ``turns`` and to dialogues near it, beside ``mind``.

        Nobody waits for the vectors of knowledge that is still coming in.
        """
        given = _draft(answer, wordings, language)
        corrections = await self._store.get_corrections()
        known = await asyncio.to_thread(lay_over, mind.imported, [*corrections, given])
        vectors = await self._embedding.vectors(keys_of(known))
        asked, likely = await self._past(given, turns, vectors)
        snapshot = await self._search(self._learner.experience.snapshot)
        then = await self._fit(partial(self._mind_of, known, vectors, snapshot))

        def look(part: Sequence[Asked]) -> list[PreviewedTurn]:
            return [
                PreviewedTurn(
                    log_id=turn.log_id, question=turn.user_message, before=before, after=after
                )
                for same, vector in part
                if (after := self._says(then, same[0], vector)) == answer
                and (before := self._says(mind, same[0], vector)) != answer
                for turn in same[:_OF_ONE]
            ]

        caught: list[PreviewedTurn] = []
        for start in range(0, len(likely), _AT_A_TIME):  # questions of people are let through
            caught += await self._search(partial(look, likely[start : start + _AT_A_TIME]))
        terse = is_terse(answer, wordings)
        return AnswerPreview(caught=tuple(caught), looked_at=asked, terse=terse)

    async def _past(
        self, given: Correction, turns: Sequence[Conversation], vectors: Mapping[Key, Matrix]
    ) -> tuple[int, list[Asked]]:
        """How many past turns are looked at, and those that may be caught, nearest first."""
        spoken = [turn for turn in turns if turn.language == given.language]
        # Vectors are made for what waits, which comes first, and not for all that was ever said.
        unseen = [turn for turn in spoken if not self._vector_kept(turn) and _waits(turn)]
        seen = [turn for turn in spoken if self._vector_kept(turn)]
        past = {turn.log_id: turn for turn in [*unseen[:_MADE], *seen]}
        # Of wordings that differ in nothing but case and points one is kept.
        keys = {question_key(wording) for wording in given.wordings} & vectors.keys()
        for key in sorted(keys):
            for near in await self._learner.similar(vectors[key], _NEAR_ANSWER):
                past.setdefault(near.conversation.log_id, near.conversation)
        by_words: dict[str, list[Conversation]] = {}
        for turn in past.values():
            by_words.setdefault(turn.user_message, []).append(turn)
        asked = [(same, await self._vector_of(same[0])) for same in by_words.values()]
        if not asked or not keys:
            return len(past), []
        means = np.stack([vector for _, vector in asked])
        nearness = (means @ np.stack([vectors[key] for key in keys]).T).max(axis=1)
        return len(past), [asked[i] for i in np.argsort(-nearness, kind="stable")[:_LIKELY]]

    def _vector_kept(self, turn: Conversation) -> bool:
        return turn.embedding is not None and turn.embedding.model == self._embedding.name

    def _says(self, mind: Mind, turn: Conversation, vector: Matrix) -> str | None:
        """What a mind tells a past question; None for anything but an answer."""
        if mind.ranker is None:
            return None
        words, experience = without_greeting(turn.user_message), self._learner.experience
        return judge(
            mind, experience, turn.user_message, words, vector, turn.language, self._error_rate
        ).answer


def _draft(answer: str, wordings: Sequence[str], language: Language) -> Correction:
    """A correction that nobody gave yet, with as many wordings as are looked at."""
    return Correction(
        correction_id=_NOBODY,
        answer=answer,
        wordings=_first(wordings),
        language=language,
        corrected_at=utc_now(),
        version=0,
    )


def each_alone(turns: Sequence[Conversation]) -> list[QuestionGroup]:
    """Turns while nobody can tell yet which of them ask the same."""
    return [_group([turn]) for turn in turns]


def not_yet(answer: str, wordings: Sequence[str]) -> AnswerPreview:
    """What is told of an answer while nothing can be looked at."""
    return AnswerPreview(caught=(), looked_at=0, terse=is_terse(answer, wordings))


def _group(turns: Sequence[Conversation]) -> QuestionGroup:
    """One group; the question that says it best is the shortest that says it at all."""
    longest = sorted(turns, key=lambda turn: len(turn.user_message))
    middle = longest[(len(longest) - 1) // 2]
    return QuestionGroup(question=middle.user_message, language=middle.language, turns=tuple(turns))


def _first(wordings: Sequence[str]) -> tuple[str, ...]:
    """The first wordings, as many as are encoded while somebody waits."""
    first = wordings[:_PREVIEWED]
    lengths = itertools.accumulate(len(question_key(wording)[1]) for wording in first)
    return tuple(first[: max(1, sum(so_far <= _PREVIEWED_CHARACTERS for so_far in lengths))])


def _waits(turn: Conversation) -> bool:
    return turn.outcome == "handed_over" or (turn.rating is not None and turn.rating <= _LOW)


def _worth(group: QuestionGroup) -> int:
    low = sum(turn.rating is not None and turn.rating <= _LOW for turn in group.turns)
    return len(group.turns) + low
