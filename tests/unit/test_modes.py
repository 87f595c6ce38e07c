"""The modes' one table: every line of it does what it says, and nothing else does anything."""

from __future__ import annotations

import re
from itertools import product
from types import SimpleNamespace
from typing import get_args

import pytest

from audiobot.domain import Stats, StorageMode, StorageStatus, utc_now
from audiobot.http.operations import make_router
from audiobot.storage.modes import (
    TRANSITIONS,
    Event,
    ModeState,
    Switched,
    diagram,
    outage_switches,
)
from audiobot.storage.trouble import Reason
from audiobot.telemetry import Metrics

MODES, EVENTS = get_args(StorageMode), get_args(Event)
NOTHING = [pair for pair in product(MODES, EVENTS) if pair not in TRANSITIONS]


@pytest.mark.parametrize(("before", "event"), TRANSITIONS)
def test_every_line_of_the_table_changes_the_mode_and_is_told(before, event) -> None:
    told: list[Switched] = []
    state = ModeState(before, "why it was", told.append)
    since = state.since
    assert state.happen(event, "why it is") is True
    after = TRANSITIONS[before, event]
    assert (state.mode, state.reason) == (after, "why it is")
    assert state.since >= since
    assert [t[:3] for t in told] == [(before, after, "why it is")]
    assert told[0].seconds >= 0


@pytest.mark.parametrize(("mode", "event"), NOTHING)
def test_whatever_is_not_in_the_table_has_no_effect(mode, event) -> None:
    told: list[Switched] = []
    state = ModeState(mode, "why", told.append)
    since = state.since
    assert state.happen(event, "something") is False
    assert (state.mode, state.reason, state.since, told) == (mode, "why", since, [])


def test_the_table_speaks_of_every_mode_and_every_event() -> None:
    assert {mode for mode, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(MODES)
    assert {event for _, event in TRANSITIONS} == set(EVENTS)


def test_nothing_leads_out_of_draining_and_everything_leads_into_it() -> None:
    assert not [event for mode, event in TRANSITIONS if mode == "draining"]
    for mode in set(MODES) - {"draining"}:
        assert TRANSITIONS[mode, "closing"] == "draining"


@pytest.mark.parametrize("mode", MODES)
def test_new_writes_go_to_postgres_while_it_is_well_and_only_then(mode) -> None:
    assert ModeState(mode, "").to_postgres == (mode in {"postgres", "recovering"})


def test_the_diagram_has_an_arrow_for_every_line_and_no_other() -> None:
    arrows = re.findall(r"^ +(\w+) --> (\w+): (\w+)$", diagram(), re.MULTILINE)
    assert sorted(arrows) == sorted((b, a, event) for (b, event), a in TRANSITIONS.items())


def test_every_change_that_an_outage_may_bring_is_told_of_from_the_start() -> None:
    foreseen = list(outage_switches())
    expected = {(b, a) for (b, event), a in TRANSITIONS.items() if event != "closing"}
    assert {(before, after) for before, after, _ in foreseen} == expected
    for mode in ("postgres", "recovering"):
        assert {r for b, a, r in foreseen if (b, a) == (mode, "fallback")} == set(get_args(Reason))
    metrics = Metrics()
    metrics.expect_switches(foreseen)
    told = re.findall(
        r'^vasdom_storage_switches_total\{from="(\w+)",reason="(\w+)",to="(\w+)"\} 0\.0$',
        metrics.exposition().decode(),
        re.MULTILINE,
    )
    assert sorted((b, a, r) for b, r, a in told) == sorted(foreseen)


@pytest.mark.parametrize("mode", MODES)
async def test_the_metrics_labels_are_the_tables_modes(mode) -> None:
    async def totals() -> Stats:
        numbers = dict.fromkeys(set(Stats.__struct_fields__) - {"complete", "as_of"}, 0)
        return Stats(**numbers, complete=True, as_of=utc_now())

    status = StorageStatus(
        mode=mode, reason="", since=utc_now(), durability="journal", accepting=True,
        journal_backlog=0, oldest_backlog_seconds=0.0, database_available=True, ephemeral=False,
        missing_records=0, conflicts=0, orphans=0,
    )  # fmt: skip
    metrics = Metrics()
    services = SimpleNamespace(
        store=SimpleNamespace(get_stats=totals),
        access=SimpleNamespace(require_metrics_reader=lambda request: None, bearer=dict),
        metrics=metrics,
        sample=lambda: metrics.take_status(status),
    )
    router = make_router(services)
    (endpoint,) = [r.endpoint for r in router.routes if r.path == "/api/metrics"]
    text = (await endpoint(None)).body.decode()
    shown = dict(re.findall(r'^vasdom_storage_mode\{mode="(\w+)"\} (\S+)$', text, re.MULTILINE))
    assert shown == {m: "1.0" if m == mode else "0.0" for m in MODES}
