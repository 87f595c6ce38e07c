"""Bad values to the public calls: refused with a sentence, nothing stored, no echo, no 500."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.integration.raw import (
    FEEDBACK,
    MARK,
    PROCESS,
    assert_error,
    good_body,
)
from tests.servers import Server

POSTS = [PROCESS, FEEDBACK]
JSON = {"Content-Type": "application/json"}

pytestmark = pytest.mark.usefixtures("nothing_stored")


STRANGER = "5f0c6a0e-3f5b-4d0a-9c57-7a1d2b3c4d5e"
"""An id of version 4: never one of ours."""


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"message": ""}, "text_blank"),
        ({"message": " \n\t\r"}, "text_blank"),
        ({"message": "\u00a0\u2003\u3000"}, "text_blank"),
        ({"message": (MARK * 200)[:2001]}, "text_too_long"),
        ({"message": "🧽" * 2001}, "text_too_long"),
        ({"message": " " * 2001}, None),
        ({"message": 5}, "field_invalid"),
        ({"message": 10**400}, "field_invalid"),
        ({"message": True}, "field_invalid"),
        ({"message": None}, "field_invalid"),
        ({"message": [MARK]}, "field_invalid"),
        ({"message": {MARK: MARK}}, "field_invalid"),
        ({"message": f"{MARK}\x00"}, "text_has_nul"),
        ({"message": f"{MARK}\ud800"}, "text_has_surrogate"),
        ({"message": f"\udfff{MARK}"}, "text_has_surrogate"),
        ({"message": ["\ud800"]}, None),
        ({"session_id": 5}, "field_invalid"),
        ({"session_id": [MARK]}, "field_invalid"),
        ({"session_id": MARK[0] * 201}, "text_too_long"),
        ({"session_id": MARK * 10_000}, None),
        ({"session_id": f"{MARK}\x00"}, "text_has_nul"),
        ({"session_id": f"{MARK}\udabc"}, "text_has_surrogate"),
    ],
)
def test_g04_a_question_that_no_store_would_take_is_refused_as_422(
    shared: Server, log_id: str, changes: dict[str, object], code: str | None
) -> None:
    sent = json.dumps(good_body(PROCESS, log_id, **changes)).encode()
    if len(sent) > 128 << 10:
        assert_error(shared.client.post(PROCESS, content=sent, headers=JSON), 413)
    else:
        assert_error(shared.client.post(PROCESS, content=sent, headers=JSON), 422, code)


@pytest.mark.parametrize(
    "rating",
    ["0", "6", "-1", "4.5", "5.0", '"5"', "true", "null", "1e400", "-1e400", "1e0", "[5]", "{}"],
)
def test_g04_a_rating_that_is_no_whole_number_from_1_to_5_is_refused_as_422(
    shared: Server, log_id: str, rating: str
) -> None:
    sent = f'{{"log_id": "{log_id}", "rating": {rating}}}'.encode()
    assert_error(shared.client.post(FEEDBACK, content=sent, headers=JSON), 422, "rating_range")


@pytest.mark.parametrize("rating", ["9" * 400, "9" * 5_000, "-" + "9" * 100_000])
def test_g04_a_rating_of_thousands_of_digits_is_refused(
    shared: Server, log_id: str, rating: str
) -> None:
    sent = f'{{"log_id": "{log_id}", "rating": {rating}}}'.encode()
    assert_error(shared.client.post(FEEDBACK, content=sent, headers=JSON), {400, 422})


@pytest.mark.parametrize("field", ["feedback_text", "corrected_response"])
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (5, "field_invalid"),
        ([MARK], "field_invalid"),
        (f"{MARK}\x00", "text_has_nul"),
        (f"{MARK}\ud800", "text_has_surrogate"),
        (MARK[0] * 4001, "text_too_long"),
    ],
)
def test_g04_words_to_a_rating_that_no_store_would_take_are_refused_as_422(
    shared: Server, log_id: str, field: str, value: object, code: str
) -> None:
    sent = json.dumps(good_body(FEEDBACK, log_id, **{field: value})).encode()
    assert_error(shared.client.post(FEEDBACK, content=sent, headers=JSON), 422, code)


def test_g04_feedback_text_of_2001_characters_is_refused(shared: Server, log_id: str) -> None:
    assert_error(shared.rate(log_id, 5, feedback_text="я" * 2001), 422, "text_too_long")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "extra", ['{"x": {"y": "\\ud800"}, ', '{"\\udc00": 1, ', '{"x": "\\ud800", ']
)
def test_g04_a_lone_surrogate_in_a_field_nobody_knows_is_422(
    shared: Server, log_id: str, path: str, extra: str
) -> None:
    sent = extra.encode() + json.dumps(good_body(path, log_id)).encode()[1:]
    assert_error(shared.client.post(path, content=sent, headers=JSON), 422)


def test_a_missing_field_is_named(shared: Server, log_id: str) -> None:
    for path, sent, field in [
        (PROCESS, {}, "message"),
        (PROCESS, {"Message": MARK}, "message"),
        (FEEDBACK, {"rating": 5}, "log_id"),
        (FEEDBACK, {"log_id": log_id}, "rating"),
    ]:
        response = shared.client.post(path, json=sent)
        assert_error(response, 422, "field_missing")
        assert field in response.json()["detail"]


def test_of_a_repeated_key_the_last_one_counts(shared: Server, log_id: str) -> None:
    sent = b'{"message": "hello", "message": ""}'
    assert_error(shared.client.post(PROCESS, content=sent, headers=JSON), 422, "text_blank")
    sent = f'{{"log_id": "{log_id}", "rating": 5, "rating": 9}}'.encode()
    assert_error(shared.client.post(FEEDBACK, content=sent, headers=JSON), 422, "rating_range")


@pytest.mark.parametrize(
    "unknown",
    [
        str(uuid.UUID(STRANGER)),
        str(uuid.UUID(int=0)),
        str(uuid.UUID(STRANGER)).upper(),
        uuid.UUID(STRANGER).hex,
        "{" + str(uuid.UUID(STRANGER)) + "}",
        f"urn:uuid:{uuid.UUID(STRANGER)}",
        str(uuid.UUID(STRANGER)) + "\n",
        MARK,
        "1",
        "../../etc/passwd",
        "' OR 1=1 --",
        "\uff11" * 36,
        "é" * 150,
    ],
)
def test_g10_an_id_that_was_never_issued_is_404(shared: Server, unknown: str) -> None:
    assert_error(shared.rate(unknown, 5), 404, "unknown_dialogue")


def test_g10_a_forged_neighbour_of_a_genuine_id_is_404(shared: Server, log_id: str) -> None:
    genuine = uuid.UUID(log_id).int
    for bit in (0, 7, 39, 40, 60, 90, 127):
        forged = str(uuid.UUID(int=genuine ^ (1 << bit)))
        assert_error(shared.rate(forged, 5), 404, "unknown_dialogue")
        found = shared.client.get(f"/api/learning/similar/{forged}")
        assert_error(found, 404, "unknown_dialogue")


@pytest.mark.parametrize("wrong", [5, None, True, [MARK], {}, f"{MARK}\x00", "x" * 201, "\ud800"])
def test_g04_a_log_id_that_is_no_text_is_422(shared: Server, wrong: object) -> None:
    sent = json.dumps({"log_id": wrong, "rating": 5}).encode()
    assert_error(shared.client.post(FEEDBACK, content=sent, headers=JSON), 422)
