"""Measure one machine without a database: one turn, one rating, starts, memory.

    .venv/bin/python benchmarks/one_machine.py [--quick]

Every figure is a median over rounds in one run. A turn beside its embedding and a rating are called
by wrk on one connection, in turns with the echo. Writes ``benchmarks/results/one_machine.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx
import psutil
from benchmarks.harness import SEED, Figure, echo_server, keep
from benchmarks.wrk import wrk

LEARNED_SECONDS = 0.05
"""After which a rating counts."""
WORDS = [
    "окна",
    "пол",
    "лифт",
    "перила",
    "мусор",
    "цена",
    "договор",
    "ключ",
    "снег",
    "лампа",
    "дверь",
    "стена",
    "ковёр",
    "запах",
    "двор",
]


class Caller:
    """One kept connection by the standard library's client: a thin one, so little of it is seen."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)

    def post(self, path: str, body: dict) -> dict:
        """One request and its reply, both JSON."""
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, json.dumps(body), headers)
        response = self._connection.getresponse()
        read = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status}")
        return json.loads(read)


class Server:
    """One ``audiobot serve`` on a directory, and a client of it."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AUDIOBOT_")}
        environment |= {"AUDIOBOT_DATA_DIR": str(data_dir), **settings}
        self._log = data_dir.with_suffix(".log")
        started = time.perf_counter()
        command = [sys.executable, "-c", "from audiobot.cli import main; main()", "serve"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", "0"], env=environment, stdout=log, stderr=log
            )
        self.address = self._wait_for_address()
        self.client = httpx.Client(base_url=self.address, timeout=60, trust_env=False)
        while True:
            try:
                if self.client.get("/api/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.005)
        self.caller = Caller(self.address)
        self.seconds_to_ready = time.perf_counter() - started
        while not self.client.get("/api/health").json()["services"]["embeddings"]:
            time.sleep(0.02)
        self.seconds_to_meaning = time.perf_counter() - started

    def _wait_for_address(self) -> str:
        for _ in range(6_000):
            found = re.search(r'"address": "([^"]+)"', self._log.read_text(errors="replace"))
            if found:
                return f"http://{found[1]}"
            if self.process.poll() is not None:
                raise RuntimeError(self._log.read_text(errors="replace"))
            time.sleep(0.01)
        raise TimeoutError

    def ask(self, message: str) -> dict:
        """One turn."""
        return self.caller.post("/api/voice/process", {"message": message})

    def rate(self, log_id: str, rating: int) -> None:
        """Stars for an answer."""
        self.caller.post("/api/voice/feedback", {"log_id": log_id, "rating": rating})

    def rss_megabytes(self) -> float:
        """Resident memory."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def stop(self) -> None:
        """SIGTERM and wait."""
        self.client.close()
        self.process.terminate()
        self.process.wait(30)


def question(random_: random.Random, number: int) -> str:
    """A question that nobody asked before."""
    return f"{' '.join(random_.sample(WORDS, 4))} {number}?"


def milliseconds(call: Callable[[], object], times: int) -> list[float]:
    """How long each of ``times`` calls took."""
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        spent.append((time.perf_counter() - started) * 1e3)
    return spent


def alone(url: str, body: str, seconds: float) -> float:
    """The median of a call on one connection, in milliseconds."""
    return wrk(url, [body], seconds, connections=1).p50


async def fill(address: str, count: int) -> list[str]:
    """``count`` rated dialogues; their ids."""
    ids: list[str] = []
    random_ = random.Random(SEED)
    # The sample's own questions in slight variations: answered, so they join the recall.
    base = ["Как часто моют окна в подъезде", "Сколько стоит уборка подъезда", "Когда убирают снег"]
    questions = iter([f"{base[i % 3]} {random_.choice(WORDS)} {i % 400}" for i in range(count)])
    async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client:

        async def work() -> None:
            for text in questions:
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
    n = 60 if quick else 400
    many = 1_000 if quick else 10_000
    seconds = 1.0 if quick else 4.0
    rounds = 1 if quick else 5
    start = Figure("second start to ready", "s", 3.0)
    meaning = Figure("second start to answering by meaning", "s")
    idle = Figure("idle memory", "MB", 300.0)
    turn = Figure("a turn beside its embedding, p50 at 1 connection", "ms", 2.0)
    rating = Figure("a rating, p50 at 1 connection", "ms")
    echoed = Figure("the echo, p50 at 1 connection", "ms")
    new = Figure("a turn, new question, p50 at 1 connection", "ms")
    grown = Figure(
        f"turn p50 with {many:,} rated dialogues", "ms", 1.3, False, "with 100 rated dialogues"
    )
    memory = Figure(f"memory with {many:,} rated dialogues", "MB")
    again = Figure(f"start to ready with {many:,} dialogues", "s")
    asked = "Как часто моют окна в подъезде?"
    with tempfile.TemporaryDirectory() as folder, echo_server() as echo:
        data = Path(folder) / "data"
        Server(data).stop()
        for _ in range(rounds):
            server = Server(data)
            start.add(server.seconds_to_ready)
            meaning.add(server.seconds_to_meaning)
            time.sleep(2)
            idle.add(server.rss_megabytes())
            told = server.ask(asked)
            chance = random.Random(SEED)
            fresh = milliseconds(
                lambda s=server, c=chance: s.ask(question(c, c.getrandbits(40))), n // 4
            )
            new.add(statistics.median(fresh))
            body = json.dumps({"message": asked})
            rated = json.dumps({"log_id": told["log_id"], "rating": 5})
            turn.add(alone(f"{server.address}/api/voice/process", body, seconds))
            rating.add(alone(f"{server.address}/api/voice/feedback", rated, seconds))
            echoed.add(alone(f"{echo}/echo", body, seconds))
            server.stop()

        few = Server(Path(folder) / "few")
        of_few = asyncio.run(fill(few.address, 100))
        lots = Server(Path(folder) / "lots")
        of_lots = asyncio.run(fill(lots.address, many))
        chance = random.Random(SEED)
        for _ in range(rounds):
            pairs = []
            for number in range(n // 4):  # in turns, so that noise meets both alike
                # A rating that changes: what was found before counts no more, it is searched anew.
                for server, ids in ((few, of_few), (lots, of_lots)):
                    server.rate(chance.choice(ids), 4 + number % 2)
                time.sleep(LEARNED_SECONDS)
                (a,) = milliseconds(lambda: few.ask(asked), 1)
                (b,) = milliseconds(lambda: lots.ask(asked), 1)
                pairs.append((a, b))
            a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
            grown.add(b, a)
        memory.add(lots.rss_megabytes())
        few.stop()
        lots.stop()
        last = Server(Path(folder) / "lots")
        again.add(last.seconds_to_ready)
        last.stop()
    if not quick:
        keep("one_machine", [start, meaning, idle, turn, rating, echoed, new, grown, memory, again])


if __name__ == "__main__":
    main()
