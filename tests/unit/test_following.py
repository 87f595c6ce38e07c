"""What other processes learned is heard, once the home that they share is there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import suppress

import pytest

from audiobot.answering import following
from audiobot.domain import utc_now
from audiobot.errors import StorageUnavailable
from audiobot.ports import ChangeMark, Changes

A, B = uuid.UUID(int=1), uuid.UUID(int=2)
NOW = utc_now()


class Script:
    """A store whose ``changes`` are read from a list, and a learner that writes down its calls."""

    def __init__(self, *heard: Changes) -> None:
        self.heard = list(heard)
        self.asked: list[ChangeMark | None] = []
        self.calls: list[object] = []
        self.fails: list[Exception] = []
        self.turns = 0
        self.enough = asyncio.Event()

    async def changes(self, since: ChangeMark | None) -> Changes:
        self.asked.append(since)
        if len(self.asked) >= self.turns:
            self.enough.set()
        return self.heard.pop(0) if self.heard else Changes(mark=since or ChangeMark())

    async def learn(self, log_ids: Sequence[uuid.UUID]) -> None:
        if self.fails:
            raise self.fails.pop()
        self.calls += log_ids

    async def refresh(self) -> None:
        self.calls.append("refresh")

    async def take_corrections(self) -> None:
        self.calls.append("corrections")

    async def reload(self) -> None:
        self.calls.append("reload")


async def listen(script: Script, mark: ChangeMark, turns: int, monkeypatch) -> None:
    monkeypatch.setattr(following, "LISTEN_SECONDS", 0)
    script.turns = turns
    task = asyncio.create_task(following.follow(script, script, mark))  # type: ignore[arg-type]
    await script.enough.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def mark() -> ChangeMark:
    return ChangeMark(at=NOW)


async def test_ratings_and_knowledge_of_others_are_taken_up(mark, monkeypatch) -> None:
    later = ChangeMark(at=NOW, knowledge="2")
    script = Script(Changes(mark=later, rated=(A, B), knowledge=True))
    await listen(script, mark, 2, monkeypatch)
    assert script.calls == ["refresh", A, B]
    assert script.asked == [mark, later]


async def test_corrections_of_others_are_taken_up(mark, monkeypatch) -> None:
    later = ChangeMark(at=NOW, corrections="2")
    script = Script(Changes(mark=later, corrections=True))
    await listen(script, mark, 2, monkeypatch)
    assert script.calls == ["corrections"]
    assert script.asked == [mark, later]


async def test_a_home_that_was_away_at_the_start_has_everything_loaded_again(monkeypatch) -> None:
    away = ChangeMark()
    script = Script(Changes(mark=away), Changes(mark=ChangeMark(at=NOW), reload=True))
    await listen(script, away, 3, monkeypatch)
    assert script.calls == ["reload"]
    assert script.asked[:2] == [away, away]


async def test_what_could_not_be_learned_is_heard_again(mark, monkeypatch) -> None:
    later = ChangeMark(at=NOW, knowledge="2")
    script = Script(Changes(mark=later, rated=(A,)), Changes(mark=later, rated=(A,)))
    script.fails = [StorageUnavailable("database_away")]
    await listen(script, mark, 3, monkeypatch)
    assert script.calls == [A]
    assert script.asked == [mark, mark, later]


async def test_after_a_fault_of_ours_what_comes_next_is_heard(mark, monkeypatch) -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: told.append(context["message"])
    )
    later, last = ChangeMark(at=NOW, knowledge="2"), ChangeMark(at=NOW, knowledge="3")
    script = Script(Changes(mark=later, rated=(A,)), Changes(mark=last, rated=(B,)))
    script.fails = [ZeroDivisionError("?")]
    await listen(script, mark, 3, monkeypatch)
    assert script.calls == [B]
    assert script.asked == [mark, later, last]
    assert told == ["taking up what others changed failed"]
