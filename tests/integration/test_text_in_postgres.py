"""Whatever a person writes is text and nothing else, in every field, down to PostgreSQL's rows."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.conftest import settled
from tests.integration.raw import FEEDBACK, PROCESS, assert_error, post_json
from tests.postgres import Cluster
from tests.servers import Server, serving

TEXTS = [
    "'; DROP TABLE voice_logs; --",
    "' OR '1'='1",
    "$$; DELETE FROM voice_ratings; $$",
    "\\'; SELECT pg_sleep(9); --",
    "%s %(id)s :id :live {0} ${1} $1 ?",
    "E'\\x41' U&'\\0041' \\u0041 \\x00 %00",
    '{"a": [1, null]} "; \\" \b\f\x01\x7f\x85\u2028\ufeff\ufffe',
    "'::regclass); COPY voice_logs TO PROGRAM 'id'; --",
    "é e\u0301 🧽 𝕌 \U0010ffff \u202e",
]
BROKEN = ["\x00", "a\x00b", "\ud800", "b\udfff"]


@pytest.fixture(scope="module")
def hosted(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster
) -> Iterator[tuple[Server, str]]:
    """A server on PostgreSQL, and its database's name."""
    place = tmp_path_factory.mktemp("hosted") / "data"
    with settled("postgres", cluster) as settings, serving(place, **settings) as server:
        server.wait_for_mode("postgres")
        server.wait_for_meaning()
        yield server, settings["DATABASE_URL"].rpartition("/")[2].partition("?")[0]


def everything(cluster: Cluster, database: str) -> int:
    """How many rows there are of what people may write."""
    tables = ("voice_logs", "voice_ratings", "knowledge_sources", "idempotency_keys")
    counts = [cluster.execute(f"SELECT count(*) FROM {name}", database)[0][0] for name in tables]
    return sum(counts)


@pytest.mark.parametrize("text", TEXTS)
def test_g04_sql_in_any_field_is_kept_to_the_letter(
    hosted: tuple[Server, str], cluster: Cluster, text: str
) -> None:
    server, database = hosted
    plain = "".join(letter for letter in text if "!" <= letter <= "~")
    key = {"Idempotency-Key": f"{plain}{uuid.uuid4()}"}
    asked = {"message": text, "session_id": text[:200]}
    told = server.client.post(PROCESS, json=asked, headers=key).json()
    rating = {
        "log_id": told["log_id"], "rating": 2, "feedback_text": text, "corrected_response": text,
    }  # fmt: skip
    assert server.client.post(FEEDBACK, json=rating, headers=key).status_code == 200
    assert cluster.execute(
        "SELECT user_message, session_id, feedback_text, rating FROM voice_logs"
        f" WHERE id = '{told['log_id']}'",
        database,
    ) == [(text, text[:200], text, 2)]
    assert cluster.execute(
        "SELECT feedback_text, corrected_response FROM voice_ratings"
        f" WHERE log_id = '{told['log_id']}'",
        database,
    ) == [(text, text)]
    assert server.client.post(PROCESS, json=asked, headers=key).json() == told


def test_g04_sql_in_knowledge_and_in_the_name_of_its_file_is_text(
    hosted: tuple[Server, str], cluster: Cluster
) -> None:
    server, database = hosted
    rows = [{"question": f"Вопрос {t}", "answer": f"Ответ {t}"} for t in TEXTS]
    lines = "\n".join(json.dumps(row) for row in rows)
    name = "'; DROP TABLE knowledge_sources; --.jsonl"
    response = server.client.post(f"/api/knowledge/{quote(name)}", content=lines)
    assert (response.status_code, response.json()["items"]) == (200, len(TEXTS)), response.text
    ((kept, items),) = cluster.execute("SELECT name, items FROM knowledge_sources", database)
    assert kept == name
    assert [item["answer"] for item in items] == [row["answer"] for row in rows]
    assert server.ask(rows[0]["question"])["response"] == rows[0]["answer"]


@pytest.mark.parametrize("broken", BROKEN)
def test_g04_nul_and_surrogates_are_refused_before_postgres_sees_them(
    hosted: tuple[Server, str], cluster: Cluster, broken: str
) -> None:
    server, database = hosted
    log_id = server.ask("привет")["log_id"]
    before = everything(cluster, database)
    for path, body in (
        (PROCESS, {"message": f"a{broken}"}),
        (PROCESS, {"message": "a", "session_id": broken}),
        (FEEDBACK, {"log_id": log_id, "rating": 5, "feedback_text": broken}),
        (FEEDBACK, {"log_id": log_id, "rating": 5, "corrected_response": broken}),
        (FEEDBACK, {"log_id": broken, "rating": 5}),
    ):
        assert_error(post_json(server, path, json.dumps(body).encode()), {404, 422})
    for field in ("question", "answer"):
        row = {"question": "q", "answer": "a", field: broken}
        body = server.client.post("/api/knowledge/broken.jsonl", content=json.dumps(row)).json()
        assert (body["items"], len(body["bad_rows"])) == (0, 1)
    assert_error(server.client.post("/api/knowledge/a%00.jsonl", content=b""), 422)
    assert everything(cluster, database) == before
    log = server.log
    assert "request failed" not in log
    assert "storage mode changed" in log
    assert log.count("storage mode changed") == 2, "good input must not open the circuit either"


def test_g04_no_test_of_this_file_left_the_database(
    hosted: tuple[Server, str], cluster: Cluster
) -> None:
    server, database = hosted
    assert server.health()["storage"]["mode"] == "postgres"
    assert cluster.execute("SELECT count(*) FROM voice_conflicts", database) == [(0,)]
