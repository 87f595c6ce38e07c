"""Group commit without a timer: what waits when the last commit ends goes into the next one.

While one batch is on its way the next gathers, so a lone write waits for nothing and a crowd
shares the cost of one commit (DeWitt et al., 1984, "Implementation techniques for main memory
database systems", section 3).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from audiobot.domain import Durability
from audiobot.errors import StorageUnavailable, report_fault
from audiobot.ports import NO_METER, Meter
from audiobot.storage.operations import Committed, Operation

MAX_BATCH: Final = 512


class GroupCommit:
    """One queue in front of one ``run``, which commits a batch and says what came of each part.

    ``run`` gets at most ``most`` operations and returns a result or an exception for each, in
    order; what it raises is every caller's. It is called with none every ``idle`` seconds when
    that is given. ``follow`` hears of every commit before its caller does, ``meter`` of each batch
    that ``home`` took. Who holds ``pause`` sees no batch on its way.
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
        self._waiting: dict[asyncio.Future[Committed], Operation] = {}
        self._wake = asyncio.Event()
        self.pause = asyncio.Lock()
        self._left: list[asyncio.Future[Committed]] = []
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
        self._waiting[future] = operation
        self._wake.set()
        return future

    async def _forever(self) -> None:
        while True:
            if not self._waiting:
                if self._closing:
                    return
                await self._wake.wait()
            self._wake.clear()
            batch = self._take()
            self._left = [future for future, _ in batch]
            if not batch and self._idle is None:
                continue
            results: Sequence[Committed | Exception]
            async with self.pause:
                started = time.perf_counter()
                try:
                    results = await self._run([operation for _, operation in batch])
                    self._count(results, time.perf_counter() - started)
                except Exception as error:  # noqa: BLE001  # whatever failed, no caller waits for ever
                    results = [error] * len(batch)
                for (future, _), result in zip(batch, results, strict=True):
                    self._tell(future, result)

    def _count(self, results: Sequence[Committed | Exception], seconds: float) -> None:
        taken = sum(isinstance(result, Committed) for result in results)
        if taken:
            self._meter.committed(self._home, taken, seconds)

    def interrupt(self, error: Exception) -> None:
        """Give everyone who waits this error: what has left may be committed all the same."""
        for future in [*self._waiting, *self._left]:
            if not future.done():
                future.set_exception(error)
                future.exception()
        self._waiting.clear()

    def _take(self) -> list[tuple[asyncio.Future[Committed], Operation]]:
        batch: list[tuple[asyncio.Future[Committed], Operation]] = []
        while self._waiting and len(batch) < self._most:
            future = next(iter(self._waiting))
            operation = self._waiting.pop(future)
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
