"""The talk page at every width, without a mouse, without sight, and in the dark."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import LAPTOP, PHONE
from tests.browser.talk import ANSWERS, FAR, PRICE, PROCESS, OpenTalk, Talk
from tests.servers import Server

LONG = "оченьдлинноеслово" * 20
ANSWER = "Погоду смотрите в новостях, мы убираем подъезды."
CONTROLS = {
    "button",
    "checkbox",
    "combobox",
    "DisclosureTriangle",
    "link",
    "radio",
    "radiogroup",
    "textbox",
}

# What one reads, how it stands out from what is behind it, by WCAG 2.2; the least ratio comes
# first. Words that are disabled or hidden are left out.
CONTRASTS = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgb(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
  };
  const ratios = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const star = node.matches(".star");
    const hint = node.matches(":placeholder-shown") ? "::placeholder" : null;
    const field = hint || node.matches("input:not([type]), textarea");
    if (!(own || star || field) || !node.checkVisibility()) continue;
    if (node.matches(":disabled, .unseen, noscript")) continue;
    const [a, b] = [rgb(getComputedStyle(node, hint).color), behind(node)].map(light);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    ratios.push([ratio, star ? 3 : 4.5, node.className || node.id || node.tagName]);
  }
  return ratios;
}"""


def hold_a_full_dialogue(talk: Talk) -> None:
    """Answered and rated well and ill, handed over, answered by an operator, a long word, a receipt
    unfolded."""
    turn = talk.ask_and_wait()
    turn.locator("summary").click()
    talk.star(4).click()
    expect(talk.rating_status).to_have_text("Сохранено")
    with talk.page.expect_response(f"**{PROCESS}") as asked:
        talk.ask_and_wait(FAR)
    answers = [
        {
            "log_id": log_id, "question": question, "answer": f"{ANSWER} {LONG}",
            "asked_at": "2026-01-09T10:00:00Z", "answered_at": "2026-01-09T10:30:00Z",
        }
        for log_id, question in ((asked.value.json()["log_id"], FAR), (str(uuid.uuid4()), LONG))
    ]  # fmt: skip
    told = {"answers": answers}
    talk.page.route(f"**{ANSWERS}?*", lambda route: route.fulfill(json=told))
    talk.come_back()
    expect(talk.told).to_have_count(2)
    talk.wait_until_still()
    talk.star(2).click()
    talk.turn.locator(".rating textarea").fill(LONG)
    talk.ask_and_wait(PRICE)
    talk.star(1).click()
    expect(talk.turn.locator(".rating textarea")).to_be_visible()
    talk.ask_and_wait(LONG)


def accessibility_tree(talk: Talk) -> list[dict[str, Any]]:
    """Chromium's own, as a screen reader is given it."""
    session = talk.page.context.new_cdp_session(talk.page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [node for node in nodes if not node["ignored"]]


def unnamed_controls(talk: Talk) -> list[str]:
    return [
        node["role"]["value"]
        for node in accessibility_tree(talk)
        if node["role"]["value"] in CONTROLS and not node.get("name", {}).get("value", "").strip()
    ]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_scrolls_sideways_and_the_field_stays_in_sight(
    open_talk: OpenTalk, server: Server, width: int
) -> None:
    talk = open_talk(server, {"width": width, "height": 568 if width == 320 else 800})
    sideways = """[...document.querySelectorAll("html, body, main, footer, header, .turn")]
      .filter((n) => n.scrollWidth > n.clientWidth).map((n) => n.className || n.tagName)"""
    for language in ("ru", "en"):
        talk.switch_to(language)
        assert talk.page.evaluate(sideways) == []
    talk.switch_to("ru")
    hold_a_full_dialogue(talk)
    talk.message.fill(LONG + "\n" * 12 + LONG)
    for language in ("ru", "en"):
        talk.switch_to(language)
        assert talk.page.evaluate(sideways) == []
        assert talk.page.evaluate("innerWidth") == width
        assert talk.page.evaluate("scrollY + document.documentElement.scrollTop") == 0
        expect(talk.message).to_be_in_viewport(ratio=1)
        expect(talk.page.locator("#send")).to_be_in_viewport(ratio=1)
        expect(talk.page.locator("#lang-en")).to_be_in_viewport(ratio=1)


def test_everything_one_presses_on_a_phone_is_at_least_44_pixels_each_way(talk: Talk) -> None:
    script = """(() => [...document.querySelectorAll("button, summary, .star, .rating form > *")]
      .filter((n) => n.checkVisibility())
      .map((n) => [n.className || n.id, n.getBoundingClientRect()])
      .filter(([, box]) => box.width < 44 || box.height < 44).map(([name]) => name))()"""
    assert talk.page.evaluate(script) == []
    hold_a_full_dialogue(talk)
    assert talk.page.evaluate(script) == []


def test_tab_goes_through_the_page_in_the_order_one_reads_and_shows_where_it_is(
    open_talk: OpenTalk, server: Server
) -> None:
    talk = open_talk(server, LAPTOP)
    where = """() => {
      const at = document.activeElement;
      const shown = [at, at.parentElement].some((n) => {
        const style = getComputedStyle(n);
        return style.outlineStyle !== "none" || style.boxShadow !== "none";
      });
      return [at.id || at.className || at.type || at.tagName, shown];
    }"""

    def walk() -> list[str]:
        talk.page.evaluate("document.activeElement.blur()")
        talk.page.locator("body").focus()
        stops = []
        for _ in range(20):
            talk.page.keyboard.press("Tab")
            name, shown = talk.page.evaluate(where)
            if name in ("BODY", "HTML") or (stops and name == stops[0]):
                break
            assert shown, f"nothing shows that {name} has the focus"
            stops.append(name)
        return stops

    edges = ["lang-ru", "lang-en", "scroller"], ["message", "send"]
    assert walk() == [*edges[0], "example", "example", "example", *edges[1]]
    talk.ask_and_wait()
    talk.star(5).click()
    expect(talk.rating_status).to_have_text("Сохранено")
    rating = ["SUMMARY", "radio", "rating-note", "button rating-note-send"]
    talk.page.reload()
    assert walk() == [*edges[0], *rating, "new-conversation", *edges[1]]
    talk.star(2).click()
    expect(talk.rating_status).to_have_text("Сохранено")
    rating.insert(3, "textarea")
    talk.page.reload()
    assert walk() == [*edges[0], *rating, "new-conversation", *edges[1]]


def test_every_control_has_a_name_in_either_language(any_talk: Talk) -> None:
    assert unnamed_controls(any_talk) == []
    hold_a_full_dialogue(any_talk)
    for language in ("en", "ru"):
        any_talk.switch_to(language)
        assert unnamed_controls(any_talk) == []
    named = {
        (node["role"]["value"], node["name"]["value"]) for node in accessibility_tree(any_talk)
    }
    assert named >= {
        ("textbox", "Напишите вопрос…"),
        ("button", "Отправить"),
        ("button", "Русский, RU"),
        ("button", "English, EN"),
        ("button", "Новый разговор"),
        ("radiogroup", "Оцените ответ"),
        *(("radio", f"{stars} из 5") for stars in range(1, 6)),
        ("textbox", "Пара слов (необязательно)"),
        ("textbox", "Как было бы правильно?"),
        ("DisclosureTriangle", "Откуда ответ"),
        ("log", "Вопросы и ответы"),
    }


def test_a_screen_reader_hears_who_speaks_and_in_which_language(talk: Talk) -> None:
    turn = talk.ask_and_wait()
    expect(turn.locator(".turn-question")).to_contain_text("Вы:")
    expect(turn.locator(".bubble")).to_contain_text("AudioBot:")
    expect(talk.answer).to_have_attribute("lang", "ru")
    expect(talk.page.locator("#log")).to_have_attribute("aria-live", "polite")
    hold_a_full_dialogue(talk)
    for told in talk.told.all():
        expect(told).to_contain_text("Вы спрашивали")
        expect(told).to_contain_text("Ответ сотрудника")
        expect(told.locator("p.words")).to_have_attribute("lang", "ru")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_and_star_stands_out_from_its_background(
    open_talk: OpenTalk, server: Server, scheme: str
) -> None:
    talk = open_talk(server, PHONE, color_scheme=scheme)
    pale = [r for r in talk.page.evaluate(CONTRASTS) if r[0] < r[1]]
    hold_a_full_dialogue(talk)
    talk.message.press("Enter")
    pale += [r for r in talk.page.evaluate(CONTRASTS) if r[0] < r[1]]
    assert pale == []
