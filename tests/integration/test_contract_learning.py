"""The operator's calls: totals, data sets, similar dialogues, and what a rating changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Home
from tests.integration.conftest import MODE
from tests.integration.raw import assert_error
from tests.servers import Server, serving

EXACT = "Сколько стоит уборка подъезда в пятиэтажном доме?"
FAR = "Где купить билет на поезд до Владивостока?"
UNUSUAL = "почём полы помыть в пятиэтажке"
NDJSON = {"Accept": "application/x-ndjson"}


@pytest.fixture
def fresh(tmp_path: Path, home: Home, settings: dict[str, str]) -> Iterator[Server]:
    """A server of the test's own, with nothing in it."""
    with serving(tmp_path / "data", **settings) as running:
        running.wait_for_mode(MODE[home])
        running.wait_for_meaning()
        yield running
        running.kill()  # how it stops is another test's


def eventually(check: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_empty_server_says_so_with_zeros_and_null(fresh: Server) -> None:
    body = fresh.stats()
    as_of = body.pop("as_of")
    assert isinstance(as_of, str)
    assert body == {
        "total_interactions": 0,
        "avg_rating": 0.0,
        "positive_ratings": 0,
        "negative_ratings": 0,
        "rated_interactions": 0,
        "improvement_rate": 0.0,
        "last_learning_update": None,
        "complete": True,
    }
    export = fresh.client.get("/api/learning/export").json()
    assert (export["total_exported"], export["data"]) == (0, [])
    assert fresh.client.get("/api/learning/export", headers=NDJSON).content == b""

    # g09: the totals follow every rating, also one that changes.
    ids = [fresh.ask(message)["log_id"] for message in (EXACT, EXACT, FAR, "привет")]
    for log_id, rating in zip(ids, (5, 4, 1, 3), strict=True):
        fresh.rate(log_id, rating)
    fresh.rate(ids[1], 2)
    body = fresh.stats()
    assert body["total_interactions"] == 4
    assert body["rated_interactions"] == 4
    assert body["avg_rating"] == pytest.approx((5 + 2 + 1 + 3) / 4, abs=1e-4)
    assert body["positive_ratings"] == 1
    assert body["negative_ratings"] == 2
    assert body["improvement_rate"] == pytest.approx(0.25)
    assert body["complete"] is True


def test_a_well_rated_dialogue_of_an_unusual_wording_makes_that_wording_answered_better(
    fresh: Server,
) -> None:
    wanted = fresh.ask(EXACT)
    before = fresh.ask(UNUSUAL)
    assert before["similar_found"] == 0
    assert before["learning_improved"] is False
    assert fresh.stats()["last_learning_update"] is None
    assert before["response"] == wanted["response"]
    fresh.rate(before["log_id"], 5)
    eventually(lambda: fresh.stats()["last_learning_update"] is not None)
    first = fresh.stats()["last_learning_update"]
    after = fresh.ask(UNUSUAL)
    assert after["response"] == wanted["response"]
    assert after["confidence"] > before["confidence"]
    assert after["similar_found"] == 1
    assert after["learning_improved"] is True
    receipt = [line for line in after["sources"] if line["kind"] == "dialogues"]
    assert [line["dialogues"] for line in receipt] == [1]
    assert receipt[0]["ids"] == [before["log_id"]]
    # The rating falls: the dialogue no longer counts, and that is a change too.
    fresh.rate(before["log_id"], 1)
    eventually(lambda: fresh.stats()["last_learning_update"] != first)
    again = fresh.ask(UNUSUAL)
    assert again["similar_found"] == 0
    assert again["learning_improved"] is False


def test_the_last_learning_update_is_null_before_and_survives_a_restart(tmp_path: Path) -> None:
    moments: list[str | None] = []
    with serving(tmp_path / "data") as server:
        server.wait_for_meaning()
        learnt = server.ask(EXACT)["log_id"]
        # Ratings of small talk change no answer.
        server.rate(server.ask("привет")["log_id"], 5)
        time.sleep(0.3)
        assert server.stats()["last_learning_update"] is None
    for rating in (5, 1):
        with serving(tmp_path / "data") as server:
            server.wait_for_meaning()
            eventually(lambda server=server: "ready to answer" in server.log)
            moments.append(server.stats()["last_learning_update"])
            server.rate(learnt, rating)
            before = moments[-1]
            eventually(lambda s=server, b=before: s.stats()["last_learning_update"] != b)
            moments.append(server.stats()["last_learning_update"])
    with serving(tmp_path / "data") as server:
        server.wait_for_meaning()
        eventually(lambda: server.stats()["last_learning_update"] is not None)
        moments.append(server.stats()["last_learning_update"])
    assert moments[0] is None
    assert moments[1] == moments[2]
    assert moments[3] == moments[4]
    assert str(moments[1]) < str(moments[3])


def test_a_handed_over_dialogue_never_becomes_training_data(shared: Server) -> None:
    told = shared.ask(FAR)
    assert shared.rate(told["log_id"], 5).json()["will_be_used_for_training"] is False
    rows = shared.client.get("/api/learning/export?min_rating=1").json()["data"]
    assert told["session_id"] not in [row["metadata"]["session_id"] for row in rows]


def test_export_has_exactly_the_fields_of_the_contract(shared: Server) -> None:
    shared.rate(shared.ask(EXACT)["log_id"], 5)
    body = shared.client.get("/api/learning/export").json()
    named = {"total_exported", "min_rating_used", "data", "export_timestamp", "complete"}
    assert set(body) == named
    assert body["complete"] is True
    assert body["total_exported"] == len(body["data"]) > 0
    assert body["min_rating_used"] == 4
    for row in body["data"]:
        assert set(row) == {"messages", "metadata"}
        assert [set(message) for message in row["messages"]] == [{"role", "content"}] * 2
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert set(row["metadata"]) == {"rating", "timestamp", "session_id"}
        assert row["metadata"]["rating"] in {4, 5}


def test_export_as_lines_is_the_same_data_set(shared: Server) -> None:
    for message in (EXACT, "привет", f"{EXACT}\nстрока\u2028вторая 🧽"):
        shared.rate(shared.ask(message)["log_id"], 5)
    whole = shared.client.get("/api/learning/export").json()["data"]
    response = shared.client.get("/api/learning/export", headers=NDJSON)
    assert response.headers["content-type"].split(";")[0] == "application/x-ndjson"
    assert response.content.endswith(b"\n")
    assert [json.loads(line) for line in response.content.split(b"\n")[:-1]] == whole


@pytest.mark.parametrize("least", [1, 2, 3, 4, 5])
def test_export_holds_the_answered_dialogues_rated_at_least_so(shared: Server, least: int) -> None:
    sessions = {}
    for rating in range(1, 6):
        told = shared.ask(EXACT)
        shared.rate(told["log_id"], rating)
        sessions[told["session_id"]] = rating
    body = shared.client.get(f"/api/learning/export?min_rating={least}&format=openai").json()
    assert body["min_rating_used"] == least
    found = [row["metadata"] for row in body["data"] if row["metadata"]["session_id"] in sessions]
    assert [meta["rating"] for meta in found] == list(range(least, 6))


def test_a_rating_changed_later_moves_the_dialogue_in_and_out_of_the_data_set(
    shared: Server,
) -> None:
    told = shared.ask(EXACT)

    def exported() -> list[int]:
        rows = shared.client.get("/api/learning/export").json()["data"]
        meta = [row["metadata"] for row in rows]
        return [m["rating"] for m in meta if m["session_id"] == told["session_id"]]

    for rating, expected in ((3, []), (5, [5]), (4, [4]), (1, []), (5, [5])):
        assert shared.rate(told["log_id"], rating).status_code == 200
        assert exported() == expected


def test_similar_has_exactly_the_fields_of_the_contract(shared: Server) -> None:
    near = shared.ask(EXACT)
    shared.rate(near["log_id"], 5)
    asked = shared.ask(EXACT)
    path = f"/api/learning/similar/{asked['log_id']}?limit=50"

    eventually(lambda: near["log_id"] in shared.client.get(path).text)
    body = shared.client.get(path).json()
    contract = {"original_message", "found_similar", "similar_conversations"}
    assert set(body) == {*contract, "complete"}
    assert body["original_message"] == EXACT
    assert body["found_similar"] == len(body["similar_conversations"])
    assert near["log_id"] in [other["log_id"] for other in body["similar_conversations"]]
    nearness = [other["similarity"] for other in body["similar_conversations"]]
    assert nearness == sorted(nearness, reverse=True)
    for other in body["similar_conversations"]:
        assert set(other) == {
            "log_id", "user_message", "ai_response", "rating", "timestamp", "similarity"
        }  # fmt: skip
        assert other["log_id"] != asked["log_id"]
        assert isinstance(other["similarity"], float)
        assert -1 <= other["similarity"] <= 1
        assert other["rating"] >= 4


def test_similar_gives_no_more_than_its_limit_and_takes_upper_case(shared: Server) -> None:
    for _ in range(7):
        shared.rate(shared.ask(EXACT)["log_id"], 5)
    asked = shared.ask(EXACT)
    path = f"/api/learning/similar/{asked['log_id'].upper()}"
    eventually(lambda: shared.client.get(f"{path}?limit=50").json()["found_similar"] >= 7)
    for limit in (1, 2, 6):
        assert shared.client.get(f"{path}?limit={limit}").json()["found_similar"] == limit
    assert shared.client.get(path).json()["found_similar"] == 5


def test_the_first_of_a_similar_search_is_the_dialogue_of_the_same_words(shared: Server) -> None:
    words = "Как часто моют окна в подъезде?"
    same = shared.ask(words)
    shared.rate(same["log_id"], 5)
    asked = shared.ask(words)
    path = f"/api/learning/similar/{asked['log_id']}?limit=1"

    def first() -> list[str]:
        return [o["user_message"] for o in shared.client.get(path).json()["similar_conversations"]]

    eventually(lambda: first() == [words])


def test_an_export_format_of_a_later_step_is_refused_and_never_answered_with_nothing(
    shared: Server,
) -> None:
    for form in ("kto", "dpo", "sharegpt", "alpaca"):
        response = shared.client.get(f"/api/learning/export?format={form}")
        assert_error(response, 422)


def test_questions_handed_over_are_listed_newest_first_for_the_operator(shared: Server) -> None:
    asked = [f"Какова масса планеты номер {n} в созвездии Лиры?" for n in (1, 2)]
    replies = [shared.ask(question) for question in asked]
    assert [reply["outcome"] for reply in replies] == ["handed_over"] * 2
    listed = shared.client.get("/api/learning/questions", params={"limit": 2}).json()
    assert [q["user_message"] for q in listed["questions"]] == asked[::-1]
    assert [q["log_id"] for q in listed["questions"]] == [r["log_id"] for r in replies][::-1]
    assert listed["complete"] is True
    near = shared.client.get(f"/api/learning/similar/{replies[0]['log_id']}").json()
    assert near["complete"] is True
    for limit in ("0", "501", "many"):
        bad = shared.client.get("/api/learning/questions", params={"limit": limit})
        assert bad.status_code == 422
