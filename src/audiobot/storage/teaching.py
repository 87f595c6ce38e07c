"""What operators teach and what waits for them, read from both homes at once.

PostgreSQL has most of it; what the journal alone has yet is laid over it. The journal is read
first: what is carried meanwhile is then found in one of the two. While PostgreSQL is away its
corrections are those that were last heard of, and what waits is what the journal has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from audiobot.domain import (
    Conversation,
    Correction,
    ModelMetrics,
    OperatorAnswer,
    Suggestion,
)
from audiobot.errors import StorageUnavailable, UnknownDialogue
from audiobot.quarantine import is_quarantined
from audiobot.storage.homes import Ahead, Homes
from audiobot.storage.index_teaching import Verdict
from audiobot.storage.operations import RateConversation

SESSION_TURNS: Final = 200
"""How far back the questions of a session are looked at."""
_LOW: Final = 2


class Teaching:
    """Corrections, the inbox, suggestions and answers over ``homes``; see the port.

    ``remembered`` are the corrections that this process has heard of, for an outage.
    """

    def __init__(self, homes: Homes) -> None:
        self._homes = homes
        self._local = homes.local
        self._worded: dict[tuple[UUID, int], Correction] = {}
        self.remembered: dict[UUID, Correction] = {}

    def learned(self, corrections: Iterable[Correction]) -> None:
        """These were taken by a home."""
        self.remembered = newest([*self.remembered.values(), *corrections])

    # -- corrections -----------------------------------------------------------------------

    async def corrections(self, *, withdrawn: bool) -> list[Correction]:
        """Those in force, with ``withdrawn`` the others too, oldest version first."""
        every, _ = await self._every()
        found = [await self._with_words(c) for c in every.values() if withdrawn or not c.withdrawn]
        worded = [correction for correction in found if correction.wordings]
        return sorted(worded, key=lambda c: (c.version, c.correction_id))

    async def known(self, correction_id: UUID) -> Correction | None:
        """A correction as it is now, as far as is known."""
        try:
            every, _ = await self._every()
        except StorageUnavailable:
            every = newest([*self.remembered.values(), *await self._local.corrections()])
        return every.get(correction_id)

    async def _every(self) -> tuple[dict[UUID, Correction], dict[UUID, Correction]]:
        """Each correction as it is now, and those that the journal alone has so."""
        local = newest(await self._local.corrections()) if self._homes.overlaid() else {}
        # None is ever removed, so what is known already stays right.
        self.learned(await self._homes.in_home(lambda home: home.corrections()))
        every = newest([*self.remembered.values(), *local.values()])
        return every, {i: c for i, c in local.items() if every[i] is c}

    async def _with_words(self, correction: Correction) -> Correction:
        """One that was given for a turn out of reach answers that turn's question, once it is."""
        if correction.wordings:
            return correction
        key = (correction.correction_id, correction.version)
        if (kept := self._worded.get(key)) is not None:
            return kept
        turns = [found for i in correction.log_ids if (found := await self._turn(i)) is not None]
        if not turns:
            return correction
        worded = msgspec.structs.replace(
            correction,
            wordings=tuple(dict.fromkeys(turn.user_message for turn in turns)),
            language=turns[0].language,
        )
        self._worded[key] = worded
        return worded

    async def _turn(self, log_id: UUID) -> Conversation | None:
        try:
            return await self._homes.find(log_id)
        except UnknownDialogue:
            return None

    # -- what waits for an operator ----------------------------------------------------------

    async def inbox(self, most: int, *, low: bool = True) -> list[Conversation]:
        """Turns that wait, newest first; without ``low`` only those that were handed over."""
        if not self._homes.hybrid:
            return await self._local.inbox(most, low=low)
        if self._whole_in_home:
            return await self._homes.in_home(lambda home: home.inbox(most, Ahead(), low=low))
        here = await self._local.inbox(most, low=low)
        here += await self._rated_low_elsewhere(most) if low else []
        ahead, settled = await self._ahead()
        dismissed = await self._dismissed([c.log_id for c in here], ahead)
        waiting = {c.log_id: c for c in here if c.log_id not in settled | dismissed.keys()}
        for turn in await self._homes.in_home(lambda home: home.inbox(most, ahead, low=low)):
            waiting.setdefault(turn.log_id, turn)
        found = [turn for turn in waiting.values() if await self._waits(turn)]
        return sorted(found, key=lambda c: (c.created_at, c.log_id), reverse=True)[:most]

    async def _waits(self, turn: Conversation) -> bool:
        """False when a later rating is known here, and was a good one."""
        if turn.outcome == "handed_over":
            return True
        held = self._homes.at_hand(turn.log_id)
        ahead = (await self._local.newest_ratings([turn.log_id])).get(turn.log_id)
        ratings = [(turn.updated_at, turn.rating)]
        ratings += [(held.updated_at, held.rating)] if held is not None else []
        ratings += [(ahead.rated_at, ahead.rating)] if ahead is not None else []
        known = [(at, rating) for at, rating in ratings if at is not None and rating is not None]
        return bool(known) and max(known)[1] <= _LOW

    @property
    def _whole_in_home(self) -> bool:
        """True while PostgreSQL has all there is."""
        return self._homes.home() is not None and not self._homes.overlaid()

    async def suggestions(self, most: int) -> list[Suggestion]:
        """Customers' better answers that wait, newest first."""
        found: list[Suggestion] = []
        for suggested in await self._suggested(2 * most):  # some say what was told already
            if len(found) == most:
                break
            turn = await self._turn(suggested.log_id)
            text = suggested.corrected_response
            if turn is None or text is None or text.strip() == turn.ai_response.strip():
                continue
            await asyncio.sleep(0)  # strangers chose the texts: others have their turn between them
            found.append(
                Suggestion(
                    op_id=suggested.op_id,
                    conversation=turn,
                    text=text,
                    suggested_at=suggested.rated_at,
                    quarantined=is_quarantined(text),
                )
            )
        return found

    async def dismissed(self, subjects: Sequence[UUID]) -> set[UUID]:
        """Those among ``subjects`` that an operator took out of sight."""
        wanted = [*subjects]
        if not wanted:
            return set()
        if self._homes.hybrid:
            return {*await self._dismissed(wanted, (await self._ahead())[0])} & {*wanted}
        told = await self._local.dismissals()
        return {verdict.subject for verdict in told if verdict.dismissed} & {*wanted}

    async def _suggested(self, most: int) -> list[RateConversation]:
        if not self._homes.hybrid:
            return await self._local.suggestions(most)
        if self._whole_in_home:
            return await self._homes.in_home(lambda home: home.suggestions(most, Ahead()))
        here = await self._local.suggestions(most)
        ahead, settled = await self._ahead()
        dismissed = await self._dismissed([o.op_id for o in here], ahead)
        found = {
            o.op_id: o
            for o in here
            if o.op_id not in dismissed and settled.get(o.log_id, 0) <= o.version
        }
        for suggested in await self._homes.in_home(lambda home: home.suggestions(most, ahead)):
            found.setdefault(suggested.op_id, suggested)
        return sorted(found.values(), key=lambda o: o.version, reverse=True)[:most]

    async def answers(self, session_id: str, most: int) -> list[OperatorAnswer]:
        """What operators answered to a session's questions, newest question first."""
        if self._whole_in_home:
            told = await self._homes.in_home(lambda home: home.answers(session_id, SESSION_TURNS))
            return told[:most]
        turns = await self._local.of_session(session_id, SESSION_TURNS)
        turns += await self._homes.in_home(lambda home: home.of_session(session_id, SESSION_TURNS))
        every, _ = await self._every()
        by_turn: dict[UUID, Correction] = {}
        for correction in sorted(every.values(), key=lambda c: c.version):
            if not correction.withdrawn:
                by_turn.update(dict.fromkeys(correction.log_ids, correction))
        found = [
            OperatorAnswer(
                log_id=turn.log_id,
                question=turn.user_message,
                answer=settling.answer,
                asked_at=turn.created_at,
                answered_at=settling.corrected_at,
            )
            for turn in {turn.log_id: turn for turn in turns}.values()
            if (settling := by_turn.get(turn.log_id)) is not None
            and settling.corrected_at > turn.created_at
        ]
        return sorted(found, key=lambda a: (a.asked_at, a.log_id), reverse=True)[:most]

    async def evaluations(self, most: int) -> list[ModelMetrics]:
        """The newest evaluations, newest first."""
        found = await self._local.evaluations(most) if self._homes.overlaid() else []
        found += await self._homes.in_home(lambda home: home.evaluations(most))
        every = {done.evaluation_id: done for done in found}.values()
        told = sorted(every, key=lambda m: (m.created_at, m.evaluation_id), reverse=True)[:most]
        # The journal keeps each as it was when it was the newest.
        current = next((done for done in told if done.is_current_model), None)
        return [msgspec.structs.replace(done, is_current_model=done is current) for done in told]

    # -- laying the journal over PostgreSQL --------------------------------------------------

    async def _rated_low_elsewhere(self, most: int) -> list[Conversation]:
        """Turns that got a low rating in an outage, and lie in PostgreSQL or in memory."""
        turns = [await self._turn(i) for i in await self._local.rated_low_elsewhere(most)]
        return [turn for turn in turns if turn is not None]

    async def _ahead(self) -> tuple[Ahead, dict[UUID, int]]:
        """What the journal knows better, and every turn that is settled with its version."""
        verdicts = await self._local.dismissals()
        every, here = await self._every()
        settled = _settled(every.values())
        ahead = Ahead(tuple(verdicts), tuple(here), tuple(_settled(here.values()).items()))
        return ahead, settled

    async def _dismissed(self, subjects: list[UUID], ahead: Ahead) -> dict[UUID, Verdict]:
        """Those among ``subjects`` that are dismissed, wherever that was said last."""
        elsewhere = (
            await self._homes.in_home(lambda home: home.verdicts(subjects)) if subjects else []
        )
        last: dict[UUID, Verdict] = {}
        for verdict in [*elsewhere, *ahead.verdicts]:
            kept = last.get(verdict.subject)
            if kept is None or verdict[2:] > kept[2:]:
                last[verdict.subject] = verdict
        return {subject: verdict for subject, verdict in last.items() if verdict.dismissed}


def newest(corrections: Iterable[Correction]) -> dict[UUID, Correction]:
    """Of each id the correction of the highest version; of two at once the later one."""
    found: dict[UUID, Correction] = {}
    for correction in corrections:
        kept = found.get(correction.correction_id)
        if kept is None or correction.version >= kept.version:
            found[correction.correction_id] = correction
    return found


def _settled(corrections: Iterable[Correction]) -> dict[UUID, int]:
    """The turns of those in force, with the highest version that settles each."""
    found: dict[UUID, int] = {}
    for correction in corrections:
        if not correction.withdrawn:
            for log_id in correction.log_ids:
                found[log_id] = max(found.get(log_id, 0), correction.version)
    return found
