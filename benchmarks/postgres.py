"""Measure PostgreSQL mode: statistics, export and growing up, on a real server of its own.

    .venv/bin/python benchmarks/postgres.py [--rows 1000000]

Rows are generated in SQL from a fixed seed; every figure stands beside its limit of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx
import psutil
import psycopg
from benchmarks.harness import SEED, Figure, keep, quantile
from benchmarks.throughput import ASKED
from tests.conformance.hybrid import dialogues_in, hybrid
from tests.conformance.local import opened
from tests.postgres import Cluster
from tests.servers import Server, serving

from audiobot.storage.dsn import parse_dsn
from audiobot.storage.migrations.versions.hybrid_002 import COUNT_ANEW
from audiobot.storage.upgrading import upgrade

GENERATE = """
    ALTER TABLE voice_logs DISABLE TRIGGER USER;
    SELECT setseed(0.20261124);
    INSERT INTO voice_logs (id, session_id, user_message, ai_response, model_used, response_time,
        created_at, rating, rating_version, rating_op, updated_at)
    SELECT gen_random_uuid(), 'session-' || n % 50000, 'Как часто моют полы в подъезде ' || n % 500,
        repeat('Полы в подъезде моют два раза в неделю. ', 5), 'retrieval', 0.01, at,
        rating, CASE WHEN rating IS NOT NULL THEN 1 END,
        CASE WHEN rating IS NOT NULL THEN gen_random_uuid() END, at
    FROM (SELECT n, now() - random() ^ 3 * interval '400 days' AS at,
        CASE WHEN random() < {rated} THEN 1 + floor(random() * 5)::int END AS rating
        FROM generate_series(1, {rows}) AS n) AS made;
    ALTER TABLE voice_logs ENABLE TRIGGER USER;
    {counted}
"""
"""Counted as an upgrade counts: one INSERT would leave a summary of half a million rows, which no
server that has lived through its dialogues has."""


def generate(cluster: Cluster, database: str, rows: int, rated: float) -> None:
    """Dialogues in SQL, a share of them ``rated``, most of them lately."""
    with psycopg.connect(cluster.dsn(database, user=cluster.admin), autocommit=True) as connection:
        connection.execute(GENERATE.format(rows=rows, rated=rated, counted=COUNT_ANEW))  # type: ignore[arg-type]
        connection.execute("ANALYZE")


def statistics_figures(cluster: Cluster, rows: int, folder: Path) -> dict[str, float]:
    """p50 and p95 of the statistics over ``rows`` dialogues by HTTP, and of the bare recount."""
    with cluster.database() as name:
        upgrade(parse_dsn(cluster.dsn(name)))
        generate(cluster, name, rows, 0.3)
        with in_postgres(cluster, name, folder / "statistics") as server:
            times = []
            for _ in range(300):
                started = time.perf_counter()
                told = server.client.get("/api/learning/stats").raise_for_status()
                times.append(1_000 * (time.perf_counter() - started))
            started = time.perf_counter()
            counted = cluster.execute("SELECT count(*), count(rating) FROM voice_logs", name)[0]
            recount = 1_000 * (time.perf_counter() - started)
            stats = told.json()
            assert (stats["total_interactions"], stats["rated_interactions"]) == counted
    return {
        f"statistics over {rows:,} rows p50, ms": round(statistics.median(times), 2),
        f"statistics over {rows:,} rows p95, ms": round(quantile(times, 0.95), 2),
        "the same by counting rows, ms": round(recount, 1),
    }


@contextlib.contextmanager
def in_postgres(cluster: Cluster, name: str, folder: Path) -> Iterator[Server]:
    """A real server on a database, by the time it uses it and has learned from all of it."""
    with serving(folder, DATABASE_URL=cluster.dsn(name)) as server:
        server.wait_for_mode("postgres")
        deadline = time.monotonic() + 600
        while "ready to answer by meaning" not in server.log:
            assert time.monotonic() < deadline, server.log
            time.sleep(0.2)
        yield server


def export_figures(cluster: Cluster, rows: int, folder: Path) -> dict[str, float]:
    """Export ``rows`` rated dialogues through a real server while others knock and ask."""
    with cluster.database() as name:
        upgrade(parse_dsn(cluster.dsn(name)))
        generate(cluster, name, rows, 1.1)
        with in_postgres(cluster, name, folder / "export") as server:
            process = psutil.Process(server.process.pid)
            done = threading.Event()

            def knock(knocks: list[float], turns: list[float]) -> None:
                """By turns at the door, which needs the loop alone, and with a whole turn."""
                said = {"message": ASKED[0]}  # answered from the knowledge and stored
                with httpx.Client(base_url=server.address, trust_env=False, timeout=30) as client:
                    while not done.is_set():
                        started = time.perf_counter()
                        client.get("/api/ready").raise_for_status()
                        middle = time.perf_counter()
                        client.post("/api/voice/process", json=said).raise_for_status()
                        knocks.append(1_000 * (middle - started))
                        turns.append(1_000 * (time.perf_counter() - middle))
                        time.sleep(0.005)

            def beside(work: Callable[[], object]) -> tuple[list[float], list[float]]:
                done.clear()
                knocks: list[float] = []
                turns: list[float] = []
                with ThreadPoolExecutor(1) as thread:
                    knocking = thread.submit(knock, knocks, turns)
                    try:
                        work()
                    finally:
                        done.set()
                    knocking.result()
                return knocks, turns

            quiet, quiet_turns = beside(lambda: time.sleep(5))
            before, peak, size, count = process.memory_info().rss, 0, 0, 0
            started = time.perf_counter()

            def export() -> None:
                nonlocal peak, size, count
                with server.client.stream(
                    "GET",
                    "/api/learning/export?min_rating=1",
                    headers={"Accept": "application/x-ndjson"},
                ) as response:
                    for chunk in response.iter_bytes():
                        size += len(chunk)
                        count += chunk.count(b"\n")
                        peak = max(peak, process.memory_info().rss)

            stalls, turns = beside(export)
            seconds = time.perf_counter() - started
            assert count == rows, (count, rows)
    return {
        f"export of {rows:,} rated dialogues, s": round(seconds, 2),
        "export, dialogues a second": round(rows / seconds),
        "memory more at its peak, MB": round((peak - before) / 1e6, 1),
        "another request meanwhile p99, ms": round(quantile(stalls, 0.99), 1),
        "another request meanwhile max, ms": round(max(stalls), 1),
        "another request in quiet max, ms": round(max(quiet), 1),
        "a turn meanwhile p50, ms": round(statistics.median(turns), 1),
        "a turn meanwhile p99, ms": round(quantile(turns, 0.99), 1),
        "a turn meanwhile max, ms": round(max(turns), 1),
        "a turn in quiet p50, ms": round(statistics.median(quiet_turns), 1),
        "a turn in quiet p99, ms": round(quantile(quiet_turns, 0.99), 1),
        "a turn in quiet max, ms": round(max(quiet_turns), 1),
    }


async def growing_figures(cluster: Cluster, operations: int, folder: Path) -> dict[str, float]:
    """A journal of ``operations`` carried into an empty database."""
    chance = random.Random(SEED)
    path = folder / "grown"
    async with opened(path) as store:
        made: list[uuid.UUID] = []

        async def add(number: int) -> None:
            made.append(
                (await store.add_conversation(None, f"вопрос {number}", "ответ " * 20, "s")).log_id
            )

        for start in range(0, operations // 2, 500):
            await asyncio.gather(*(add(start + i) for i in range(500)))
        for _ in range(0, operations // 2, 500):
            await asyncio.gather(
                *(
                    store.update_rating(chance.choice(made), chance.randint(1, 5))
                    for _ in range(500)
                )
            )
        totals = await store.get_stats()
    with cluster.database() as name:
        upgrade(parse_dsn(cluster.dsn(name)))
        started = time.perf_counter()
        async with hybrid(path, cluster.dsn(name)) as store:
            seconds = time.perf_counter() - started
            assert (await store.get_stats()).rating_sum == totals.rating_sum
        assert len(dialogues_in(cluster, name)) == operations // 2
    return {
        f"carrying a journal of {operations:,} operations, s": round(seconds, 2),
        "operations a second": round(operations / seconds),
    }


TARGETS: dict[str, tuple[str, float | None, bool]] = {
    "p95, ms": ("ms", 20.0, False),
    "memory more at its peak, MB": ("MB", 50.0, False),
    "another request meanwhile max, ms": ("ms", 50.0, False),
    "a turn meanwhile max, ms": ("ms", 50.0, False),
    "operations a second": ("operations/s", 5_000.0, True),
}
"""Which figures have a target, by how their names end: unit, target, whether it is the least."""


def figure_of(name: str, values: list[float]) -> Figure:
    """The figure of what each round measured."""
    for end, (unit, target, least) in TARGETS.items():
        if name.endswith(end):
            figure = Figure(name.removesuffix(f", {unit}"), unit, target, least)
            break
    else:
        figure = Figure(name, name.rpartition(", ")[2] if ", " in name else "1/s")
    # The longest of all rounds is no median.
    for value in [max(values)] if name.endswith("max, ms") else values:
        figure.add(value)
    return figure


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--export", type=int, default=100_000)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3, help="each in databases of its own")
    arguments = parser.parse_args()
    figures: defaultdict[str, list[float]] = defaultdict(list)
    with Cluster() as cluster:
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as made:
                folder = Path(made)
                measured = asyncio.run(growing_figures(cluster, arguments.operations, folder))
                measured |= export_figures(cluster, arguments.export, folder)
                measured |= statistics_figures(cluster, arguments.rows, folder)
            for name, value in measured.items():
                figures[name].append(value)
        version = cluster.execute("SHOW server_version")[0][0]
    keep("postgres", [figure_of(*each) for each in figures.items()], postgresql=version)


if __name__ == "__main__":
    main()
