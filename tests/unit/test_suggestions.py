"""Customers' suggestions as the store lists them: what nobody asked for is not looked at."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

from audiobot.domain import Conversation, utc_now
from audiobot.storage.homes import Homes
from audiobot.storage.operations import RateConversation
from audiobot.storage.teaching import Teaching


class Journal:
    """As many suggestions as one asks for; the first one says what was told already."""

    async def suggestions(self, most: int) -> list[RateConversation]:
        words = ["Так сказал бот.", *(f"Лучше так, {n}." for n in range(most - 1))]
        return [
            RateConversation(
                op_id=uuid4(), log_id=uuid4(), rating=2, version=most - n, rated_at=utc_now(),
                corrected_response=said,
            )
            for n, said in enumerate(words)
        ]  # fmt: skip


def over(looked_at: list[UUID]) -> Teaching:
    """What is taught over that journal, with the turns that it looks at."""

    async def find(log_id: UUID) -> Conversation:
        looked_at.append(log_id)
        return Conversation(
            log_id=log_id, session_id="s", user_message="Как?", ai_response="Так сказал бот.",
            created_at=utc_now(),
        )  # fmt: skip

    homes = Homes(
        local=Journal(), hybrid=False, home=lambda: None, overlaid=lambda: False,
        met=lambda _: None, at_hand=lambda _: None, find=find,
    )  # fmt: skip
    return Teaching(homes)


async def test_no_more_suggestions_are_looked_at_than_fit() -> None:
    looked_at: list[UUID] = []
    found = await over(looked_at).suggestions(3)
    assert [suggestion.text for suggestion in found] == [f"Лучше так, {n}." for n in range(3)]
    assert len(looked_at) == 4


async def test_others_have_their_turn_between_the_texts_of_strangers() -> None:
    listing = asyncio.create_task(over([]).suggestions(20))
    turns = 0
    while not listing.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 20
