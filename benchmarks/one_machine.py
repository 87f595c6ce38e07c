"""Measure one machine without a database: one turn, one rating, starts, memory.

    .venv/bin/python benchmarks/one_machine.py [--quick]

Every figure is a median over rounds in one run. A question asked again and a rating are called by
wrk on one connection, in turns with the echo. Writes ``benchmarks/results/one_machine.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx
import psutil
from benchmarks.harness import SEED, Figure, echo_server, keep
from benchmarks.throughput import ASKED, WORDS, questions
from benchmarks.wrk import shuffled, wrk
from tests.servers import Server, serving

LEARNED_SECONDS = 0.05
"""After which a rating counts."""
BASE = ASKED[:3]
OPENINGS = ("", "Здравствуйте! ", "Добрый день! ", "Добрый вечер! ")
KNOWN = 400


class Caller:
    """One kept connection by the standard library's client: a thin one, so little of it is seen."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)

    def ask(self, message: str) -> float:
        """One turn: how many milliseconds it took."""
        started = time.perf_counter()
        self.post("/api/voice/process", {"message": message})
        return 1_000 * (time.perf_counter() - started)

    def rate(self, log_id: str, rating: int) -> None:
        """Stars for an answer."""
        self.post("/api/voice/feedback", {"log_id": log_id, "rating": rating})

    def post(self, path: str, body: dict) -> dict:
        """One request and its reply, both JSON."""
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, json.dumps(body), headers)
        response = self._connection.getresponse()
        read = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status}")
        return json.loads(read)


@contextlib.contextmanager
def one(data_dir: Path) -> Iterator[tuple[Server, Caller, float, float]]:
    """A server, a caller of it, the seconds until it was ready and until it answered by meaning."""
    started = time.perf_counter()
    with serving(data_dir) as server:
        while server.client.get("/api/ready").status_code != 200:
            time.sleep(0.005)
        ready = time.perf_counter() - started
        server.wait_for_meaning()
        yield server, Caller(server.address), ready, time.perf_counter() - started


def rss_megabytes(server: Server) -> float:
    """Resident memory."""
    return psutil.Process(server.process.pid).memory_info().rss / 1e6


def embedded(server: Server) -> tuple[float, float]:
    """How many turns have had their question's vector, and the seconds they waited for it."""
    told = server.client.get("/api/metrics").text
    found = re.findall(
        r'^vasdom_turn_stage_seconds_(count|sum){stage="embed"} (\S+)$', told, re.MULTILINE
    )
    parts = {name: float(value) for name, value in found}
    return parts["count"], parts["sum"]


def new_questions(server: Server, seconds: float) -> tuple[float, float]:
    """Turns whose every question is new: their median, and their mean without the embedding."""
    fresh = questions(1_000, SEED)
    before, waited_before = embedded(server)
    url = f"{server.address}/api/voice/process"
    load = wrk(url, shuffled(fresh, SEED), seconds, connections=1)
    after, waited = embedded(server)
    return load.p50, 1_000 * (1 / load.rate - (waited - waited_before) / (after - before))


def ranked_anew(server: Server, caller: Caller, seconds: float) -> float:
    """The median of turns whose vectors are at hand and whose rankings are not.

    A greeting is left out of what is embedded. The same questions under four openings are more
    than are remembered, and no more vectors than are kept.
    """
    known = [f"{BASE[i % len(BASE)]} {i}?" for i in range(KNOWN)]
    for text in known:
        caller.ask(text)
    bodies = shuffled([{"message": o + text} for o in OPENINGS for text in known], SEED)
    return wrk(f"{server.address}/api/voice/process", bodies, seconds, connections=1).p50


def alone(url: str, body: str, seconds: float) -> float:
    """The median of a call on one connection, in milliseconds."""
    return wrk(url, [body], seconds, connections=1).p50


async def fill(address: str, count: int) -> list[str]:
    """``count`` rated dialogues; their ids."""
    ids: list[str] = []
    random_ = random.Random(SEED)
    # In slight variations: answered, so they join the recall.
    texts = iter([f"{BASE[i % len(BASE)]} {random_.choice(WORDS)} {i}" for i in range(count)])
    async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client:

        async def work() -> None:
            for text in texts:
                told = (await client.post("/api/voice/process", json={"message": text})).json()
                await client.post(
                    "/api/voice/feedback", json={"log_id": told["log_id"], "rating": 5}
                )
                ids.append(told["log_id"])

        await asyncio.gather(*(work() for _ in range(16)))
    return ids


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    quick = parser.parse_args().quick
    n = 15 if quick else 100
    many = 1_000 if quick else 10_000
    seconds = 1.0 if quick else 4.0
    rounds = 1 if quick else 5
    start = Figure("second start to ready", "s", 3.0)
    meaning = Figure("second start to answering by meaning", "s")
    idle = Figure("idle memory, few dialogues", "MB", 300.0)
    turn = Figure("a turn beside its embedding, ranked anew, p50 at 1 connection", "ms", 2.0)
    rest = Figure("a turn, new question, mean without its embedding at 1 connection", "ms")
    again = Figure("a turn, question asked again, p50 at 1 connection", "ms")
    rating = Figure("a rating, p50 at 1 connection", "ms")
    echoed = Figure("the echo, p50 at 1 connection", "ms")
    new = Figure("a turn, new question, p50 at 1 connection", "ms")
    grown = Figure(
        f"turn p50 with {many:,} rated dialogues", "ms", 1.3, False, "with 100 rated dialogues"
    )
    memory = Figure(f"memory with {many:,} rated dialogues", "MB")
    restart = Figure(f"start to ready with {many:,} dialogues", "s")
    asked, chance = "Как часто моют окна в подъезде?", random.Random(SEED)
    with tempfile.TemporaryDirectory() as folder, echo_server() as echo:
        for number in range(rounds):
            data = Path(folder) / f"data-{number}"
            with one(data) as (server, caller, *_):
                caller.ask(asked)
            with one(data) as (server, caller, ready, by_meaning):
                start.add(ready)
                meaning.add(by_meaning)
                time.sleep(2)
                idle.add(rss_megabytes(server))
                whole, without = new_questions(server, seconds)
                new.add(whole)
                rest.add(without)
                turn.add(ranked_anew(server, caller, seconds))
                body = json.dumps({"message": asked})
                again.add(alone(f"{server.address}/api/voice/process", body, seconds))
                told = server.ask(asked)  # just now: it is at hand
                rated = json.dumps({"log_id": told["log_id"], "rating": 5})
                rating.add(alone(f"{server.address}/api/voice/feedback", rated, seconds))
                echoed.add(alone(f"{echo}/echo", body, seconds))
        with one(Path(folder) / "few") as (few, *_), one(Path(folder) / "lots") as (lots, *_):
            of_few = asyncio.run(fill(few.address, 100))
            of_lots = asyncio.run(fill(lots.address, many))
            callers = Caller(few.address), Caller(lots.address)
            for _ in range(rounds):
                pairs = []
                for number in range(n):  # in turns, so that noise meets both alike
                    # A rating that changes: what was found counts no more, it is searched anew.
                    for caller, ids in zip(callers, (of_few, of_lots), strict=True):
                        caller.rate(chance.choice(ids), 4 + number % 2)
                    time.sleep(LEARNED_SECONDS)
                    pairs.append([caller.ask(asked) for caller in callers])
                a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
                grown.add(b, a)
            memory.add(rss_megabytes(lots))
        with one(Path(folder) / "lots") as (_, _, ready, _):
            restart.add(ready)
    if not quick:
        figures = [start, meaning, idle, turn, again, rating, echoed, new, rest, grown]
        keep("one_machine", [*figures, memory, restart])


if __name__ == "__main__":
    main()
