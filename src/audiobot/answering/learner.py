"""The learner: rated dialogues from the store into experience, and the head fitted anew.

A rating speaks near its question from the next question on; what it teaches of all others it
teaches once the head is fitted, which happens in the background and takes in all that came since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar
from uuid import UUID

import numpy as np

from audiobot.answering.experience import Experience
from audiobot.answering.recall import Exemplar
from audiobot.answering.small_talk import without_greeting
from audiobot.domain import Conversation, utc_now
from audiobot.errors import StorageUnavailable, Unavailable, UnknownDialogue
from audiobot.ports import Matrix, Similar, Store

_T = TypeVar("_T")

_LOAD_BATCH: Final = 1_000
_REST: Final = 20.0
"""The head rests so many times as long as its fitting took: a twentieth of a core at most."""
_LEAST_REST: Final = 1.0


class Run(Protocol):
    """Runs work in a thread that nothing else runs in meanwhile."""

    async def __call__(self, work: Callable[[], _T]) -> _T:
        """What ``work`` returns."""
        ...


class Learner:
    """Experience of the dialogues in ``store``; see the port of the answerer for its calls.

    ``search`` runs work in the one thread that experience belongs to, ``vector_of`` gives a
    question's vector by today's encoder, ``refit`` fits a head and says how long it took.
    """

    def __init__(
        self,
        store: Store,
        experience: Experience,
        search: Run,
        vector_of: Callable[[Conversation], Awaitable[Matrix]],
        refit: Callable[[], Awaitable[float]],
        min_rating: int,
    ) -> None:
        self.experience = experience
        self._store = store
        self._search = search
        self._vector_of = vector_of
        self._refit = refit
        self._min_rating = min_rating
        self._unfitted = False
        self._fitting: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Take up the newest rated dialogues that the store has."""
        batch: list[tuple[str, Exemplar, Matrix]] = []
        limit = self.experience.recall.limit
        seen = 0
        async for conversation in self._store.get_rated_conversations(
            1, answered=True, newest=limit
        ):
            seen += 1
            batch.append(await self._as_lesson(conversation))
            if len(batch) >= _LOAD_BATCH:
                await self._take(batch)
                batch = []
        await self._take(batch)
        self.experience.recall.partial = seen >= limit

    async def _as_lesson(self, conversation: Conversation) -> tuple[str, Exemplar, Matrix]:
        vector = await self._vector_of(conversation)
        return without_greeting(conversation.user_message), exemplar_of(conversation), vector

    async def _take(self, batch: list[tuple[str, Exemplar, Matrix]]) -> None:
        if batch:
            questions, exemplars, vectors = zip(*batch, strict=True)
            rows = np.stack(vectors)
            await self._search(lambda: self.experience.take(questions, exemplars, rows))

    async def learn(self, log_ids: Sequence[UUID], *, here: bool = False) -> None:
        """Let ratings count."""
        rated: list[tuple[str, Exemplar, Matrix]] = []
        gone: list[UUID] = []
        unread: Unavailable | None = None
        for log_id in log_ids:
            try:
                found = await self._as_rated(log_id, here=here)
            except Unavailable as error:
                unread = error
                continue
            if found is None and not here and not self._store.status().complete:
                # Not there, or out of reach: whoever heard of it elsewhere hears of it again.
                unread = StorageUnavailable("database_away")
            if found is None or found.rating is None:
                continue
            if found.outcome == "answered":
                rated.append(await self._as_lesson(found))
            else:
                gone.append(log_id)
        await self._take(rated)
        if gone:
            await self._search(lambda: self.experience.discard(gone, utc_now()))
        if any(exemplar.item_id is not None for _, exemplar, _ in rated):
            self._fit_later()
        if unread is not None:
            raise unread

    async def _as_rated(self, log_id: UUID, *, here: bool) -> Conversation | None:
        """The dialogue with the rating that counts; None when there is none, or not in reach."""
        if here and (held := self._store.at_hand(log_id)) is not None:
            return held
        try:
            return await self._store.get_conversation(log_id)
        except UnknownDialogue:
            return None

    # -- the head --------------------------------------------------------------------------

    def _fit_later(self) -> None:
        self._unfitted = True
        if self._fitting is None or self._fitting.done():
            self._fitting = asyncio.create_task(self._fit(), name="fit")

    async def _fit(self) -> None:
        while self._unfitted:
            self._unfitted = False
            took = await self._refit()
            await asyncio.sleep(max(_LEAST_REST, _REST * took))

    def close(self) -> None:
        """Fit no more."""
        if self._fitting is not None:
            self._fitting.cancel()

    # -- looking back ------------------------------------------------------------------------

    async def similar(self, vector: Matrix, limit: int, but: UUID | None = None) -> list[Similar]:
        """Well-rated dialogues nearest to a question, nearest first, without ``but``."""
        recall = self.experience.recall
        found = await self._search(lambda: recall.near(vector, 2 * limit + 2))
        similar: list[Similar] = []
        for near in found:
            for exemplar in near.dialogues:
                if exemplar.log_id == but or exemplar.rating < self._min_rating:
                    continue
                other = await self._store.get_conversation(exemplar.log_id)
                if other is not None:
                    similar.append(Similar(other, round(min(1.0, near.cosine), 4)))
                if len(similar) >= limit:
                    return similar
        return similar


def exemplar_of(conversation: Conversation) -> Exemplar:
    """A rated dialogue as ranking needs it."""
    return Exemplar(
        conversation.log_id,
        conversation.item_id,
        conversation.rating or 0,
        conversation.updated_at or conversation.created_at,
        conversation.rater,
    )
