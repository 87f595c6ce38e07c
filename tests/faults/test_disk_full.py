"""A full disk: refused with 507, nothing acknowledged lost, and it recovers by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import psutil
import pytest

from audiobot.errors import StorageFull
from audiobot.storage.journal import Journal
from tests.faults.disks import fill, small_disk
from tests.postgres import Cluster
from tests.servers import client_of, run, serving


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def test_g12_a_full_disk_refuses_with_507_keeps_everything_and_recovers(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 40) as disk:
        with serving(disk / "data") as server:
            told = [server.ask(f"вопрос {i}?") for i in range(10)]
            ballast = fill(disk, leave=1 << 20)

            refused = server.client.post("/api/voice/process", json={"message": "и ещё?"})
            assert refused.status_code == 507
            assert set(refused.json()) == {"detail", "code"}
            assert int(refused.headers["Retry-After"]) > 0
            assert f'"request_id": "{refused.headers["x-request-id"]}"' in server.log
            assert server.rate(told[0]["log_id"], 5).status_code == 507
            eventually(lambda: server.client.get("/api/ready").status_code == 503)
            health = server.health()
            assert (health["status"], health["services"]["storage"]) == ("degraded", False)
            assert server.stats()["total_interactions"] == 10

            ballast.unlink()
            eventually(lambda: server.client.get("/api/ready").status_code == 200)
            told.append(server.ask("снова можно?"))
            assert server.rate(told[0]["log_id"], 5).status_code == 200
            assert server.stats()["total_interactions"] == 11
        with serving(disk / "data") as server:
            stats = server.stats()
            assert (stats["total_interactions"], stats["rated_interactions"]) == (11, 1)
            assert server.health()["storage"]["missing_records"] == 0


def test_g12_a_full_disk_changes_no_answer_in_force(tmp_path: Path) -> None:
    windows = "Как часто моют окна в подъезде?"
    lesson = {"answer": "Окна в подъезде моем в мае и в сентябре.", "wordings": [windows]}
    with small_disk(tmp_path / "disk", 40) as disk, serving(disk / "data") as server:
        server.wait_for_meaning()

        def correct(answer: str) -> int:
            body = lesson | {"answer": answer}
            return server.client.post("/api/learning/corrections", json=body).status_code

        assert correct(str(lesson["answer"])) == 200
        told = server.ask(windows)
        assert told["response"] == lesson["answer"]
        assert server.rate(told["log_id"], 1).status_code == 200  # a fit is on its way
        ballast = fill(disk, leave=1 << 20)
        assert correct("Окна в подъезде не моем никогда.") == 507
        assert server.rate(told["log_id"], 5).status_code == 507
        ballast.unlink()
        eventually(lambda: server.client.get("/api/ready").status_code == 200)
        assert server.ask(windows)["response"] == lesson["answer"]
        assert correct("Окна в подъезде моем только в мае.") == 200
        assert server.ask(windows)["response"] == "Окна в подъезде моем только в мае."


def test_g12_a_disk_that_fills_up_before_a_fit_puts_the_evaluation_off(tmp_path: Path) -> None:
    windows = "Как часто моют окна в подъезде?"
    with small_disk(tmp_path / "disk", 40) as disk, serving(disk / "data") as server:
        server.wait_for_meaning()
        told = server.ask(windows)
        for _ in range(20):
            assert server.rate(server.ask(windows)["log_id"], 1).status_code == 200
        ballast = fill(disk, leave=1 << 20)
        eventually(lambda: "the evaluation waits until" in server.log, 40)
        assert server.client.get("/api/ready").status_code == 503
        ballast.unlink()
        eventually(lambda: "fitted anew and evaluated" in server.log, 40)
        assert server.log.count("the evaluation waits until") == 1
        assert server.ask(windows)["response"] == told["response"]


def test_g03_writing_until_the_disk_is_full_loses_nothing_acknowledged(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 40) as disk, serving(disk / "data") as server:
        fill(disk, leave=(4 << 20) + 60_000)
        acknowledged = 0
        for i in range(400):
            reply = server.client.post("/api/voice/process", json={"message": f"Привет! {i}" * 99})
            if reply.status_code == 507:
                break
            assert reply.status_code == 200
            acknowledged += 1
        assert reply.status_code == 507
        assert acknowledged > 0
        assert server.stats()["total_interactions"] == acknowledged
        server.kill()
        (disk / "ballast").unlink()
        with serving(disk / "data") as again:
            assert again.stats()["total_interactions"] == acknowledged


def test_g12_a_batch_that_does_not_fit_leaves_no_trace(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        journal = Journal(disk / "journal")
        journal.stage(b"kept")
        journal.commit()
        ballast = fill(disk, leave=8_192)
        with pytest.raises(StorageFull):
            for _ in range(4):
                journal.stage(b"too much" * 4_096)
            journal.commit()
        ballast.unlink()
        journal.stage(b"room again")
        journal.commit()
        journal.close()
        again = Journal(disk / "journal")
        assert [r.payload for r in again.read_from(1)] == [b"kept", b"room again"]
        assert (again.gaps, again.torn_bytes) == ([], 0)
        again.close()


def test_g12_a_start_on_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        fill(disk, leave=1 << 20)
        done = run(disk / "data", "serve", "--port", "0", LANG="en_US.UTF-8")
        assert done.returncode == 2
        assert "Free some space" in done.stderr
        assert "Traceback" not in done.stderr


def test_g12_a_full_disk_kills_no_worker_that_counts(
    tmp_path: Path, cluster: Cluster, database: str
) -> None:
    settings = {"DATABASE_URL": cluster.dsn(database)}
    with (
        small_disk(tmp_path / "disk", 40) as disk,
        serving(disk / "data", "--workers", "2", **settings) as server,
    ):
        server.wait_for_mode("postgres")
        workers = {child.pid for child in psutil.Process(server.process.pid).children()}
        ballast = fill(disk, leave=0)
        # Series that were never counted before take room of their own in the workers' files.
        for method, path in product(("GET", "POST", "PUT", "DELETE"), ("/", "/api/x", "/static/x")):
            for _ in range(4):
                with client_of(server.address) as client:
                    client.request(method, path)
        for _ in range(20):
            with client_of(server.address) as client:
                said = client.post("/api/voice/process", json={"message": "привет"})
                assert said.status_code == 200, "PostgreSQL takes it"
                assert client.get("/api/metrics").status_code == 200
        assert {c.pid for c in psutil.Process(server.process.pid).children()} == workers
        assert "a worker died" not in server.log
        ballast.unlink()


def test_g15_health_says_that_a_disk_in_memory_is_ephemeral(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 40) as disk, serving(disk / "data") as server:
        storage = server.health()["storage"]
        assert (storage["ephemeral"], storage["survives_machine_loss"]) == (True, False)
