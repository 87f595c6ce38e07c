"""PgBouncer in transaction mode in between, with default settings on both sides."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import wait_until_left
from tests.integration.raw import FEEDBACK, PROCESS
from tests.pgbouncer import PgBouncer
from tests.postgres import Cluster
from tests.servers import Server, client_of, run, serving

CLIENTS, TURNS = 16, 12
QUESTION = "Сколько стоит уборка подъезда в пятиэтажном доме?"


@pytest.fixture
def pooled(cluster: Cluster, empty_database: str) -> Iterator[str]:
    """An empty database's DSN by way of PgBouncer."""
    with PgBouncer(cluster) as pooler:
        yield pooler.dsn(empty_database)
    wait_until_left(cluster, empty_database)


def one_caller(server: Server, number: int) -> dict[str, int]:
    """Asks, rates, asks again under the same key, reads: what it was told, by id."""
    rated = {}
    with client_of(server.address) as client:

        def post(path: str, key: str, **body: object) -> httpx.Response:
            response = client.post(path, json=body, headers={"Idempotency-Key": key})
            assert response.status_code == 200, response.text
            return response

        def get(path: str) -> dict:
            response = client.get(path)
            assert response.status_code == 200, response.text
            return response.json()

        for turn in range(TURNS):
            key, asked = uuid.uuid4().hex, {"message": QUESTION, "session_id": f"{number} {turn}"}
            told = post(PROCESS, key, **asked)
            assert post(PROCESS, key, **asked).content == told.content
            body = told.json()
            assert body["durability"] == "postgres"
            rating = 1 + (number + turn) % 5
            outcome = post(FEEDBACK, key, log_id=body["log_id"], rating=rating).json()
            assert outcome["status"] == "stored"
            rated[body["log_id"]] = rating
            assert get("/api/learning/stats")["complete"] is True
            assert get(f"/api/learning/similar/{body['log_id']}")["original_message"] == QUESTION
            if turn % 4 == 0:
                rows = get("/api/learning/export?min_rating=1")["data"]
                mine = [r for r in rows if r["metadata"]["session_id"] == asked["session_id"]]
                assert [r["metadata"]["rating"] for r in mine] == [rating]
    return rated


def test_g18_sixteen_callers_through_a_pooler_in_transaction_mode_meet_no_error(
    cluster: Cluster, empty_database: str, pooled: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with serving(data, DATABASE_URL=pooled) as server:
        server.wait_for_mode("postgres")
        server.wait_for_meaning()
        with ThreadPoolExecutor(CLIENTS) as pool:
            told = list(pool.map(lambda number: one_caller(server, number), range(CLIENTS)))
        rated = {log_id: rating for part in told for log_id, rating in part.items()}
        assert len(rated) == CLIENTS * TURNS
        stats = server.stats()
        assert (stats["total_interactions"], stats["rated_interactions"]) == (len(rated),) * 2
        storage = server.health()["storage"]
        assert (storage["mode"], storage["journal_backlog"]) == ("postgres", 0)
        doctor = run(data, "doctor", DATABASE_URL=pooled)
        assert doctor.returncode == 0, doctor.stdout
    there = cluster.execute("SELECT id::text, rating FROM voice_logs", empty_database)
    assert dict(there) == rated
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert {line["level"] for line in lines} <= {"info", "debug"}, server.log
    modes = [line["after"] for line in lines if line["event"] == "storage mode changed"]
    assert modes == ["recovering", "postgres", "draining"]
    assert not re.search("Traceback|prepared statement", server.log)


def test_g18_migrate_works_through_the_pooler(pooled: str, tmp_path: Path) -> None:
    for words in ("was upgraded", "is up to date"):
        done = run(tmp_path / "data", "migrate", DATABASE_URL=pooled)
        assert done.returncode == 0, done.stderr
        assert words in done.stdout
