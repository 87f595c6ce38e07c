"""The console for every screen, language and hand: 360 pixels, a keyboard alone, by night."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import LAPTOP
from tests.browser.console import ANSWER, SMALL, Desk, OpenDesk
from tests.servers import Server

LONG = "Самоочиститесамокатыиколяскивподъездепожалуйстаипоскорее" * 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["ru-RU", "en-US"])
def test_on_a_small_phone_nothing_is_scrolled_sideways(
    open_desk: OpenDesk, empty_server: Server, locale: str, scheme: str, question: str
) -> None:
    told = empty_server.ask(f"{question} {LONG}")
    empty_server.rate(told["log_id"], 1, feedback_text=LONG)
    desk = open_desk(empty_server, SMALL, locale=locale, color_scheme=scheme)
    assert desk.width_needed() == SMALL["width"]
    desk.open_group(question)
    desk.answer.fill(f"{ANSWER} {LONG}")
    expect(desk.preview.locator("li").first).to_be_visible()
    assert desk.width_needed() == SMALL["width"]
    desk.save.click()
    expect(desk.undo).to_be_visible()
    assert desk.width_needed() == SMALL["width"]
    desk.open("/console/answers")
    desk.card(question).locator(".opener").click()
    expect(desk.answer).to_be_visible()
    assert desk.width_needed() == SMALL["width"]


def test_every_control_on_a_phone_is_large_enough_to_hit(
    open_desk: OpenDesk, empty_server: Server, question: str
) -> None:
    empty_server.ask(question)
    desk = open_desk(empty_server, SMALL)
    desk.open_group(question)
    desk.answer.fill(ANSWER)
    sizes = desk.page.evaluate(
        """() => [...document.querySelectorAll("a, button, summary")]
          .filter((node) => !node.matches(".skip") && node.offsetParent)
          .map((node) => [node.textContent.trim(), Math.round(node.offsetHeight)])"""
    )
    assert len(sizes) >= 7
    assert [found for found in sizes if found[1] < 44] == []


def test_everything_goes_by_keyboard_alone(desk: Desk, question: str) -> None:
    desk.server.ask("Где мне взять справку о доходах для банка?")
    desk.page.reload()
    openers = desk.page.locator(".opener")
    for key, number in (("KeyJ", 0), ("KeyJ", 1), ("KeyK", 0), ("ArrowDown", 1), ("ArrowUp", 0)):
        desk.page.keyboard.press(key)
        expect(openers.nth(number)).to_be_focused()
    while not desk.opener(question).first.evaluate("node => node === document.activeElement"):
        desk.page.keyboard.press("KeyJ")
    focus = desk.page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert focus == "3px"
    desk.page.keyboard.press("Enter")
    expect(desk.answer).to_be_focused()
    desk.page.keyboard.type("jk: ")
    expect(desk.answer).to_have_value("jk: ")
    desk.page.keyboard.press("Escape")
    expect(desk.answer).to_have_count(0)
    expect(desk.opener(question).first).to_be_focused()
    desk.page.keyboard.press("Enter")
    expect(desk.answer).to_be_focused()
    desk.page.keyboard.type(ANSWER)
    desk.page.keyboard.press("Control+Enter")
    expect(desk.notice).to_contain_text("Сохранено")
    expect(desk.page.locator(".opener:focus")).to_have_count(1)


def test_the_page_says_what_its_parts_are(desk: Desk, question: str) -> None:
    page = desk.page
    expect(page.get_by_role("heading", level=1)).to_have_text("Ждут ответа")
    expect(page.get_by_role("navigation", name="Разделы").get_by_role("link")).to_have_count(2)
    expect(page.locator("nav [aria-current=page]")).to_have_text("Вопросы")
    expect(desk.opener(question)).to_have_attribute("aria-expanded", "false")
    desk.open_group(question)
    expect(desk.opener(question)).to_have_attribute("aria-expanded", "true")
    expect(page.get_by_label("Правильный ответ")).to_be_visible()
    expect(page.get_by_label("На какие вопросы отвечает")).to_be_visible()
    expect(desk.notice).to_have_attribute("aria-live", "polite")
    expect(desk.preview).to_have_attribute("aria-live", "polite")
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_opening_one_card_closes_the_other_and_a_second_press_closes_it(
    desk: Desk, question: str
) -> None:
    desk.server.ask("Сколько стоит мытьё люстры?")
    desk.page.reload()
    desk.open_group(question)
    desk.opener("люстры").first.click()
    expect(desk.opener("люстры").first).to_have_attribute("aria-expanded", "true")
    expect(desk.page.locator(".editor")).to_have_count(1)
    expect(desk.opener(question)).to_have_attribute("aria-expanded", "false")
    desk.opener("люстры").first.click()
    expect(desk.page.locator(".editor")).to_have_count(0)


def test_the_language_follows_the_browser_and_the_switch(
    open_desk: OpenDesk, empty_server: Server, question: str
) -> None:
    for _ in range(2):
        empty_server.ask(question)
    desk = open_desk(empty_server, locale="en-US")
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("Waiting for an answer")
    expect(desk.card(question)).to_contain_text("2 times")
    desk.page.get_by_role("link", name="Русский").click()
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("Ждут ответа")
    expect(desk.card(question)).to_contain_text("2 раза")
    desk.page.get_by_role("link", name="Ответы").click()
    expect(desk.page.locator("html")).to_have_attribute("lang", "ru")


def test_times_are_the_readers_own_and_written_as_here(
    open_desk: OpenDesk, empty_server: Server, question: str
) -> None:
    empty_server.ask(question)
    desk = open_desk(empty_server, timezone_id="Asia/Vladivostok")
    shown = desk.card(question).locator("time")
    expect(shown).to_have_text(re.compile(r"^\d\d\.\d\d\.20\d\d \d\d:\d\d$"))
    expected = desk.page.evaluate(
        """(at) => new Intl.DateTimeFormat("ru", { dateStyle: "short", timeStyle: "short",
          timeZone: "Asia/Vladivostok" }).format(new Date(at)).replace(",", "")""",
        shown.get_attribute("datetime"),
    )
    day, hour = expected.split()
    text = shown.inner_text()
    assert text.endswith(hour)
    assert text[:6] == day[:6]


@pytest.mark.parametrize("path", ["/console", "/console/answers"])
def test_no_request_leaves_and_the_policy_is_never_broken(
    open_desk: OpenDesk, empty_server: Server, path: str, question: str
) -> None:
    empty_server.ask(question)
    desk = open_desk(empty_server, LAPTOP, path)
    desk.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.broken = 1";
          const picture = new Image();
          picture.src = "http://other.invalid/picture.png";
          document.body.append(script, picture);
        }"""
    )
    expect(desk.page.locator("body > img")).to_be_attached()
    assert desk.page.evaluate("window.broken") is None
    assert any("other.invalid" in said for said in desk.complaints)
    desk.complaints.clear()
    desk.foreign.clear()


def test_an_empty_inbox_says_what_to_do_next(
    open_desk: OpenDesk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from tests.servers import serving

    data = tmp_path_factory.mktemp("idle") / "data"
    with serving(data, AUDIOBOT_KNOWLEDGE="none") as server:
        server.wait_for_meaning()
        desk = open_desk(server)
        expect(desk.page.get_by_role("heading", name="Всё разобрано")).to_be_visible()
        desk.open("/console/answers")
        expect(desk.page.locator("main")).to_contain_text("Ответов пока нет")
        server.ask("Где стоянка?")
        desk.open()
        desk.open_group("Где стоянка?")
        desk.answer.fill("Стоянка во дворе, слева от арки.")
        desk.save.click()
        expect(desk.page.get_by_role("heading", name="Всё разобрано")).to_be_visible()
        desk.undo.click()
        expect(desk.page.get_by_role("heading", name="Всё разобрано")).to_be_hidden()
