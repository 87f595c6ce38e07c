"""Metrics of a real server: with several workers, in an outage, and after one of them died."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.test_contract_operations import samples
from tests.postgres import Cluster
from tests.servers import Server, client_of, serving


def total(server: Server, name: str, **labels: str) -> float:
    """The sum of the series of ``name`` that bear ``labels``."""
    return sum(
        value
        for (found, its), value in samples(server).items()
        if found == name and labels.items() <= dict(its).items()
    )


def series(server: Server, name: str) -> set[object]:
    """The labels under which ``name`` is told."""
    return {its for found, its in samples(server) if found == name}


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


@pytest.fixture
def crowd(tmp_path: Path, database: str, cluster: Cluster) -> Iterator[Server]:
    """Two workers over PostgreSQL."""
    settings = {"DATABASE_URL": cluster.dsn(database)}
    with serving(tmp_path / "data", "--workers", "2", **settings) as server:
        eventually(lambda: total(server, "vasdom_storage_mode", mode="postgres") == 2, 40)
        yield server


def ask_on_fresh_connections(server: Server, times: int) -> None:
    """The kernel gives each connection to whichever worker takes it."""
    for _ in range(times):
        with client_of(server.address) as client:
            assert client.post("/api/voice/process", json={"message": "привет"}).status_code == 200


def test_whichever_worker_is_asked_tells_what_all_have_counted(crowd: Server) -> None:
    before = total(crowd, "vasdom_ai_responses_total")
    ask_on_fresh_connections(crowd, 40)
    told = []
    for _ in range(12):
        with client_of(crowd.address) as client:
            crowd.client.close()
            crowd.client = client
            told.append(total(crowd, "vasdom_ai_responses_total") - before)
            crowd.client = client_of(crowd.address)
    assert told == [40] * 12
    assert total(crowd, "vasdom_workers") == 2
    assert total(crowd, "vasdom_commit_batch_size_sum", home="postgres") == 40


def test_a_killed_worker_takes_no_count_along_and_leaves_no_gauge_behind(crowd: Server) -> None:
    ask_on_fresh_connections(crowd, 20)
    before = total(crowd, "vasdom_ai_responses_total")
    victim = psutil.Process(crowd.process.pid).children()[0].pid
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in workers_of(crowd) and len(workers_of(crowd)) == 2)
    eventually(lambda: total(crowd, "vasdom_workers") == 2, 40)
    eventually(lambda: total(crowd, "vasdom_storage_mode", mode="postgres") == 2, 40)
    assert total(crowd, "vasdom_ai_responses_total") == before
    ask_on_fresh_connections(crowd, 20)
    assert total(crowd, "vasdom_ai_responses_total") == before + 20


def workers_of(server: Server) -> set[int]:
    children = psutil.Process(server.process.pid).children()
    return {child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE}


def test_an_outage_shows_in_the_metrics_from_its_first_failure_to_the_last_replayed_operation(
    tmp_path: Path, database: str, cluster: Cluster
) -> None:
    settings = {"DATABASE_URL": cluster.dsn(database)}
    try:
        with serving(tmp_path / "data", **settings) as server:
            server.wait_for_mode("postgres")
            server.ask("привет")
            assert total(server, "vasdom_commit_seconds_count", home="postgres") == 1
            born = series(server, "vasdom_storage_switches_total")
            cluster.stop("immediate")
            server.ask("привет")
            server.wait_for_mode("fallback")
            server.ask("привет")
            assert total(server, "vasdom_storage_mode", mode="fallback") == 1
            assert total(server, "vasdom_database_available") == 0
            assert total(server, "vasdom_journal_backlog") == 2
            assert total(server, "vasdom_doubtful_operations") <= 1
            assert total(server, "vasdom_commits_failed_total", home="postgres") <= 1
            assert (
                total(
                    server, "vasdom_storage_switches_total", **{"from": "postgres"}, to="fallback"
                )
                == 1
            )
            time.sleep(1)
            assert total(server, "vasdom_journal_backlog_age_seconds") >= 1
            assert total(server, "vasdom_storage_mode_seconds_total", mode="fallback") >= 1
            cluster.start()
            server.wait_for_mode("postgres", 20)
            assert total(server, "vasdom_journal_backlog") == 0
            assert total(server, "vasdom_replayed_operations_total") == 2
            # A series that begins with its first change is no increase, and no alert sees it.
            assert series(server, "vasdom_storage_switches_total") == born
    finally:
        cluster.start()


def test_a_turns_stages_and_the_loops_lag_are_timed(server: Server) -> None:
    stage = "vasdom_turn_stage_seconds_count"
    before = {s: total(server, stage, stage=s) for s in ("embed", "search", "model", "store")}
    server.ask("Сколько стоит уборка подъезда?")
    after = {s: total(server, stage, stage=s) for s in before}
    assert {s: after[s] - before[s] for s in before} == {
        "embed": 1, "search": 1, "model": 0, "store": 1
    }  # fmt: skip
    seen = total(server, "vasdom_event_loop_lag_seconds_count")
    eventually(lambda: total(server, "vasdom_event_loop_lag_seconds_count") > seen)
