"""The console's work: a question is fixed in three clicks, undone, dismissed; two at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.console import ANSWER, Desk, OpenDesk
from tests.servers import Server, serving

TOKEN = "operator-token-Hedgehog-42"
SAVED = "Сохранено: бот ответит так на 3 вопроса."


def answered(desk: Desk, question: str) -> None:
    """Answer a question's group, and see it kept."""
    desk.open_group(question)
    desk.answer.fill(ANSWER)
    desk.save.click()
    expect(desk.notice).to_contain_text(SAVED)


def test_a_question_is_fixed_in_three_clicks_and_answered_from_then_on(
    desk: Desk, question: str
) -> None:
    card = desk.open_group(question)
    expect(desk.wordings).to_have_value(question)
    expect(card.locator(".turns li").first).to_contain_text("передано сотруднику")
    expect(desk.answer).to_be_focused()
    desk.page.keyboard.type(ANSWER)
    desk.press(desk.save)
    expect(desk.notice).to_contain_text(SAVED)
    assert desk.clicks <= 3
    expect(desk.card(question)).to_have_count(0)
    told = desk.server.ask(question)
    assert (told["response"], told["model_used"]) == (ANSWER, "correction")


def test_a_preview_follows_what_is_typed(desk: Desk, question: str) -> None:
    desk.open_group(question)
    expect(desk.preview).to_contain_text("Начните писать ответ")
    desk.answer.fill(ANSWER)
    expect(desk.preview).to_contain_text("Бот ответит так на")
    asked = desk.preview.locator("li").filter(has_text=question)
    expect(asked).to_contain_text("3 раза")
    desk.wordings.fill("")
    expect(desk.preview).to_contain_text("Поле «На какие вопросы отвечает» пустое")
    desk.wordings.fill(question)
    expect(desk.preview).to_contain_text("Бот ответит так на")


def test_a_terse_answer_is_warned_of(desk: Desk, question: str) -> None:
    desk.open_group(question)
    desk.answer.fill("Нет, никогда.")
    expect(desk.preview.locator(".warning")).to_contain_text("Ответ не говорит, о чём он")
    desk.answer.fill(ANSWER)
    expect(desk.preview.locator(".warning")).to_have_count(0)


def test_an_answer_is_undone_and_the_question_is_back(desk: Desk, question: str) -> None:
    desk.open_group(question)
    desk.answer.fill(ANSWER)
    desk.save.click()
    expect(desk.card(question)).to_have_count(0)
    desk.undo.click()
    expect(desk.notice).to_contain_text("Отменено, всё как было.")
    expect(desk.card(question)).to_be_visible()
    assert desk.server.ask(question)["outcome"] == "handed_over"
    desk.open_group(question)
    expect(desk.answer).to_have_value("")


def test_a_question_is_dismissed_and_back(desk: Desk, question: str) -> None:
    desk.open_group(question)
    desk.page.get_by_role("button", name="Ответ не нужен").click()
    expect(desk.notice).to_contain_text("Отклонено: 3 вопроса.")
    expect(desk.card(question)).to_have_count(0)
    desk.undo.click()
    expect(desk.card(question)).to_be_visible()


def test_a_bad_answer_ends_in_a_sentence_and_stays_as_typed(desk: Desk, question: str) -> None:
    desk.expect_complaint("422")
    desk.open_group(question)
    for typed, told in (
        ("ы" * 4_001, "длиннее 4000 знаков"),
        ("Only by the hour, at the desk", "Ответ на другом языке"),
        ("", "Поле «Правильный ответ» пустое"),
    ):
        desk.answer.fill(typed)
        desk.save.click()
        expect(desk.notice).to_contain_text(told)
        expect(desk.answer).to_have_value(typed)
    expect(desk.card(question)).to_be_visible()


def test_of_two_operators_the_later_wins_and_each_is_told_of_the_other(
    desk: Desk, open_desk: OpenDesk, question: str
) -> None:
    desk.page.clock.install()
    desk.open()
    other = open_desk(desk.server)
    for operator, typed in ((desk, "Самокаты вывозим мы."), (other, ANSWER)):
        operator.open_group(question)
        operator.answer.fill(typed)
    desk.save.click()
    expect(desk.notice).to_contain_text(SAVED)
    other.save.click()
    expect(other.notice).to_contain_text("другой оператор ответил: «Самокаты вывозим мы.»")
    assert other.server.ask(question)["response"] == ANSWER
    desk.page.clock.run_for(11_000)
    expect(desk.notice).to_contain_text(f"ответил иначе, чем вы: «{ANSWER}». Теперь действует его")
    expect(desk.page.locator(".watch")).to_have_count(0)
    other.undo.click()
    expect(other.notice).to_contain_text("Отменено")
    assert other.server.ask(question)["response"] == "Самокаты вывозим мы."
    # His own undoing is no news to him.
    expect(other.page.locator(".watch")).to_have_count(0)


def looked(desk: Desk) -> int:
    """What the page's next look after its answer came to."""
    with desk.page.expect_response("**/watch?*", timeout=30_000) as response:
        desk.page.clock.run_for(11_000)
    response.value.finished()
    return int(response.value.status)


def test_who_saved_an_answer_hears_when_a_colleague_withdraws_it(desk: Desk, question: str) -> None:
    desk.page.clock.install()
    desk.open()
    other = "Где мне взять справку о доходах для банка?"
    desk.server.ask(other)
    desk.open()
    answered(desk, question)
    # A look that finds nothing, or fails, disturbs nobody who types on.
    desk.open_group(other)
    expect(desk.answer).to_be_focused()
    desk.expect_complaint("503")
    desk.page.route("**/watch?*", lambda route: route.fulfill(status=503), times=1)
    assert [looked(desk), looked(desk)] == [503, 204]
    expect(desk.answer).to_be_focused()
    expect(desk.undo).to_be_visible()
    kept = desk.page.locator(".watch").get_attribute("data-answer")
    desk.server.client.delete(f"/api/learning/corrections/{kept}").raise_for_status()
    assert looked(desk) == 286
    expect(desk.notice).to_contain_text("Другой оператор только что отозвал ваш ответ")
    expect(desk.notice).to_contain_text(SAVED)


def test_a_changed_answer_is_watched_and_ones_own_words_are_no_news(
    desk: Desk, open_desk: OpenDesk, question: str
) -> None:
    answered(desk, question)
    desk.page.clock.install()
    desk.open("/console/answers")
    watches = desk.page.locator(".watch")
    edit = desk.card(question).get_by_role("button", name="Изменить")
    for typed in ("Самокаты вывозим мы.", "Самокаты вывозим мы по средам."):
        edit.click()
        desk.answer.fill(typed)
        desk.save.click()
        expect(desk.card(question).locator(".told")).to_have_text(typed)
        expect(watches).to_have_count(1)
    # A colleague adds a wording: the words are the same.
    other = open_desk(desk.server, path="/console/answers")
    other.card(question).get_by_role("button", name="Изменить").click()
    expect(other.answer).to_be_focused()
    other.wordings.fill(f"{question}\nА самокат {question[-20:]}")
    other.save.click()
    expect(other.notice).to_contain_text("Сохранено")
    assert looked(desk) == 204
    other.card(question).get_by_role("button", name="Изменить").click()
    other.answer.fill("Самокаты вывозит хозяин.")
    other.save.click()
    expect(other.card(question).locator(".told")).to_have_text("Самокаты вывозит хозяин.")
    desk.page.clock.run_for(11_000)
    expect(desk.notice).to_contain_text("иначе, чем вы: «Самокаты вывозит хозяин.»")


def test_who_opens_what_was_answered_meanwhile_is_told_so(
    desk: Desk, open_desk: OpenDesk, question: str
) -> None:
    other = open_desk(desk.server)
    answered(desk, question)
    other.opener(question).click()
    expect(other.card(question)).to_contain_text("На этот вопрос уже ответили")


def test_what_was_typed_outlives_a_closed_card_and_a_reload(desk: Desk, question: str) -> None:
    desk.open_group(question)
    desk.answer.fill(ANSWER)
    desk.page.keyboard.press("Escape")
    expect(desk.answer).to_have_count(0)
    desk.page.reload()
    desk.open_group(question)
    expect(desk.answer).to_have_value(ANSWER)
    expect(desk.preview).to_contain_text("Бот ответит так на")


def test_a_draft_over_a_colleagues_later_answer_is_told_of_it(
    desk: Desk, open_desk: OpenDesk, question: str
) -> None:
    answered(desk, question)
    desk.open("/console/answers")
    edit = desk.card(question).get_by_role("button", name="Изменить")
    edit.click()
    desk.answer.fill("Самокаты вывозим мы.")
    desk.page.keyboard.press("Escape")
    other = open_desk(desk.server, path="/console/answers")
    other.card(question).get_by_role("button", name="Изменить").click()
    other.answer.fill("Самокаты вывозит хозяин.")
    other.save.click()
    expect(other.notice).to_contain_text("Сохранено")
    desk.page.reload()
    edit.click()
    expect(desk.answer).to_have_value("Самокаты вывозим мы.")
    desk.save.click()
    expect(desk.notice).to_contain_text("другой оператор ответил: «Самокаты вывозит хозяин.»")
    desk.undo.click()
    expect(desk.card(question).locator(".told")).to_have_text("Самокаты вывозит хозяин.")


def test_without_a_connection_the_answer_stays_and_a_sentence_says_so(
    desk: Desk, question: str
) -> None:
    desk.expect_complaint("ERR_INTERNET_DISCONNECTED|htmx:(sendError|afterRequest)")
    desk.open_group(question)
    desk.answer.fill(ANSWER)
    expect(desk.preview).to_contain_text("Бот ответит так на")
    desk.page.context.set_offline(True)
    desk.save.click()
    expect(desk.notice).to_contain_text("Сервер не ответил. Написанное осталось")
    expect(desk.answer).to_have_value(ANSWER)
    desk.page.context.set_offline(False)
    desk.save.click()
    expect(desk.notice).to_contain_text(SAVED)


def test_answers_are_edited_withdrawn_and_restored(desk: Desk, question: str) -> None:
    answered(desk, question)
    desk.page.get_by_role("link", name="Ответы").click()
    card = desk.card(question)
    card.get_by_role("button", name="Изменить").click()
    expect(desk.answer).to_have_value(ANSWER)
    changed = "Самокаты вывозит их хозяин."
    desk.answer.fill(changed)
    desk.save.click()
    expect(card.locator(".told")).to_have_text(changed)
    assert desk.server.ask(question)["response"] == changed
    desk.undo.click()
    expect(card.locator(".told")).to_have_text(ANSWER)
    card.get_by_role("button", name="Отозвать").click()
    expect(desk.notice).to_contain_text("Ответ отозван")
    assert desk.server.ask(question)["outcome"] == "handed_over"
    desk.undo.click()
    expect(desk.notice).to_contain_text("Ответ снова действует")
    assert desk.server.ask(question)["response"] == ANSWER


def test_a_customers_suggestion_is_marked_accepted_or_dismissed(desk: Desk, question: str) -> None:
    told = desk.server.ask(f"{question} А коляску?")
    phone = f"Звоните +7 999 123-45-67, {told['log_id'][:6]}"
    assert desk.server.rate(told["log_id"], 1).status_code == 200
    kept = desk.server.client.post(
        "/api/voice/feedback",
        json={"log_id": told["log_id"], "rating": 2, "corrected_response": phone},
        headers={"X-Forwarded-For": "203.0.113.9"},  # from outside: no operator's
    )
    assert kept.status_code == 200
    desk.open("/console/answers")
    card = desk.card("А коляску?").first
    expect(card.locator(".warning")).to_contain_text("Осторожно")
    expect(card.get_by_text(phone)).to_be_hidden()
    card.get_by_text("Показать слова клиента").click()
    expect(card.get_by_text(phone)).to_be_visible()
    card.get_by_role("button", name="Взять в ответ").click()
    expect(desk.answer).to_have_value(phone)
    desk.answer.fill(ANSWER)
    desk.save.click()
    expect(desk.notice).to_contain_text("Сохранено")
    expect(desk.page.get_by_text("Показать слова клиента")).to_have_count(0)
    assert desk.server.ask(f"{question} А коляску?")["response"] == ANSWER


@pytest.fixture
def guarded(tmp_path: Path):
    with serving(
        tmp_path / "data", AUDIOBOT_OPERATOR_TOKEN=TOKEN, AUDIOBOT_KNOWLEDGE="none"
    ) as running:
        running.wait_for_meaning()
        yield running


def test_one_signs_in_with_the_token_and_again_without_losing_what_was_typed(
    open_desk: OpenDesk, guarded: Server, question: str
) -> None:
    guarded.ask(question)
    desk = open_desk(guarded)
    desk.expect_complaint("401|403")
    expect(desk.page).to_have_url(re.compile("/console/sign-in$"))
    token = desk.page.get_by_label("Токен оператора")
    token.fill("не тот")
    token.press("Enter")
    expect(desk.page.get_by_role("alert")).to_contain_text("Это не тот токен")
    token.fill(TOKEN)
    token.press("Enter")
    desk.open_group(question)
    (cookie,) = desk.page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert desk.page.evaluate("document.cookie") == ""
    desk.answer.fill(ANSWER)
    expect(desk.preview).to_contain_text("Бот ответит так на")  # no other request is on its way
    desk.page.context.clear_cookies()
    desk.save.click()
    expect(desk.notice).to_contain_text("Сеанс закончился")
    with desk.page.context.expect_page() as opened:
        desk.notice.get_by_role("link", name="Вход").click()
    opened.value.get_by_label("Токен оператора").fill(TOKEN)
    opened.value.get_by_role("button", name="Войти").click()
    expect(opened.value).to_have_url(re.compile("/console$"))
    desk.save.click()
    expect(desk.notice).to_contain_text("Страница устарела")
    desk.save.click()
    expect(desk.notice).to_contain_text("Сохранено")
    desk.page.get_by_role("button", name="Выйти").click()
    expect(desk.page).to_have_url(re.compile("/console/sign-in$"))
