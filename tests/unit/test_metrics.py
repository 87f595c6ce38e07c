"""What is counted, under which names, and how several workers' numbers become one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from prometheus_client.parser import text_string_to_metric_families

from audiobot.domain import StorageStatus, utc_now
from audiobot.http.app import create_app
from audiobot.ports import NO_METER, Meter
from audiobot.telemetry import Metrics, MetricsMeter, SharedFiles
from audiobot.telemetry.logs import Sparing

ANY_METHOD = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "BREW")
_WORKER = """
import sys
from pathlib import Path
from audiobot.telemetry import Metrics, MetricsMeter, SharedFiles

directory, slot = Path(sys.argv[1]), int(sys.argv[2])
shared = SharedFiles(directory)
shared.take(slot)
metrics = Metrics(shared)
meter = MetricsMeter(metrics)
exec(sys.argv[3])
sys.stdout.buffer.write(metrics.exposition())
"""


def status(**fields: object) -> StorageStatus:
    usual: dict = {
        "mode": "memory", "reason": "", "since": utc_now(), "durability": "journal",
        "accepting": True, "journal_backlog": 0, "oldest_backlog_seconds": 0.0,
        "database_available": True, "ephemeral": False, "missing_records": 0, "conflicts": 0,
        "orphans": 0,
    }  # fmt: skip
    return StorageStatus(**{**usual, **fields})


def values(exposition: bytes) -> dict[str, float]:
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


def worker(directory: Path, slot: int, code: str) -> dict[str, float]:
    """What a worker in this slot tells after it did ``code`` and before it is gone."""
    done = subprocess.run(
        [sys.executable, "-c", _WORKER, str(directory), str(slot), code],
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return values(done.stdout)


@pytest.fixture
def shared(tmp_path: Path) -> SharedFiles:
    files = SharedFiles(tmp_path / "of [two]" / "metrics")
    files.clear(2)
    return files


def test_every_metric_is_described_by_its_name_type_labels_and_meaning() -> None:
    metrics = Metrics()
    told = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            family.documentation,
        )
        for family in text_string_to_metric_families(metrics.exposition().decode())
    }
    assert told == {d.name: (d.kind, d.meaning) for d in metrics.described}
    assert all(name.startswith("vasdom_") for name in told)


def test_series_with_fixed_labels_are_there_from_the_start_so_that_a_first_one_is_an_increase():
    found = values(Metrics().exposition())
    assert found['vasdom_ai_responses_total{"status": "handed_over"}'] == 0
    assert found['vasdom_learning_feedback_total{"rating": "1"}'] == 0
    assert found['vasdom_commit_seconds_count{"home": "journal"}'] == 0
    assert found['vasdom_turn_stage_seconds_count{"stage": "model"}'] == 0


def test_an_unknown_method_adds_no_label_of_its_own() -> None:
    metrics = Metrics()
    metrics.observe_request("BREW", "unmatched", 405, 0.1)
    metrics.observe_request("BREW2", "unmatched", 405, 0.1)
    key = '{"endpoint": "unmatched", "method": "OTHER", "status": "405"}'
    assert values(metrics.exposition())[f"vasdom_requests_total{key}"] == 2


def test_the_time_in_each_mode_grows_by_the_time_that_passed() -> None:
    metrics = Metrics()
    metrics.take_status(status(mode="fallback"))
    metrics._mode_at -= 10
    metrics.take_status(status(mode="fallback"))
    metrics.take_status(status(mode="recovering"))
    found = values(metrics.exposition())
    assert 10 <= found['vasdom_storage_mode_seconds_total{"mode": "fallback"}'] < 11
    assert found['vasdom_storage_mode_seconds_total{"mode": "recovering"}'] < 1


def test_evictions_are_counted_once_though_their_total_is_told_again_and_again() -> None:
    metrics = Metrics()
    for total in (3, 3, 5):
        metrics.take_status(status(evicted=total))
    assert values(metrics.exposition())["vasdom_memory_evictions_total{}"] == 5


def test_a_stage_is_timed_however_it_ends() -> None:
    metrics = Metrics()
    meter: Meter = MetricsMeter(metrics)
    with pytest.raises(KeyError), meter.stage("search"):
        raise KeyError
    with meter.stage("search"):
        pass
    assert values(metrics.exposition())['vasdom_turn_stage_seconds_count{"stage": "search"}'] == 2


def test_who_has_no_meter_may_report_all_the_same() -> None:
    with NO_METER.stage("store"):
        NO_METER.committed("journal", 1, 0.1)


def test_lines_of_one_kind_are_let_through_until_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = [1_000.0]
    monkeypatch.setattr("audiobot.telemetry.logs.time.monotonic", lambda: moment[0])
    sparing = Sparing()
    assert [sparing.left_out() for _ in range(25)] == [0] * 20 + [None] * 5
    moment[0] += 11
    assert [sparing.left_out() for _ in range(2)] == [5, 0]


# -- several workers -----------------------------------------------------------------------------


def test_any_worker_tells_what_all_have_counted(shared: SharedFiles) -> None:
    worker(shared.directory, 0, "metrics.answered('asked'); meter.committed('journal', 3, 0.1)")
    told = worker(
        shared.directory, 1, "metrics.answered('asked'); meter.committed('journal', 5, 0.1)"
    )
    assert told['vasdom_ai_responses_total{"status": "asked"}'] == 2
    assert told['vasdom_commit_batch_size_sum{"home": "journal"}'] == 8
    assert told['vasdom_commit_batch_size_count{"home": "journal"}'] == 2


def test_gauges_of_several_workers_become_one_as_each_says(shared: SharedFiles) -> None:
    set_all = (
        "metrics.workers.set(1); metrics.disk_free.set({0});"
        " metrics.encoder_ready.set({1}); metrics._backlog.set({0}); metrics._orphans.set({0})"
    )
    worker(shared.directory, 0, set_all.format(7, 1))
    told = worker(shared.directory, 1, set_all.format(5, 0))
    assert told["vasdom_workers{}"] == 2
    assert told["vasdom_journal_backlog{}"] == 12
    assert told["vasdom_orphan_ratings{}"] == 7
    assert told["vasdom_disk_free_bytes{}"] == 5
    assert told["vasdom_embeddings_ready{}"] == 0


def test_a_worker_that_is_still_starting_does_not_say_that_nothing_is_accepted(
    shared: SharedFiles,
) -> None:
    worker(shared.directory, 0, "metrics._accepting.set(1); metrics.workers.set(1)")
    told = worker(shared.directory, 1, "pass")
    assert told["vasdom_storage_accepting{}"] == 1


def test_a_dead_workers_counts_stay_and_its_gauges_go(shared: SharedFiles) -> None:
    worker(shared.directory, 0, "metrics.answered('asked'); metrics.workers.set(1)")
    shared.died(0)
    told = worker(shared.directory, 1, "metrics.workers.set(1)")
    assert told['vasdom_ai_responses_total{"status": "asked"}'] == 1
    assert told["vasdom_workers{}"] == 1


def test_a_worker_that_starts_again_goes_on_counting_where_it_was(shared: SharedFiles) -> None:
    for _ in range(3):
        told = worker(shared.directory, 0, "metrics.answered('asked'); metrics.workers.set(1)")
        shared.died(0)
    assert told['vasdom_ai_responses_total{"status": "asked"}'] == 3
    assert told["vasdom_workers{}"] == 1
    assert len(list(shared.directory.iterdir())) == 2 * 6


def test_the_files_are_allocated_before_and_hold_every_series_that_can_be(
    shared: SharedFiles,
) -> None:
    sizes = {path: path.stat() for path in shared.directory.iterdir()}
    assert all(place.st_blocks * 512 >= place.st_size for place in sizes.values())
    routes = create_app(MagicMock(cors_origins=())).router.routes
    every = [(r.path, method) for r in routes for method in getattr(r, "methods", None) or ["GET"]]
    every += [("unmatched", method) for method in ANY_METHOD]
    assert len(every) > 50
    strangers = [(r.path, method) for r in routes for method in ANY_METHOD]
    worker(
        shared.directory,
        0,
        f"for endpoint, method in {every}:\n"
        "  for code in (200, 204, 303, 304, 400, 401, 403, 404, 409, 413, 415, 422, 429, 499, 500,"
        " 503, 507):\n"
        "    metrics.observe_request(method, endpoint, code, .1)\n"
        f"for endpoint, method in {strangers}:\n"
        "  metrics.observe_request(method, endpoint, 405, .1)\n",
    )
    after = {path: path.stat() for path in shared.directory.iterdir()}
    assert {p: s.st_size for p, s in after.items()} == {p: s.st_size for p, s in sizes.items()}
