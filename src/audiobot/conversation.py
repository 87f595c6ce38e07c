"""The use case: one turn from question to stored answer, and one rating from star to learning.

Ports only. The order matters: what the person is told is stored before it is told.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from typing import Final, NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import msgspec

from audiobot.domain import (
    MAX_CORRECTION,
    MAX_MESSAGE,
    MAX_SESSION_ID,
    MAX_WORDINGS,
    AnswerPreview,
    Conversation,
    Correction,
    CorrectionOutcome,
    Idempotency,
    Language,
    Praised,
    QuestionGroup,
    RatingOutcome,
    check_text,
    same_wording,
    spoken_language,
    words_of,
)
from audiobot.entropy import random_name
from audiobot.errors import (
    IdempotencyMismatch,
    InvalidValue,
    Unavailable,
    UnknownDialogue,
    report_fault,
)
from audiobot.ports import NO_METER, Answerer, Meter, Similar, Store
from audiobot.quarantine import is_quarantined

_SESSIONS: Final = 10_000
_ENOUGH_WORDS: Final = 3
_LOOK_UP_SECONDS: Final = 0.25
"""How long a question waits to learn its session's language."""
_TAKEN_UP_SECONDS: Final = 0.8
"""How long an operator's call waits until its correction counts here; it counts soon after else."""
_AGAIN_SECONDS: Final = 0.25
_GATHERED_SECONDS: Final = 0.05
"""Between lessons: ratings that come by the thousand are learned by the hundred."""
_ATTEMPTS: Final = 40
_LOOKED_AT: Final = 500
"""So many turns of the inbox a preview looks at, and so many dialogues rated ``_WELL``."""
_NEWEST: Final = 2_000
"""Dialogues at hand that a preview looks at beside them."""
_WELL: Final = 4
_CORRECTIONS: Final = uuid5(NAMESPACE_URL, "https://vasdom.example/audiobot/corrections")
"""Namespace of the UUIDv5 (RFC 9562) of a correction that its operator did not name."""


def idempotency_of(key: str | None, call: str, *parts: object) -> Idempotency | None:
    """The digests of an ``Idempotency-Key`` and of the request that bears it."""
    if key is None:
        return None
    request = msgspec.msgpack.encode([call, *parts])
    return Idempotency(
        hashlib.blake2b(f"{call}:{key}".encode(), digest_size=16).digest(),
        hashlib.blake2b(request, digest_size=16).digest(),
    )


def _check_language(answer: str, language: Language) -> None:
    """Raise ``InvalidValue`` for an answer that has words enough, and none in ``language``."""
    words = words_of(answer)
    ours = [word for word in words if spoken_language(word) == language]
    if len(words) >= _ENOUGH_WORDS and not ours:
        raise InvalidValue("correction_language", field="answer")


def _language_of(answer: str, wordings: Sequence[str], language: Language | None) -> Language:
    """A correction's language: the questions', unless its author named one."""
    if language is not None:
        return language
    asked = next((found for w in wordings if (found := spoken_language(w))), None)
    language = asked or spoken_language(answer) or "ru"
    _check_language(answer, language)
    return language


def _check_correction(answer: str, wordings: Sequence[str]) -> None:
    """Refuse what the store would refuse to keep as a correction."""
    check_text("answer", answer, MAX_CORRECTION, blank=False)
    if not wordings:
        raise InvalidValue("text_blank", field="wordings")
    if len(wordings) > MAX_WORDINGS:
        raise InvalidValue("list_too_long", field="wordings", limit=MAX_WORDINGS)
    for wording in wordings:
        check_text("wordings", wording, MAX_MESSAGE, blank=False)


class Rated(NamedTuple):
    """What became of a rating, and the operators' answer whose place its correction took.

    Of a repeated request the outcome alone is known.
    """

    outcome: RatingOutcome
    replaced: Correction | None = None


class ConversationService:
    """Turns and ratings over a store and an answerer."""

    def __init__(self, store: Store, answerer: Answerer, meter: Meter = NO_METER) -> None:
        self._store = store
        self._meter = meter
        self._answerer = answerer
        self._languages: dict[str, Language] = {}
        self._rated: dict[UUID, None] = {}
        self._learning: asyncio.Task[None] | None = None
        self._taking_up: set[asyncio.Task[None]] = set()

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
        session = session_id or random_name(12)
        language = await self._language(session, message, preferred, begun=session_id is not None)
        reply = await self._answerer.answer(message, language)
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

    async def _language(
        self, session: str, message: str, preferred: Language, *, begun: bool
    ) -> Language:
        """The session's language: set by the first message, changed by three words at least.

        One that may have ``begun`` with another process, or before a restart, is looked up.
        """
        spoken = spoken_language(message)
        if spoken is None or len(words_of(message)) < _ENOUGH_WORDS:
            pinned = self._languages.get(session)
            if pinned is None and begun:
                pinned = await self._spoken_before(session)
            spoken = pinned or spoken or preferred
        self._languages.pop(session, None)
        self._languages[session] = spoken  # at the end: who asked last is forgotten last
        while len(self._languages) > _SESSIONS:
            del self._languages[next(iter(self._languages))]
        return spoken

    async def _spoken_before(self, session: str) -> Language | None:
        """The language of a session's last dialogue, if it is soon found."""
        try:
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                last = await self._store.get_last_of_session(session)
        except (Unavailable, TimeoutError):
            return None
        return last.language if last is not None else None

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
    ) -> Rated:
        """Keep a rating; it counts for the next question on.

        What an operator would have answered is a correction of that question at once, kept
        before the rating: whoever never heard of a rating repeats it, and the correction with
        it. While the dialogue is out of reach it is kept with the dialogue's id in place of the
        question, and counts as soon as the store finds the dialogue. From anyone else it stays
        a suggestion beside the rating.
        """
        idempotency = idempotency_of(
            idempotency_key, "feedback", str(log_id), rating, feedback_text, corrected_response
        )
        if idempotency is not None:
            earlier = await self._store.find_reply(idempotency)
            if isinstance(earlier, RatingOutcome):
                return Rated(earlier)
            if earlier is not None:
                raise IdempotencyMismatch("idempotency_mismatch")
        replaced = None
        if by_operator and corrected_response:  # an empty field of a form is none
            replaced = await self._correct_turn(log_id, corrected_response)
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
        return Rated(outcome, replaced)

    # -- teaching --------------------------------------------------------------------------

    async def _correct_turn(self, log_id: UUID, answer: str) -> Correction | None:
        """An operator's answer to one turn, in place of an earlier one to it, which is returned."""
        check_text("corrected_response", answer, MAX_CORRECTION, blank=False)
        turn = await self._store.get_conversation(log_id)
        wordings = [turn.user_message] if turn is not None else []
        before = await self._said_before(log_id, wordings)
        language = turn.language if turn is not None else spoken_language(answer) or "ru"
        if turn is not None:
            if not turn.generated and answer.strip() == turn.ai_response.strip():
                raise InvalidValue("correction_same", field="corrected_response")
            _check_language(answer, turn.language)
        await self._store.correct(
            answer,
            wordings,
            language,
            log_ids=[log_id],
            correction_id=uuid5(_CORRECTIONS, f"turn {log_id}"),
        )
        await self._take_up()
        return before if before is not None and before.answer != answer else None

    async def _said_before(self, log_id: UUID, wordings: Sequence[str]) -> Correction | None:
        """The newest correction in force of a turn, or to its words."""
        asked = {same_wording(wording) for wording in wordings}
        found = [
            kept
            for kept in await self._store.get_corrections()
            if log_id in kept.log_ids or not asked.isdisjoint(map(same_wording, kept.wordings))
        ]
        return max(found, key=lambda kept: kept.version, default=None)

    async def correct(
        self,
        answer: str,
        wordings: Sequence[str],
        *,
        language: Language | None = None,
        log_ids: Sequence[UUID] = (),
        correction_id: UUID | None = None,
        seen_version: int | None = None,
    ) -> CorrectionOutcome:
        """Keep an operator's answer to a group of questions; the next question meets it.

        Two operators who answer the same group, or the same question, without knowing of each
        other write under one id: the later answer counts, and its author is told of the earlier
        one. The language is the questions'. What all of ``log_ids`` were told already is no
        correction of them.
        """
        language = _language_of(answer, wordings, language)
        if await self._told_already(answer, log_ids):
            raise InvalidValue("correction_same", field="answer")
        if correction_id is None and (log_ids or wordings):
            first = str(log_ids[0]) if log_ids else same_wording(wordings[0])
            correction_id = uuid5(_CORRECTIONS, f"group {first}")
        outcome = await self._store.correct(
            answer,
            wordings,
            language,
            log_ids=log_ids,
            correction_id=correction_id,
            seen_version=seen_version,
        )
        await self._take_up()
        return outcome

    async def _told_already(self, answer: str, log_ids: Sequence[UUID]) -> bool:
        """True when there are turns and each of them was answered in these very words.

        Not those that a language model worded: said again by an operator, they are approved.
        """
        for log_id in log_ids:
            try:
                turn = self._store.at_hand(log_id) or await self._store.get_conversation(log_id)
            except UnknownDialogue:
                return False  # keeping it says what there is to say
            if turn is None or turn.generated or turn.ai_response.strip() != answer.strip():
                return False
        return bool(log_ids)

    async def inbox_groups(self, most: int) -> list[QuestionGroup]:
        """The newest waiting turns by what they ask, the group worth most first."""
        return await self._answerer.group(await self._store.get_inbox(most))

    async def praised(self, most: int) -> list[Praised]:
        """A language model's words that people rated well and nobody approved, by raters.

        Looked for among the newest dialogues rated so; gone when they are dismissed, and when a
        correction in force settles one of their turns.
        """
        told: dict[tuple[str, str], list[Conversation]] = {}
        async for turn in self._store.get_rated_conversations(
            _WELL, answered=True, newest=_LOOKED_AT
        ):
            if turn.generated:
                key = same_wording(turn.user_message), turn.ai_response
                told.setdefault(key, []).insert(0, turn)
        if not told:
            return []
        settled = {i for c in await self._store.get_corrections() for i in c.log_ids}
        waiting = {
            uuid5(_CORRECTIONS, f"praised {question}\n{words}"): turns
            for (question, words), turns in told.items()
            if not settled & {turn.log_id for turn in turns}
        }
        dismissed = await self._store.get_dismissed([*waiting])
        raters = {
            praise_id: len({turn.rater for turn in turns} - {None}) or 1
            for praise_id, turns in waiting.items()
            if praise_id not in dismissed
        }
        found = []
        for praise_id in sorted(
            raters, key=lambda name: (raters[name], waiting[name][0].created_at), reverse=True
        )[:most]:
            await asyncio.sleep(0)  # the texts may be long: others have their turn between them
            turns = waiting[praise_id]
            found.append(
                Praised(
                    praise_id=praise_id,
                    turns=tuple(turns),
                    raters=raters[praise_id],
                    quarantined=is_quarantined(turns[0].ai_response),
                )
            )
        return found

    async def preview(
        self, answer: str, wordings: Sequence[str], language: Language | None = None
    ) -> AnswerPreview:
        """What ``correct`` would do with the same words; refused as there, and nothing is kept."""
        _check_correction(answer, wordings)
        language = _language_of(answer, wordings, language)
        turns = await self._store.get_inbox(_LOOKED_AT)
        turns += self._store.newest_at_hand(_NEWEST)
        return await self._answerer.preview(answer, wordings, language, turns)

    async def withdraw(self, correction_id: UUID, *, withdrawn: bool) -> CorrectionOutcome:
        """Let a correction count no more, or again, from the next question on."""
        outcome = await self._store.withdraw(correction_id, withdrawn=withdrawn)
        await self._take_up()
        return outcome

    async def _take_up(self) -> None:
        """Let the corrections count; wait for it, but not for long."""
        task = asyncio.create_task(self._refresh(), name="take up")
        self._taking_up.add(task)
        task.add_done_callback(self._taking_up.discard)
        await asyncio.wait([task], timeout=_TAKEN_UP_SECONDS)

    async def _refresh(self) -> None:
        """Have the corrections taken up; what could not be read is read again."""
        for _ in range(_ATTEMPTS):
            try:
                await self._answerer.take_corrections()
            except Unavailable:  # PostgreSQL broke off: from the journal it can be read in a moment
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            except Exception as error:  # noqa: BLE001  # whatever it is, the next ones are taken up
                report_fault("taking up a correction failed", error)
            return

    # -- learning from ratings ---------------------------------------------------------------

    async def _learn(self) -> None:
        """Let the ratings count: the first at once, what comes in meanwhile together."""
        attempts = 0
        while self._rated:
            log_ids, self._rated = list(self._rated), {}
            try:
                await self._answerer.learn(log_ids, here=True)
            except Exception as error:  # noqa: BLE001  # whatever it is, the next ones are learned
                attempts += 1
                if isinstance(error, Unavailable) and attempts < _ATTEMPTS:
                    # PostgreSQL broke off: what cannot be read just now is read in a moment.
                    self._rated = dict.fromkeys(log_ids) | self._rated
                    await asyncio.sleep(_AGAIN_SECONDS)
                    continue
                # The ratings are safe; that one does not count yet is not for the rater to hear.
                report_fault("learning from a rating failed", error)
            attempts = 0
            await asyncio.sleep(_GATHERED_SECONDS)

    async def similar(self, log_id: UUID, limit: int) -> tuple[Conversation | None, list[Similar]]:
        """The dialogue (None while out of reach) and the rated ones nearest to it."""
        conversation = await self._store.get_conversation(log_id)
        if conversation is None:
            return None, []
        return conversation, await self._answerer.similar(conversation, limit)

    async def settle(self) -> None:
        """Wait until every rating and correction given so far counts, but not for long.

        They are kept: what does not count yet counts after the next start.
        """
        waiting = [*self._taking_up, *([self._learning] if self._learning else [])]
        if waiting:
            _, unended = await asyncio.wait(waiting, timeout=_TAKEN_UP_SECONDS)
            for task in unended:
                task.cancel()
