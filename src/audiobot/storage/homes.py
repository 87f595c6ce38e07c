"""The two homes of what is told, PostgreSQL and the journal, as whoever reads both sees them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from uuid import UUID

from audiobot.domain import Conversation
from audiobot.errors import StorageUnavailable
from audiobot.storage.index_teaching import Verdict
from audiobot.storage.local import LocalStore
from audiobot.storage.trouble import DatabaseTrouble

if TYPE_CHECKING:
    from audiobot.storage.postgres import PostgresStore

_T = TypeVar("_T")

WRITE_SECONDS: Final = 1.5
"""The operation deadline: what a live turn or rating may ask of PostgreSQL altogether."""
READ_SECONDS: Final = 3.0
AT_ONCE: Final = 8
"""Dialogues after which others have their turn: a turn has a dozen steps, and waits for each."""


class Ahead(NamedTuple):
    """What a journal knows better than PostgreSQL, for reading what waits for an operator.

    ``overruled`` are corrections that PostgreSQL has otherwise, ``settled`` the turns of those
    that the journal has in force, each with the version.
    """

    verdicts: tuple[Verdict, ...] = ()
    overruled: tuple[UUID, ...] = ()
    settled: tuple[tuple[UUID, int], ...] = ()


class Homes(NamedTuple):
    """The two homes as the adapter knows them.

    ``home`` is PostgreSQL while it is in charge, ``overlaid`` whether the journal may hold what
    that does not; ``met`` hears of a read that failed, ``at_hand`` knows what memory holds.
    ``find`` is the store's way to one dialogue. Not ``hybrid``: the journal is all there is.
    """

    local: LocalStore
    hybrid: bool
    home: Callable[[], PostgresStore | None]
    overlaid: Callable[[], bool]
    met: Callable[[DatabaseTrouble], None]
    at_hand: Callable[[UUID], Conversation | None]
    find: Callable[[UUID], Awaitable[Conversation | None]]

    def cut_short(self, trouble: DatabaseTrouble) -> StorageUnavailable:
        """What to raise when PostgreSQL fails in the middle of a list.

        One that fails just now is not away yet: a list that lacks its part must not look whole.
        """
        self.met(trouble)
        return StorageUnavailable("database_away", retry_after=5)

    async def in_home(self, read: Callable[[PostgresStore], Awaitable[list[_T]]]) -> list[_T]:
        """What PostgreSQL has, nothing while it is away; ``StorageUnavailable`` when it fails."""
        home = self.home()
        if home is None:
            return []
        try:
            return await read(home)
        except DatabaseTrouble as trouble:
            raise self.cut_short(trouble) from trouble
