"""The circuit: each of its rules by example, all of them against a naive oracle."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from audiobot.storage.circuit import Circuit

OK, SLOW, MISS, FAIL = "ok", "slow", "timeout", "refused"


def tell(circuit: Circuit, now: float, what: str) -> bool:
    if what in (OK, SLOW):
        return circuit.succeeded(now, 1.001 if what == SLOW else 1.0)
    return circuit.failed(now, what)


CASES = [
    ("three misses in a row", [(0, MISS), (20, MISS), (40, MISS)], True),
    ("two misses are not enough", [(0, MISS), (20, MISS)], False),
    ("a success between misses begins the count anew",
     [(0, MISS), (20, MISS), (40, OK), (60, MISS), (80, MISS)], False),
    ("so does a failure that is no miss",
     [(0, MISS), (20, MISS), (40, FAIL), (60, MISS), (80, MISS)], False),
    ("four calls say nothing, all of them failed", [(n, FAIL) for n in range(4)], False),
    ("of five calls three failed", [(0, OK), (1, OK), (2, FAIL), (3, FAIL), (4, FAIL)], True),
    ("of five calls two failed", [(0, OK), (1, OK), (2, OK), (3, FAIL), (4, FAIL)], False),
    ("of six calls half failed",
     [(0, OK), (1, OK), (2, OK), (3, FAIL), (4, FAIL), (5, FAIL)], True),
    ("of five calls four crept", [(0, OK), (1, SLOW), (2, SLOW), (3, SLOW), (4, SLOW)], True),
    ("of five calls three crept", [(0, OK), (1, OK), (2, SLOW), (3, SLOW), (4, SLOW)], False),
    ("a failed call crept too",
     [(0, OK), (1, SLOW), (2, SLOW), (3, FAIL), (4, FAIL)], True),
    ("exactly a second is not slow", [(n, OK) for n in range(9)], False),
    ("what is ten seconds old still counts",
     [(0, FAIL), (7, FAIL), (8, FAIL), (9, OK), (10, OK)], True),
    ("what is older does not",
     [(0, FAIL), (7, FAIL), (8, FAIL), (9, OK), (10.1, OK)], False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("calls", "opens"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_the_last_call_opens_the_circuit_or_not(calls, opens) -> None:
    circuit = Circuit()
    *before, last = [tell(circuit, now, what) for now, what in calls]
    assert not any(before)
    assert last is opens


def test_g02_three_deadline_misses_are_the_most_that_it_takes() -> None:
    circuit = Circuit()
    assert [circuit.failed(float(n), "timeout") for n in range(3)] == [False, False, True]


def test_after_a_reset_nothing_is_held_against_postgres() -> None:
    circuit = Circuit()
    for n in range(2):
        circuit.failed(float(n), "timeout")
    circuit.reset()
    assert not circuit.failed(2.0, "timeout")
    assert not circuit.failed(3.0, "timeout")


def oracle(calls: list[tuple[float, str]]) -> bool:
    """The rules as storage's design words them, over the whole history."""
    now = calls[-1][0]
    if len(calls) >= 3 and all(what == MISS for _, what in calls[-3:]):
        return True
    window = [what for at, what in calls if now - at <= 10]
    failed = sum(what in (MISS, FAIL) for what in window)
    crept = sum(what != OK for what in window)
    return len(window) >= 5 and (2 * failed >= len(window) or 5 * crept >= 4 * len(window))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.integers(0, 48), st.sampled_from([OK, OK, OK, SLOW, MISS, FAIL])),
        min_size=1,
        max_size=60,
    )
)
def test_it_opens_when_the_oracle_says(steps) -> None:
    circuit, calls, now = Circuit(), [], 0.0
    for quarters, what in steps:
        now += quarters / 4  # whole binary fractions: the window's edge is met exactly
        calls.append((now, what))
        assert tell(circuit, now, what) is oracle(calls), calls
