"""Group commit without a timer: what waits when the last commit ends goes into the next one.

While one batch is on its way the next gathers, so a lone write waits for nothing and a crowd
shares the cost of one commit (DeWitt et al., 1984, "Implementation techniques for main memory
database systems", section 3). The next batch leaves before the callers of the last one are told:
what they do then, the disk does not wait for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from audiobot.domain import Durability
from audiobot.errors import StorageUnavailable, report_fault
from audiobot.ports import NO_METER, Meter
from audiobot.storage.operations import Committed, Operation

MAX_BATCH: Final = 512

_Handed = tuple[asyncio.Future[Committed], Operation]


class GroupCommit:
    """One queue in front of one ``run``, which commits a batch and says what came of each part.

    ``run`` gets at most ``most`` operations and returns a result or an exception for each, in
    order; what it raises is every caller's. It is called with none every ``idle`` seconds when
    that is given. ``follow`` hears of every commit before its caller does, ``meter`` of each batch
    that ``home`` took.
    """

    def __init__(
        self,
        run: Callable[[list[Operation]], Awaitable[Sequence[Committed | Exception]]],
        follow: Callable[[Committed], None],
        *,
        idle: float | None = None,
        most: int = MAX_BATCH,
        home: Durability = "journal",
        meter: Meter = NO_METER,
    ) -> None:
        self._run = run
        self._follow = follow
        self._idle = idle
        self._most = most
        self._home: Durability = home
        self._meter = meter
        self._waiting: deque[_Handed] = deque()
        self._wake = asyncio.Event()
        self._left: list[_Handed] = []
        self._ended: list[tuple[asyncio.Future[Committed], Committed | Exception]] = []
        self._busy = asyncio.Lock()
        self._wanted = 0
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._forever(), name="group-commit")
        if self._idle is not None:
            self._tick(self._idle)

    def _tick(self, idle: float) -> None:
        self._wake.set()
        self._timer = asyncio.get_running_loop().call_later(idle, self._tick, idle)

    async def close(self) -> None:
        """Commit what waits, then stop; later calls are refused."""
        self._closing = True
        self._wake.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def waiting(self) -> int:
        """Operations that wait for the next batch."""
        return len(self._waiting)

    def submit(self, operation: Operation) -> asyncio.Future[Committed]:
        """Hand an operation in; the future ends with its commit.

        Whoever cancels the future gives up the answer and withdraws nothing. Whoever gives it an
        error takes the operation elsewhere: it does not leave any more, and if it has, nobody
        here follows it.
        """
        if self._closing:
            raise StorageUnavailable("shutting_down")
        future: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._waiting.append((future, operation))
        self._wake.set()
        return future

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Meanwhile no batch is on its way, and everyone who was on the last one has been told."""
        self._wanted += 1
        try:
            async with self._busy:
                yield
        finally:
            self._wanted -= 1

    async def _forever(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                await self._wake.wait()
            async with self._busy:
                batch = self._take()
                if batch or self._idle is not None:
                    await self._commit(batch)
                while not self._wanted and (batch := self._take()):
                    await self._commit(batch)
                self._tell_ended()

    async def _commit(self, batch: list[_Handed]) -> None:
        """Commit a batch, and tell those of the one before meanwhile; its own are told later."""
        self._left = batch
        loop = asyncio.get_running_loop()
        # A batch has left within two turns of the loop: a task begins in the next one.
        loop.call_soon(loop.call_soon, self._tell_ended)
        started = time.perf_counter()
        results: Sequence[Committed | Exception]
        try:
            results = await self._run([operation for _, operation in batch])
            self._count(results, time.perf_counter() - started)
        except Exception as error:  # noqa: BLE001  # whatever failed, no caller waits for ever
            results = [error] * len(batch)
        self._tell_ended()
        self._ended = [(f, result) for (f, _), result in zip(batch, results, strict=True)]
        del batch, results  # an error's trace names this frame: it would hold what it is held by

    def _tell_ended(self) -> None:
        ended, self._ended = self._ended, []
        for future, result in ended:
            self._tell(future, result)

    def _count(self, results: Sequence[Committed | Exception], seconds: float) -> None:
        taken = sum(isinstance(result, Committed) for result in results)
        if taken:
            self._meter.committed(self._home, taken, seconds)

    def interrupt(self, error: Exception) -> None:
        """Give everyone who waits this error: what has left may be committed all the same."""
        self._tell_ended()
        for future, _ in [*self._waiting, *self._left]:
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._waiting.clear()

    def _take(self) -> list[_Handed]:
        self._wake.clear()
        batch: list[_Handed] = []
        while self._waiting and len(batch) < self._most:
            future, operation = self._waiting.popleft()
            if not future.done() or future.cancelled():
                batch.append((future, operation))
        return batch

    def _tell(self, future: asyncio.Future[Committed], result: Committed | Exception) -> None:
        if isinstance(result, Exception):
            if not future.done():
                future.set_exception(result)
                future.exception()  # its caller may be gone: not a forgotten error
            return
        if future.done() and not future.cancelled():
            return  # told of trouble already: its caller takes it elsewhere, and is followed there
        if result.fresh:
            try:
                self._follow(result)
            except Exception as error:  # noqa: BLE001  # it is safe, and its caller shall hear that
                report_fault("following a commit failed", error)
        if not future.done():
            future.set_result(result)
