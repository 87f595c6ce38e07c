"""The two public calls: every field of a reply, and what is told is what is stored."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.conftest import Home
from tests.integration.raw import UUID_FORM
from tests.servers import Server

EXACT = "Сколько стоит уборка подъезда в пятиэтажном доме?"
FAR = "Где купить билет на поезд до Владивостока?"
PROCESS_TYPES = {
    "response": str,
    "log_id": str,
    "session_id": str,
    "model_used": str,
    "response_time": float,
    "similar_found": int,
    "learning_improved": bool,
    "durability": str,
    "confidence": (float, type(None)),
    "outcome": str,
    "sources": list,
}


@pytest.mark.parametrize(
    ("message", "outcome", "model"),
    [
        (EXACT, "answered", "retrieval"),
        ("привет", "answered", "small_talk"),
        (FAR, "handed_over", "handover"),
        ("How much does entrance cleaning cost?", "answered", "retrieval"),
        ("🧽🪣✨", "handed_over", "handover"),
        ("x" * 2_000, "handed_over", "handover"),
    ],
)
def test_process_replies_with_exactly_the_fields_of_the_contract(
    shared: Server, message: str, outcome: str, model: str
) -> None:
    reply = shared.ask(message)
    assert set(reply) == set(PROCESS_TYPES)
    for name, kind in PROCESS_TYPES.items():
        assert isinstance(reply[name], kind), name
        assert kind is bool or not isinstance(reply[name], bool), name
    assert UUID_FORM.fullmatch(reply["log_id"])
    assert reply["response"].strip()
    assert reply["response_time"] >= 0
    assert (reply["outcome"], reply["model_used"]) == (outcome, model)


def test_g01_the_reply_names_where_the_turn_lies_safe(shared: Server, home: Home) -> None:
    assert shared.ask("привет")["durability"] == home


def test_an_answer_shows_what_it_rests_on_and_a_hand_over_rests_on_nothing(shared: Server) -> None:
    answered, handed_over = shared.ask(EXACT), shared.ask(FAR)
    assert [line["title"] for line in answered["sources"]] == [EXACT]
    assert set(answered["sources"][0]) == {"kind", "title", "dialogues", "raters", "ids"}
    assert handed_over["sources"] == []
    assert handed_over["similar_found"] == 0
    assert handed_over["learning_improved"] is False


def test_every_dialogue_has_an_id_of_its_own(shared: Server) -> None:
    ids = {shared.ask("привет")["log_id"] for _ in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize(
    "message",
    [
        "привет",
        "Здравствуйте!",
        "спасибо",
        "Спасибо большое!",
        "до свидания",
        "кто ты?",
        "hello",
        "thank you",
        "bye",
        "who are you?",
        "ПРИВЕТ!!!",
        "Здравствуйте, спасибо",
    ],
)
def test_small_talk_is_answered_as_such(shared: Server, message: str) -> None:
    reply = shared.ask(message)
    assert (reply["model_used"], reply["outcome"]) == ("small_talk", "answered")


@pytest.mark.parametrize("greeting", ["Здравствуйте! ", "Добрый день, ", "привет "])
def test_a_question_behind_a_greeting_is_answered_as_the_question(
    shared: Server, greeting: str
) -> None:
    reply = shared.ask(greeting + EXACT)
    assert reply["response"] == shared.ask(EXACT)["response"]
    assert reply["model_used"] == "retrieval"


@pytest.mark.parametrize(
    "message",
    [
        FAR,
        "Какая погода завтра в Париже?",
        "Напиши стихотворение о любви",
        "What is the capital of Australia?",
        "фывапролдж",
        "12345",
        "???",
        "<script>alert(1)</script>",
    ],
)
def test_what_the_company_does_not_know_is_handed_over_without_a_guess(
    shared: Server, message: str
) -> None:
    reply = shared.ask(message)
    assert (reply["outcome"], reply["model_used"]) == ("handed_over", "handover")
    assert not re.search(r"\d|перезвон|свяж|call you|contact you", reply["response"])


@pytest.mark.parametrize(
    "message",
    [
        "  привет\n",
        "Привет 👋🏽 «ёлочки» — ﷽ \u202eобратно\u202c",
        "e\u0301 é ﬁ Ⅷ \u200b\ufeff",
        "<b>&amp;</b> \"кавычки\" \\обратная\\ 'и' {json: 1}",
        "строка\r\nстрока\tтаб\x01\x1f\x7f\x85\u2028\u2029",
        "𝕌𝕟𝕚𝕔𝕠𝕕𝕖 \U0010ffff \ufffe",
        "%s %n {0} {message} ; DROP TABLE voice_logs; --",
    ],
)
def test_what_is_stored_is_what_was_said_and_told_to_the_letter(
    shared: Server, message: str
) -> None:
    told = shared.ask(f"{EXACT} {message}")
    found = shared.client.get(f"/api/learning/similar/{told['log_id']}").json()
    assert found["original_message"] == f"{EXACT} {message}"
    if told["outcome"] == "answered":
        assert shared.rate(told["log_id"], 5).status_code == 200
        rows = shared.client.get("/api/learning/export?min_rating=5").json()["data"]
        mine = [row for row in rows if row["metadata"]["session_id"] == told["session_id"]]
        assert [row["messages"] for row in mine] == [
            [
                {"role": "user", "content": f"{EXACT} {message}"},
                {"role": "assistant", "content": told["response"]},
            ]
        ]


def test_2000_characters_are_accepted_whatever_they_weigh(shared: Server) -> None:
    for character in ("я", "🧽", "\u0001"):
        told = shared.ask(character * 2_000)
        found = shared.client.get(f"/api/learning/similar/{told['log_id']}").json()
        assert found["original_message"] == character * 2_000


@pytest.mark.parametrize("given", [None, ""])
def test_a_session_is_made_when_none_is_given_and_can_be_used_again(
    shared: Server, given: str | None
) -> None:
    first, other = shared.ask("привет", session_id=given), shared.ask("привет")
    assert 1 <= len(first["session_id"]) <= 200
    assert first["session_id"] != other["session_id"]
    again = shared.ask("спасибо", session_id=first["session_id"])
    assert again["session_id"] == first["session_id"]


@pytest.mark.parametrize("session", ["a", "я" * 200, " пробелы ", "🧽", "a/b?c=d&e#f", "None"])
def test_a_session_id_up_to_200_characters_comes_back_as_it_was(
    shared: Server, session: str
) -> None:
    assert shared.ask("привет", session_id=session)["session_id"] == session


@pytest.mark.parametrize("rating", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("message", [EXACT, FAR])
def test_feedback_says_what_became_of_a_rating(shared: Server, message: str, rating: int) -> None:
    told = shared.ask(message)
    response = shared.rate(told["log_id"], rating, feedback_text="Спасибо 🧽")
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {
        "success", "message", "log_id", "will_be_used_for_training", "status"
    }  # fmt: skip
    assert body["success"] is True
    assert body["message"].strip()
    assert body["log_id"] == told["log_id"]
    assert body["status"] == "stored"
    answered = told["outcome"] == "answered"
    assert body["will_be_used_for_training"] is (answered and rating >= 4)


def test_an_id_is_taken_in_any_letter_case(shared: Server) -> None:
    told = shared.ask(EXACT)
    for spelling in (told["log_id"].upper(), told["log_id"].title(), told["log_id"]):
        response = shared.rate(spelling, 4)
        assert response.status_code == 200
        assert response.json()["log_id"] == told["log_id"]


@pytest.mark.parametrize("field", ["feedback_text", "corrected_response"])
def test_words_to_a_rating_may_be_absent_null_empty_or_as_long_as_allowed(
    shared: Server, field: str
) -> None:
    # On an open loopback everyone is the operator: the question is nobody else's.
    log_id = shared.ask("как зовут вашу кошку")["log_id"]
    longest = 2_000 if field == "feedback_text" else 4_000
    for words in (None, "", "ё" * longest):
        assert shared.rate(log_id, 3, **{field: words}).status_code == 200
    # An operator's blank correction would take his answer's place by nothing.
    blank = shared.rate(log_id, 3, **{field: " "}).status_code
    assert blank == (200 if field == "feedback_text" else 422)


def test_fields_that_nobody_knows_are_let_be(shared: Server) -> None:
    reply = shared.ask("благодарю", colour="red", log_id="x", model_used="gpt-9")
    assert reply["model_used"] == "small_talk"
    assert shared.rate(reply["log_id"], 5, status="pending").json()["status"] == "stored"


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"']
)
def test_json_with_its_charset_named_is_taken(shared: Server, kind: str) -> None:
    body = '{"message": "привет"}'.encode()
    headers = {"Content-Type": kind}
    response = shared.client.post("/api/voice/process", content=body, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("accepted", "russian"),
    [
        (None, True),
        ("ru", True),
        ("en", False),
        ("en-US,en;q=0.9", False),
        ("en;q=0.3, ru;q=0.9", True),
        ("ru;q=0.1, en;q=0.2", False),
        ("de, fr", True),
        ("*", True),
    ],
)
def test_an_error_is_in_the_language_asked_for_russian_by_default(
    shared: Server, accepted: str | None, *, russian: bool
) -> None:
    headers = {"Accept-Language": accepted} if accepted else {}
    for response in (
        shared.client.post("/api/voice/process", json={"message": ""}, headers=headers),
        shared.client.get("/api/learning/export?min_rating=9", headers=headers),
        shared.client.get("/nothing", headers=headers),
        shared.client.put("/api/health", headers=headers),
    ):
        assert bool(re.search("[а-я]", response.json()["detail"])) is russian


def test_answers_keep_the_language_a_session_began_in(shared: Server) -> None:
    russian = shared.ask("Здравствуйте")["session_id"]
    english = shared.ask("Hello there")["session_id"]
    assert re.search("[а-я]", shared.ask("ok", session_id=russian)["response"])
    assert not re.search("[а-я]", shared.ask("123", session_id=english)["response"])
    assert not re.search("[а-я]", shared.ask("пока", session_id=english)["response"])
    switched = "Какая завтра погода на Марсе?"
    assert re.search("[а-я]", shared.ask(switched, session_id=english)["response"])


def test_without_words_to_go_by_the_answer_follows_accept_language(shared: Server) -> None:
    for language, russian in (("en", False), ("ru", True)):
        response = shared.client.post(
            "/api/voice/process", json={"message": "???"}, headers={"Accept-Language": language}
        )
        assert bool(re.search("[а-я]", response.json()["response"])) is russian


def test_every_time_told_is_utc_and_of_now(shared: Server) -> None:
    told = shared.ask(EXACT)
    shared.rate(told["log_id"], 5)
    rows = shared.client.get("/api/learning/export").json()
    moments = [rows["export_timestamp"], shared.stats()["as_of"], shared.health()["timestamp"]]
    moments.append(rows["data"][-1]["metadata"]["timestamp"])
    for moment in moments:
        assert abs(datetime.fromisoformat(moment) - datetime.now(UTC)) < timedelta(seconds=30)
