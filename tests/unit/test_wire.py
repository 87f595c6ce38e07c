"""Headers read as their RFCs have them, spaces and parameters included."""

from __future__ import annotations

import json

import pytest
from starlette.requests import Request

from audiobot.errors import MalformedRequest
from audiobot.http.access import language_of
from audiobot.http.schemas import ProcessRequest
from audiobot.http.wire import read_json


def request(**headers: str) -> Request:
    raw = [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()]

    async def receive() -> dict:
        return {"type": "http.request", "body": json.dumps({"message": "a"}).encode()}

    return Request({"type": "http", "headers": raw}, receive)


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("en; q=0.8, ru; q=0.1", "en"),
        ("ru; q=0.8, en; q=0.1", "ru"),
        ("ru ;q=0.3 , en-GB ; Q=0.4", "en"),
        ("en;q=0.8,ru;q=0.9", "ru"),
        ("en", "en"),
        ("de, en;q=0", "ru"),
        ("en;q=x", "ru"),
        ("", "ru"),
    ],
)
def test_a_language_is_chosen_by_its_weight(accepted: str, language: str) -> None:
    assert language_of(request(accept_language=accepted)) == language


@pytest.mark.parametrize(
    "kind",
    [
        "application/json; charset=utf-8; profile=x",
        "application/json; profile=x; charset=UTF-8",
        'application/json;profile="x"',
        'Application/JSON ; Charset="utf-8"',
        "application/json;",
    ],
)
async def test_json_is_json_whatever_parameters_come_with_it(kind: str) -> None:
    assert (await read_json(request(content_type=kind), ProcessRequest)).message == "a"


@pytest.mark.parametrize(
    "kind",
    ["application/json; profile=x; charset=cp1251", "application/json; charset=utf-8; charset=x"],
)
async def test_another_charset_is_refused_wherever_it_stands(kind: str) -> None:
    with pytest.raises(MalformedRequest):
        await read_json(request(content_type=kind), ProcessRequest)
