"""The talk page when the server dies, the reply is lost, or there were too many questions."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.browser.talk import FEEDBACK, PRICE, PROCESS, OpenTalk, Talk
from tests.servers import Server, serving, start

GONE = "ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_SOCKET"
HELLO, HELLO_BACK = "Здравствуйте!", "Я отвечаю на вопросы об услугах компании."
"""Needs no encoder, for which a server just started would have to wait."""


class Mortal:
    """A server that is killed and comes back: same directory, same port."""

    def __init__(self, data_dir: Path) -> None:
        self.server = start(data_dir, AUDIOBOT_KNOWLEDGE="none")

    def kill(self) -> None:
        self.server.client.close()
        self.server.kill()

    def come_back(self) -> Server:
        port = int(self.server.address.rpartition(":")[2])
        self.server = start(self.server.data_dir, port=port, AUDIOBOT_KNOWLEDGE="none")
        return self.server


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    mortal = Mortal(tmp_path_factory.mktemp("mortal") / "data")
    yield mortal
    mortal.kill()


@pytest.fixture
def mortal_talk(open_talk: OpenTalk, mortal: Mortal) -> Talk:
    talk = open_talk(mortal.server)
    talk.expect_console(GONE)
    return talk


def assert_asked_once(talk: Talk, dialogues_before: int) -> None:
    """One turn on the page, one dialogue more on the server, one key for all tries."""
    expect(talk.answer).to_contain_text(HELLO_BACK)
    expect(talk.failure).to_have_count(0)
    expect(talk.turns).to_have_count(1)
    assert len(talk.keys_of(PROCESS)) >= 2
    assert len(set(talk.keys_of(PROCESS))) == 1
    assert talk.server.stats()["total_interactions"] == dialogues_before + 1


def test_a_server_killed_while_asked_costs_one_retry_and_makes_one_dialogue(
    mortal_talk: Talk, mortal: Mortal
) -> None:
    talk = mortal_talk
    before = mortal.server.stats()["total_interactions"]
    mortal.server.process.send_signal(signal.SIGSTOP)  # it takes the connection and reads nothing
    talk.ask(HELLO)
    expect(talk.turn.locator(".typing")).to_be_visible()
    mortal.kill()
    expect(talk.failure).to_contain_text("Не получилось связаться с сервером.")
    expect(talk.turn.locator(".turn-question .words")).to_have_text(HELLO)
    offline = talk.page.locator("#connection")
    expect(offline).to_have_text("Нет связи с сервером. Ваш вопрос не пропадёт.")
    talk.switch_to("en")
    expect(talk.failure).to_contain_text("Could not reach the server.")
    expect(offline).to_have_text("No connection to the server. Your question will not be lost.")
    talk.switch_to("ru")
    talk.server = mortal.come_back()
    talk.turn.get_by_role("button", name="Повторить").click()
    assert_asked_once(talk, before)
    expect(offline).to_have_text("")


def test_a_server_killed_after_storing_but_before_replying_still_makes_one_dialogue(
    mortal_talk: Talk, mortal: Mortal
) -> None:
    talk = mortal_talk
    before = mortal.server.stats()["total_interactions"]

    def kill(route: Route) -> None:
        assert route.fetch().ok
        mortal.kill()
        route.abort("connectionreset")

    talk.page.route(f"**{PROCESS}", kill, times=1)
    talk.ask(HELLO)
    expect(talk.failure).to_be_visible()
    talk.server = mortal.come_back()
    talk.page.reload()  # nor does a reload between the tries make it two
    expect(talk.turn.locator(".turn-question .words")).to_have_text(HELLO)
    talk.turn.get_by_role("button", name="Повторить").click()
    assert_asked_once(talk, before)


def test_a_rating_given_while_the_server_is_away_is_kept_and_stored_once_by_a_retry(
    mortal_talk: Talk, mortal: Mortal
) -> None:
    talk = mortal_talk
    before = mortal.server.stats()["positive_ratings"]
    talk.ask_and_wait(HELLO)
    mortal.kill()
    talk.star(5).click()
    expect(talk.failure).to_contain_text("Оценка не сохранилась.")
    expect(talk.rating_status).not_to_have_text("Сохранено")
    talk.server = mortal.come_back()
    talk.page.reload()
    talk.turn.get_by_role("button", name="Повторить").click()
    expect(talk.rating_status).to_have_text("Сохранено")
    expect(talk.lit_stars).to_have_count(5)
    assert talk.server.stats()["positive_ratings"] == before + 1
    assert len(set(talk.keys_of(FEEDBACK))) == 1


def test_a_page_reloaded_while_asking_asks_again_by_itself_and_makes_one_dialogue(
    talk: Talk,
) -> None:
    before = talk.server.stats()["total_interactions"]
    stored: list[bool] = []
    talk.page.route(f"**{PROCESS}", lambda route: stored.append(route.fetch().ok), times=1)
    talk.ask(PRICE)
    expect(talk.turn.locator(".typing")).to_be_visible()
    while not stored:
        talk.page.wait_for_timeout(20)
    talk.page.reload()
    expect(talk.answer).to_contain_text("2 100 ₽")
    expect(talk.turns).to_have_count(1)
    assert len(talk.posts_to(PROCESS)) == 2
    assert len(set(talk.keys_of(PROCESS))) == 1
    assert talk.server.stats()["total_interactions"] == before + 1


def test_a_question_asked_while_another_is_answered_waits_in_the_field(talk: Talk) -> None:
    talk.page.route(f"**{PROCESS}", lambda route: None, times=1)
    talk.ask(PRICE)
    talk.message.fill("И ещё вопрос")
    talk.message.press("Enter")
    expect(talk.message).to_have_value("И ещё вопрос")
    expect(talk.page.locator("#send")).to_be_disabled()
    expect(talk.turns).to_have_count(1)


def test_too_many_questions_are_told_to_wait_with_a_countdown_in_either_language(
    open_talk: OpenTalk, tmp_path: Path
) -> None:
    with serving(
        tmp_path / "data", AUDIOBOT_RATE_LIMIT="2/minute", AUDIOBOT_KNOWLEDGE="none"
    ) as server:
        talk = open_talk(server)
        talk.expect_console("429")
        for _ in range(2):
            talk.ask_and_wait(HELLO)
        talk.ask(PRICE)
        expect(talk.failure).to_contain_text("Слишком много запросов")
        expect(talk.turn.locator(".turn-question .words")).to_have_text(PRICE)
        countdown = talk.failure.locator(".countdown")
        expect(countdown).to_have_text(re.compile(r"^Повтор через (0:[0-5]\d|1:00)$"))
        expect(talk.turn.get_by_role("button", name="Повторить")).to_be_disabled()
        first = countdown.inner_text()
        expect(countdown).not_to_have_text(first)
        talk.switch_to("en")
        expect(countdown).to_have_text(re.compile(r"^Retry in 0:[0-5]\d$"))
        talk.page.get_by_role("button", name="New conversation").click()
        talk.ask("How often are the windows washed?")
        expect(talk.failure).to_contain_text("Too many requests")
        assert server.stats()["total_interactions"] == 2
        server.kill()  # a stop would wait until the encoder is loaded


def test_when_the_wait_is_over_the_refused_question_is_answered_by_a_retry(talk: Talk) -> None:
    talk.expect_console("503")

    def refuse(route: Route) -> None:
        route.fulfill(status=503, headers={"Retry-After": "2"}, json={"detail": "Минуту."})

    talk.page.route(f"**{PROCESS}", refuse, times=1)
    talk.ask(PRICE)
    expect(talk.failure).to_contain_text("Минуту.")
    retry = talk.turn.get_by_role("button", name="Повторить")
    expect(retry).to_be_disabled()
    expect(retry).to_be_enabled()
    retry.click()
    expect(talk.answer).to_contain_text("2 100 ₽")
    assert len(set(talk.keys_of(PROCESS))) == 1
