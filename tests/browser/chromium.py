"""The Chromium of this machine, as the tests and the pictures of the docs run it.

The headless shell first: the same engine without a window's layers, in half the processor time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = {"width": 390, "height": 844}
LAPTOP = {"width": 1280, "height": 800}


def executable() -> str:
    """Where Chromium is; raises ``RuntimeError`` when there is none: nothing is skipped."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise RuntimeError(
            f"no {', '.join(NAMES)} on PATH: the browser tests need Chromium "
            "(scripts/need-chromium, or apt-get install chromium)"
        )
    return found


@contextmanager
def browsing() -> Iterator[Browser]:
    """A headless browser with an empty profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()
