"""Who is who on a first try, with a token, and beyond this machine."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.raw import assert_error
from tests.servers import Server, serving

TOKEN = "operator-token-Hedgehog-42"
BEARER = {"Authorization": b"Bearer " + TOKEN.encode()}
OPERATOR_CALLS = [
    ("GET", "/api/learning/stats"),
    ("GET", "/api/learning/export"),
    ("GET", "/api/learning/similar/00000000-0000-0000-0000-000000000000"),
    ("POST", "/api/knowledge/faq.csv"),
]
PUBLIC_CALLS = ["/api/health", "/api/ready", "/", "/openapi.json", "/static/talk.js"]
FROM_ELSEWHERE = [
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-For": ""},
    {"X-Forwarded-Host": "localhost"},
    {"X-Real-IP": "127.0.0.1"},
    {"Forwarded": "for=127.0.0.1"},
    {"Via": "1.1 proxy"},
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-Server": "proxy"},
    {"X-Forwarded-Any-Name": ""},
    {"X-Forwarded": "for=127.0.0.1"},
    {"CF-Connecting-IP": "127.0.0.1"},
    {"CF-Ray": "1"},
    {"True-Client-IP": "127.0.0.1"},
    {"X-Client-IP": "127.0.0.1"},
    {"X-Cluster-Client-IP": "127.0.0.1"},
    {"X-Original-Host": "example.org"},
    {"X-Envoy-External-Address": "127.0.0.1"},
    {"Fly-Client-IP": "127.0.0.1"},
    {"Host": "example.org"},
    {"Host": "127.0.0.1.example.org"},
    {"Host": "128.0.0.1"},
    {"Host": "0.0.0.0"},
    {"Host": "localhost.example.org:8000"},
    {"Host": ""},
    {"Host": "localhost@example.org"},
    {"Origin": "https://example.org"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on loopback with a configured token."""
    data = tmp_path_factory.mktemp("closed") / "data"
    with serving(data, AUDIOBOT_OPERATOR_TOKEN=TOKEN) as running:
        running.wait_for_meaning()
        yield running
        running.kill()  # how it stops is another test's


@pytest.fixture(scope="module")
def outward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that others can reach, without a configured token."""
    data = tmp_path_factory.mktemp("outward") / "data"
    with serving(data, host="0.0.0.0", AUDIOBOT_RATE_LIMIT="off") as running:
        yield running
        running.kill()  # how it stops is another test's


def kept_token(server: Server) -> str:
    return (server.data_dir / "operator-token").read_text().strip()


@pytest.mark.parametrize(("method", "path"), OPERATOR_CALLS)
def test_a_first_try_on_this_machine_is_open(shared: Server, method: str, path: str) -> None:
    assert shared.client.request(method, path).status_code in {200, 404}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LOCALHOST", "[::1]", "127.0.0.2"])
def test_any_local_host_name_is_this_machine(shared: Server, host: str) -> None:
    port = httpx.URL(shared.address).port
    for name in (host, f"{host}:{port}"):
        response = shared.client.get("/api/learning/stats", headers={"Host": name})
        assert response.status_code == 200, name


def test_a_server_on_another_loopback_address_is_open_by_that_address(tmp_path: Path) -> None:
    with serving(tmp_path / "data", host="127.0.0.2") as server:
        assert server.client.get("/api/learning/stats").status_code == 200
        server.kill()


def test_a_page_of_our_own_is_let_in(shared: Server) -> None:
    for headers in (
        {"Origin": shared.address, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ):
        assert shared.client.get("/api/learning/stats", headers=headers).status_code == 200


@pytest.mark.parametrize("headers", FROM_ELSEWHERE, ids=str)
@pytest.mark.parametrize(("method", "path"), [*OPERATOR_CALLS, ("GET", "/api/metrics")])
def test_a_request_that_a_proxy_or_another_site_made_is_no_operators(
    shared: Server, method: str, path: str, headers: dict[str, str]
) -> None:
    response = shared.client.request(method, path, headers=headers)
    assert_error(response, 401, "operator_only")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("headers", FROM_ELSEWHERE, ids=str)
def test_public_calls_are_open_to_everyone(shared: Server, headers: dict[str, str]) -> None:
    for path in PUBLIC_CALLS:
        assert shared.client.get(path, headers=headers).status_code == 200
    told = shared.client.post("/api/voice/process", json={"message": "привет"}, headers=headers)
    assert told.status_code == 200
    rating = {"log_id": told.json()["log_id"], "rating": 5, "corrected_response": "так"}
    assert shared.client.post("/api/voice/feedback", json=rating, headers=headers).is_success


@pytest.mark.parametrize(("method", "path"), OPERATOR_CALLS)
def test_a_configured_token_is_required_on_loopback_too(
    closed: Server, method: str, path: str
) -> None:
    for wrong in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": b"Basic " + TOKEN.encode()},
        {"Authorization": TOKEN.encode()},
        {"Authorization": b"Bearer " + TOKEN.encode()[:-1]},
        {"Authorization": b"Bearer " + TOKEN.encode() + b"2"},
        {"Authorization": b"Bearer " + TOKEN.upper().encode()},
        {"Cookie": f"token={TOKEN.encode().hex()}"},
    ):
        response = closed.client.request(method, path, headers=wrong)
        assert_error(response, 401, "operator_only")
        assert response.headers["www-authenticate"] == "Bearer"
    assert closed.client.request(method, path, headers=BEARER).status_code in {200, 404}


def test_the_token_opens_from_anywhere_and_its_scheme_is_spelt_in_any_case(
    closed: Server,
) -> None:
    for scheme in (b"Bearer", b"bearer", b"BEARER"):
        headers = {"Authorization": scheme + b" " + TOKEN.encode(), "X-Forwarded-For": "8.8.8.8"}
        assert closed.client.get("/api/learning/stats", headers=headers).status_code == 200


def test_public_calls_never_need_the_token(closed: Server) -> None:
    for path in PUBLIC_CALLS:
        assert closed.client.get(path).status_code == 200
    told = closed.ask("привет")
    assert closed.rate(told["log_id"], 4, corrected_response="иначе").json()["status"] == "stored"


def test_ids_of_sources_are_shown_to_operators_only(closed: Server) -> None:
    question = {"message": "Сколько стоит уборка подъезда в пятиэтажном доме?"}
    public = closed.client.post("/api/voice/process", json=question).json()
    operator = closed.client.post("/api/voice/process", json=question, headers=BEARER).json()
    assert all(line.get("ids") is None for line in public["sources"])
    assert all(line["ids"] for line in operator["sources"])
    assert [line["title"] for line in public["sources"]] == [question["message"]]


def test_openapi_asks_for_the_token_exactly_where_the_server_does(
    shared: Server, closed: Server, outward: Server
) -> None:
    for server, optional in ((shared, True), (closed, False), (outward, False)):
        paths = server.client.get("/openapi.json").json()["paths"]
        stats = paths["/api/learning/stats"]["get"]["security"]
        assert stats == [{"operator": []}, {}][: 1 + optional]
        assert ({} in paths["/api/metrics"]["get"]["security"]) is (server is not outward)


def test_metrics_are_open_on_a_loopback_bind_even_with_a_token(closed: Server) -> None:
    assert closed.client.get("/api/metrics").status_code == 200
    proxied = closed.client.get("/api/metrics", headers={"X-Forwarded-For": "1.2.3.4"})
    assert_error(proxied, 401)


def test_the_token_is_in_no_log_and_no_reply(closed: Server) -> None:
    closed.client.get("/api/learning/stats", headers=BEARER)
    assert TOKEN not in closed.log
    for path in PUBLIC_CALLS:
        assert TOKEN not in closed.client.get(path, headers=BEARER).text


@pytest.mark.parametrize(("method", "path"), [*OPERATOR_CALLS, ("GET", "/api/metrics")])
def test_beyond_this_machine_an_operators_call_needs_the_token_that_was_made(
    outward: Server, method: str, path: str
) -> None:
    assert_error(outward.client.request(method, path), 401, "operator_only")
    headers = {"Authorization": f"Bearer {kept_token(outward)}"}
    assert outward.client.request(method, path, headers=headers).status_code in {200, 404}


def test_public_calls_beyond_this_machine_need_no_token(outward: Server) -> None:
    assert outward.ask("привет")["sources"] == []
    assert outward.health()["services"]["storage"] is True


def test_a_token_that_was_made_is_kept_for_its_owner_and_shown_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, host="0.0.0.0") as first:
        token = kept_token(first)
        first.kill()
    shown = [line for line in first.log.splitlines() if token in line]
    assert len(shown) == 1
    assert not shown[0].startswith("{"), "a line of the JSON log holds the token"
    assert len(token) >= 24
    assert stat.S_IMODE((data / "operator-token").stat().st_mode) == 0o600

    with serving(data, host="0.0.0.0") as second:
        assert kept_token(second) == token
        headers = {"Authorization": f"Bearer {token}"}
        assert second.client.get("/api/learning/stats", headers=headers).status_code == 200
        second.kill()
    assert token not in second.log


def test_the_data_directory_and_its_secrets_are_their_owners_alone(outward: Server) -> None:
    assert stat.S_IMODE(outward.data_dir.stat().st_mode) == 0o700
    for name in ("keys.json", "operator-token", "server.json", "lock"):
        mode = stat.S_IMODE((outward.data_dir / name).stat().st_mode)
        assert mode == 0o600, f"{name} {mode:o}"


def test_a_configured_token_of_any_letters_works_beyond_this_machine_and_no_other_is_made(
    tmp_path: Path,
) -> None:
    data, token = tmp_path / "data", "пароль-оператора"
    with serving(data, host="0.0.0.0", AUDIOBOT_OPERATOR_TOKEN=token) as server:
        headers = {"Authorization": b"Bearer " + token.encode()}
        assert server.client.get("/api/learning/stats", headers=headers).status_code == 200
        assert not (data / "operator-token").exists()
        assert "operator token" not in server.log
        server.kill()
