"""Group commit: who leaves when, who is told when, and what is kept of an error."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import pytest

from audiobot.domain import utc_now
from audiobot.storage.batching import GroupCommit
from audiobot.storage.operations import Committed, Operation, RateConversation


def rating(number: int) -> RateConversation:
    return RateConversation(
        op_id=uuid4(), log_id=UUID(int=number), rating=5, version=number, rated_at=utc_now()
    )


class Home:
    """A home that takes each batch in a task of its own, and ends it when it is let."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.batches: list[int] = []
        self.on_its_way = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.fault: Exception | None = None

    async def run(self, operations: list[Operation]) -> Sequence[Committed | Exception]:
        return await asyncio.create_task(self._take(operations))

    async def _take(self, operations: list[Operation]) -> Sequence[Committed | Exception]:
        self.on_its_way += 1
        self.batches.append(len(operations))
        self.events += [f"{o.log_id.int} leaves" for o in operations]
        try:
            await self.go_on.wait()
            await asyncio.sleep(0)
            if self.fault is not None:
                raise self.fault
            return [Committed(operation, True) for operation in operations]
        finally:
            self.on_its_way -= 1

    def follow(self, committed: Committed) -> None:
        self.events.append(f"{committed.operation.log_id.int} is followed")

    async def call(self, commits: GroupCommit, number: int) -> None:
        await commits.submit(rating(number))
        self.events.append(f"{number} is told")


@asynccontextmanager
async def committing(home: Home, idle: float | None = None) -> AsyncIterator[GroupCommit]:
    commits = GroupCommit(home.run, home.follow, idle=idle, most=2)
    commits.start()
    yield commits
    await commits.close()


async def test_the_next_batch_leaves_before_the_callers_of_the_last_are_told() -> None:
    home = Home()
    async with committing(home) as commits:
        await asyncio.gather(*(home.call(commits, number) for number in range(1, 6)))
    assert home.events == [
        "1 leaves", "2 leaves",
        "3 leaves", "4 leaves",
        "1 is followed", "2 is followed", "1 is told", "2 is told",
        "5 leaves",
        "3 is followed", "4 is followed", "3 is told", "4 is told",
        "5 is followed", "5 is told",
    ]  # fmt: skip


async def test_a_pause_sees_no_batch_on_its_way_and_everyone_told() -> None:
    home, ended = Home(), asyncio.Event()
    told = left = 0

    async def caller(commits: GroupCommit, number: int) -> None:
        nonlocal told, left
        while not ended.is_set():
            left += 1
            await commits.submit(rating(number))
            told += 1

    async with committing(home) as commits:
        callers = [asyncio.create_task(caller(commits, number)) for number in range(7)]
        for _ in range(50):
            await asyncio.sleep(0.001)
            async with commits.paused():
                batches = len(home.batches)
                for _ in range(5):
                    assert home.on_its_way == 0
                    assert home.events[-1].endswith("is followed")
                    await asyncio.sleep(0)
                assert len(home.batches) == batches
        ended.set()
        await asyncio.wait(callers)
    assert told == left > 100


async def test_no_empty_batch_follows_a_full_one() -> None:
    home = Home()
    async with committing(home, idle=60.0) as commits:
        await asyncio.sleep(0.01)
        for number in range(20):
            await asyncio.gather(*(home.call(commits, number) for _ in range(5)))
        assert home.batches.count(0) <= 1  # the one of the start


async def test_when_the_circuit_opens_those_that_are_safe_are_told_of_that() -> None:
    home = Home()
    async with committing(home) as commits:
        first, second, third = [commits.submit(rating(number)) for number in (1, 2, 3)]
        while "3 leaves" not in home.events:  # noqa: ASYNC110  # turn by turn
            await asyncio.sleep(0)
        assert not first.done()
        commits.interrupt(KeyError("the circuit is open"))
        assert first.result().fresh
        assert second.result().fresh
        with pytest.raises(KeyError):
            await third
    assert "3 is followed" not in home.events


async def test_nothing_of_a_batch_is_kept_by_its_error() -> None:
    home = Home()
    home.fault = OSError("the disk is gone")
    async with committing(home) as commits:
        gc.collect()
        gc.disable()
        try:
            future = commits.submit(rating(1))
            with pytest.raises(OSError, match="gone"):
                await future
            seen = weakref.ref(future)
            del future
            home.fault = None
            await commits.submit(rating(2))
            assert seen() is None
        finally:
            gc.enable()
