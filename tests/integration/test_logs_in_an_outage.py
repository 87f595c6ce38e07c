"""The log of a server that meets everything: no word, no secret, and the request that it is about.

Unmistakable words and secrets go in by every door; then every line is searched for them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.postgres import Cluster
from tests.proxy import Proxy
from tests.servers import Server, serving

TOKEN = "operator-token-Walrus-42"
SECRET = "secret-Porcupine-77"
API_KEY = "sesame-key-Badger-99"
LLM_PASSWORD = "model-password-Otter-11"
WORDS = [f"Щклмн{n}qzxv" for n in range(24)]


def lines_of(server: Server) -> list[dict]:
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def about(server: Server, event: str) -> list[dict]:
    return [line for line in lines_of(server) if line["event"].startswith(event)]


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def ask(server: Server, message: str) -> httpx.Response:
    return server.client.post("/api/voice/process", json={"message": message})


def test_a_whole_run_through_an_outage_logs_no_word_of_a_person_and_no_secret(
    tmp_path: Path, database: str, cluster: Cluster
) -> None:
    word = iter(WORDS)
    with Proxy(cluster.host, cluster.port) as proxy:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        with serving(
            tmp_path / "data",
            DATABASE_URL=dsn,
            AUDIOBOT_OPERATOR_TOKEN=TOKEN,
            AUDIOBOT_SECRET=SECRET,
            AUDIOBOT_LOG_LEVEL="debug",
            AUDIOBOT_LLM_BASE_URL=f"http://user:{LLM_PASSWORD}@127.0.0.1:9/v1",
            AUDIOBOT_LLM_MODEL="m",
            AUDIOBOT_LLM_API_KEY=API_KEY,
        ) as server:
            server.wait_for_mode("postgres")
            server.client.headers["Authorization"] = f"Bearer {TOKEN}"

            def everything() -> None:
                session, message = next(word), next(word)
                told = server.ask(message, session_id=session)
                given = server.rate(
                    told["log_id"],
                    5,
                    feedback_text=next(word),
                    corrected_response=next(word),
                )
                assert given.status_code == 200
                table = f"question,answer\n{next(word)},{next(word)}\n".encode()
                assert server.client.post("/api/knowledge/a.csv", content=table).is_success
                assert server.client.get("/api/learning/export?min_rating=1").is_success
                server.client.get(f"/api/learning/similar/{told['log_id']}")
                server.client.post("/api/voice/process", json={"message": next(word) + "\x00"})
                server.client.post("/api/voice/feedback", json={"log_id": next(word), "rating": 9})

            everything()
            proxy.stall()
            ask(server, "привет")
            proxy.refuse()
            proxy.cut()
            server.wait_for_mode("fallback")
            everything()
            proxy.pass_through()
            server.wait_for_mode("postgres", 20)
            everything()
    assert len(about(server, "storage mode changed")) >= 4
    secrets = (TOKEN, SECRET, API_KEY, LLM_PASSWORD, cluster.password, *WORDS)
    for number, line in enumerate(server.log.splitlines()):
        json.loads(line)
        for secret in secrets:
            assert secret not in line, (number, secret)
            assert json.dumps(secret)[1:-1] not in line, (number, secret)
    assert not re.search(r"Traceback|request failed|never retrieved", server.log)


def test_the_commit_that_failed_the_work_given_up_and_the_switch_bear_their_requests_ids(
    tmp_path: Path, database: str, cluster: Cluster
) -> None:
    with Proxy(cluster.host, cluster.port) as proxy:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        with serving(tmp_path / "data", DATABASE_URL=dsn) as server:
            server.wait_for_mode("postgres")
            proxy.stall()
            asked: set[str] = set()
            while not about(server, "PostgreSQL did not take"):
                response = ask(server, "привет")
                assert response.status_code == 200
                asked.add(response.headers["x-request-id"])
                assert len(asked) < 5, server.log
            eventually(lambda: server.health()["storage"]["mode"] == "fallback")
            (failed, *_) = about(server, "PostgreSQL did not take")
            assert failed["request_id"] in asked
            assert failed["reason"] == "timeout"
            assert re.fullmatch(r"[0-9a-f-]{36}", failed["operation"])
            assert about(server, "work on PostgreSQL was given up")
            proxy.pass_through()
            server.wait_for_mode("postgres", 20)


def test_a_switch_that_a_request_provoked_is_told_in_its_name(
    tmp_path: Path, database: str, cluster: Cluster
) -> None:
    with Proxy(cluster.host, cluster.port) as proxy:
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        with serving(tmp_path / "data", DATABASE_URL=dsn) as server:
            # A heartbeat may be faster than the request: then nobody provoked the switch.
            for _ in range(8):
                server.wait_for_mode("postgres", 20)
                proxy.refuse()
                proxy.cut()
                request_id = ask(server, "привет").headers["x-request-id"]
                server.wait_for_mode("fallback")
                last = [s for s in about(server, "storage mode") if s["after"] == "fallback"][-1]
                proxy.pass_through()
                if last.get("request_id") == request_id:
                    break
                assert "request_id" not in last, "another request's"
            else:
                raise AssertionError("no switch was told in its request's name")
