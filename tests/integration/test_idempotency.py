"""Idempotency keys: same key and body, same reply, one dialogue; across a crash too."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import Home
from tests.integration.conftest import MODE
from tests.integration.raw import FEEDBACK, PROCESS, assert_error, post_json
from tests.servers import Server, start

QUESTION = "Сколько стоит уборка подъезда в пятиэтажном доме?"


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


def post(server: Server, path: str, key: str, **body: object) -> httpx.Response:
    return server.client.post(path, json=body, headers={"Idempotency-Key": key})


def total(server: Server) -> int:
    return int(server.stats()["total_interactions"])


@pytest.mark.parametrize("message", ["привет", QUESTION, "Где купить билет на поезд?"])
@pytest.mark.parametrize("fields", [{}, {"session_id": None}, {"session_id": "s 🧽"}])
def test_the_same_key_and_body_give_the_same_reply_byte_for_byte_and_one_dialogue(
    shared: Server, key: str, message: str, fields: dict[str, object]
) -> None:
    before = total(shared)
    replies = {post(shared, PROCESS, key, message=message, **fields).content for _ in range(3)}
    assert len(replies) == 1
    assert total(shared) == before + 1


def test_without_a_key_the_same_question_is_a_dialogue_each_time(shared: Server) -> None:
    before = total(shared)
    assert shared.ask("привет")["log_id"] != shared.ask("привет")["log_id"]
    assert total(shared) == before + 2


def test_how_the_json_is_written_does_not_make_it_another_request(shared: Server, key: str) -> None:
    header = f"Idempotency-Key: {key}".encode()
    first = post_json(shared, PROCESS, b'{"message":"hello","session_id":"a"}', header)
    spelt = b' { "session_id" : "\\u0061", "x": 1, "message": "h\\u0065llo" } '
    assert post_json(shared, PROCESS, spelt, header).body == first.body


@pytest.mark.parametrize(
    "other",
    [
        {"message": "привет!"},
        {"message": "привет "},
        {"message": "привет", "session_id": "a"},
        {"message": "привет", "session_id": ""},
    ],
)
def test_the_same_key_with_another_body_is_422_and_stores_nothing(
    shared: Server, key: str, other: dict[str, object]
) -> None:
    first = post(shared, PROCESS, key, message="привет")
    before = total(shared)
    assert_error(post(shared, PROCESS, key, **other), 422, "idempotency_mismatch")
    assert total(shared) == before
    assert post(shared, PROCESS, key, message="привет").content == first.content


def test_a_refused_question_does_not_use_its_key_up(shared: Server, key: str) -> None:
    assert_error(post(shared, PROCESS, key, message=""), 422)
    assert post(shared, PROCESS, key, message="привет").status_code == 200


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b" ",
        b"a b",
        b"x" * 201,
        "ключ".encode(),
        b"\xff",
        b"a\tb",
    ],
)
@pytest.mark.parametrize("path", [PROCESS, FEEDBACK])
def test_a_key_that_is_not_1_to_200_printable_ascii_characters_is_422(
    shared: Server, path: str, bad: bytes
) -> None:
    before = total(shared)
    answer = post_json(shared, path, b'{"message": "hello"}', b"Idempotency-Key: " + bad)
    assert_error(answer, 422, "idempotency_key")
    assert total(shared) == before


@pytest.mark.parametrize("good", ["a", "x" * 200, "!~", '"a"', "Key,1;2=3"])
def test_a_key_of_printable_ascii_is_taken(shared: Server, good: str) -> None:
    unique = uuid.uuid4().hex[: max(0, 200 - len(good))]
    assert post(shared, PROCESS, good + unique, message="привет").status_code == 200


@pytest.mark.parametrize("message", ["привет", QUESTION])
def test_twenty_identical_requests_at_once_are_one_dialogue(
    shared: Server, key: str, message: str
) -> None:
    before = total(shared)
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda _: post(shared, PROCESS, key, message=message), range(20)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.content for reply in replies}) == 1
    assert total(shared) == before + 1


def test_of_two_requests_at_once_under_one_key_one_is_told_that_it_is_another(
    shared: Server, key: str
) -> None:
    before = total(shared)
    messages = ["привет", "спасибо"] * 5
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda m: post(shared, PROCESS, key, message=m), messages))
    assert sorted(reply.status_code for reply in replies) == [200] * 5 + [422] * 5
    assert total(shared) == before + 1


@pytest.mark.parametrize("rating", [1, 5])
def test_a_rating_under_the_same_key_is_the_same_reply_and_counts_once(
    shared: Server, key: str, rating: int
) -> None:
    log_id = shared.ask(QUESTION)["log_id"]
    body = {"log_id": log_id, "rating": rating, "feedback_text": "да"}
    first = post(shared, FEEDBACK, key, **body)
    # A newer rating is not undone by an old one that is sent again.
    assert shared.rate(log_id, 3).status_code == 200
    before = shared.stats()
    again = post(shared, FEEDBACK, key, **body)
    upper = post(shared, FEEDBACK, key, **{**body, "log_id": log_id.upper()})
    assert first.content == again.content == upper.content
    after = shared.stats()
    for name in ("rated_interactions", "avg_rating", "positive_ratings", "negative_ratings"):
        assert after[name] == before[name]


@pytest.mark.parametrize(
    "change", [{"rating": 2}, {"feedback_text": "иначе"}, {"corrected_response": "так"}]
)
def test_another_rating_under_the_same_key_is_422(
    shared: Server, key: str, change: dict[str, object]
) -> None:
    body = {"log_id": shared.ask("привет")["log_id"], "rating": 5}
    assert post(shared, FEEDBACK, key, **body).status_code == 200
    before = shared.stats()["avg_rating"]
    response = post(shared, FEEDBACK, key, **{**body, **change})
    assert_error(response, 422, "idempotency_mismatch")
    assert shared.stats()["avg_rating"] == before


def test_a_question_and_a_rating_under_one_key_do_not_meet(shared: Server, key: str) -> None:
    told = post(shared, PROCESS, key, message="привет").json()
    rated = post(shared, FEEDBACK, key, log_id=told["log_id"], rating=5)
    assert rated.status_code == 200
    assert rated.json()["log_id"] == told["log_id"]


@pytest.fixture
def crashing(settings: dict[str, str]) -> Iterator[list[Server]]:
    """Servers on one directory, one after the other; what still runs is killed at the end."""
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.client.close()
        if server.process.poll() is None:
            server.kill()


def test_g06_a_key_outlives_kill_9_and_an_orderly_restart(
    tmp_path: Path, crashing: list[Server], settings: dict[str, str], home: Home, key: str
) -> None:
    data, rating_key = tmp_path / "data", uuid.uuid4().hex
    crashing.append(start(data, **settings))
    crashing[0].wait_for_mode(MODE[home])
    first = post(crashing[0], PROCESS, key, message="спасибо")
    body = {"log_id": json.loads(first.content)["log_id"], "rating": 4}
    rated = post(crashing[0], FEEDBACK, rating_key, **body)
    crashing[0].kill()

    for number in (1, 2):
        crashing.append(start(data, **settings))
        server = crashing[number]
        assert post(server, PROCESS, key, message="спасибо").content == first.content
        assert post(server, FEEDBACK, rating_key, **body).content == rated.content
        assert_error(post(server, PROCESS, key, message="привет"), 422, "idempotency_mismatch")
        assert total(server) == 1
        assert server.stats()["rated_interactions"] == 1
        if number == 1:
            assert server.stop() == 0
