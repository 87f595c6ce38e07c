"""The talk page lets nothing in, sends nothing out, and is light."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.talk import Talk
from tests.servers import Server

HTML = '<img src=x onerror="window.broken=1"><b>жирный</b> <script>window.broken=1</script>'
PAGE_LIMIT = 40_000


def test_html_in_an_answer_its_title_and_a_question_is_shown_as_text(talk: Talk) -> None:
    question, answer = f"Как вас зовут {HTML}", f"Вот так: {HTML}"
    cells = ['"{}"'.format(text.replace('"', '""')) for text in (question, answer)]
    table = f"question,answer\n{','.join(cells)}\n"
    imported = talk.server.client.post("/api/knowledge/html.csv", content=table.encode()).json()
    assert (imported["items"], imported["bad_rows"]) == (1, [])
    turn = talk.ask_and_wait(question)
    expect(turn.locator(".turn-question .words")).to_have_text(question)
    expect(talk.answer).to_have_text(answer)
    turn.locator("summary").click()
    expect(turn.locator(".sources li")).to_have_text(question)
    talk.page.reload()
    expect(talk.answer).to_have_text(answer)
    expect(talk.page.locator("#log").locator("img, b, script")).to_have_count(0)
    assert talk.page.evaluate("window.broken") is None


def test_the_policy_allows_nothing_inline_and_nobody_else(server: Server) -> None:
    reply = server.client.get("/", headers={"Accept": "text/html"})
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in reply.headers["content-security-policy"].split(";")
    )
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) <= {"'self'", "'none'"}
    assert {"base-uri", "form-action", "frame-ancestors"} <= policy.keys()
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", reply.text) == []
    assert re.findall(r"<script(?![^>]*\ssrc=)", reply.text) == []


def test_the_browser_refuses_inline_scripts_and_other_hosts_on_this_page(talk: Talk) -> None:
    talk.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.broken = 1";
          const picture = new Image();
          picture.src = "http://other.invalid/picture.png";
          document.body.append(script, picture);
        }"""
    )
    expect(talk.page.locator("body > img")).to_be_attached()
    refusals = "\n".join(talk.complaints)
    assert "script" in refusals
    assert "other.invalid" in refusals
    assert talk.page.evaluate("window.broken") is None
    talk.complaints.clear()
    talk.foreign.clear()


def test_no_request_leaves_for_another_host(any_talk: Talk) -> None:
    asked: list[str] = []
    any_talk.page.on("request", lambda request: asked.append(request.url))
    any_talk.page.reload()
    any_talk.ask_and_wait()
    any_talk.star(5).click()
    expect(any_talk.rating_status).to_have_text("Сохранено")
    assert len(asked) >= 5
    assert [url for url in asked if not url.startswith(any_talk.server.address + "/")] == []


def travelled(server: Server, path: str) -> int:
    """The bytes that a browser gets for it."""
    with server.client.stream("GET", path, headers={"Accept": "text/html"}) as reply:
        return len(b"".join(reply.iter_raw()))


def test_the_page_and_all_it_loads_are_at_most_40_kilobytes(talk: Talk) -> None:
    loaded = {"/"} | set(
        talk.page.evaluate(
            'performance.getEntriesByType("resource").map((e) => new URL(e.name).pathname)'
        )
    )
    sizes = {path: travelled(talk.server, path) for path in loaded if not path.startswith("/api/")}
    assert sizes.keys() >= {"/", "/static/talk.css", "/static/talk.js", "/static/icon.svg"}
    assert 0 < sum(sizes.values()) <= PAGE_LIMIT, sizes


def test_the_raters_cookie_is_out_of_reach_of_scripts_and_of_other_sites(talk: Talk) -> None:
    (cookie,) = talk.page.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Lax"
    assert talk.page.evaluate("document.cookie") == ""
