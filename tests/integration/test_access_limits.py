"""How often one may call, who counts as one, who rates, and which other sites may call."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.operator import visitors, words_of
from tests.integration.raw import assert_error
from tests.servers import Server, client_of, serving

PROCESS = "/api/voice/process"
ORIGIN = "https://console.example.org"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Three questions an hour, by the address that a trusted proxy tells."""
    with serving(
        tmp_path_factory.mktemp("limited") / "data",
        AUDIOBOT_RATE_LIMIT="3/hour",
        AUDIOBOT_TRUSTED_PROXIES="127.0.0.1, 10.0.0.0/8",
        CORS_ORIGINS=f"{ORIGIN}, https://second.example.org",
    ) as running:
        yield running
        running.kill()  # how it stops is another test's


@pytest.fixture(scope="module")
def trusting_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Three questions an hour, no proxy trusted."""
    data = tmp_path_factory.mktemp("nobody") / "data"
    with serving(data, AUDIOBOT_RATE_LIMIT="3/hour") as running:
        yield running
        running.kill()  # how it stops is another test's


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """Three guesses an hour at the operator's token."""
    settings = {"AUDIOBOT_RATE_LIMIT": "3/hour", "AUDIOBOT_OPERATOR_TOKEN": "operator-token-7"}
    with serving(tmp_path / "data", **settings) as running:
        yield running
        running.kill()  # how it stops is another test's


def ask(server: Server, forwarded: str | None = None) -> httpx.Response:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    return server.client.post(PROCESS, json={"message": "привет"}, headers=headers)


def spend(server: Server, forwarded: str) -> None:
    for _ in range(3):
        assert ask(server, forwarded).status_code == 200
    refused = ask(server, forwarded)
    assert_error(refused, 429, "too_many_requests")
    assert 1 <= int(refused.headers["retry-after"]) <= 3_600


def test_beyond_the_limit_a_client_is_asked_to_wait_and_nothing_is_stored(
    limited: Server,
) -> None:
    before = limited.stats()["total_interactions"]
    spend(limited, "203.0.113.1")
    assert limited.stats()["total_interactions"] == before + 3
    assert ask(limited, "203.0.113.2").status_code == 200


def test_questions_and_ratings_have_a_limit_each(limited: Server) -> None:
    log_id = ask(limited, "203.0.113.3").json()["log_id"]
    spent = [ask(limited, "203.0.113.3").status_code for _ in range(3)]
    assert spent == [200, 200, 429]
    headers = {"X-Forwarded-For": "203.0.113.3"}
    rated = [
        limited.client.post(
            "/api/voice/feedback", json={"log_id": log_id, "rating": 5}, headers=headers
        ).status_code
        for _ in range(4)
    ]
    assert rated == [200, 200, 200, 429]


def test_who_guesses_at_the_operators_token_is_told_when_to_come_again(
    guarded: Server,
) -> None:
    with visitors() as visit:
        visitor = visit(guarded)
        statuses = [visitor.sign_in("x" * 20).status_code for _ in range(3)]
        refused = visitor.sign_in("x" * 20)
    assert (statuses, refused.status_code) == ([401] * 3, 429)
    seconds = refused.headers["retry-after"]
    assert 1 <= int(seconds) <= 3_600
    assert seconds in words_of(refused)


def test_bad_input_counts_too(limited: Server) -> None:
    headers = {"X-Forwarded-For": "203.0.113.4"}
    statuses = [
        limited.client.post(PROCESS, content=b"{", headers=headers).status_code for _ in range(4)
    ]
    assert statuses == [415, 415, 415, 429]


def test_the_client_is_the_last_address_that_is_no_trusted_proxy(limited: Server) -> None:
    spend(limited, "203.0.113.5")
    for chain in ("1.2.3.4, 203.0.113.5", "203.0.113.5, 10.1.2.3", "x, 203.0.113.5, 10.0.0.1"):
        assert ask(limited, chain).status_code == 429, chain
    assert ask(limited, "203.0.113.5, 203.0.113.6").status_code == 200


def test_an_ipv6_household_is_one_client_and_its_neighbour_another(limited: Server) -> None:
    spend(limited, "2001:db8:1:2::1")
    assert ask(limited, "2001:db8:1:2:ffff:ffff:ffff:ffff").status_code == 429
    assert ask(limited, "2001:db8:1:3::1").status_code == 200


def test_an_ipv4_address_written_as_ipv6_is_the_same_client(limited: Server) -> None:
    spend(limited, "203.0.113.9")
    assert ask(limited, "::ffff:203.0.113.9").status_code == 429
    assert ask(limited, "::ffff:203.0.113.10").status_code == 200


def test_without_a_trusted_proxy_a_forwarding_header_changes_nobody(
    trusting_nobody: Server,
) -> None:
    statuses = [ask(trusting_nobody, f"198.51.100.{n}").status_code for n in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    assert ask(trusting_nobody).status_code == 429


def test_health_and_operators_calls_are_not_limited(trusting_nobody: Server) -> None:
    for _ in range(6):
        assert trusting_nobody.client.get("/api/health").status_code == 200
        assert trusting_nobody.client.get("/api/learning/stats").status_code == 200


def test_on_loopback_nothing_is_limited_unless_asked_for(shared: Server) -> None:
    assert {ask(shared).status_code for _ in range(100)} == {200}


def test_beyond_this_machine_the_limit_is_sixty_a_minute_by_default(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = tmp_path_factory.mktemp("default") / "data"
    with serving(data, host="0.0.0.0") as server:
        statuses = [ask(server).status_code for _ in range(70)]
        server.kill()
    assert statuses[:60] == [200] * 60
    assert 429 in statuses[60:]


def page(server: Server, cookie: str | None = None) -> httpx.Response:
    headers = {"Accept": "text/html"} | ({"Cookie": cookie} if cookie else {})
    with client_of(server.address) as client:
        return client.get("/", headers=headers)


def test_a_raters_cookie_is_anonymous_signed_and_out_of_reach_of_scripts(shared: Server) -> None:
    made = page(shared).headers["set-cookie"]
    name, value = made.split(";")[0].split("=", 1)
    assert re.search(r"; *HttpOnly", made, re.IGNORECASE)
    assert re.search(r"; *SameSite=(lax|strict)", made, re.IGNORECASE)
    assert "domain=" not in made.lower()
    assert value != page(shared).headers["set-cookie"].split(";")[0].split("=", 1)[1]
    # Ours is recognised; one with another name under the same signature is not.
    assert "set-cookie" not in page(shared, f"{name}={value}").headers
    _, signature = value.rsplit(".", 1)
    other = base64.urlsafe_b64encode(json.dumps("somebody").encode()).decode().rstrip("=")
    for forged in (f"{other}.{signature}", value[:-1], value + "x", "x", "." * 300, ""):
        assert "set-cookie" in page(shared, f"{name}={forged}").headers, forged


def test_cookies_are_for_tls_alone_where_a_trusted_proxy_speaks_it(
    limited: Server, trusting_nobody: Server
) -> None:
    for server, said, secure in (
        (limited, "https", True),
        (limited, "http", False),
        (limited, "https, http", False),
        (limited, "HTTPS", False),
        (trusting_nobody, "https", False),
    ):
        headers = {"Accept": "text/html", "X-Forwarded-Proto": said}
        for path in ("/", "/console/sign-in?lang=en"):
            with client_of(server.address) as client:
                made = client.get(path, headers=headers).headers.get_list("set-cookie")
            assert made
            assert {"secure" in cookie.lower().split("; ") for cookie in made} == {secure}, said


def raters_of(server: Server) -> list[bytes]:
    """Who rated, rating by rating, as the journal has it."""
    segments = sorted((server.data_dir / "journal" / "0").glob("*"))
    journal = b"".join(s.read_bytes() for s in segments if "index" not in s.name and s.is_file())
    return re.findall(rb"\xa5rater\xd9 ([0-9a-f]{32})", journal)


def test_a_rater_without_a_cookie_is_one_in_all_dialogues_of_a_session(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        for session in ("first", "first", "second"):
            told = server.ask("привет", session_id=session)
            assert server.rate(told["log_id"], 5).status_code == 200
        one, same, other = raters_of(server)
        assert one == same != other
        # With a cookie it is the cookie, whatever the session.
        cookie = {"Cookie": page(server).headers["set-cookie"].split(";")[0]}
        for session in ("first", "third"):
            rating = {"log_id": server.ask("привет", session_id=session)["log_id"], "rating": 5}
            server.client.post("/api/voice/feedback", json=rating, headers=cookie)
        *_, fourth, fifth = raters_of(server)
        assert fourth == fifth
        assert fourth not in {one, other}
        server.kill()


def test_a_listed_site_may_call_and_another_may_not(limited: Server) -> None:
    for origin, allowed in ((ORIGIN, True), ("https://evil.example.org", False)):
        preflight = limited.client.options(
            PROCESS,
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type,idempotency-key",
            },
        )
        assert (preflight.status_code == 200) is allowed
        reply = limited.client.get("/api/health", headers={"Origin": origin})
        assert (reply.headers.get("access-control-allow-origin") == origin) is allowed
        assert reply.headers.get("access-control-allow-origin") != "*"
        assert "access-control-allow-credentials" not in reply.headers


def test_a_listed_site_reads_the_reason_of_a_refusal_too(limited: Server) -> None:
    headers = {"Origin": ORIGIN, "X-Forwarded-For": "203.0.113.77"}
    refused = limited.client.post(PROCESS, json={}, headers=headers)
    assert_error(refused, 422)
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    exposed = refused.headers["access-control-expose-headers"].lower().split(", ")
    assert {"retry-after", "x-request-id"} <= set(exposed)


def test_without_cors_origins_no_other_site_is_let_in(shared: Server) -> None:
    reply = shared.client.get("/api/health", headers={"Origin": ORIGIN})
    assert not [name for name in reply.headers if name.startswith("access-control")]
