"""The switch: watches PostgreSQL, changes the mode, and carries the journal over.

One prober at a time. While PostgreSQL is in charge the probe is a heartbeat a second; while it is
away the probe is the whole way in (connect, schema, keys, heartbeat) at growing intervals. Whoever
meets trouble in a live call reports it here; a probe confirms it, or the circuit is convinced.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from audiobot.errors import SetupError
from audiobot.one_thread import in_daemon_thread
from audiobot.ports import NO_METER, Meter
from audiobot.storage.circuit import AT_ONCE, Circuit
from audiobot.storage.driver import of as trouble_of
from audiobot.storage.local import LocalStore
from audiobot.storage.modes import ModeState
from audiobot.storage.replay import replay
from audiobot.storage.schema import REVISION
from audiobot.storage.tally import Tally
from audiobot.storage.trouble import DatabaseTrouble, Reason

if TYPE_CHECKING:
    from audiobot.storage.postgres import PostgresStore

BEAT_SECONDS: Final = 1.0
FIRST_BACKOFF: Final = 0.5
MOST_BACKOFF: Final = 2.0
STEADY_SECONDS: Final = 10.0
"""PostgreSQL that was there so long does not flap: the next outage is probed without delay."""
HOUSE_SECONDS: Final = 5.0
BATCH: Final = 200
SLOW_BATCH_SECONDS: Final = 0.5
_NOT_YET_SECONDS: Final = 0.05
"""The index may be behind the journal for a moment; then nothing can be let go of."""
_BY_CODE: Final[dict[str, Reason]] = {
    "database_too_old": "too_old",
    "database_encoding": "encoding",
    "database_no_rights": "schema",
    "database_in_the_way": "hindered",
}


class Switch:
    """Owns the mode of a store with a DATABASE_URL; see the module.

    ``prepare`` is run each time PostgreSQL is reached, before the mode changes; what it raises
    counts as not reached. ``recount`` is run before replay is told as done when the totals at hand
    lack what it carried. ``tried`` is set once the first attempt to reach it has ended; ``sure``
    is false from a live call's trouble to the next good heartbeat.
    """

    def __init__(
        self,
        state: ModeState,
        postgres: PostgresStore,
        local: LocalStore,
        tally: Tally,
        prepare: Callable[[], Awaitable[None]],
        recount: Callable[[], Awaitable[None]],
        keep_house: Callable[[], Awaitable[None]],
        meter: Meter = NO_METER,
    ) -> None:
        self._state = state
        self._postgres = postgres
        self._local = local
        self._tally = tally
        self._prepare = prepare
        self._recount = recount
        self._keep_house = keep_house
        self._meter = meter
        self._suspected_in: contextvars.Context | None = None
        self._circuit = Circuit()
        self._suspicion = asyncio.Event()
        self._recovering = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._batch = BATCH
        self.tried = asyncio.Event()
        self.database_ok = self.sure = False
        self.refused = 0

    def start(self) -> None:
        """Begin to probe and to carry."""
        self._tasks = [
            asyncio.create_task(self._watch(), name="probe"),
            asyncio.create_task(self._carry_forever(), name="replay"),
        ]

    async def close(self, grace: float) -> None:
        """Stop probing; carry over what can be in ``grace`` seconds."""
        usable = self._state.to_postgres and self.database_ok
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if usable and self._local.backlog:
            with contextlib.suppress(Exception):  # what is not carried now is after the next start
                async with asyncio.timeout(grace):
                    while not await self._carry_some():
                        pass

    # -- what live calls report --------------------------------------------------------------

    def succeeded(self, seconds: float) -> None:
        """A live call came back."""
        if self._circuit.succeeded(_now(), seconds):
            self._open("timeout")

    def met(self, trouble: DatabaseTrouble) -> None:
        """A live call failed."""
        if not self._state.to_postgres:
            return
        self.sure = False
        if self._circuit.failed(_now(), trouble.reason):
            self._open(trouble.reason)
        elif trouble.reason in AT_ONCE:
            # What the probe finds is told in the name of the request that raised the suspicion.
            self._suspected_in = self._suspected_in or contextvars.copy_context()
            self._suspicion.set()

    def journaled(self) -> None:
        """A write went to the journal; the next heartbeat tells why, and what follows."""
        if self._state.mode == "postgres":
            self._suspicion.set()

    def _open(self, reason: Reason) -> None:
        self.database_ok = False
        context, self._suspected_in = self._suspected_in, None
        happen = self._state.happen
        happened = context.run(happen, "trouble", reason) if context else happen("trouble", reason)
        if happened:
            self._recovering.clear()
            self._postgres.interrupt(DatabaseTrouble(reason))
            self._suspicion.set()

    # -- the prober --------------------------------------------------------------------------

    async def _watch(self) -> None:
        backoff, reached_at, house_at = FIRST_BACKOFF, 0.0, 0.0
        while True:
            if self._state.to_postgres:
                await self._pause(BEAT_SECONDS)
                reason = await self._beat() and await self._beat()
                if _now() - reached_at >= STEADY_SECONDS:
                    backoff = FIRST_BACKOFF
                if reason is not None:
                    self._open(reason)
                self._suspected_in = None
                if self._state.to_postgres:
                    house_at = await self._while_well(house_at)
                continue
            reason = await self._reach()
            if reason is None:
                reached_at = _now()
                self._circuit.reset()
                if self._state.happen("reached", "reached"):
                    self._recovering.set()
                self.tried.set()
                continue
            if self._state.mode == "fallback":
                self._state.explain(reason)
            self.tried.set()
            await asyncio.sleep(backoff * random.uniform(0.75, 1.25))  # noqa: S311  # jitter
            backoff = min(2 * backoff, MOST_BACKOFF)

    async def _while_well(self, house_at: float) -> float:
        """What follows a good heartbeat; when house was kept last."""
        if self._local.backlog and self._state.happen("journaled", "late"):
            self._recovering.set()
        if _now() - house_at < HOUSE_SECONDS:
            return house_at
        house_at = _now()
        with contextlib.suppress(Exception):  # another time: the probe must go on
            await self._keep_house()
        return house_at

    async def _pause(self, seconds: float) -> None:
        # Not wait_for: before Python 3.12 it swallows a cancellation that meets the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._suspicion.wait()
        self._suspicion.clear()

    async def _beat(self) -> Reason | None:
        """One heartbeat: None when it was written, else why not."""
        if not self._state.to_postgres:
            return None
        try:
            await self._postgres.beat()
        except Exception as error:  # noqa: BLE001  # whatever it is, the prober must go on
            self.database_ok = False
            return _reason_of(error)
        self.database_ok = self.sure = True
        return None

    async def _reach(self) -> Reason | None:
        """The whole way in; None when PostgreSQL can be written as it is meant to be."""
        try:
            if await self._postgres.revision() != REVISION:
                await in_daemon_thread("upgrade", self._upgrade)
            await self._postgres.beat(self._postgres.read_seconds)
            await self._prepare()
        except SetupError as error:
            self.database_ok = False
            return _BY_CODE.get(error.code, "foreign")
        except Exception as error:  # noqa: BLE001  # whatever it is, PostgreSQL is not usable
            self.database_ok = False
            self._postgres.forget_sessions()
            return _reason_of(error)
        self.database_ok = self.sure = True
        return None

    def _upgrade(self) -> None:
        from audiobot.storage.upgrading import upgrade  # noqa: PLC0415  # seldom, and not small

        upgrade(self._postgres.dsn)

    # -- replay ------------------------------------------------------------------------------

    async def _carry_forever(self) -> None:
        while True:
            await self._recovering.wait()
            try:
                while self._state.mode == "recovering" and not await self._carry_some():
                    pass
                if self._state.mode == "recovering" and self._tally.stale:
                    await self._recount()
            except Exception as error:  # noqa: BLE001  # whatever it is, replay is tried again
                if isinstance(error, DatabaseTrouble):
                    self.met(error)
                await asyncio.sleep(FIRST_BACKOFF)
                continue
            if self._local.backlog == 0:
                self._state.happen("carried", "carried")
            if self._state.mode != "recovering":
                self._recovering.clear()

    async def _carry_some(self) -> bool:
        """Carry one batch; true when nothing is left to carry."""
        operations, last = await self._local.unreplayed(self._batch)
        if last == self._local.replayed:
            if forgotten := await self._local.forget_carried():
                return forgotten
            await asyncio.sleep(_NOT_YET_SECONDS)
            return False
        started = _now()
        async with self._tally.lock:
            replayed = self._local.replayed
            try:
                self.refused += await replay(
                    self._postgres, self._local.journal, operations, (replayed, last)
                )
            except (DatabaseTrouble, asyncio.CancelledError):
                for operation in operations:  # perhaps it was the reply alone that was lost
                    self._tally.doubt(operation)
                self._batch = max(1, self._batch // 2)  # perhaps it was too much for its time
                raise
            self._tally.carried(operations)
            await self._local.carried(last)
        self._meter.replayed(len(operations))
        if _now() - started > SLOW_BATCH_SECONDS:
            self._batch = max(1, self._batch // 2)
        elif self._batch < BATCH:
            self._batch = min(BATCH, self._batch * 2)
        return False


def _reason_of(error: Exception) -> Reason:
    found = trouble_of(error)
    # A value that is refused where none of a person's is written: the schema is another.
    return found.reason if isinstance(found, DatabaseTrouble) else "schema"


def _now() -> float:
    return asyncio.get_running_loop().time()
