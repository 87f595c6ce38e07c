"""Does memory grow? Thirty minutes of mixed load, resident memory after five and at the end.

    .venv/bin/python benchmarks/steady_memory.py [--minutes 30]

Two servers, one in memory mode and one in PostgreSQL mode, each under 60 calls a second: turns
from a pool of questions and new ones, 40 % ratings, and now and then statistics, health, metrics
and an export. Compared are the medians of the sixth minute and of the last one; a call that
fails ends the run.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx
import psutil
import uvloop
from benchmarks.harness import SEED, Figure, keep
from benchmarks.throughput import POOL, questions, running
from tests.servers import Server

PER_SECOND = 60
LOOK_SECONDS = 5
WARM_SECONDS = 300
MINUTE = 60

Curve = list[tuple[float, float]]
"""Seconds since the start, megabytes."""


async def live(server: Server, seconds: float, seed: int, samples: Curve) -> float:
    """Calls at an even rate until ``seconds`` have passed; how many there were a second."""
    chance, process = random.Random(seed), psutil.Process(server.process.pid)
    pool = [str(q["message"]) for q in questions(POOL, SEED)]
    ids: list[str] = []
    began, calls = time.monotonic(), 0
    # A connection is let go of before the server does: it would close some under a call.
    limits = httpx.Limits(keepalive_expiry=2)
    async with (
        httpx.AsyncClient(
            base_url=server.address, timeout=60, trust_env=False, limits=limits
        ) as client,
        asyncio.TaskGroup() as group,
    ):

        async def call(number: int) -> None:
            if number % 600 == 0:
                for path in ("/api/learning/stats", "/api/health", "/api/metrics"):
                    (await client.get(path)).raise_for_status()
            elif number % 6_000 == 1:
                (await client.get("/api/learning/export")).raise_for_status()
            elif ids and chance.random() < 0.4:
                body = {"log_id": chance.choice(ids), "rating": chance.randint(1, 5)}
                (await client.post("/api/voice/feedback", json=body)).raise_for_status()
            else:
                new = chance.random() < 0.1
                text = f"{chance.choice(pool)} {number}" if new else chance.choice(pool)
                told = await client.post("/api/voice/process", json={"message": text})
                ids.append(told.raise_for_status().json()["log_id"])
                del ids[:-2_000]

        while (now := time.monotonic() - began) < seconds:
            if calls % (LOOK_SECONDS * PER_SECOND) == 0:
                samples.append((round(now, 1), process.memory_info().rss / 1e6))
            group.create_task(call(calls))
            calls += 1
            await asyncio.sleep(max(0.0, calls / PER_SECOND - (time.monotonic() - began)))
        return round(calls / now, 1)


def middle(samples: Curve, begin: float, end: float) -> float:
    """The median between two moments, in megabytes."""
    return statistics.median(megabytes for at, megabytes in samples if begin <= at < end)


async def both(servers: list[Server], seconds: float) -> tuple[list[Curve], list[float]]:
    """The same load on every server at once: what each took, and how many calls a second it had."""
    taken: list[Curve] = [[] for _ in servers]
    loads = [live(s, seconds, SEED + i, taken[i]) for i, s in enumerate(servers)]
    return taken, await asyncio.gather(*loads)


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    seconds = 60 * parser.parse_args().minutes
    modes = ("memory", "postgres")
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        servers = [stack.enter_context(running(mode, Path(made))) for mode in modes]
        taken, rates = uvloop.run(both(servers, seconds))
    figures = []
    for mode, samples in zip(modes, taken, strict=True):
        figure = Figure(
            f"resident memory after {seconds / 60:g} min of mixed load, {mode} mode", "MB", 1.05,
            limit_name="after 5 min",
        )  # fmt: skip
        warm = min(WARM_SECONDS, seconds / 2)
        figure.add(middle(samples, seconds - MINUTE, seconds), middle(samples, warm, warm + MINUTE))
        figures.append(figure)
    if seconds >= 1_800:
        curves, kept = dict(zip(modes, taken, strict=True)), dict(zip(modes, rates, strict=True))
        keep("steady_memory", figures, curves=curves, calls_a_second=kept)


if __name__ == "__main__":
    main()
