"""How often one caller may call: the window moves, and who stays away is forgotten."""

from __future__ import annotations

import pytest

from audiobot.http import limiter
from audiobot.http.limiter import Limiter


class Clock:
    """A time that passes when the test says so."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_window_moves_with_the_calls_and_a_refused_one_is_not_counted(clock: Clock) -> None:
    limited, ann = Limiter("2/minute", clock), ("ann", "process")
    assert limited.wait(ann) == 0
    clock.now += 40
    assert limited.wait(ann) == 0
    assert limited.wait(ann) == 20
    clock.now += 19
    assert limited.wait(ann) == 1
    clock.now += 1
    assert limited.wait(ann) == 0
    assert limited.wait(ann) == 40


def test_callers_and_what_they_call_are_counted_apart(clock: Clock) -> None:
    limited = Limiter("1/hour", clock)
    for caller in (("ann", "process"), ("ann", "feedback"), ("bob", "process")):
        assert limited.wait(caller) == 0
        assert limited.wait(caller) == 3_600


@pytest.mark.parametrize(
    ("rate", "seconds"), [("1/second", 1), ("1/minute", 60), ("1/hour", 3_600), ("1/day", 86_400)]
)
def test_a_rate_is_of_a_second_a_minute_an_hour_or_a_day(
    clock: Clock, rate: str, seconds: int
) -> None:
    limited = Limiter(rate, clock)
    assert limited.wait(("ann", "process")) == 0
    assert limited.wait(("ann", "process")) == seconds


def test_who_stays_away_is_forgotten_as_others_call(clock: Clock) -> None:
    limited = Limiter("3/minute", clock)
    for n in range(100):
        limited.wait((str(n), "process"))
    assert len(limited._callers) == 100
    clock.now += 60
    for _ in range(3):
        limited.wait(("ann", "process"))
    for n in range(47):
        limited.wait((str(n), "feedback"))
    assert len(limited._callers) == 48


def test_no_flood_of_addresses_fills_the_memory_and_who_calls_on_is_not_forgotten(
    clock: Clock,
) -> None:
    limited = Limiter("1000000/day", clock)
    limited.wait(("ann", "process"))
    strangers = range(limiter.MOST_CALLERS + 1_000)
    for n in strangers:
        clock.now += 0.001
        limited.wait((str(n), "process"))
        if n % 1_000 == 0:
            limited.wait(("ann", "process"))
    assert len(limited._callers) == limiter.MOST_CALLERS
    assert len(limited._callers["ann", "process"]) == 1 + len(strangers[::1_000])
