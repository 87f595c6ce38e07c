"""The operator's desk over HTTP: the inbox, corrections, suggestions, what who asked hears."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import Home
from tests.integration.conftest import MODE
from tests.integration.raw import MARK, assert_error, post_json
from tests.servers import Server, serving

TOKEN = "operator-token-Hedgehog-42"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CORRECTIONS, INBOX = "/api/learning/corrections", "/api/learning/inbox"
PREVIEW = "/api/learning/preview"
SUGGESTIONS, ANSWERS = "/api/learning/suggestions", "/api/voice/answers"
FAR = "Где купить билет на поезд до Владивостока?"
BETTER = "Уборка подъезда стоит 1 500 ₽ в месяц."


@pytest.fixture(scope="module")
def desk(home: Home, tmp_path_factory: pytest.TempPathFactory, cluster) -> Iterator[Server]:
    """A server that wants its operator's token, with no knowledge at all."""
    from tests.conftest import settled

    with settled(home, cluster) as settings:
        data = tmp_path_factory.mktemp(f"desk-{home}") / "data"
        with serving(
            data, AUDIOBOT_OPERATOR_TOKEN=TOKEN, AUDIOBOT_KNOWLEDGE="none", **settings
        ) as running:
            running.wait_for_mode(MODE[home])
            running.wait_for_meaning()
            yield running


def operator(desk: Server, method: str, path: str, **more) -> httpx.Response:
    return desk.client.request(method, path, headers=BEARER, **more)


def correct(desk: Server, answer: str = BETTER, **fields) -> dict:
    body = {"answer": answer, "wordings": ["сколько стоит уборка"], **fields}
    response = operator(desk, "POST", CORRECTIONS, json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture(autouse=True)
def nothing_taught(request: pytest.FixtureRequest) -> None:
    """What an earlier test taught answers no question of this one."""
    if "desk" in request.fixturenames:
        desk = request.getfixturevalue("desk")
        for given in operator(desk, "GET", CORRECTIONS).json()["corrections"]:
            operator(desk, "DELETE", f"{CORRECTIONS}/{given['correction_id']}").raise_for_status()


def waiting(desk: Server) -> list[str]:
    body = operator(desk, "GET", INBOX, params={"limit": 500}).json()
    assert body["complete"] is True
    return [turn["log_id"] for turn in body["turns"]]


def in_force(desk: Server, correction_id: str, **params) -> dict | None:
    found = operator(desk, "GET", CORRECTIONS, params=params).json()
    assert found["complete"] is True
    return next((c for c in found["corrections"] if c["correction_id"] == correction_id), None)


def test_what_was_handed_over_waits_until_it_is_answered(desk: Server) -> None:
    asked = desk.ask(FAR, session_id="inbox-session-1")
    assert asked["outcome"] == "handed_over"
    (turn,) = [
        t for t in operator(desk, "GET", INBOX).json()["turns"] if t["log_id"] == asked["log_id"]
    ]
    assert (turn["user_message"], turn["ai_response"]) == (FAR, asked["response"])
    assert (turn["outcome"], turn["session_id"], turn["language"]) == (
        "handed_over", "inbox-session-1", "ru",
    )  # fmt: skip
    kept = correct(desk, log_ids=[asked["log_id"].upper()], wordings=[FAR, "билет"])
    assert kept["replaced"] is None
    assert kept["correction"]["log_ids"] == [asked["log_id"]]
    assert kept["correction"]["wordings"] == [FAR, "билет"]
    assert kept["correction"]["language"] == "ru"
    assert asked["log_id"] not in waiting(desk)
    name = kept["correction"]["correction_id"]
    assert in_force(desk, name) == kept["correction"]
    gone = operator(desk, "DELETE", f"{CORRECTIONS}/{name}").json()["correction"]
    assert gone["withdrawn"] is True
    assert in_force(desk, name) is None
    assert in_force(desk, name, withdrawn=True) == gone
    assert asked["log_id"] in waiting(desk)
    again = operator(desk, "POST", f"{CORRECTIONS}/{name}/restore").json()["correction"]
    assert again["withdrawn"] is False
    assert in_force(desk, name) == again
    assert asked["log_id"] not in waiting(desk)


def test_two_operators_answer_one_group_at_once_the_later_wins_and_is_told_of_the_earlier(
    desk: Server,
) -> None:
    ids = [desk.ask(f"{FAR} {n}")["log_id"] for n in range(2)]
    first = correct(desk, "Первый ответ.", log_ids=ids)
    second = correct(desk, "Второй ответ.", log_ids=ids)
    assert second["replaced"] == first["correction"]
    name = first["correction"]["correction_id"]
    assert second["correction"]["correction_id"] == name
    assert in_force(desk, name) == second["correction"]
    # Who changes it knowing of it is told of nothing; who does not is told.
    seen = second["correction"]["version"]
    third = correct(desk, "Третий.", correction_id=name, seen_version=seen, log_ids=ids)
    assert third["replaced"] is None
    fourth = correct(desk, "Четвёртый.", correction_id=name.upper(), seen_version=seen)
    assert fourth["replaced"] == third["correction"]


def test_a_group_is_dismissed_and_answered_at_once_and_nothing_breaks(desk: Server) -> None:
    log_id = desk.ask(f"{FAR} и обратно")["log_id"]
    body = {"log_ids": [log_id], "dismissed": True}
    assert operator(desk, "POST", f"{INBOX}/dismiss", json=body).json() == {"dismissed": 1}
    assert log_id not in waiting(desk)
    correct(desk, log_ids=[log_id], wordings=["туда и обратно"])
    back = body | {"dismissed": False}
    assert operator(desk, "POST", f"{INBOX}/dismiss", json=back).status_code == 200
    assert log_id not in waiting(desk)  # it is answered


def test_what_waits_is_grouped_by_what_it_asks(desk: Server) -> None:
    question = f"{FAR} Вагон {uuid.uuid4().hex[:6]}"
    ids = [desk.ask(question)["log_id"] for _ in range(3)]
    desk.rate(ids[0], 1, feedback_text="не то")
    found = operator(desk, "GET", f"{INBOX}/groups", params={"limit": 500}).json()
    assert found["complete"] is True
    every = [turn["log_id"] for group in found["groups"] for turn in group["turns"]]
    assert len(every) == len(set(every))
    assert set(every) == set(waiting(desk))
    (group,) = [g for g in found["groups"] if ids[0] in {t["log_id"] for t in g["turns"]}]
    assert [t["log_id"] for t in group["turns"] if t["log_id"] in ids] == ids[::-1]
    assert group["question"] in {turn["user_message"] for turn in group["turns"]}
    assert group["language"] == "ru"
    (rated,) = [turn for turn in group["turns"] if turn["log_id"] == ids[0]]
    assert (rated["rating"], rated["feedback_text"]) == (1, "не то")
    worth = [sum(2 if t["rating"] else 1 for t in g["turns"]) for g in found["groups"]]
    assert worth == sorted(worth, reverse=True)
    for limit in ("0", "501", "x"):
        assert_error(operator(desk, "GET", f"{INBOX}/groups", params={"limit": limit}), 422)


def test_a_preview_tells_what_an_answer_would_change_and_keeps_nothing(desk: Server) -> None:
    question = f"{FAR} Билет {uuid.uuid4().hex[:6]}"
    log_id = desk.ask(question)["log_id"]
    before = operator(desk, "GET", CORRECTIONS).json()
    body = {"answer": "Билеты на поезд мы не продаём.", "wordings": [question]}
    found = operator(desk, "POST", PREVIEW, json=body).json()
    (turn,) = [turn for turn in found["caught"] if turn["log_id"] == log_id]
    assert (turn["question"], turn["before"], turn["after"]) == (question, None, body["answer"])
    assert found["looked_at"] >= 1
    assert found["terse"] is False
    assert operator(desk, "POST", PREVIEW, json=body | {"answer": "Нет."}).json()["terse"] is True
    alike = body | {"wordings": [question, question.upper(), "…", "?!"]}
    assert operator(desk, "POST", PREVIEW, json=alike).json()["caught"] == found["caught"]
    assert operator(desk, "GET", CORRECTIONS).json() == before
    assert log_id in waiting(desk)


def test_a_preview_tells_of_answers_that_nobody_rated(desk: Server) -> None:
    question = f"Кто вывозит сугробы? {uuid.uuid4().hex[:6]}"
    kept = correct(desk, "Сугробы вывозит город, звоните в управу.", wordings=[question])
    told = desk.ask(question)
    body = {"answer": "Сугробы вывозим мы сами по средам.", "wordings": [question]}
    found = operator(desk, "POST", PREVIEW, json=body).json()
    (turn,) = [turn for turn in found["caught"] if turn["log_id"] == told["log_id"]]
    assert (turn["before"], turn["after"]) == (told["response"], body["answer"])
    named = f"{CORRECTIONS}/{kept['correction']['correction_id']}"
    assert operator(desk, "DELETE", named).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"answer": " "}, 422, "text_blank"),
        ({"answer": MARK + "x" * 4_000}, 422, "text_too_long"),
        ({"answer": f"{MARK}\x00"}, 422, "text_has_nul"),
        ({"answer": "Only by the hour, at the desk"}, 422, "correction_language"),
        ({"wordings": []}, 422, "text_blank"),
        ({"wordings": ["a"] * 51}, 422, "list_too_long"),
        ({"wordings": ["x" * 2_001]}, 422, "text_too_long"),
        ({"wordings": [f"{MARK}\udfff"]}, 422, "text_has_surrogate"),
        ({"language": "de"}, 422, "field_invalid"),
    ],
)
def test_a_preview_of_a_bad_correction_ends_in_its_sentence(
    desk: Server, changes: dict, status: int, code: str
) -> None:
    body = json.dumps({"answer": BETTER, "wordings": ["в"], **changes}).encode()
    assert_error(post_json(desk, PREVIEW, body, *_bearer()), status, code)


def test_an_answer_that_was_told_already_is_no_correction(desk: Server) -> None:
    told = desk.ask(f"{FAR} Когда?")
    body = {
        "answer": f" {told['response']}\n", "wordings": [f"{FAR} Когда?"],
        "log_ids": [told["log_id"]],
    }  # fmt: skip
    response = operator(desk, "POST", CORRECTIONS, json=body)
    assert_error(response, 422, "correction_same")
    assert told["log_id"] in waiting(desk)


def test_an_operators_corrected_response_is_a_correction_of_its_question(desk: Server) -> None:
    told = desk.ask("почём помыть полы в подъезде?")
    body = {"log_id": told["log_id"], "rating": 1, "corrected_response": BETTER}
    response = operator(desk, "POST", "/api/voice/feedback", json=body)
    assert response.status_code == 200, response.text
    (kept,) = [
        c
        for c in operator(desk, "GET", CORRECTIONS).json()["corrections"]
        if c["log_ids"] == [told["log_id"]]
    ]
    assert (kept["answer"], kept["wordings"]) == (BETTER, ["почём помыть полы в подъезде?"])
    assert told["log_id"] not in waiting(desk)
    # Said again in other words it is the same correction, said later.
    body["corrected_response"] = "Полторы тысячи рублей в месяц."
    later = operator(desk, "POST", "/api/voice/feedback", json=body)
    assert later.status_code == 200
    # Who wrote later is told what it took the place of; the same words took nobody's.
    assert BETTER in later.json()["message"]
    again = operator(desk, "POST", "/api/voice/feedback", json=body).json()["message"]
    assert "Теперь действует ваш ответ" not in again
    other = desk.ask("Почём помыть полы в  подъезде?")["log_id"]
    another = {"log_id": other, "rating": 1, "corrected_response": "Две тысячи рублей в месяц."}
    words = operator(desk, "POST", "/api/voice/feedback", json=another).json()["message"]
    assert body["corrected_response"] in words  # the same question in another turn
    changed = in_force(desk, kept["correction_id"])
    assert changed is not None
    assert changed["answer"] == body["corrected_response"]
    assert changed["version"] > kept["version"]


def test_a_customers_better_answer_is_a_suggestion_until_an_operator_has_seen_to_it(
    desk: Server,
) -> None:
    told = [desk.ask(f"а окна моете? {n}") for n in range(3)]
    texts = ["Да, моем.", "Звоните +7 999 123-45-67", told[2]["response"]]
    before = len(operator(desk, "GET", CORRECTIONS).json()["corrections"])
    for asked, text in zip(told, texts, strict=True):
        assert desk.rate(asked["log_id"], 2, corrected_response=text).status_code == 200
    found = operator(desk, "GET", SUGGESTIONS).json()["suggestions"]
    assert [(s["text"], s["quarantined"]) for s in found] == [(texts[1], True), (texts[0], False)]
    assert (found[1]["log_id"], found[1]["rating"]) == (told[0]["log_id"], 2)
    assert found[1]["user_message"] == "а окна моете? 0"
    assert len(operator(desk, "GET", CORRECTIONS).json()["corrections"]) == before
    body = {"log_ids": [found[0]["op_id"]]}
    assert operator(desk, "POST", f"{INBOX}/dismiss", json=body).status_code == 200
    correct(desk, texts[0], wordings=["а окна моете? 0"], log_ids=[told[0]["log_id"]])
    assert operator(desk, "GET", SUGGESTIONS).json()["suggestions"] == []


def test_who_asked_hears_the_operators_answer(desk: Server) -> None:
    session = f"session-{uuid.uuid4()}"
    asked = [desk.ask(f"{FAR} {n}", session_id=session) for n in range(2)]
    params = {"session_id": session}
    assert desk.client.get(ANSWERS, params=params).json() == {"answers": []}
    kept = correct(desk, log_ids=[asked[0]["log_id"]], wordings=[f"{FAR} 0"])
    (answer,) = desk.client.get(ANSWERS, params=params).json()["answers"]
    assert (answer["question"], answer["answer"]) == (f"{FAR} 0", BETTER)
    assert answer["log_id"] == asked[0]["log_id"]
    assert answer["asked_at"] < answer["answered_at"] == kept["correction"]["corrected_at"]
    assert desk.client.get(ANSWERS, params={"session_id": session + "x"}).json() == {"answers": []}
    for short in ("", "x" * 11, "x" * 201, "x" * 12 + "\x00"):
        assert_error(desk.client.get(ANSWERS, params={"session_id": short}), 422)
    assert_error(desk.client.get(ANSWERS), 422)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", INBOX), ("GET", f"{INBOX}/groups"), ("POST", PREVIEW),
        ("POST", f"{INBOX}/dismiss"), ("GET", CORRECTIONS), ("POST", CORRECTIONS),
        ("DELETE", f"{CORRECTIONS}/{uuid.UUID(int=1)}"), ("GET", SUGGESTIONS),
        ("POST", f"{CORRECTIONS}/{uuid.UUID(int=1)}/restore"),
    ],
)  # fmt: skip
def test_the_desk_is_an_operators_alone(desk: Server, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert_error(desk.client.request(method, path, headers=headers, json={}), 401)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"answer": ""}, 422, "text_blank"),
        ({"answer": " \n"}, 422, "text_blank"),
        ({"answer": MARK + "x" * 4_000}, 422, "text_too_long"),
        ({"answer": f"{MARK}\x00"}, 422, "text_has_nul"),
        ({"answer": f"{MARK}\ud800"}, 422, "text_has_surrogate"),
        ({"answer": 5}, 422, "field_invalid"),
        ({"answer": None}, 422, "field_invalid"),
        ({"answer": "Only by the hour, at the desk"}, 422, "correction_language"),
        ({"wordings": []}, 422, "text_blank"),
        ({"wordings": [""]}, 422, "text_blank"),
        ({"wordings": ["a"] * 51}, 422, "list_too_long"),
        ({"wordings": ["x" * 2_001]}, 422, "text_too_long"),
        ({"wordings": [f"{MARK}\x00"]}, 422, "text_has_nul"),
        ({"wordings": [f"{MARK}\udfff"]}, 422, "text_has_surrogate"),
        ({"wordings": MARK}, 422, "field_invalid"),
        ({"wordings": [5]}, 422, "field_invalid"),
        ({"log_ids": ["no id"]}, 404, "unknown_dialogue"),
        ({"log_ids": [str(uuid.UUID(int=5))] * 1_001}, 422, "list_too_long"),
        ({"log_ids": ["\x00"]}, 422, "text_has_nul"),
        ({"correction_id": "no id"}, 404, "unknown_correction"),
        ({"correction_id": 5}, 422, "field_invalid"),
        ({"seen_version": -1}, 422, "field_invalid"),
        ({"seen_version": 1 << 63}, 422, "field_invalid"),
        ({"seen_version": "1"}, 422, "field_invalid"),
        ({"language": "de"}, 422, "field_invalid"),
    ],
)
def test_a_bad_correction_ends_in_a_sentence_and_leaves_the_answers_alone(
    desk: Server, changes: dict, status: int, code: str
) -> None:
    kept = correct(desk, "В силе.", wordings=["что в силе?"])["correction"]
    good = {"answer": BETTER, "wordings": ["в"], "correction_id": kept["correction_id"]}
    body = json.dumps(good | changes).encode()
    assert_error(post_json(desk, CORRECTIONS, body, *_bearer()), status, code)
    assert in_force(desk, kept["correction_id"]) == kept


def _bearer() -> list[bytes]:
    return [f"Authorization: Bearer {TOKEN}".encode()]


def test_the_longest_correction_is_taken_and_a_longer_body_is_refused(desk: Server) -> None:
    wordings = [f"{n:02}" + "🧽" * 1_998 for n in range(50)]
    body = json.dumps({"answer": "ы" * 4_000, "wordings": wordings, "language": "ru"}).encode()
    answer = post_json(desk, CORRECTIONS, body, *_bearer())
    assert answer.status == 200, answer.text
    kept = json.loads(answer.text)["correction"]
    assert in_force(desk, kept["correction_id"]) == kept
    assert_error(post_json(desk, CORRECTIONS, b" " * (3 << 20), *_bearer()), 413)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x" * 4_001, "text_too_long"),
        (" \n", "text_blank"),
        ("We do not do that here", "correction_language"),
        (None, "correction_same"),
    ],
)
def test_a_bad_corrected_response_of_an_operator_is_refused_with_its_rating(
    desk: Server, text: str | None, code: str
) -> None:
    told = desk.ask(FAR)
    before = desk.client.get("/api/learning/stats", headers=BEARER).json()["rated_interactions"]
    given = f" {told['response']}\n" if text is None else text
    body = {"log_id": told["log_id"], "rating": 1, "corrected_response": given}
    assert_error(operator(desk, "POST", "/api/voice/feedback", json=body), 422, code)
    after = desk.client.get("/api/learning/stats", headers=BEARER).json()["rated_interactions"]
    assert after == before


def test_an_empty_suggestion_is_none(desk: Server) -> None:
    told = desk.ask(FAR)
    for empty in ("", " \n"):
        assert desk.rate(told["log_id"], 1, corrected_response=empty).status_code == 200
    found = operator(desk, "GET", SUGGESTIONS).json()["suggestions"]
    assert not [s for s in found if s["log_id"] == told["log_id"]]


def test_a_correction_in_another_language_is_taken_when_that_is_said(desk: Server) -> None:
    kept = correct(desk, "Only by the hour.", wordings=["почасовая оплата?"], language="en")
    assert kept["correction"]["language"] == "en"


def test_what_is_no_correction_is_withdrawn_by_nobody(desk: Server) -> None:
    for name in (str(uuid.uuid4()), "no-id"):
        for method, path in (("DELETE", f"/{name}"), ("POST", f"/{name}/restore")):
            response = operator(desk, method, CORRECTIONS + path)
            assert_error(response, 404, "unknown_correction")


def test_corrections_are_there_after_a_restart(tmp_path: Path, settings: dict[str, str]) -> None:
    more = {"AUDIOBOT_OPERATOR_TOKEN": TOKEN, "AUDIOBOT_KNOWLEDGE": "none", **settings}
    with serving(tmp_path / "data", **more) as server:
        log_id = server.ask(FAR)["log_id"]
        kept = correct(server, log_ids=[log_id])["correction"]
        server.kill()  # acknowledged is safe
    with serving(tmp_path / "data", **more) as server:
        server.wait_for_mode("postgres" if "DATABASE_URL" in settings else "memory")
        assert in_force(server, kept["correction_id"]) == kept
        assert waiting(server) == []
