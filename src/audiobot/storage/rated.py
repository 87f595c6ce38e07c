"""Rated dialogues of both homes as one list, each once, with the rating that counts now.

PostgreSQL is read first, page by page, and what only the journal knows is laid over each page;
then follows what is, or is rated so, in the journal alone. Whatever the journal hands over and
lets go of meanwhile is asked for again where it lies now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from audiobot.domain import Conversation
from audiobot.storage.homes import AT_ONCE, Homes
from audiobot.storage.memory import SafeInMemoryStorage
from audiobot.storage.operations import with_rating
from audiobot.storage.trouble import DatabaseTrouble

if TYPE_CHECKING:
    from audiobot.storage.postgres import PostgresStore

_PAGE: Final = 64


class RatedDialogues:
    """Those rated ``least`` or better in ``homes``, with ``answered`` only those answered.

    With ``newest`` only about so many of the newest. One object is one list, read once.
    """

    def __init__(
        self,
        homes: Homes,
        memory: SafeInMemoryStorage,
        least: int,
        *,
        answered: bool,
        newest: int | None,
    ) -> None:
        self._homes, self._memory = homes, memory
        self._local = homes.local
        self._least, self._answered, self._newest = least, answered, newest

    async def __aiter__(self) -> AsyncIterator[Conversation]:
        overlaid = self._homes.overlaid()
        told: set[UUID] = set()
        count = 0
        async for found in self._everywhere(overlaid=overlaid):
            count += 1
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)
            if not overlaid:
                yield found
            elif found.log_id not in told:
                told.add(found.log_id)
                current = self._as_rated_in_memory(found)
                if (current.rating or 0) >= self._least:
                    yield current

    async def _everywhere(self, *, overlaid: bool) -> AsyncIterator[Conversation]:
        home, forgotten = self._homes.home(), self._local.forgotten
        if home is not None:
            async for found in self._in(home, overlaid=overlaid):
                yield found
        if overlaid:
            async for found in self._here_alone():
                yield found
        if home is not None and self._local.forgotten != forgotten:
            # What the journal let go of while this went on was told by neither.
            async for found in self._in(home, overlaid=overlaid):
                yield found

    async def _here_alone(self) -> AsyncIterator[Conversation]:
        """What is, or is rated so, in the journal or in memory alone."""
        async for found in self._local.rated(
            self._least, answered=self._answered, newest=self._newest
        ):
            yield found
        if self._newest is not None or not self._homes.hybrid:
            return  # a list of the newest may miss one; without PostgreSQL there is no other
        for held in self._in_memory():
            yield held
        if self._homes.home() is not None:
            async for found in self._rated_here_alone():
                yield found

    async def _in(self, home: PostgresStore, *, overlaid: bool) -> AsyncIterator[Conversation]:
        forgotten = self._local.forgotten
        try:
            async for page in home.rated(self._least, answered=self._answered, newest=self._newest):
                if not overlaid:
                    for found in page:
                        yield found
                    continue
                ahead = await self._local.newest_ratings([c.log_id for c in page])
                carried, forgotten = self._local.forgotten != forgotten, self._local.forgotten
                for found in page:
                    if carried:  # after the page was read: the journal could not tell of it
                        yield (await home.get(found.log_id))[0] or found
                    elif (rated := ahead.get(found.log_id)) and _later(rated.rated_at, found):
                        yield with_rating(found, rated)
                    else:
                        yield found
        except DatabaseTrouble as trouble:
            raise self._homes.cut_short(trouble) from trouble

    async def _rated_here_alone(self) -> AsyncIterator[Conversation]:
        """Dialogues of PostgreSQL whose rating lies in the journal yet."""
        after: UUID | None = None
        while True:
            page = await self._local.rated_elsewhere(self._least, after, _PAGE)
            for log_id in page:
                found = await self._homes.find(log_id)
                if found is not None and (found.outcome == "answered" or not self._answered):
                    yield found
            if len(page) < _PAGE:
                return
            after = page[-1]

    def _in_memory(self) -> list[Conversation]:
        return [
            held
            for held in self._memory.conversations
            if (held.rating or 0) >= self._least
            and (held.outcome == "answered" or not self._answered)
        ]

    def _as_rated_in_memory(self, found: Conversation) -> Conversation:
        """With the rating that this process knows of, when that is a later one."""
        held = self._memory.get(found.log_id)
        if held is None or held.updated_at is None or not _later(held.updated_at, found):
            return found
        return with_rating_of(found, held)


def _later(rated_at: datetime, found: Conversation) -> bool:
    return found.updated_at is None or rated_at > found.updated_at


def with_rating_of(found: Conversation, other: Conversation) -> Conversation:
    """The dialogue as ``other`` is rated."""
    return msgspec.structs.replace(
        found,
        rating=other.rating,
        feedback_text=other.feedback_text,
        updated_at=other.updated_at,
        rater=other.rater,
    )
