"""What an operator does at the desk, and what another one did meanwhile; no HTML here."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from audiobot.conversation import ConversationService
from audiobot.domain import (
    MAX_TURNS,
    Correction,
    Praised,
    QuestionGroup,
    Suggestion,
    same_wording,
)
from audiobot.errors import InvalidValue, UnknownCorrection
from audiobot.ports import Store

MOST: Final = 500
"""Turns, suggestions or answers that one page looks at."""


class Saved(NamedTuple):
    """A correction as it is kept.

    ``before`` is what it stands in place of; ``replaced`` is the one among these that its author
    had not seen. ``dismissed``: its turns were taken out of the inbox while it was written.
    """

    correction: Correction
    before: Correction | None
    replaced: Correction | None
    dismissed: bool


class Desk:
    """The inbox, the answers and the suggestions, over the services that the API uses too."""

    def __init__(self, store: Store, conversation: ConversationService) -> None:
        self._store = store
        self._conversation = conversation

    async def groups(self) -> list[QuestionGroup]:
        """What waits, the group worth most first."""
        return await self._conversation.inbox_groups(MOST)

    async def group_of(self, log_ids: Sequence[UUID]) -> QuestionGroup | None:
        """The waiting group that holds one of these turns; None when they wait no more."""
        wanted = set(log_ids)
        found = (
            group
            for group in await self.groups()
            if any(turn.log_id in wanted for turn in group.turns)
        )
        return next(found, None)

    async def answers(self) -> tuple[list[Correction], list[Correction]]:
        """The answers in force and those withdrawn, the newest first."""
        found = await self._store.get_corrections(withdrawn=True)
        found.sort(key=lambda correction: correction.version, reverse=True)
        in_force = [correction for correction in found if not correction.withdrawn]
        return in_force, [correction for correction in found if correction.withdrawn]

    async def answer_of(self, correction_id: UUID) -> Correction:
        """One answer, in force or not; raises ``UnknownCorrection``."""
        for correction in await self._store.get_corrections(withdrawn=True):
            if correction.correction_id == correction_id:
                return correction
        raise UnknownCorrection("unknown_correction")

    async def changed_since(
        self, correction_id: UUID, seen_version: int | None
    ) -> Correction | None:
        """The answer as somebody made it after ``seen_version``; None when nobody did."""
        kept = await self.answer_of(correction_id)
        return kept if seen_version is not None and kept.version > seen_version else None

    async def overtaken(
        self, correction_id: UUID, seen_version: int, said: str, own: Collection[UUID]
    ) -> Correction | None:
        """What took an answer's place after ``seen_version``: its change, or a later one's words.

        ``said`` is the answer's ``digest``: what says the same took no place. A later one is any in
        force to one of its turns or in one of its wordings, but none of ``own``, the author's.
        """
        found = await self._store.get_corrections(withdrawn=True)
        kept = next((c for c in found if c.correction_id == correction_id), None)
        if kept is None:
            return None
        if kept.version > seen_version and (kept.withdrawn or digest(kept.answer) != said):
            return kept
        turns, wordings = set(kept.log_ids), set(map(same_wording, kept.wordings))
        later = [
            other
            for other in found
            if other.version > max(seen_version, kept.version)
            and other.correction_id not in own
            and not other.withdrawn
            and digest(other.answer) != said
            and (turns & set(other.log_ids) or wordings & set(map(same_wording, other.wordings)))
        ]
        return max(later, key=lambda correction: correction.version, default=None)

    async def suggestion(self, op_id: UUID) -> Suggestion | None:
        """One suggestion that still waits."""
        waiting = await self._store.get_suggestions(MOST)
        return next((found for found in waiting if found.op_id == op_id), None)

    async def praised(self, praise_id: UUID) -> Praised | None:
        """A model's words that people rated well, while they wait."""
        waiting = await self._conversation.praised(MOST)
        return next((found for found in waiting if found.praise_id == praise_id), None)

    async def save(
        self,
        answer: str,
        wordings: Sequence[str],
        log_ids: Sequence[UUID],
        *,
        correction_id: UUID | None = None,
        seen_version: int | None = None,
        waiting: bool = False,
    ) -> Saved:
        """Keep an answer.

        Where another operator answered one of the turns meanwhile, the later answer takes the
        earlier one's place, whatever the first turn of either was. ``waiting``: the turns were in
        the inbox when the answer was begun.
        """
        if not wordings:
            raise InvalidValue("text_blank", field="wordings")
        turns, dismissed = list(dict.fromkeys(log_ids)), False
        before = None
        if correction_id is not None:
            before = await self.answer_of(correction_id)
        elif turns:
            before = await self.settling(turns)
            if before is not None:
                correction_id = before.correction_id
                turns = list(dict.fromkeys([*turns, *before.log_ids]))[:MAX_TURNS]
            elif waiting:
                dismissed = await self._left(turns)
        outcome = await self._conversation.correct(
            answer,
            wordings,
            log_ids=turns,
            correction_id=correction_id,
            seen_version=seen_version,
        )
        return Saved(outcome.correction, before, outcome.replaced, dismissed)

    async def dismiss(self, log_ids: Sequence[UUID]) -> Correction | None:
        """Take turns out of the inbox; the answer that another operator gave them meanwhile."""
        answered = await self.settling(log_ids)
        await self._store.dismiss(log_ids)
        return answered

    async def settling(self, log_ids: Sequence[UUID]) -> Correction | None:
        """The newest answer in force that settles one of these turns."""
        wanted = set(log_ids)
        found = await self._store.get_corrections()
        settling = [correction for correction in found if wanted & set(correction.log_ids)]
        return max(settling, key=lambda correction: correction.version, default=None)

    async def _left(self, log_ids: Sequence[UUID]) -> bool:
        """True when none of these turns waits any more, though not for being too old to list."""
        inbox = await self._store.get_inbox(MOST)
        wanted = set(log_ids)
        return len(inbox) < MOST and not any(turn.log_id in wanted for turn in inbox)


def digest(answer: str) -> str:
    """What an answer is known by in an address: no words of it."""
    return hashlib.blake2b(answer.encode(errors="surrogatepass"), digest_size=8).hexdigest()
