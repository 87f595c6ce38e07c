"""Hearing what other processes learned: their ratings and imports count here within a second."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol
from uuid import UUID

from audiobot.errors import Unavailable, report_fault
from audiobot.ports import ChangeMark, Store

LISTEN_SECONDS: Final = 0.5


class Learner(Protocol):
    """Who takes notice: the answerer."""

    async def learn(self, log_ids: Sequence[UUID]) -> None:
        """Dialogues were rated."""
        ...

    async def refresh(self) -> None:
        """Knowledge changed, and maybe corrections."""
        ...

    async def take_corrections(self) -> None:
        """Corrections changed."""
        ...

    async def reload(self) -> None:
        """Everything may have changed."""
        ...


async def follow(store: Store, learner: Learner, mark: ChangeMark) -> None:
    """Listen for ever from ``mark`` on, which was taken before ``learner`` loaded what there was.

    A mark of a home that was away then has everything loaded again at its return.
    """
    while True:
        await asyncio.sleep(LISTEN_SECONDS)
        heard = await store.changes(mark)
        if heard.mark.at is None:
            continue
        try:
            if heard.reload:
                await learner.reload()
            if heard.knowledge:
                await learner.refresh()
            elif heard.corrections:
                await learner.take_corrections()
            if heard.rated:
                await learner.learn(heard.rated)
        except Unavailable:
            continue  # the mark stays: it is heard again
        except Exception as error:  # noqa: BLE001  # whatever it is, what comes next is heard
            report_fault("taking up what others changed failed", error)
        mark = heard.mark
