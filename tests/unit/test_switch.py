"""The switch's timing, every transition of it, on a virtual clock.

PostgreSQL and the journal are stand-ins with the same methods: what is tested here is when the
switch does what. The real ones meet it in conformance and faults.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from audiobot.domain import Stats, utc_now
from audiobot.errors import SetupError
from audiobot.storage.modes import TRANSITIONS, ModeState, Switched
from audiobot.storage.schema import REVISION
from audiobot.storage.switch import BATCH, Switch
from audiobot.storage.tally import Tally
from audiobot.storage.trouble import DatabaseTrouble, DataRefused
from tests.virtual_time import run


def now() -> float:
    return asyncio.get_running_loop().time()


class ScriptedPostgres:
    """Well, in trouble for a reason, or hung (each call then misses its time)."""

    dsn = None
    read_seconds = 3.0

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.misses = 0  # so many of the next heartbeats are missed
        self.beats: list[float] = []
        self.probes: list[float] = []
        self.at_once = self.most_at_once = 0
        self.interrupted: list[str] = []
        self.batches: list[tuple[float, int]] = []
        self.batch_seconds = 0.0
        self.most: int | None = None  # more than so many operations are not done in time
        self.raises: Exception | None = None  # by the next heartbeats
        self.cursor = 0

    async def _answer(self, seconds: float) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.misses:
                self.misses -= 1
                await asyncio.sleep(seconds)
                raise DatabaseTrouble("timeout")
            if self.trouble == "timeout":
                await asyncio.sleep(seconds)
            if self.trouble is not None:
                raise DatabaseTrouble(self.trouble)  # type: ignore[arg-type]
        finally:
            self.at_once -= 1

    async def revision(self) -> str:
        self.probes.append(now())
        await self._answer(self.read_seconds)
        return REVISION

    async def beat(self, seconds: float | None = None) -> None:
        if seconds is None:
            self.beats.append(now())
        if self.raises is not None:
            raise self.raises
        await self._answer(seconds or 1.0)

    def forget_sessions(self) -> None:
        pass

    def interrupt(self, trouble: DatabaseTrouble) -> None:
        self.interrupted.append(trouble.reason)

    async def replay(self, operations: list, journal: uuid.UUID, sequence: int) -> None:
        self.batches.append((now(), len(operations)))
        await asyncio.sleep(self.batch_seconds)
        if self.most is not None and len(operations) > self.most:
            raise DatabaseTrouble("timeout")
        if self.trouble is not None:
            raise DatabaseTrouble(self.trouble)  # type: ignore[arg-type]
        self.cursor = max(self.cursor, sequence)


class CountedJournal:
    """A journal that is nothing but numbers."""

    def __init__(self) -> None:
        self.last = self.replayed = self.forgotten = 0
        self.fails: list[Exception] = []
        self.journal = SimpleNamespace(identity=uuid.uuid4())

    @property
    def backlog(self) -> int:
        return self.last - self.replayed

    async def unreplayed(self, most: int) -> tuple[list, int]:
        if self.fails:
            raise self.fails.pop()
        last = min(self.last, self.replayed + most)
        return [None] * (last - self.replayed), last

    async def carried(self, sequence: int) -> None:
        self.replayed = max(self.replayed, sequence)

    async def forget_carried(self) -> bool:
        self.forgotten += 1
        return self.backlog == 0


class Scene:
    """A switch with all that it moves."""

    def __init__(self, mode: str = "fallback") -> None:
        self.told: list[tuple[float, Switched]] = []
        self.state = ModeState(mode, "starting", lambda s: self.told.append((now(), s)))
        self.postgres, self.local = ScriptedPostgres(), CountedJournal()
        zeros = dict.fromkeys(Stats.__struct_fields__[:7], 0)
        tally = Tally(Stats(**zeros, complete=True, as_of=utc_now()))
        tally.carried = lambda operations: None  # they are numbers
        tally.doubt = lambda operation: None
        self.houses: list[float] = []
        self.house_fails: Exception | None = None
        self.prepare: Exception | None = None
        self.recounts: list[tuple[float, str]] = []
        self.recount_fails: list[Exception] = []
        self.switch = Switch(
            self.state,
            self.postgres,
            self.local,
            tally,
            self._prepare,
            self._recount,
            self._keep_house,
        )
        self.tally = tally

    async def _prepare(self) -> None:
        if self.prepare is not None:
            raise self.prepare

    async def _recount(self) -> None:
        self.recounts.append((now(), self.state.mode))
        if self.recount_fails:
            raise self.recount_fails.pop()
        self.tally.stale = False

    async def _keep_house(self) -> None:
        self.houses.append(now())
        if self.house_fails is not None:
            raise self.house_fails

    @property
    def switches(self) -> list[tuple[float, str, str, str]]:
        """When, from, to, why."""
        return [(at, s.before, s.after, s.reason) for at, s in self.told]

    @property
    def modes(self) -> list[str]:
        return [s.after for _, s in self.told if s.before != s.after]


@asynccontextmanager
async def playing(mode: str = "fallback") -> AsyncIterator[Scene]:
    scene = Scene(mode)
    scene.switch.start()
    try:
        yield scene
    finally:
        await scene.switch.close(1.0)
        assert scene.postgres.most_at_once <= 1, "one prober at a time"


def on_a_virtual_clock(test):
    """Run an async test on a loop of its own; its name and place stay."""

    def whole() -> None:
        run(test())

    whole.__name__, whole.__doc__, whole.__module__ = test.__name__, test.__doc__, __name__
    return whole


async def until(moment: float) -> None:
    """Wait until just behind a moment of the virtual clock."""
    await asyncio.sleep(moment + 1e-6 - now())


async def when(true: Callable[[], bool]) -> None:
    """Wait, to a hundredth of a virtual second, until something is true."""
    while not true():  # noqa: ASYNC110  # the clock is virtual: it costs nothing
        await asyncio.sleep(0.01)


@on_a_virtual_clock
async def test_g17_a_heartbeat_is_written_every_second_while_postgres_is_well():
    async with playing() as scene:
        await until(5.5)
        assert scene.switches == [
            (0, "fallback", "recovering", "reached"),
            (0, "recovering", "postgres", "carried"),
        ]
        assert scene.switch.database_ok
        assert scene.postgres.beats == [1, 2, 3, 4, 5]


@on_a_virtual_clock
async def test_house_is_kept_every_five_seconds_while_postgres_is_well():
    async with playing() as scene:
        await until(17)
        assert [b - a for a, b in itertools.pairwise(scene.houses)] == [5] * (len(scene.houses) - 1)
        assert len(scene.houses) >= 2


@on_a_virtual_clock
async def test_g17_whatever_fails_in_the_house_the_probe_goes_on():
    async with playing() as scene:
        scene.house_fails = OSError(28, "No space left on device")
        await until(12.5)
        assert len(scene.houses) >= 2
        assert scene.postgres.beats == list(range(1, 13))


@on_a_virtual_clock
async def test_house_is_not_kept_while_postgres_is_away():
    async with playing() as scene:
        await until(2.5)
        kept = len(scene.houses)
        scene.postgres.trouble = "timeout"
        for _ in range(3):
            scene.switch.met(DatabaseTrouble("timeout"))
        await until(30)
        assert len(scene.houses) == kept


@on_a_virtual_clock
async def test_g12_whatever_fails_in_replay_it_is_tried_again():
    async with playing() as scene:
        scene.local.fails = [OSError(28, "No space left on device")] * 3
        scene.local.last = 10
        await until(5)
        assert scene.state.mode == "postgres"
        assert scene.local.backlog == 0


@on_a_virtual_clock
async def test_g17_one_beat_missed_by_a_second_is_said_and_a_second_one_is_the_fallback():
    async with playing() as scene:
        await until(2.5)
        scene.postgres.trouble = "timeout"
        await until(3.9)
        assert scene.switch.database_ok
        await until(4)
        assert not scene.switch.database_ok
        assert scene.state.mode == "postgres"
        await until(5)
        assert scene.switches[-1] == (5, "postgres", "fallback", "timeout")
        assert scene.postgres.interrupted == ["timeout"]


@on_a_virtual_clock
async def test_g17_one_beat_missed_and_the_next_one_written_is_no_outage():
    async with playing() as scene:
        await until(2.5)
        scene.postgres.misses = 1
        await until(4)
        assert scene.switch.database_ok
        assert scene.state.mode == "postgres"
        await until(9)
        assert scene.modes == ["recovering", "postgres"]


@on_a_virtual_clock
async def test_g16_what_is_refused_is_away_as_soon_as_a_probe_confirms_it():
    async with playing() as scene:
        await until(2.25)
        scene.postgres.trouble = "refused"
        scene.switch.met(DatabaseTrouble("refused"))
        await until(2.25)
        assert scene.switches[-1][1:] == ("postgres", "fallback", "refused")
        assert scene.switches[-1][0] == pytest.approx(2.25)


@on_a_virtual_clock
async def test_g16_a_refusal_that_no_probe_confirms_changes_nothing():
    async with playing() as scene:
        await until(2.25)
        scene.switch.met(DatabaseTrouble("refused"))
        await until(8)
        assert scene.state.mode == "postgres"
        assert scene.postgres.beats[2] == pytest.approx(2.25), "it was asked at once"


@on_a_virtual_clock
async def test_g02_three_deadlines_missed_open_the_circuit_and_nobody_waits_on():
    async with playing() as scene:
        await until(2.5)
        for _ in range(2):
            scene.switch.met(DatabaseTrouble("timeout"))
        assert scene.state.mode == "postgres"
        scene.switch.met(DatabaseTrouble("timeout"))
        assert scene.state.mode == "fallback"
        assert not scene.switch.database_ok
        assert scene.postgres.interrupted == ["timeout"]


@on_a_virtual_clock
async def test_g02_five_calls_that_crept_open_the_circuit():
    async with playing() as scene:
        await until(2.5)
        for _ in range(4):
            scene.switch.succeeded(1.2)
        assert scene.state.mode == "postgres"
        scene.switch.succeeded(1.2)
        assert (scene.state.mode, scene.state.reason) == ("fallback", "timeout")


@on_a_virtual_clock
async def test_g17_after_an_outage_nothing_is_held_against_postgres():
    async with playing() as scene:
        await until(1)
        for _ in range(3):
            scene.switch.met(DatabaseTrouble("timeout"))
        await until(2)
        assert scene.state.mode == "postgres"
        scene.switch.met(DatabaseTrouble("timeout"))
        assert scene.state.mode == "postgres"


def waits(probes: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(probes)]


@on_a_virtual_clock
async def test_g17_probes_back_off_from_half_a_second_to_two_with_jitter():
    async with playing() as scene:
        scene.postgres.trouble = "refused"
        await until(60)
        first, second, *later = waits(scene.postgres.probes)
        assert 0.375 <= first <= 0.625
        assert 0.75 <= second <= 1.25
        assert all(1.5 <= wait <= 2.5 for wait in later)
        assert len(set(later)) == len(later), "jitter"
        assert (scene.state.mode, scene.state.reason) == ("fallback", "refused")
        scene.postgres.trouble = None
        await until(63)
        assert scene.modes == ["recovering", "postgres"]


@on_a_virtual_clock
async def test_g17_one_prober_at_a_time_however_many_report_trouble():
    async with playing() as scene:
        await until(1.5)
        scene.postgres.trouble = "timeout"
        for _ in range(50):
            scene.switch.met(DatabaseTrouble("refused"))
            scene.switch.met(DatabaseTrouble("timeout"))
            await asyncio.sleep(0.05)
        await until(30)
        assert scene.postgres.most_at_once == 1


@on_a_virtual_clock
async def test_g17_flapping_within_ten_seconds_does_not_begin_the_backoff_anew():
    async with playing() as scene:
        scene.postgres.trouble = "refused"
        await until(10)
        for _ in range(4):
            scene.postgres.trouble = None
            await when(lambda: scene.state.mode == "postgres")
            await asyncio.sleep(1)
            scene.postgres.trouble = "refused"
            await when(lambda: scene.state.mode == "fallback")
            scene.postgres.probes.clear()
            await when(lambda: len(scene.postgres.probes) >= 2)
            assert all(1.5 <= wait <= 2.5 for wait in waits(scene.postgres.probes))


@on_a_virtual_clock
async def test_g17_after_ten_steady_seconds_the_next_outage_is_probed_from_the_shortest_wait():
    async with playing() as scene:
        await until(2)
        scene.postgres.trouble = "refused"
        await until(8)  # a short outage; the waits have grown when it ends
        scene.postgres.trouble = None
        await when(lambda: scene.state.mode == "postgres")
        await asyncio.sleep(15)
        began = len(scene.postgres.probes)
        scene.postgres.trouble = "refused"
        await asyncio.sleep(8)
        first, second, *_ = waits(scene.postgres.probes[began:])
        assert 0.375 <= first <= 0.625
        assert 0.75 <= second <= 1.25


@on_a_virtual_clock
async def test_a_batch_is_halved_while_it_is_slow_and_grows_again():
    async with playing() as scene:
        scene.local.last = 2_000
        scene.postgres.batch_seconds = 0.6
        await when(lambda: len(scene.postgres.batches) >= 5)
        scene.postgres.batch_seconds = 0.1
        await when(lambda: not scene.local.backlog)
        sizes = [size for _, size in scene.postgres.batches]
        assert sizes[:6] == [BATCH, BATCH // 2, BATCH // 4, BATCH // 8, BATCH // 16, BATCH // 32]
        assert sizes[6:11] == [12, 24, 48, 96, 192]
        assert max(sizes) <= BATCH
        assert sizes[11] == BATCH


@on_a_virtual_clock
async def test_g08_a_batch_that_is_too_much_for_its_time_gets_smaller_until_it_is_not():
    async with playing() as scene:
        scene.local.last = 1_000
        scene.postgres.most = 30
        await when(lambda: scene.postgres.cursor == 1_000)


@on_a_virtual_clock
async def test_g20_a_batch_that_closing_breaks_off_may_have_come_through():
    async with playing() as scene:
        doubted: list[object] = []
        scene.tally.doubt = doubted.append
        scene.local.last = 100
        scene.postgres.batch_seconds = 3.0
        await when(lambda: len(scene.postgres.batches) == 1)
        await scene.switch.close(1.0)
        assert len(doubted) == 200  # by the replay, and by the last attempt


@pytest.mark.parametrize("error", [DataRefused("23502"), OSError("no descriptor is left")])
def test_g17_whatever_a_heartbeat_meets_the_prober_goes_on(error: Exception) -> None:
    async def whole() -> None:
        async with playing() as scene:
            await when(lambda: len(scene.postgres.beats) > 1)
            scene.postgres.raises = error
            await when(lambda: "fallback" in scene.modes)
            scene.postgres.raises = None
            await when(lambda: scene.state.mode == "postgres")

    run(whole())


@on_a_virtual_clock
async def test_g08_a_write_that_went_to_the_journal_is_carried_after_the_next_good_beat():
    async with playing() as scene:
        await until(2.25)
        scene.local.last = 1
        scene.switch.journaled()
        await until(2.3)
        assert [s[1:] for s in scene.switches[2:]] == [
            ("postgres", "recovering", "late"),
            ("recovering", "postgres", "carried"),
        ]
        assert scene.postgres.cursor == 1


@on_a_virtual_clock
async def test_g20_it_is_back_only_when_the_totals_count_what_was_carried():
    async with playing() as scene:
        await until(2.25)
        assert scene.recounts == []
        scene.local.last, scene.tally.stale = 1, True
        scene.recount_fails = [DatabaseTrouble("timeout")]
        scene.switch.journaled()
        await when(lambda: scene.state.mode == "recovering")
        await when(lambda: scene.state.mode == "postgres")
        assert [mode for _, mode in scene.recounts] == ["recovering", "recovering"]
        assert not scene.tally.stale


@on_a_virtual_clock
async def test_g16_trouble_in_the_middle_of_replay_falls_back_and_later_goes_on():
    async with playing() as scene:
        scene.local.last = 1_000
        scene.postgres.batch_seconds = 0.4
        await until(0.9)
        assert scene.state.mode == "recovering"
        assert scene.local.replayed == 2 * BATCH
        scene.postgres.trouble = "read_only"
        await until(5)
        assert scene.switches[-1][1:] == ("recovering", "fallback", "read_only")
        carried = scene.local.replayed
        assert carried < 1_000
        scene.postgres.trouble = None
        await until(15)
        assert scene.modes == ["recovering", "fallback", "recovering", "postgres"]
        assert scene.local.backlog == 0
        assert scene.postgres.cursor == 1_000


@on_a_virtual_clock
async def test_every_transition_of_the_table_happens_and_no_other():
    async with playing() as scene:
        await until(1.5)
        scene.local.last = 1
        scene.switch.journaled()
        await until(2.5)
        scene.local.last = 2_000
        scene.postgres.batch_seconds = 0.3
        scene.switch.journaled()
        await until(3.0)
        scene.postgres.trouble = "lost"
        await until(4.5)
        scene.postgres.trouble = None
        await until(20)
        scene.postgres.trouble = "lost"
        await until(23)
    scene.state.happen("closing", "closing")
    seen = {(s.before, s.after) for _, s in scene.told}
    table = {(before, after) for (before, _), after in TRANSITIONS.items()}
    closing = {("memory", "draining"), ("postgres", "draining"), ("recovering", "draining")}
    assert seen == table - closing


REFUSALS = [
    (SetupError("database_too_old", version="9"), "too_old"),
    (SetupError("database_encoding", found="LATIN1"), "encoding"),
    (SetupError("database_foreign"), "foreign"),
    (DatabaseTrouble("schema"), "schema"),
    (OSError("anything"), "lost"),
]


@pytest.mark.parametrize(("error", "reason"), REFUSALS, ids=[reason for _, reason in REFUSALS])
def test_g16_who_is_reached_and_cannot_be_used_is_not_reached_and_the_reason_is_named(
    error, reason
) -> None:
    async def whole() -> None:
        async with playing() as scene:
            scene.prepare = error
            await until(5)
            assert (scene.state.mode, scene.state.reason) == ("fallback", reason)
            assert not scene.switch.database_ok
            scene.prepare = None
            await until(8)
            assert scene.state.mode == "postgres"

    run(whole())


def test_g14_closing_in_fallback_tries_nothing_and_waits_for_nothing() -> None:
    async def whole() -> None:
        async with playing() as scene:
            scene.postgres.trouble = "timeout"
            scene.local.last = 10
            await until(4)
            began = now()
            await scene.switch.close(5.0)
            assert now() == began
            assert scene.local.backlog == 10
            assert scene.postgres.batches == []

    run(whole())


@pytest.mark.parametrize("mode", ["postgres", "recovering"])
def test_g14_closing_carries_what_is_left_within_its_grace(mode: str) -> None:
    async def whole() -> None:
        async with playing() as scene:
            scene.postgres.batch_seconds = 0.2
            if mode == "recovering":
                scene.local.last = 1_000
                await until(0.3)
            else:
                await until(1.5)
                scene.local.last = 1_000
            assert scene.state.mode == mode
            await scene.switch.close(5.0)
            assert scene.local.backlog == 0
            assert now() < 3.5

    run(whole())


@pytest.mark.parametrize("hung", [True, False], ids=["hung", "slow"])
def test_g14_the_grace_of_closing_is_respected(hung: bool) -> None:
    async def whole() -> None:
        async with playing() as scene:
            await until(1.5)
            scene.local.last = 100_000
            scene.postgres.batch_seconds = 1_000.0 if hung else 0.3
            began = now()
            await scene.switch.close(5.0)
            assert now() - began == pytest.approx(5.0)
            assert scene.local.backlog == 100_000 - scene.postgres.cursor > 0

    run(whole())


def test_g14_closing_when_postgres_says_no_ends_at_once() -> None:
    async def whole() -> None:
        async with playing() as scene:
            await until(1.5)
            scene.local.last = 10
            scene.postgres.trouble = "restarting"
            began = now()
            await scene.switch.close(5.0)
            assert now() == began
            assert scene.local.backlog == 10

    run(whole())


def test_g14_closing_in_the_very_moment_of_trouble_closes() -> None:
    async def whole() -> None:
        async with playing() as scene:
            await until(1.5)
            scene.switch.met(DatabaseTrouble("refused"))
            async with asyncio.timeout(3):
                await scene.switch.close(1.0)

    run(whole())


def test_who_drains_falls_back_no_more() -> None:
    async def whole() -> None:
        async with playing() as scene:
            await until(1.5)
            scene.state.happen("closing", "closing")
            for _ in range(3):
                scene.switch.met(DatabaseTrouble("timeout"))
            assert scene.state.mode == "draining"

    run(whole())
