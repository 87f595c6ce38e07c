"""Who gives few stars may say what would have been right; an operator reads it."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Locator, Route, expect

from tests.browser.chromium import LAPTOP, PHONE
from tests.browser.console import OpenDesk
from tests.browser.talk import FEEDBACK, OpenTalk, Talk
from tests.servers import Server

BETTER = "Самокат из подъезда мы вывезем в пятницу."
OUTSIDE = {"X-Forwarded-For": "203.0.113.9"}  # whoever comes from this machine is its operator


@pytest.fixture(params=[PHONE, LAPTOP], ids=["phone", "laptop"])
def customer(
    open_talk: OpenTalk, empty_server: Server, question: str, request: pytest.FixtureRequest
) -> Talk:
    """A customer, on a phone and on a laptop, whose question was passed to a person."""
    talk = open_talk(empty_server, request.param, extra_http_headers=OUTSIDE)
    talk.ask_and_wait(question)
    return talk


def field(talk: Talk) -> Locator:
    return talk.turn.get_by_label("Как было бы правильно?")


def rate(talk: Talk, stars: int) -> None:
    talk.star(stars).click()
    expect(talk.rating_status).to_have_text("Сохранено")
    expect(talk.lit_stars).to_have_count(stars)


def suggested(talk: Talk, question: str) -> list[tuple[str, int]]:
    """What the operator is shown: each suggestion to the question, and the answer's stars now."""
    kept = talk.server.client.get("/api/learning/suggestions").json()["suggestions"]
    return [(s["text"], s["rating"]) for s in kept if s["user_message"] == question]


def sent(talk: Talk) -> list[dict[str, Any]]:
    return [body for body in talk.posts_to(FEEDBACK) if "corrected_response" in body]


@pytest.mark.parametrize("stars", [1, 2, 3])
def test_what_would_be_right_reaches_the_operator_with_the_stars_and_the_words(
    customer: Talk, question: str, stars: int
) -> None:
    expect(field(customer)).to_be_hidden()
    rate(customer, stars)
    expect(field(customer)).to_be_in_viewport(ratio=1)
    customer.turn.locator(".rating-note").fill("Не о том")
    field(customer).fill(f" {BETTER}\n")
    customer.turn.get_by_role("button", name="Отправить").click()
    expect(customer.rating_status).to_have_text("Спасибо!")
    expect(customer.turn.locator(".rating-note-form")).to_be_hidden()
    (body,) = sent(customer)
    assert (body["rating"], body["feedback_text"]) == (stars, "Не о том")
    assert suggested(customer, question) == [(BETTER, stars)]


def test_the_console_shows_it_and_who_suggested_it_hears_what_became_of_it(
    customer: Talk, question: str, open_desk: OpenDesk
) -> None:
    rate(customer, 3)
    field(customer).fill(BETTER)
    field(customer).press("Enter")
    expect(customer.rating_status).to_have_text("Спасибо!")
    expect(customer.star(3)).to_be_focused()
    desk = open_desk(customer.server, path="/console/answers")
    card = desk.card(question).first
    expect(card).to_contain_text(BETTER)
    card.get_by_role("button", name="Взять в ответ").click()
    desk.save.click()
    expect(desk.notice).to_contain_text("Сохранено")
    customer.come_back()
    expect(customer.told.locator("p.words")).to_have_text(BETTER)


def test_three_stars_wait_for_an_operator_once_there_is_a_suggestion(
    open_talk: OpenTalk, empty_server: Server
) -> None:
    talk = open_talk(empty_server, extra_http_headers=OUTSIDE)
    talk.ask_and_wait("Здравствуйте!")
    rate(talk, 3)
    talk.come_back()
    assert talk.looks == []
    field(talk).fill("Добрый день!")
    field(talk).press("Enter")
    expect(talk.rating_status).to_have_text("Спасибо!")
    with talk.page.expect_request("**/api/voice/answers?*"):
        talk.come_back()


def test_four_and_five_stars_show_no_such_field_and_send_none(
    customer: Talk, question: str
) -> None:
    for stars in (4, 5):
        rate(customer, stars)
        expect(customer.turn.locator(".rating-note")).to_be_visible()
        expect(field(customer)).to_be_hidden()
    rate(customer, 2)
    field(customer).fill(BETTER)
    rate(customer, 4)
    expect(field(customer)).to_be_hidden()
    customer.turn.locator(".rating-note").fill("Хорошо")
    customer.turn.locator(".rating-note").press("Enter")
    expect(customer.rating_status).to_have_text("Спасибо!")
    assert sent(customer) == []
    assert suggested(customer, question) == []


def test_a_blank_one_is_not_sent(customer: Talk) -> None:
    rate(customer, 2)
    field(customer).fill(" \n ")
    customer.turn.locator(".rating-note").fill("Не о том")
    field(customer).press("Enter")
    expect(customer.rating_status).to_have_text("Спасибо!")
    assert sent(customer) == []
    assert customer.posts_to(FEEDBACK)[-1]["feedback_text"] == "Не о том"


def test_a_reload_keeps_what_was_typed_and_a_line_begun_sends_nothing(customer: Talk) -> None:
    rate(customer, 2)
    low = field(customer).bounding_box()
    field(customer).press_sequentially("Вывезем.")
    field(customer).press("Shift+Enter")
    field(customer).press_sequentially("В пятницу.")
    for _ in range(2):
        expect(field(customer)).to_have_value("Вывезем.\nВ пятницу.")
        high = field(customer).bounding_box()
        assert low is not None
        assert high is not None
        assert high["height"] > low["height"]
        customer.page.reload()
    assert sent(customer) == []


def test_it_is_asked_for_in_english_and_takes_4000_characters(
    customer: Talk, question: str
) -> None:
    customer.switch_to("en")
    customer.star(1).click()
    english = customer.turn.get_by_label("What would be right?")
    english.click()
    customer.page.keyboard.insert_text("я" * 4_100)
    expect(english).to_have_value("я" * 4_000)
    english.press("Enter")
    expect(customer.rating_status).to_have_text("Thank you!")
    assert suggested(customer, question) == [("я" * 4_000, 1)]


def test_a_retry_sends_the_same_again_and_it_is_kept_once(customer: Talk, question: str) -> None:
    rate(customer, 2)
    customer.expect_console("ERR_FAILED")

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    customer.page.route(f"**{FEEDBACK}", lose, times=1)
    field(customer).fill(BETTER)
    field(customer).press("Enter")
    expect(customer.failure).to_contain_text("Оценка не сохранилась.")
    customer.page.reload()
    customer.turn.get_by_role("button", name="Повторить").click()
    expect(customer.rating_status).to_have_text("Спасибо!")
    first, second = sent(customer)
    assert first == second
    assert len(set(customer.keys_of(FEEDBACK)[-2:])) == 1
    assert suggested(customer, question) == [(BETTER, 2)]


def test_a_second_thought_about_the_stars_neither_repeats_nor_takes_back_what_was_sent(
    customer: Talk, question: str
) -> None:
    rate(customer, 2)
    field(customer).fill(BETTER)
    field(customer).press("Enter")
    expect(customer.rating_status).to_have_text("Спасибо!")
    rate(customer, 1)
    expect(field(customer)).to_have_value(BETTER)
    field(customer).press("Enter")
    expect(customer.rating_status).to_have_text("Спасибо!")
    rate(customer, 5)
    expect(field(customer)).to_be_hidden()
    assert len(sent(customer)) == 1
    assert suggested(customer, question) == [(BETTER, 5)]
    rate(customer, 3)
    field(customer).fill(f"{BETTER} Утром.")
    field(customer).press("Enter")
    expect(customer.rating_status).to_have_text("Спасибо!")
    assert suggested(customer, question) == [(f"{BETTER} Утром.", 3), (BETTER, 3)]


def test_what_the_server_refuses_is_said_and_may_be_written_otherwise(
    open_talk: OpenTalk, empty_server: Server, question: str
) -> None:
    talk = open_talk(empty_server)  # an operator's, and so refused when it is the answer given
    talk.expect_console("422")
    talk.ask_and_wait(question)
    rate(talk, 2)
    field(talk).fill(talk.answer.inner_text())
    field(talk).press("Enter")
    expect(talk.failure).to_contain_text("Это тот же ответ, что уже был дан")
    expect(talk.lit_stars).to_have_count(2)
    field(talk).fill(BETTER)
    field(talk).press("Enter")
    expect(talk.rating_status).to_have_text("Спасибо!")
    expect(talk.failure).to_have_count(0)


def test_a_conversation_begun_before_there_was_such_a_field_gets_an_empty_one(
    customer: Talk,
) -> None:
    rate(customer, 2)
    assert "suggestion" not in customer.page.evaluate('sessionStorage["audiobot.talk.1"]')
    customer.page.reload()
    expect(field(customer)).to_have_value("")
