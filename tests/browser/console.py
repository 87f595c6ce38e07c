"""The operator's console as an operator meets it: what one sees, presses and types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.chromium import LAPTOP
from tests.servers import Server

SMALL = {"width": 360, "height": 740}
ANSWER = "Самокаты из подъезда мы не вывозим: позвоните хозяину."


class Desk:
    """One tab with the console of one server open."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.clicks = 0
        # Who clicks on needs no preview any more: htmx tells of each request that was given up.
        self._expected = [r"^htmx:(afterRequest|sendAbort), "]
        page.on(
            "console", lambda said: said.type in {"error", "warning"} and self._heard(said.text)
        )
        page.on("pageerror", lambda error: self._heard(str(error)))
        page.on("request", self._requested)

    def _heard(self, text: str) -> None:
        if not any(re.search(pattern, text) for pattern in self._expected):
            self.complaints.append(text)

    def _requested(self, request: Any) -> None:
        address = urlsplit(request.url)
        if f"{address.scheme}://{address.netloc}" != self.server.address:
            self.foreign.append(request.url)

    def expect_complaint(self, pattern: str) -> None:
        """The test causes this complaint of the browser on purpose."""
        self._expected.append(pattern)

    # -- what one does

    def open(self, path: str = "/console") -> Desk:
        self.page.goto(self.server.address + path)
        return self

    def press(self, what: Locator) -> None:
        """A click that is counted."""
        what.click()
        self.clicks += 1

    def open_group(self, question: str) -> Locator:
        """Open the card of a question; returns the card with its form."""
        self.press(self.opener(question))
        expect(self.card(question).locator(".editor")).to_be_visible()
        # Seen a moment before it is open: keys pressed in between are not the card's yet.
        expect(self.opener(question)).to_have_attribute("aria-expanded", "true")
        return self.card(question)

    # -- what one sees

    def card(self, words: str) -> Locator:
        return self.page.locator(".card").filter(has_text=words)

    def opener(self, words: str) -> Locator:
        return self.card(words).locator(".opener")

    @property
    def answer(self) -> Locator:
        return self.page.locator("textarea.answer")

    @property
    def wordings(self) -> Locator:
        return self.page.locator("textarea.wordings")

    @property
    def save(self) -> Locator:
        return self.page.locator("button.save")

    @property
    def preview(self) -> Locator:
        return self.page.locator(".preview")

    @property
    def notice(self) -> Locator:
        return self.page.locator("#notice")

    @property
    def undo(self) -> Locator:
        return self.notice.locator("form button")

    def width_needed(self) -> int:
        """The page's width when nothing is cut: more than the window's means scrolling sideways."""
        found: int = self.page.evaluate("document.documentElement.scrollWidth")
        return found


OpenDesk = Callable[..., Desk]


@contextmanager
def desks(browser: Browser) -> Iterator[OpenDesk]:
    """Opens consoles, each with a profile of its own; afterwards none may have complained."""
    opened: list[Desk] = []

    def open_desk(
        server: Server, size: dict[str, int] = LAPTOP, path: str = "/console", **options: Any
    ) -> Desk:
        phone = size["width"] < 600
        settings = {"locale": "ru-RU", "is_mobile": phone, "has_touch": phone, **options}
        page = browser.new_context(viewport=size, **settings).new_page()
        page.set_default_timeout(10_000)
        opened.append(Desk(page, server))
        return opened[-1].open(path)

    try:
        yield open_desk
        for desk in opened:
            desk.page.evaluate("0")  # what the browser has said until now is heard first
            assert desk.complaints == [], desk.complaints
            assert desk.foreign == [], desk.foreign
    finally:
        for desk in opened:
            desk.page.context.close()
