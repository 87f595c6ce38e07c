"""How soon what is taught counts: a correction, a fit of the head, and a whole text turn.

    .venv/bin/python benchmarks/learning.py

Writes ``benchmarks/results/learning.json``. What learning is worth is measured by
``audiobot prove``.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from benchmarks.harness import SEED, Figure, keep, quantile
from benchmarks.throughput import questions, running
from tests.postgres import Cluster
from tests.servers import Server, serving

from audiobot.answering.corrections import lay_over
from audiobot.answering.experience import Experience
from audiobot.answering.knowledge import sample_items
from audiobot.answering.mind import keys_of, make_ranker
from audiobot.answering.recall import Exemplar
from audiobot.answering.weights import load_weights
from audiobot.answering.whitening import NO_WHITENING

ROUNDS = 15
TURNS = 200
RATED = 10_000
DIMENSION = 384
THINGS = ("самокат", "коляску", "велосипед", "лыжи", "шины", "кресло", "цветок", "сейф", "диван")


def corrections(server: Server) -> tuple[Figure, Figure]:
    """From the operator's request on: until its own question, and another, are told the answer."""
    own = Figure("a correction counts for its own question after", "s", 1.0)
    other = Figure("a correction counts for the question in other words after", "s", 1.0)
    chance = random.Random(SEED)
    for number in range(ROUNDS):
        thing, floor = chance.choice(THINGS), chance.randint(2, 99)
        asked = f"Можно ли оставить {thing} на этаже {floor} под номером {number}?"
        again = f"А {thing} под номером {number} на {floor} этаже можно ли оставить?"
        answer = f"Оставить {thing} под номером {number} на этаже {floor} можно до вечера."
        server.ask(again)  # its vector is at hand: what is timed is the correction
        began = time.perf_counter()
        body = {"answer": answer, "wordings": [asked]}
        server.client.post("/api/learning/corrections", json=body).raise_for_status()
        while server.ask(asked)["response"] != answer:
            pass
        own.add(time.perf_counter() - began)
        while server.ask(again)["response"] != answer:
            if time.perf_counter() - began > 30:
                raise TimeoutError("the other words never found the answer")
        other.add(time.perf_counter() - began)
    return own, other


def elsewhere(folder: Path) -> Figure:
    """The same on another replica, which hears of it from PostgreSQL."""
    figure = Figure("a correction counts on another replica after", "s", 1.0)
    with Cluster() as cluster:
        settings = {"DATABASE_URL": cluster.dsn(cluster.create_database())}
        with serving(folder / "one", **settings) as one, serving(folder / "two", **settings) as two:
            for server in (one, two):
                server.wait_for_mode("postgres")
                server.wait_for_meaning()
            for number in range(ROUNDS):
                asked, answer = f"Где стоит бак под номером {number}?", f"Бак {number} у ворот."
                began = time.perf_counter()
                body = {"answer": answer, "wordings": [asked]}
                one.client.post("/api/learning/corrections", json=body).raise_for_status()
                while two.ask(asked)["response"] != answer:
                    time.sleep(0.005)
                figure.add(time.perf_counter() - began)
    return figure


def fits() -> Figure:
    """The head, fitted anew with every rated dialogue."""
    figure = Figure(f"the head fitted anew with {RATED:,} rated dialogues", "s", 5.0)
    chance = np.random.default_rng(SEED)

    def vectors(count: int) -> np.ndarray:
        rows = chance.normal(size=(count, DIMENSION)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    known = lay_over(sample_items(), [])
    keys = [*keys_of(known)]
    made = dict(zip(keys, vectors(len(keys)), strict=True))
    ranker = make_ranker(known, made, DIMENSION, load_weights(), NO_WHITENING, "vectors by chance")
    assert ranker is not None
    experience, now = Experience(DIMENSION), datetime.now(UTC)
    exemplars = [
        Exemplar(
            uuid.UUID(int=n),
            ranker.items[n % len(ranker.items)].item_id,
            1 + n % 5,
            now,
            f"rater {n % 997}",
        )
        for n in range(RATED)
    ]
    experience.take([f"вопрос {n}" for n in range(RATED)], exemplars, vectors(RATED))
    for _ in range(5):
        began = time.perf_counter()
        experience.snapshot().head(ranker)
        figure.add(time.perf_counter() - began)
    return figure


def turns(server: Server) -> Figure:
    """A new question each time, on one connection."""
    figure = Figure("a text turn without a language model, p95 at 1 connection", "ms", 100.0)
    for round_ in range(3):
        spent = []
        for body in questions(TURNS, SEED + round_):
            began = time.perf_counter()
            server.ask(str(body["message"]))
            spent.append(1e3 * (time.perf_counter() - began))
        figure.add(quantile(spent, 0.95))
    return figure


def main() -> None:
    """Measure and keep."""
    with tempfile.TemporaryDirectory() as folder, running("memory", Path(folder)) as server:
        turn = turns(server)
        own, other = corrections(server)
    with tempfile.TemporaryDirectory() as folder:
        heard = elsewhere(Path(folder))
    keep("learning", [own, other, heard, fits(), turn])


if __name__ == "__main__":
    main()
