"""The talk page: ask, read, rate, in either language."""

from __future__ import annotations

import re

from playwright.sync_api import Route, expect

from tests.browser.chromium import LAPTOP
from tests.browser.talk import FAR, FEEDBACK, PRICE, PROCESS, OpenTalk, Talk
from tests.servers import Server

# -- asking


def test_a_question_typed_and_sent_with_enter_is_answered_below_it(any_talk: Talk) -> None:
    any_talk.message.press_sequentially(PRICE)
    any_talk.message.press("Enter")
    expect(any_talk.turn.locator(".turn-question .words")).to_have_text(PRICE)
    expect(any_talk.answer).to_contain_text("2 100 ₽")
    expect(any_talk.answer).to_be_in_viewport()
    expect(any_talk.message).to_have_value("")
    expect(any_talk.message).to_be_focused()


def test_the_send_button_sends_too(talk: Talk) -> None:
    talk.message.fill(PRICE)
    talk.page.get_by_role("button", name="Отправить", exact=True).click()
    expect(talk.answer).to_contain_text("2 100 ₽")


def test_an_example_is_asked_by_one_press_and_the_welcome_leaves(talk: Talk) -> None:
    example = talk.page.locator(".example").first
    question = example.inner_text()
    example.click()
    expect(talk.turn.locator(".turn-question .words")).to_have_text(question)
    expect(talk.answer).to_contain_text("2 100 ₽")
    expect(talk.page.locator("#welcome")).to_be_hidden()


def test_the_receipt_counts_dialogues_and_the_people_who_rated_them(talk: Talk) -> None:
    question = "почём полы помыть в пятиэтажке"
    told = talk.server.ask(question)
    assert talk.server.rate(told["log_id"], 5).status_code == 200
    talk.ask_and_wait(question)
    talk.turn.locator(".sources summary").click()
    expect(talk.turn.locator(".sources")).to_contain_text("1 диалог, 1 человек оценил")
    talk.switch_to("en")
    expect(talk.turn.locator(".sources")).to_contain_text("1 dialogue, 1 rater")
    talk.server.rate(told["log_id"], 3)


def test_what_the_bot_asks_back_with_is_chosen_by_one_press(talk: Talk) -> None:
    talk.ask_and_wait("в кабине липкий пол, когда помоют?")
    expect(talk.answer).to_contain_text("Уточните")
    choices = talk.turn.locator(".choices .example")
    expect(choices).to_have_count(2)
    title = choices.first.inner_text()
    choices.first.click()
    expect(talk.turn.locator(".turn-question .words")).to_have_text(title)
    expect(talk.answer).to_be_visible()
    expect(talk.turn.locator(".choices")).to_have_count(0)


def test_a_double_click_on_a_choice_asks_once_and_no_choice_is_left_while_asking(
    talk: Talk,
) -> None:
    talk.ask_and_wait("в кабине липкий пол, когда помоют?")
    choices = talk.turn.locator(".choices .example")
    expect(choices).to_have_count(2)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    talk.page.route(f"**{PROCESS}", hold, times=1)
    asked = talk.turns.first
    choices.first.dblclick()
    expect(talk.turns).to_have_count(2)
    expect(asked.locator(".choices .example:disabled")).to_have_count(2)
    assert len(talk.keys_of(PROCESS)) == 2
    held[0].continue_()
    expect(talk.answer).to_be_visible()
    expect(asked.locator(".choices .example:enabled")).to_have_count(2)
    expect(talk.turns).to_have_count(2)


def test_every_example_in_either_language_has_an_answer(talk: Talk) -> None:
    for language in ("ru", "en"):
        talk.switch_to(language)
        examples = talk.page.locator(".example").all_inner_texts()
        assert len(examples) == 3
        assert [talk.server.ask(e)["outcome"] for e in examples] == ["answered"] * 3


def test_shift_enter_begins_a_new_line_and_sends_nothing(talk: Talk) -> None:
    talk.message.press_sequentially("Сколько стоит")
    talk.message.press("Shift+Enter")
    talk.message.press_sequentially("уборка подъезда?")
    expect(talk.message).to_have_value("Сколько стоит\nуборка подъезда?")
    expect(talk.turns).to_have_count(0)
    talk.message.press("Enter")
    expect(talk.turn.locator(".turn-question .words")).to_have_text(
        "Сколько стоит\nуборка подъезда?", use_inner_text=True
    )


def test_a_blank_question_is_not_sent_and_the_page_says_what_to_do(talk: Talk) -> None:
    for blank in ("", "   ", " \n\t "):
        talk.message.fill(blank)
        talk.message.press("Enter")
        expect(talk.page.get_by_role("alert").first).to_have_text("Напишите вопрос…")
    expect(talk.turns).to_have_count(0)
    assert talk.posts == []
    talk.message.fill("П")
    expect(talk.page.get_by_role("alert").first).to_have_text("")


def test_the_field_takes_2000_characters_and_the_server_takes_them_all(talk: Talk) -> None:
    talk.message.focus()
    talk.page.keyboard.insert_text("a" * 1800)
    expect(talk.page.locator("#counter")).to_be_hidden()
    talk.page.keyboard.insert_text("a" * 700)
    expect(talk.message).to_have_value("a" * 2000)
    expect(talk.page.locator("#counter")).to_have_text("2000 / 2000")
    talk.message.press("Enter")
    expect(talk.answer).to_be_visible(timeout=20_000)
    assert talk.posts_to(PROCESS)[0]["message"] == "a" * 2000


def test_the_receipt_shows_the_title_of_what_the_answer_rests_on(talk: Talk) -> None:
    turn = talk.ask_and_wait(PRICE)
    title = turn.locator(".sources li")
    expect(title).to_be_hidden()
    turn.get_by_text("Откуда ответ").click()
    expect(title).to_have_text(PRICE)


def test_a_far_question_is_said_to_be_passed_on_to_a_person(any_talk: Talk) -> None:
    turn = any_talk.ask_and_wait(FAR)
    expect(turn.locator(".handed-over")).to_have_text("Вопрос передан сотруднику")
    expect(turn.locator(".sources")).to_have_count(0)
    any_talk.ask_and_wait(PRICE)
    expect(any_talk.turn.locator(".handed-over")).to_have_count(0)


def test_questions_of_one_tab_are_one_session_until_a_new_conversation(talk: Talk) -> None:
    for _ in range(2):
        talk.ask_and_wait()
    talk.page.get_by_role("button", name="Новый разговор").click()
    expect(talk.turns).to_have_count(0)
    expect(talk.page.locator("#welcome")).to_be_visible()
    talk.ask_and_wait()
    first, second, anew = (body["session_id"] for body in talk.posts_to(PROCESS))
    assert first is None
    assert second is not None
    assert anew is None


# -- rating


def test_five_stars_by_mouse_reach_the_servers_totals(open_talk: OpenTalk, server: Server) -> None:
    talk = open_talk(server, LAPTOP)
    talk.ask_and_wait()
    before = server.stats()
    talk.star(5).click()
    expect(talk.rating_status).to_have_text("Сохранено")
    expect(talk.lit_stars).to_have_count(5)
    after = server.stats()
    assert after["rated_interactions"] == before["rated_interactions"] + 1
    assert after["positive_ratings"] == before["positive_ratings"] + 1


def test_five_stars_by_touch_reach_the_servers_totals(talk: Talk) -> None:
    talk.ask_and_wait()
    before = talk.server.stats()["positive_ratings"]
    talk.star(5).tap()
    expect(talk.rating_status).to_have_text("Сохранено")
    assert talk.server.stats()["positive_ratings"] == before + 1


def test_five_stars_by_keyboard_are_one_rating_not_five(
    open_talk: OpenTalk, server: Server
) -> None:
    talk = open_talk(server, LAPTOP)
    talk.ask_and_wait()
    before = server.stats()
    talk.star(1).focus()
    talk.page.keyboard.press("Space")
    for _ in range(4):
        talk.page.keyboard.press("ArrowRight")
    expect(talk.star(5)).to_be_focused()
    expect(talk.rating_status).to_have_text("Сохранено")
    assert [body["rating"] for body in talk.posts_to(FEEDBACK)] == [5]
    after = server.stats()
    assert after["positive_ratings"] == before["positive_ratings"] + 1
    assert after["negative_ratings"] == before["negative_ratings"]


def test_a_second_thought_takes_the_first_ratings_place(talk: Talk) -> None:
    talk.ask_and_wait()
    before = talk.server.stats()
    for stars in (5, 2):
        talk.star(stars).click()
        expect(talk.rating_status).to_have_text("Сохранено")
        expect(talk.lit_stars).to_have_count(stars)
    after = talk.server.stats()
    assert after["rated_interactions"] == before["rated_interactions"] + 1
    assert after["positive_ratings"] == before["positive_ratings"]
    assert after["negative_ratings"] == before["negative_ratings"] + 1


def test_a_word_after_the_stars_is_stored_with_them(talk: Talk) -> None:
    word = "Спасибо, коротко и ясно 4711"
    turn = talk.ask_and_wait()
    note = turn.get_by_label("Пара слов (необязательно)")
    expect(note).to_be_hidden()
    talk.star(4).click()
    expect(note).to_be_visible()
    note.fill(word)
    with talk.page.expect_response(f"**{FEEDBACK}") as reply:
        note.press("Enter")
    assert reply.value.json()["status"] == "stored"
    expect(talk.rating_status).to_have_text("Спасибо!")
    expect(note).to_be_hidden()
    sent = talk.posts_to(FEEDBACK)[-1]
    assert (sent["rating"], sent["feedback_text"]) == (4, word)
    files = [f for f in talk.server.data_dir.rglob("*") if f.is_file()]
    assert any(word.encode() in f.read_bytes() for f in files)


def test_a_rated_answer_shows_its_stars_after_a_reload_and_is_not_rated_again(talk: Talk) -> None:
    talk.ask_and_wait()
    talk.star(4).click()
    expect(talk.rating_status).to_have_text("Сохранено")
    talk.page.reload()
    expect(talk.star(4)).to_be_checked()
    expect(talk.lit_stars).to_have_count(4)
    expect(talk.rating_status).to_have_text("Сохранено")
    assert len(talk.posts_to(FEEDBACK)) == 1


# -- languages


def test_the_switch_changes_every_word_of_the_page_and_is_remembered(any_talk: Talk) -> None:
    page = any_talk.page
    any_talk.ask_and_wait()
    any_talk.ask_and_wait(FAR)
    any_talk.star(3).click()
    expect(any_talk.rating_status).to_have_text("Сохранено")
    any_talk.switch_to("en")
    for _ in range(2):
        expect(page.locator("html")).to_have_attribute("lang", "en")
        expect(any_talk.message).to_have_attribute("placeholder", "Type your question…")
        expect(any_talk.turn.locator(".handed-over")).to_have_text("Passed on to a person")
        expect(any_talk.rating_status).to_have_text("Saved")
        leftover = page.evaluate(
            """() => {
              const own = document.body.cloneNode(true);
              const kept = own.querySelectorAll(".words, .sources li, #lang-ru, noscript");
              kept.forEach((node) => node.remove());
              const named = [...own.querySelectorAll("[aria-label], [placeholder]")];
              return own.textContent + named.map((n) => n.ariaLabel + n.placeholder).join();
            }"""
        )
        assert re.findall("[а-яё]+", leftover, re.IGNORECASE) == []
        page.reload()
    any_talk.switch_to("ru")
    expect(any_talk.rating_status).to_have_text("Сохранено")


def test_a_question_in_english_is_answered_in_english(talk: Talk) -> None:
    talk.switch_to("en")
    talk.ask_and_wait("How much does entrance cleaning cost?")
    expect(talk.answer).to_contain_text("2,100 ₽")


def test_a_browser_that_speaks_english_gets_the_page_in_english(
    open_talk: OpenTalk, server: Server
) -> None:
    talk = open_talk(server, LAPTOP, locale="en-GB")
    expect(talk.page.locator("#welcome-title")).to_have_text("Hello!")
    expect(talk.page.locator("#lang-en")).to_have_attribute("aria-pressed", "true")


# -- nothing is lost


def test_nothing_typed_or_read_is_lost_over_a_reload(talk: Talk) -> None:
    talk.ask_and_wait()
    answer = talk.answer.inner_text()
    talk.star(3).click()
    expect(talk.rating_status).to_have_text("Сохранено")
    talk.turn.locator(".rating-note").press_sequentially("почти")
    talk.message.press_sequentially("А как часто вы мо")
    talk.page.reload()
    expect(talk.answer).to_have_text(answer, use_inner_text=True)
    expect(talk.turn.locator(".rating-note")).to_have_value("почти")
    expect(talk.message).to_have_value("А как часто вы мо")
    expect(talk.turns).to_have_count(1)
    assert len(talk.posts_to(PROCESS)) == 1
