"""The console with several workers: each request may meet another one, and none is bound to any."""

from __future__ import annotations

import time
from pathlib import Path

from tests.conftest import settled
from tests.integration.operator import visitors, words_of
from tests.postgres import Cluster
from tests.servers import Server, client_of, serving

TOKEN = "operator-token-Hedgehog-42"
QUESTIONS = (
    "Уберёте ли вы самокат из подъезда?",
    "Где мне взять справку о доходах для банка?",
    "Кто чинит домофон, когда он молчит?",
    "Сколько стоит химчистка ковра на дому?",
    "Можно ли разводить кур на балконе?",
    "Во сколько прилетает самолёт из Сочи?",
)
"""One has nothing to do with another: what is answered once waits no more."""
ANSWER = "Этим мы не занимаемся, вопрос номер"


def test_one_session_and_its_forms_are_good_for_every_worker(
    tmp_path: Path, cluster: Cluster
) -> None:
    with settled("postgres", cluster) as settings:
        more = {"AUDIOBOT_OPERATOR_TOKEN": TOKEN, "AUDIOBOT_KNOWLEDGE": "none", **settings}
        with serving(tmp_path / "data", "--workers", "3", **more) as server, visitors() as visit:
            server.wait_for_mode("postgres")
            server.wait_for_meaning()
            visitor = visit(server, Connection="close")  # each request on one of its own
            assert visitor.sign_in(TOKEN).status_code == 303
            for number, question in enumerate(QUESTIONS):
                log_id = server.ask(question)["log_id"]
                assert visitor.get("/console").status_code == 200
                fields = {**visitor.opened(log_id), "answer": f"{ANSWER} {number}"}
                assert visitor.post("/console/inbox/preview", **fields).status_code == 200
                response = visitor.post("/console/answers", **fields)
                assert response.status_code == 200, response.text
                assert "Сохранено" in words_of(response)
                assert f"{ANSWER} {number}" in visitor.get("/console/answers").text
                assert told_by_all(server, question, f"{ANSWER} {number}")


def told_by_all(server: Server, question: str, answer: str, seconds: float = 10) -> bool:
    """True once every worker answers so: of twelve connections no worker of three gets none."""
    body, deadline = {"message": question}, time.monotonic() + seconds
    told: set[str] = set()
    while told != {answer} and time.monotonic() < deadline:
        told = set()
        for _ in range(12):
            with client_of(server.address) as client:
                told.add(client.post("/api/voice/process", json=body).json()["response"])
    return told == {answer}
