"""An operator's session: signed, bound to the token, old at last, and proven by its forms."""

from __future__ import annotations

import time

import pytest
from itsdangerous import URLSafeTimedSerializer

from audiobot.http.access import Access
from audiobot.http.sessions import SESSION_SECONDS, Session, Sessions
from tests.unit.incoming import request

SECRET, TOKEN = b"s" * 32, "operator-token-1"


def sessions(secret: bytes = SECRET, token: str | None = TOKEN) -> Sessions:
    return Sessions(secret, token)


@pytest.mark.parametrize("signed_in", [True, False])
def test_a_session_is_read_back_by_every_worker(signed_in: bool) -> None:
    session = sessions().begin(signed_in=signed_in)
    assert sessions().read(sessions().cookie(session)) == session
    assert session.signed_in is signed_in


def test_two_sessions_have_two_names() -> None:
    made = {sessions().begin(signed_in=True).name for _ in range(50)}
    assert len(made) == 50


def test_a_forged_changed_or_foreign_cookie_is_no_session() -> None:
    ours = sessions()
    cookie = ours.cookie(Session("name", False))
    first, rest = cookie.split(".", 1)
    other = ours.cookie(Session("name", True)).split(".", 1)[0]
    for forged in (
        None, "", "x", "a.b.c", cookie[:-1], cookie + "x", f"{other}.{rest}", f"{first}.x.y",
        "я" * 20, "x" * 10_000,
        URLSafeTimedSerializer("another key", salt="session").dumps(["name", True]),
        URLSafeTimedSerializer(ours._key, salt="rater").dumps(["name", True]),
        *(str(ours._cookies.dumps(odd)) for odd in ("name", ["name"], [1, True], ["n", 1], {})),
    ):  # fmt: skip
        assert ours.read(forged) is None, forged
    assert ours.read(cookie) == Session("name", False)


def test_another_token_or_secret_ends_every_session() -> None:
    cookie = sessions().cookie(Session("name", True))
    assert sessions(token="operator-token-2").read(cookie) is None
    assert sessions(token=None).read(cookie) is None
    assert sessions(secret=b"t" * 32).read(cookie) is None


def test_a_session_ends_a_week_after_its_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = sessions().cookie(Session("name", True))
    now = time.time()
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + SESSION_SECONDS - 60)
    assert sessions().read(cookie) is not None
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: now + SESSION_SECONDS + 60)
    assert sessions().read(cookie) is None


def test_a_form_is_proven_by_its_own_session_alone() -> None:
    ours, session, other = sessions(), Session("a", True), Session("b", True)
    assert ours.proves(session, ours.proof(session))
    assert sessions().proves(session, ours.proof(session))
    for wrong in ("", "x", "я", ours.proof(other), ours.proof(session)[:-1]):
        assert not ours.proves(session, wrong)
    assert not sessions(token="another-token").proves(session, ours.proof(session))


def access(*, token: str | None = TOKEN, loopback: bool = False) -> Access:
    return Access(
        operator_token=token, process_token="process-token-1", loopback=loopback,
        rater_key=SECRET, trusted_proxies=(), rate_limit=None,
    )  # fmt: skip


def bearing(session: Session, **headers: str) -> dict[str, str]:
    return {"cookie": f"audiobot_operator={sessions().cookie(session)}", **headers}


def test_an_operator_is_who_bears_a_signed_in_session_from_our_own_pages() -> None:
    ours = access()
    for headers in (
        {}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"},
        {"origin": "http://bot.example"}, {"origin": "https://bot.example"},
    ):  # fmt: skip
        assert ours.is_operator(request(bearing(Session("a", True), **headers)))
    for headers in (
        {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"}, {"origin": "null"},
    ):  # fmt: skip
        assert not ours.is_operator(request(bearing(Session("a", True), **headers)))
    assert not ours.is_operator(request(bearing(Session("a", False))))
    assert not ours.is_operator(request({"cookie": "audiobot_operator=x"}))


def test_a_wrong_bearer_is_not_mended_by_a_session() -> None:
    headers = bearing(Session("a", True), authorization="Bearer wrong")
    assert not access().is_operator(request(headers))


def test_where_everything_is_open_a_session_opens_nothing_more() -> None:
    cookie = Sessions(SECRET, None).cookie(Session("a", True))
    ours = access(token=None, loopback=True)
    headers = {"cookie": f"audiobot_operator={cookie}", "x-forwarded-for": "203.0.113.9"}
    assert not ours.is_operator(request(headers))
