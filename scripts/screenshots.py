"""Take the pictures of the talk page and the console that the docs show, with a real server.

.venv/bin/python scripts/screenshots.py [FOLDER]   (docs/pictures by default)
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.browser.chromium import LAPTOP, PHONE, browsing  # noqa: E402 - needs the path above
from tests.servers import Server, serving  # noqa: E402 - needs the path above

PICTURES = ROOT / "docs" / "pictures"
MAX_BYTES = 150_000
QUESTIONS = {
    "ru": ("Сколько стоит уборка подъезда?", "Как часто моют окна?", "Почините домофон?"),
    "en": (
        "How much does entrance cleaning cost?",
        "How often are the windows washed?",
        "What is the weather on Mars?",
    ),
}
THANKS = "OK"


class Picture(NamedTuple):
    """One picture: where it is taken, in which language, by day or by night, and of what.

    The turn numbered ``turn`` begins ``above`` pixels below the head of the page.
    """

    name: str
    size: dict[str, int]
    language: Literal["ru", "en"]
    scheme: Literal["light", "dark"]
    turn: int = 1
    above: int = 16


ALL = (
    Picture("talk-phone.png", PHONE, "ru", "light"),
    Picture("talk-phone-dark.png", PHONE, "ru", "dark"),
    Picture("talk-laptop.png", LAPTOP, "ru", "light", above=34),
    Picture("talk-phone-en.png", PHONE, "en", "light", turn=0),
)


CONSOLE = (
    Picture("console-laptop.png", LAPTOP, "ru", "light"),
    Picture("console-phone-dark.png", PHONE, "ru", "dark"),
)
WAITING = (
    ("Украшаете ли вы подъезд гирляндами к Новому году?", 4),
    ("Можно ли оплатить картой прямо на сайте?", 2),
    ("Поливаете ли вы цветы жильцов на подоконниках?", 2),
    ("Отпугиваете ли вы голубей с карнизов?", 1),
)
LOW = ("Сколько стоит уборка подъезда?", "Спрашивал про наш дом, а не вообще")
BETTER = "Гирлянды к Новому году мы вешаем по заявке дома, снимаем их после 15 января."


def hold_dialogue(page: Page, questions: tuple[str, ...]) -> None:
    """Ask each question; the second answer gets five stars and a word."""
    turn = page.locator(".turn").last
    for number, question in enumerate(questions):
        page.locator("#message").fill(question)
        page.keyboard.press("Enter")
        expect(page.locator(".turn")).to_have_count(number + 1)
        expect(turn.locator(".bubble")).to_be_visible()
        if number == 1:
            turn.get_by_role("radio", name=re.compile("^5")).click()
            turn.locator(".rating-note").fill(THANKS)
            turn.locator(".rating-note").press("Enter")
            expect(turn.locator(".rating-done")).to_be_visible()


def take(browser: Browser, address: str, picture: Picture, folder: Path) -> int:
    """Hold the dialogue anew and save its picture; returns the bytes."""
    phone = picture.size is PHONE
    context = browser.new_context(
        viewport=picture.size,  # type: ignore[arg-type]
        locale=picture.language,
        color_scheme=picture.scheme,
        reduced_motion="reduce",
        is_mobile=phone,
        has_touch=phone,
    )
    try:
        page = context.new_page()
        page.goto(address)
        hold_dialogue(page, QUESTIONS[picture.language])
        page.locator(".turn summary").first.click()
        page.mouse.move(0, 0)
        page.evaluate(
            """([turn, above]) => {
              const { offsetTop } = document.querySelectorAll(".turn")[turn];
              document.getElementById("scroller").scrollTo({ top: offsetTop - above });
              document.activeElement.blur();
            }""",
            [picture.turn, picture.above],
        )
        page.screenshot(path=folder / picture.name, caret="hide")
    finally:
        context.close()
    return (folder / picture.name).stat().st_size


def ask_for_the_inbox(server: Server) -> None:
    """Questions that wait for an operator, some of them often, one answer that was rated low."""
    for question, times in WAITING:
        for _ in range(times):
            server.ask(question)
    told = server.ask(LOW[0])
    server.rate(told["log_id"], 2, feedback_text=LOW[1])


def take_console(browser: Browser, address: str, picture: Picture, folder: Path) -> int:
    """Begin an answer in the console and save its picture; returns the bytes."""
    phone = picture.size is PHONE
    context = browser.new_context(
        viewport=picture.size,  # type: ignore[arg-type]
        locale=picture.language,
        color_scheme=picture.scheme,
        is_mobile=phone,
        has_touch=phone,
    )
    try:
        page = context.new_page()
        page.goto(f"{address}/console")
        if not phone:
            page.get_by_role("button", name=WAITING[0][0]).click()
            page.locator("textarea.answer").fill(BETTER)
            expect(page.locator(".preview h3")).to_be_visible()
        page.screenshot(path=folder / picture.name, caret="hide")
    finally:
        context.close()
    return (folder / picture.name).stat().st_size


def main() -> int:
    """Take all of them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, serving(Path(place) / "data") as server:
        server.wait_for_meaning()
        with browsing() as browser:
            ask_for_the_inbox(server)
            for picture in (*ALL, *CONSOLE):
                taking = take_console if picture in CONSOLE else take
                size = taking(browser, server.address, picture, folder)
                sys.stdout.write(f"{folder / picture.name}: {size} bytes\n")
                if size > MAX_BYTES:
                    sys.stderr.write(f"{picture.name} is over {MAX_BYTES} bytes\n")
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
