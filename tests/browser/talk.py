"""The talk page as a person meets it: what one sees, types and presses, what it complained of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.chromium import PHONE
from tests.servers import Server

PROCESS = "/api/voice/process"
FEEDBACK = "/api/voice/feedback"
ANSWERS = "/api/voice/answers"
PRICE = "Сколько стоит уборка подъезда?"
FAR = "Какая погода на Марсе?"


class Talk:
    """One tab with the talk page of one server open."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = self._followed(page)
        self.server = server
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.posts: list[tuple[str, dict[str, Any], str]] = []
        """Path, body, Idempotency-Key of every POST the page sent."""
        self.looks: list[str] = []
        """The session whose answers were asked for, every time they were."""
        self._expected: list[str] = []

    def _followed(self, page: Page) -> Page:
        page.on(
            "console", lambda said: said.type in {"error", "warning"} and self._heard(said.text)
        )
        page.on("pageerror", lambda error: self._heard(str(error)))
        page.on("request", self._requested)
        page.set_default_timeout(10_000)
        return page

    def _heard(self, text: str) -> None:
        if not any(re.search(pattern, text) for pattern in self._expected):
            self.complaints.append(text)

    def _requested(self, request: Any) -> None:
        address = urlsplit(request.url)
        if f"{address.scheme}://{address.netloc}" != self.server.address:
            self.foreign.append(request.url)
        if address.path == ANSWERS:
            self.looks += parse_qs(address.query)["session_id"]
        if request.method == "POST":
            key = request.headers.get("idempotency-key", "")
            self.posts.append((address.path, request.post_data_json, key))

    def expect_console(self, pattern: str) -> None:
        """The test causes this complaint of the browser on purpose."""
        self._expected.append(pattern)

    def open(self) -> Talk:
        self.page.goto(self.server.address)
        return self

    # -- what one does

    def ask(self, question: str) -> Locator:
        """Type a question, press Enter; returns the turn."""
        self.message.fill(question)
        self.message.press("Enter")
        return self.turn

    def ask_and_wait(self, question: str = PRICE) -> Locator:
        turn = self.ask(question)
        expect(turn.locator(".bubble .words")).to_be_visible()
        return turn

    def switch_to(self, language: str) -> None:
        self.page.locator(f"#lang-{language}").click()

    def come_back(self) -> None:
        """The page comes to the fore again, as when a phone is taken up."""
        self.page.evaluate('document.dispatchEvent(new Event("visibilitychange"))')

    def wait_until_still(self) -> None:
        """Wait until nothing scrolls: who presses what moves away has pressed nothing."""
        self.turn.evaluate(
            """async (node) => {
              for (let last = NaN, still = 0; still < 5; ) {
                await new Promise(requestAnimationFrame);
                const { top } = node.getBoundingClientRect();
                still = top === last ? still + 1 : 0;
                last = top;
              }
            }"""
        )

    def open_anew(self) -> Talk:
        """Close the tab; the same phone opens the page in a new one."""
        context = self.page.context
        self.page.close()
        self.page = self._followed(context.new_page())
        return self.open()

    # -- what one sees

    @property
    def told(self) -> Locator:
        """Every answer of an operator."""
        return self.page.locator(".told")

    @property
    def news(self) -> Locator:
        return self.page.locator("#news")

    @property
    def message(self) -> Locator:
        return self.page.locator("#message")

    @property
    def turns(self) -> Locator:
        return self.page.locator(".turn")

    @property
    def turn(self) -> Locator:
        return self.turns.last

    @property
    def answer(self) -> Locator:
        return self.turn.locator(".bubble .words")

    @property
    def failure(self) -> Locator:
        return self.turn.locator(".failure")

    @property
    def lit_stars(self) -> Locator:
        return self.turn.locator(".star.lit")

    @property
    def rating_status(self) -> Locator:
        return self.turn.locator(".rating-status")

    def star(self, value: int) -> Locator:
        return self.turn.get_by_role("radio", name=re.compile(f"^{value} "))

    def posts_to(self, path: str) -> list[dict[str, Any]]:
        return [body for sent_to, body, _ in self.posts if sent_to == path]

    def keys_of(self, path: str) -> list[str]:
        return [key for sent_to, _, key in self.posts if sent_to == path]


OpenTalk = Callable[..., Talk]


@contextmanager
def tabs(browser: Browser) -> Iterator[OpenTalk]:
    """Opens tabs, each with a profile of its own; afterwards none may have complained."""
    opened: list[Talk] = []

    def open_talk(server: Server, size: dict[str, int] = PHONE, **options: Any) -> Talk:
        phone = size["width"] < 600
        settings = {"locale": "ru-RU", "is_mobile": phone, "has_touch": phone, **options}
        opened.append(Talk(browser.new_context(viewport=size, **settings).new_page(), server))
        return opened[-1].open()

    try:
        yield open_talk
        for talk in opened:
            talk.page.evaluate("0")  # what the browser has said until now is heard first
            assert talk.complaints == [], talk.complaints
            assert talk.foreign == []
    finally:
        for talk in opened:
            talk.page.context.close()
