"""The log holds what the program did, and nothing that a person said, no token, no address."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.integration.raw import FEEDBACK, MARK, PROCESS, head, send
from tests.servers import serving

WORDS = [f"Квхцщ{n}zxqv" for n in range(20)]
TOKEN = "operator-token-Hedgehog-42"


def test_no_word_of_a_person_no_token_and_no_address_is_in_the_log(tmp_path: Path) -> None:
    word = iter(WORDS)
    with serving(
        tmp_path / "data",
        AUDIOBOT_OPERATOR_TOKEN=TOKEN,
        AUDIOBOT_LOG_LEVEL="debug",
        AUDIOBOT_LLM_BASE_URL="http://127.0.0.1:9/v1",
        AUDIOBOT_LLM_MODEL="m",
        AUDIOBOT_LLM_API_KEY="sesame-key-77",
        AUDIOBOT_TRUSTED_PROXIES="127.0.0.1",
    ) as server:
        server.wait_for_meaning()
        headers = {
            "Authorization": f"Bearer {TOKEN}",
            "X-Forwarded-For": "203.0.113.77",
            "User-Agent": next(word).encode(),
            "Idempotency-Key": "sesame-idempotent",
        }
        client = server.client
        told = client.post(
            PROCESS, json={"message": next(word), "session_id": next(word)}, headers=headers
        ).json()
        client.post(
            FEEDBACK,
            json={
                "log_id": told["log_id"],
                "rating": 5,
                "feedback_text": next(word),
                "corrected_response": next(word),
            },
            headers=headers,
        )
        server.ask("Сколько стоит уборка подъезда в пятиэтажном доме? " + next(word))
        for bad in (
            {"message": next(word) + "\x00"},
            {"message": next(word) * 500},
            {"message": [next(word)]},
            {next(word): 1},
            {"log_id": next(word), "rating": next(word)},
        ):
            client.post(PROCESS, json=bad)
            client.post(FEEDBACK, json=bad)
        client.post(PROCESS, content=b'{"' + next(word).encode(), headers=headers)
        client.post(
            PROCESS, json={"message": "x"}, headers={"Idempotency-Key": next(word).encode()}
        )
        client.get(f"/{next(word)}?{next(word)}={next(word)}")
        client.get(f"/api/learning/similar/{next(word)}", headers=headers)
        table = f"question,answer\n{next(word)},{next(word)}\n".encode()
        client.post("/api/knowledge/a.csv", content=table, headers=headers)
        client.post("/api/knowledge/b.csv", content=table, headers={"Authorization": "Bearer x"})
        send(server, head(f"/static/%00{MARK[:7]}", method="GET"), "GET")
        assert client.get("/api/learning/stats", headers=headers).status_code == 200
    log = server.log
    for secret in (*WORDS, MARK[:7], TOKEN, "sesame", "203.0.113.77", "Сколько стоит"):
        assert secret not in log, secret
        assert json.dumps(secret)[1:-1] not in log, secret
    assert not re.search(r"Traceback|request failed", log)


def test_g14_sigterm_ends_with_exit_code_0_and_a_word_on_the_journal_in_json_lines(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "data") as server:
        told = server.ask("привет")
        assert server.stop() == 0
    assert not (tmp_path / "data" / "server.json").exists()
    lines = [json.loads(line) for line in server.log.splitlines()]
    for line in lines:
        assert {"event", "level", "logger", "timestamp"} <= set(line)
    assert lines[-1]["journal"] == "synced"
    with serving(tmp_path / "data") as again:
        assert again.client.get(f"/api/learning/similar/{told['log_id']}").status_code == 200
        again.kill()
