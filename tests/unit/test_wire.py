"""Headers read as their RFCs have them, and who calls an endpoint."""

from __future__ import annotations

import json

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from audiobot.errors import MalformedRequest
from audiobot.http.access import language_of
from audiobot.http.schemas import ProcessRequest
from audiobot.http.wire import RequestRoute, read_body, read_json


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


def test_an_endpoint_of_the_request_alone_is_called_by_starlette():
    router = APIRouter(route_class=RequestRoute)

    @router.post("/plain")
    async def plain(request: Request) -> Response:
        return Response(await read_body(request))

    @router.get("/resolved")
    async def resolved(request: Request, name: str) -> Response:
        return Response(f"{request.method} {name}")

    handlers = [route.app.__module__ for route in router.routes if isinstance(route, APIRoute)]
    assert handlers == ["starlette.routing", "fastapi.routing"]
    app = FastAPI()
    app.router.routes.extend(router.routes)
    with TestClient(app) as client:
        assert client.post("/plain", content=b"as it is").text == "as it is"
        assert client.get("/resolved", params={"name": "resolved"}).text == "GET resolved"
        assert client.get("/resolved").status_code == 422
        assert client.get("/plain").status_code == 405
