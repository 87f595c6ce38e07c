"""One browser and one server for all browser tests, a fresh profile for each.

Package scope, not session: while sync playwright lives it holds this thread's event loop, and the
asynchronous tests of other folders need that.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.chromium import LAPTOP, PHONE, browsing
from tests.browser.console import Desk, OpenDesk, desks
from tests.browser.talk import OpenTalk, Talk, tabs
from tests.servers import Server, serving


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=10_000)  # two busy cores may need more than the usual 5 s
    with browsing() as running:
        yield running


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # So many tests in a minute are more than one person may ask.
    data = tmp_path_factory.mktemp("server") / "data"
    with serving(data, AUDIOBOT_RATE_LIMIT="off") as running:
        running.wait_for_meaning()
        yield running


@pytest.fixture
def open_talk(browser: Browser) -> Iterator[OpenTalk]:
    """Opens a talk page in a fresh profile; console errors and foreign requests fail the test."""
    with tabs(browser) as opener:
        yield opener


@pytest.fixture
def talk(open_talk: OpenTalk, server: Server) -> Talk:
    """The shared server's talk page on a phone."""
    return open_talk(server)


@pytest.fixture(params=[PHONE, LAPTOP], ids=["phone", "laptop"])
def any_talk(open_talk: OpenTalk, server: Server, request: pytest.FixtureRequest) -> Talk:
    """The shared server's talk page, on a phone and on a laptop."""
    return open_talk(server, request.param)


@pytest.fixture(scope="package")
def empty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that knows nothing: all that is asked waits for the operator."""
    data = tmp_path_factory.mktemp("console") / "data"
    with serving(data, AUDIOBOT_KNOWLEDGE="none", AUDIOBOT_RATE_LIMIT="off") as running:
        running.wait_for_meaning()
        yield running


@pytest.fixture
def open_desk(browser: Browser) -> Iterator[OpenDesk]:
    """Opens a console in a fresh profile; console errors and foreign requests fail the test."""
    with desks(browser) as opener:
        yield opener


@pytest.fixture
def question(empty_server: Server) -> str:
    """One that nobody asked before; nothing waits that asks the like, and no answer fits it."""
    client = empty_server.client
    for given in client.get("/api/learning/corrections").json()["corrections"]:
        path = f"/api/learning/corrections/{given['correction_id']}"
        client.delete(path).raise_for_status()
    # It is taken up in the background, and what is withdrawn waits again.
    deadline = time.monotonic() + 30
    while empty_server.ask("Вывезете ли вы самокат из подъезда?")["outcome"] != "handed_over":
        assert time.monotonic() < deadline
    turns = client.get("/api/learning/inbox", params={"limit": 500}).json()["turns"]
    if left := [turn["log_id"] for turn in turns]:
        client.post("/api/learning/inbox/dismiss", json={"log_ids": left}).raise_for_status()
    return f"Вывезете ли вы самокат {uuid.uuid4().hex[:6]} из подъезда?"


@pytest.fixture
def desk(open_desk: OpenDesk, empty_server: Server, question: str) -> Desk:
    """The console on a laptop, with one question that was asked three times."""
    for _ in range(3):
        empty_server.ask(question)
    return open_desk(empty_server)
