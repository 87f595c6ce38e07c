"""An operator's later answer comes back to who asked, on the same page or the same phone."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.chromium import LAPTOP, PHONE
from tests.browser.console import ANSWER, OpenDesk
from tests.browser.talk import ANSWERS, OpenTalk, Talk
from tests.servers import Server

MOSCOW = "Europe/Moscow"
INBOX, CORRECTIONS = "/api/learning/inbox", "/api/learning/corrections"
TICK_MS = 30_000


def waiting(server: Server, question: str) -> dict[str, Any]:
    """The question as the operator finds it in the inbox."""
    turns = server.client.get(INBOX, params={"limit": 500}).json()["turns"]
    found: dict[str, Any] = next(turn for turn in turns if turn["user_message"] == question)
    return found


def answer(server: Server, turn: dict[str, Any], words: str = ANSWER) -> None:
    """As an operator, from another machine; again in other words it takes the first one's place."""
    body = {"answer": words, "wordings": [turn["user_message"]], "log_ids": [turn["log_id"]]}
    server.client.post(CORRECTIONS, json=body).raise_for_status()


def set_hidden(page: Page, hidden: bool) -> None:
    """The phone is put away, or taken up again."""
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


@pytest.fixture
def asker(open_talk: OpenTalk, empty_server: Server, question: str) -> Talk:
    """A phone whose question was passed to a person."""
    talk = open_talk(empty_server, timezone_id=MOSCOW)
    expect(talk.ask_and_wait(question).locator(".handed-over")).to_be_visible()
    return talk


def test_an_answer_given_in_the_console_is_heard_under_its_question(
    asker: Talk, question: str, open_desk: OpenDesk
) -> None:
    desk = open_desk(asker.server)
    desk.open_group(question)
    desk.answer.fill(ANSWER)
    desk.save.click()
    expect(desk.notice).to_contain_text("Сохранено")
    asker.come_back()
    told = asker.turn.locator(".told")
    asked = asker.turn.locator(".turn-question time").inner_text()
    expect(told.locator(".told-lead")).to_have_text(f"Вы спрашивали в {asked}: «{question}»")
    expect(told.locator("p.words")).to_have_text(ANSWER)
    expect(told).to_contain_text("Ответ сотрудника")
    expect(told).to_be_in_viewport()
    # Read out like every answer, by the conversation that holds it.
    expect(asker.page.locator("#log[aria-live=polite] .told")).to_have_count(1)
    expect(told).not_to_have_attribute("aria-live", "off")
    asker.switch_to("en")
    expect(told.locator(".told-lead")).to_have_text(f"You asked at {asked}: “{question}”")
    expect(told).to_contain_text("An employee’s answer")


def test_it_comes_with_the_pages_tick_and_nothing_is_asked_for_while_the_page_is_hidden(
    open_talk: OpenTalk, empty_server: Server, question: str
) -> None:
    talk = open_talk(empty_server)
    talk.page.clock.install()
    talk.page.reload()
    talk.ask_and_wait("Здравствуйте!")
    talk.page.clock.run_for(TICK_MS)
    assert talk.looks == []  # nothing waits for an operator
    talk.ask_and_wait(question)
    answer(empty_server, waiting(empty_server, question))
    set_hidden(talk.page, True)
    talk.page.clock.run_for(3 * TICK_MS)
    assert talk.looks == []
    set_hidden(talk.page, False)
    expect(talk.told).to_have_count(1)
    assert len(talk.looks) == 1
    answer(empty_server, waiting_again(talk), "Теперь вывозим.")
    talk.page.clock.run_for(TICK_MS)
    expect(talk.told.locator("p.words")).to_have_text("Теперь вывозим.")
    assert len(talk.looks) == 2


def waiting_again(talk: Talk) -> dict[str, Any]:
    """The answered question, for an operator who thinks again."""
    params = {"session_id": talk.looks[-1]}
    (told,) = talk.server.client.get(ANSWERS, params=params).json()["answers"]
    return {"log_id": told["log_id"], "user_message": told["question"]}


def test_it_is_there_after_a_reload_once_and_no_news_any_more(asker: Talk, question: str) -> None:
    answer(asker.server, waiting(asker.server, question))
    asker.page.reload()  # the page asks when it is loaded, too
    expect(asker.told).to_have_count(1)
    expect(asker.news).to_be_hidden()
    asker.come_back()
    asker.page.route(f"**{ANSWERS}?*", lambda route: None)  # kept by the page, not fetched anew
    asker.page.reload()
    expect(asker.turn.locator(".told p.words")).to_have_text(ANSWER)
    expect(asker.told).to_have_count(1)
    expect(asker.told).to_have_attribute("aria-live", "off")


def test_a_changed_answer_takes_the_first_ones_place_and_is_news_again(
    asker: Talk, question: str
) -> None:
    turn = waiting(asker.server, question)
    answer(asker.server, turn)
    asker.come_back()
    expect(asker.told.locator("p.words")).to_have_text(ANSWER)
    asker.page.reload()
    expect(asker.told).to_have_attribute("aria-live", "off")
    answer(asker.server, turn, "Теперь вывозим.")
    asker.come_back()
    expect(asker.told.locator("p.words")).to_have_text("Теперь вывозим.")
    expect(asker.told).not_to_have_attribute("aria-live", "off")


def test_hours_later_the_same_phone_hears_it_in_a_new_tab_and_another_phone_does_not(
    asker: Talk, question: str, open_talk: OpenTalk
) -> None:
    turn = waiting(asker.server, question)
    answer(asker.server, turn)
    asker.open_anew()
    expect(asker.turns).to_have_count(0)
    asked = datetime.fromisoformat(turn["timestamp"]).astimezone(ZoneInfo(MOSCOW))
    lead = f"Вы спрашивали в {asked:%H:%M}: «{question}»"
    expect(asker.told.locator(".told-lead")).to_have_text(lead)
    expect(asker.told.locator("p.words")).to_have_text(ANSWER)
    expect(asker.told).not_to_have_attribute("aria-live", "off")
    expect(asker.page.locator("#welcome")).to_be_hidden()
    asker.ask_and_wait("Здравствуйте!")
    expect(asker.page.locator("#log > :first-child")).to_have_class("told")
    asker.open_anew()
    expect(asker.told.locator("p.words")).to_have_text(ANSWER)
    expect(asker.told).to_have_attribute("aria-live", "off")
    stranger = open_talk(asker.server)
    far = f"Где купить билет на поезд {uuid.uuid4().hex[:6]}?"
    expect(stranger.ask_and_wait(far).locator(".handed-over")).to_be_visible()
    with stranger.page.expect_response(f"**{ANSWERS}?*"):
        stranger.come_back()
    settled(stranger.page)
    expect(stranger.told).to_have_count(0)
    assert stranger.looks[0] not in asker.looks


def test_what_outlives_the_tab_holds_no_words_and_ends_with_a_new_conversation(
    asker: Talk, question: str
) -> None:
    answer(asker.server, waiting(asker.server, question))
    asker.come_back()
    expect(asker.told).to_have_count(1)
    kept = asker.page.evaluate("JSON.stringify(localStorage)")
    assert re.findall("[а-яё]", kept, re.IGNORECASE) == []
    asker.page.get_by_role("button", name="Новый разговор").click()
    expect(asker.told).to_have_count(0)
    expect(asker.page.locator("#welcome")).to_be_visible()
    looks = len(asker.looks)
    asker.come_back()
    asker.page.reload()
    expect(asker.page.locator("#welcome")).to_be_visible()
    asker.open_anew()
    expect(asker.page.locator("#welcome")).to_be_visible()
    asker.come_back()
    settled(asker.page)
    assert len(asker.looks) == looks


def test_the_answer_to_what_was_rated_low_is_heard_too(
    open_talk: OpenTalk, empty_server: Server, question: str
) -> None:
    greeting = "Добрый вечер!"
    talk = open_talk(empty_server, LAPTOP)
    expect(talk.ask_and_wait(greeting).locator(".handed-over")).to_have_count(0)
    talk.come_back()
    assert talk.looks == []
    talk.star(1).click()
    expect(talk.rating_status).to_have_text("Сохранено")
    answer(empty_server, waiting(empty_server, greeting), "Вечер добрый, спрашивайте.")
    talk.come_back()
    expect(talk.turn.locator(".told p.words")).to_have_text("Вечер добрый, спрашивайте.")
    expect(talk.turn.get_by_role("radiogroup")).to_have_count(1)  # it is the turn that is rated


@pytest.mark.parametrize(
    ("days", "ru", "en"),
    [
        (1, lambda day: "вчера в", lambda day: "yesterday at"),
        (
            9,
            lambda day: rf"{day.day} [а-я]+( \d{{4}} г\.)? в",
            lambda day: rf"on [A-Z][a-z]+ {day.day}(, \d{{4}})? at",
        ),
    ],
    ids=["yesterday", "before"],
)
def test_another_days_question_is_told_with_its_day(
    asker: Talk,
    question: str,
    days: int,
    ru: Callable[[datetime], str],
    en: Callable[[datetime], str],
) -> None:
    turn = waiting(asker.server, question)
    answer(asker.server, turn)
    asked = datetime.fromisoformat(turn["timestamp"]).astimezone(ZoneInfo(MOSCOW))
    asker.page.context.clock.install(time=datetime.now(tz=asked.tzinfo) + timedelta(days=days))
    asker.open_anew()
    lead = asker.told.locator(".told-lead")
    expect(lead).to_have_text(re.compile(f"^Вы спрашивали {ru(asked)} {asked:%H:%M}: «"))
    asker.switch_to("en")
    expect(lead).to_have_text(re.compile(f"^You asked {en(asked)} {asked:%H:%M}: “"))


def test_an_answer_out_of_sight_is_one_press_away_and_new_until_it_was_seen(
    asker: Talk, question: str
) -> None:
    for number in range(4):
        asker.ask_and_wait(f"{question} Подъезд {number}")
    answer(asker.server, waiting(asker.server, question))
    place = asker.page.locator("#scroller")
    before = place.evaluate("(node) => node.scrollTop")
    asker.come_back()
    expect(asker.news).to_have_text("Сотрудник ответил вам")
    expect(asker.told).not_to_be_in_viewport()
    assert place.evaluate("(node) => node.scrollTop") >= before  # nobody is torn from what he reads
    asker.page.reload()
    asker.switch_to("en")
    expect(asker.news).to_have_text("An employee has answered you")
    asker.news.click()
    expect(asker.told).to_be_in_viewport()
    expect(asker.news).to_be_hidden()
    asker.page.reload()
    expect(asker.told).to_have_attribute("aria-live", "off")
    expect(asker.news).to_be_hidden()


def test_html_in_an_operators_answer_is_shown_as_text(asker: Talk, question: str) -> None:
    html = 'Вот: <img src=x onerror="window.broken=1"><b>жирный</b>'
    answer(asker.server, waiting(asker.server, question), html)
    asker.come_back()
    expect(asker.told.locator("p.words")).to_have_text(html)
    expect(asker.page.locator("#log").locator("img, b")).to_have_count(0)
    assert asker.page.evaluate("window.broken") is None


def test_a_look_that_fails_is_silent_and_the_next_one_brings_the_answer(
    asker: Talk, question: str
) -> None:
    asker.expect_console("ERR_FAILED|503")
    answer(asker.server, waiting(asker.server, question))
    failures: list[Callable[[Route], None]] = [
        lambda route: route.fulfill(status=503, json={"detail": "Минуту.", "code": "busy"}),
        lambda route: route.fulfill(body="<html>"),
        lambda route: route.abort(),
    ]
    for fail in failures:
        asker.page.route(f"**{ANSWERS}?*", fail, times=1)
        with asker.page.expect_request(f"**{ANSWERS}?*"):
            asker.come_back()
        settled(asker.page)
    expect(asker.told).to_have_count(0)
    expect(asker.failure).to_have_count(0)
    asker.come_back()
    expect(asker.told).to_have_count(1)
    assert len(asker.looks) == len(failures) + 1


def settled(page: Page) -> None:
    """What the page does with a reply it has is done."""
    page.evaluate("new Promise((resume) => setTimeout(resume, 100))")


@pytest.mark.parametrize("width", [320, PHONE["width"]])
def test_a_long_answer_fits_a_phone(
    open_talk: OpenTalk, empty_server: Server, question: str, width: int
) -> None:
    talk = open_talk(empty_server, {"width": width, "height": 568})
    talk.ask_and_wait(question)
    words = f"{ANSWER} {'Оченьдлинноеслово' * 9} {uuid.uuid4()} {time.time()}"
    answer(empty_server, waiting(empty_server, question), words)
    talk.come_back()
    expect(talk.told.locator("p.words")).to_have_text(words)
    assert talk.page.evaluate(
        """[...document.querySelectorAll("html, body, main, footer, .turn, .told")]
          .every((node) => node.scrollWidth <= node.clientWidth)"""
    )
