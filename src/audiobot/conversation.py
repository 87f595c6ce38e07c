"""The use case: one turn from question to stored answer, and one rating from star to learning.

Ports only. The order matters: what the person is told is stored before it is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from typing import Final
from uuid import UUID

import msgspec

from audiobot.domain import (
    MAX_MESSAGE,
    MAX_SESSION_ID,
    Conversation,
    Idempotency,
    Language,
    RatingOutcome,
    check_text,
)
from audiobot.errors import IdempotencyMismatch, Unavailable, UnknownDialogue
from audiobot.ports import NO_METER, Answerer, Meter, Similar, Store

_SESSIONS: Final = 10_000
_ENOUGH_WORDS: Final = 3


def idempotency_of(key: str | None, call: str, *parts: object) -> Idempotency | None:
    """The digests of an ``Idempotency-Key`` and of the request that bears it."""
    if key is None:
        return None
    request = msgspec.msgpack.encode([call, *parts])
    return Idempotency(
        hashlib.blake2b(f"{call}:{key}".encode(), digest_size=16).digest(),
        hashlib.blake2b(request, digest_size=16).digest(),
    )


class ConversationService:
    """Turns and ratings over a store and an answerer."""

    def __init__(self, store: Store, answerer: Answerer, meter: Meter = NO_METER) -> None:
        self._store = store
        self._meter = meter
        self._answerer = answerer
        self._languages: OrderedDict[str, Language] = OrderedDict()
        self._rated: dict[UUID, None] = {}
        self._learning: asyncio.Task[None] | None = None

    async def process(
        self,
        message: str,
        session_id: str | None,
        preferred: Language,
        idempotency_key: str | None = None,
    ) -> Conversation:
        """Answer ``message`` and keep the dialogue; the reply is as durable as it says."""
        started = time.perf_counter()
        check_text("message", message, MAX_MESSAGE, blank=False)
        if session_id is not None:
            check_text("session_id", session_id, MAX_SESSION_ID)
        idempotency = idempotency_of(idempotency_key, "process", message, session_id)
        if idempotency is not None:
            earlier = await self._store.find_reply(idempotency)
            if isinstance(earlier, Conversation):
                return earlier
        session = session_id or secrets.token_urlsafe(12)
        reply = await self._answerer.answer(message, self._language(session, message, preferred))
        with self._meter.stage("store"):
            return await self._store.add_conversation(
                None,
                message,
                reply.text,
                session,
                reply=reply,
                response_time=round(time.perf_counter() - started, 6),
                idempotency=idempotency,
            )

    def _language(self, session: str, message: str, preferred: Language) -> Language:
        """The session's language: set by the first message, changed by three words at least."""
        words = re.findall(r"[^\W\d_]+", message)
        cyrillic = sum(bool(re.search("[а-яёА-ЯЁ]", word)) for word in words)
        spoken: Language | None = None
        if words:
            spoken = "ru" if 2 * cyrillic >= len(words) else "en"
        pinned = self._languages.get(session)
        if spoken is None or (pinned is not None and len(words) < _ENOUGH_WORDS):
            spoken = pinned or preferred
        self._languages[session] = spoken
        self._languages.move_to_end(session)
        while len(self._languages) > _SESSIONS:
            self._languages.popitem(last=False)
        return spoken

    async def session_of(self, log_id: UUID) -> str:
        """The session of a dialogue; its own id stands for one that is not in reach."""
        try:
            conversation = self._store.at_hand(log_id)
            if conversation is None:
                conversation = await self._store.get_conversation(log_id)
        except (UnknownDialogue, Unavailable):
            return str(log_id)  # rating it says what is wrong
        return conversation.session_id if conversation else str(log_id)

    async def feedback(
        self,
        log_id: UUID,
        rating: int,
        feedback_text: str | None,
        *,
        corrected_response: str | None = None,
        rater: str | None = None,
        by_operator: bool = False,
        idempotency_key: str | None = None,
    ) -> RatingOutcome:
        """Keep a rating; it counts for the next question on."""
        idempotency = idempotency_of(
            idempotency_key, "feedback", str(log_id), rating, feedback_text, corrected_response
        )
        if idempotency is not None:
            earlier = await self._store.find_reply(idempotency)
            if isinstance(earlier, RatingOutcome):
                return earlier
            if earlier is not None:
                raise IdempotencyMismatch("idempotency_mismatch")
        outcome = await self._store.update_rating(
            log_id,
            rating,
            feedback_text,
            corrected_response=corrected_response,
            rater=rater,
            by_operator=by_operator,
            idempotency=idempotency,
        )
        self._rated[log_id] = None
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._learn(), name="learn")
        return outcome

    async def _learn(self) -> None:
        """Let the ratings count; what comes in meanwhile is learned together."""
        while self._rated:
            log_ids, self._rated = list(self._rated), {}
            try:
                await self._answerer.learn(log_ids, here=True)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next ones are learned
                # The ratings are safe; that one does not count yet is not for the rater to hear.
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "learning from a rating failed", "exception": error}
                )

    async def similar(self, log_id: UUID, limit: int) -> tuple[Conversation | None, list[Similar]]:
        """The dialogue (None while out of reach) and the rated ones nearest to it."""
        conversation = await self._store.get_conversation(log_id)
        if conversation is None:
            return None, []
        return conversation, await self._answerer.similar(conversation, limit)

    async def settle(self) -> None:
        """Wait until every rating given so far counts."""
        if self._learning is not None:
            await asyncio.wait([self._learning])
