"""The console over HTTP: who may come in, what a form does, what each bad one ends in."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from audiobot.http.sessions import SESSION_SECONDS, Session, Sessions
from audiobot.storage.directory import KeySet
from tests.conftest import Home, settled
from tests.integration.conftest import MODE
from tests.integration.operator import Fields, Visiting, Visitor, fields_of, visitors, words_of
from tests.integration.raw import MARK, head, send, send_until_answered
from tests.servers import Server, serving

TOKEN = "operator-token-Hedgehog-42"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ANSWER = "Самокаты и коляски в подъезде мы не убираем."
POSTS = [
    "/console/answers", "/console/inbox/preview", "/console/inbox/dismiss", "/console/inbox/back",
    f"/console/answers/{uuid.UUID(int=1)}/withdraw", "/console/sign-out",
    f"/console/answers/{uuid.UUID(int=1)}/restore", f"/console/answers/{uuid.UUID(int=1)}/back",
    f"/console/suggestions/{uuid.UUID(int=1)}/dismiss",
    f"/console/suggestions/{uuid.UUID(int=1)}/back",
]  # fmt: skip


@pytest.fixture(scope="module")
def desk(home: Home, tmp_path_factory: pytest.TempPathFactory, cluster) -> Iterator[Server]:
    """A server that wants its operator's token, with no knowledge at all."""
    with settled(home, cluster) as settings:
        data = tmp_path_factory.mktemp(f"console-{home}") / "data"
        more = {"AUDIOBOT_OPERATOR_TOKEN": TOKEN, "AUDIOBOT_KNOWLEDGE": "none", **settings}
        with serving(data, **more) as running:
            running.wait_for_mode(MODE[home])
            running.wait_for_meaning()
            yield running
        assert not re.search("Traceback|request failed|never retrieved", running.log), running.log
        assert TOKEN not in running.log
        assert MARK not in running.log


@pytest.fixture
def visit() -> Iterator[Visiting]:
    """Lets in whoever the test needs."""
    with visitors() as visiting:
        yield visiting


@pytest.fixture
def operator(desk: Server, visit: Visiting) -> Visitor:
    visitor = visit(desk)
    assert visitor.sign_in(TOKEN).status_code == 303
    return visitor


@pytest.fixture
def colleague(desk: Server, visit: Visiting) -> Visitor:
    visitor = visit(desk)
    visitor.sign_in(TOKEN)
    return visitor


@pytest.fixture
def question(desk: Server) -> str:
    """One that nobody asked before; nothing waits that asks the like, and no answer fits it."""
    for name in answers(desk):
        path = f"/api/learning/corrections/{name}"
        assert desk.client.delete(path, headers=BEARER).status_code == 200
    # It is taken up in the background, and what is withdrawn waits again.
    deadline = time.monotonic() + 30
    while desk.ask("Уберёте ли вы самокат из подъезда?")["outcome"] != "handed_over":
        assert time.monotonic() < deadline
    if left := list(waiting(desk)):
        body = {"log_ids": left}
        path = "/api/learning/inbox/dismiss"
        assert desk.client.post(path, json=body, headers=BEARER).status_code == 200
    return f"Уберёте ли вы самокат номер {uuid.uuid4().hex[:6]} из подъезда?"


def api(desk: Server, path: str, **params: object) -> dict:
    response = desk.client.get(f"/api/learning/{path}", headers=BEARER, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def waiting(desk: Server) -> set[str]:
    return {turn["log_id"] for turn in api(desk, "inbox", limit=500)["turns"]}


def answers(desk: Server) -> dict[str, dict]:
    return {c["correction_id"]: c for c in api(desk, "corrections")["corrections"]}


def settling(desk: Server, log_id: str) -> dict:
    (found,) = [c for c in answers(desk).values() if log_id in c["log_ids"]]
    return found


# -- the door


def test_a_stranger_is_sent_to_sign_in_and_told_so_on_a_page_left_open(
    desk: Server, visit: Visiting
) -> None:
    stranger = visit(desk)
    for path in ("/console", "/console/answers"):
        response = stranger.get(path)
        assert (response.status_code, response.headers["location"]) == (303, "/console/sign-in")
    for path in ("/console/inbox/news?since=0", f"/console/inbox/{uuid.UUID(int=1)}"):
        response = stranger.get(path)
        assert response.status_code == 401
        assert words_of(response).startswith("Сеанс закончился. Войдите снова")
        assert response.headers["hx-retarget"] == "#notice"
    for path in POSTS:
        assert stranger.post(path, answer=MARK).status_code == 401


def test_a_slash_at_the_end_leads_to_the_page_wherever_a_proxy_has_it(
    desk: Server, visit: Visiting
) -> None:
    response = visit(desk).get("/console/")
    assert (response.status_code, response.headers["location"]) == (303, "/console")


def test_the_token_opens_the_console_and_nothing_else_does(desk: Server, visit: Visiting) -> None:
    visitor = visit(desk)
    visitor.get("/console/sign-in")
    for wrong in ("", TOKEN[:-1], TOKEN.upper(), MARK, "x" * 10_000):
        response = visitor.post("/console/sign-in", token=wrong)
        assert response.status_code == 401
        assert "Это не тот токен" in words_of(response)
        assert MARK not in response.text
        assert visitor.get("/console").status_code == 303
    response = visitor.post("/console/sign-in", token=f" {TOKEN}\n")
    assert (response.status_code, response.headers["location"]) == (303, "/console")
    flags = response.headers["set-cookie"].lower()
    assert "httponly" in flags
    assert "samesite=strict" in flags
    assert "path=/;" in flags
    assert TOKEN not in response.headers["set-cookie"]
    assert visitor.get("/console").status_code == 200


def test_signing_out_ends_the_session_of_this_browser(operator: Visitor) -> None:
    assert operator.post("/console/sign-out").status_code == 303
    assert operator.get("/console").status_code == 303


def test_a_link_on_another_site_signs_nobody_out(
    desk: Server, operator: Visitor, visit: Visiting
) -> None:
    without_cookies = visit(desk)  # as a browser follows such a link: strict cookies stay behind
    for path in ("/console", "/console/sign-in"):
        without_cookies.get(path, **{"Sec-Fetch-Site": "cross-site"})
    operator.client.cookies.update(without_cookies.client.cookies)
    assert operator.get("/console").status_code == 200
    # The form where the link led to was made for nobody; whoever is in already goes on.
    operator.proof = without_cookies.proof
    response = operator.post("/console/sign-in", token="")
    assert (response.status_code, response.headers["location"]) == (303, "/console")
    operator.get("/console")
    assert operator.post("/console/sign-out").status_code == 303
    assert operator.get("/console").status_code == 303


def session_cookie(desk: Server, session: Session) -> str:
    key = KeySet(desk.data_dir / "keys.json", None).raters
    return Sessions(key, TOKEN).cookie(session)


def test_a_forged_or_expired_session_opens_nothing(
    desk: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = session_cookie(desk, Session("name", True))
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("itsdangerous.timed.time.time", lambda: now - SESSION_SECONDS - 60)
        expired = session_cookie(desk, Session("name", True))
    forged = Sessions(b"another key", TOKEN).cookie(Session("name", True))
    for cookie, status in ((good, 200), (expired, 303), (forged, 303), (good[:-2], 303), ("", 303)):
        headers = {"Cookie": f"audiobot_operator={cookie}"}
        assert desk.client.get("/console", headers=headers).status_code == status


def test_a_session_is_an_operators_for_the_api_too_but_not_from_another_site(
    operator: Visitor,
) -> None:
    assert operator.get("/api/learning/inbox").status_code == 200
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site}
        assert operator.client.get("/api/learning/inbox", headers=headers).status_code == 401
    elsewhere = {"Origin": "https://evil.example"}
    body = {"log_ids": [str(uuid.UUID(int=1))]}
    path = "/api/learning/inbox/dismiss"
    assert operator.client.post(path, json=body, headers=elsewhere).status_code == 401


@pytest.mark.parametrize("path", POSTS)
def test_a_form_without_its_proof_changes_nothing(
    desk: Server, operator: Visitor, colleague: Visitor, path: str, question: str
) -> None:
    log_id = desk.ask(question)["log_id"]
    before = answers(desk)
    for proof in ("", "0" * 64, colleague.proof):
        response = operator.post(
            path, proof, answer=ANSWER, wordings=question, log_id=log_id, kind="group"
        )
        assert response.status_code == 403
        assert "ничего не изменено" in words_of(response)
        assert operator.proof in response.headers["hx-trigger"]
    assert answers(desk) == before
    assert log_id in waiting(desk)
    assert operator.get("/console").status_code == 200


def test_every_page_bears_the_policy_and_is_kept_by_no_browser(
    desk: Server, operator: Visitor, visit: Visiting, question: str
) -> None:
    log_id = desk.ask(question)["log_id"]
    paths = ("/console", "/console/answers", "/console/sign-in", f"/console/inbox/{log_id}")
    for visitor in (operator, visit(desk)):
        for path in paths:
            response = visitor.get(path)
            if response.status_code == 303:
                continue
            policy = response.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert response.headers["cache-control"] == "no-store"
            assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", response.text) == []
            assert re.findall(r"<script(?![^>]*\ssrc=)", response.text) == []


# -- the inbox


def test_a_group_is_answered_and_the_answer_can_be_taken_back(
    desk: Server, operator: Visitor, question: str
) -> None:
    ids = [desk.ask(question)["log_id"] for _ in range(3)]
    desk.rate(ids[1], 1, feedback_text="Мимо & <b>мимо</b>")
    page = operator.get("/console")
    assert question in page.text
    assert "3 раза" in page.text
    fields = operator.opened(ids[2])
    assert fields["log_id"] == ids
    assert fields["wordings"] == question
    assert "Мимо &amp; &lt;b&gt;мимо&lt;/b&gt;" in operator.get(f"/console/inbox/{ids[0]}").text
    fields["answer"] = f"{ANSWER}\r\nСовсем."
    response = operator.post("/console/answers", **fields)
    assert response.status_code == 200
    assert "Сохранено: бот ответит так на 3 вопроса." in words_of(response)
    assert f'id="card-{ids[0]}" hx-swap-oob="delete"' in response.text
    kept = settling(desk, ids[0])
    assert (kept["answer"], kept["wordings"]) == (f"{ANSWER}\nСовсем.", [question])
    assert kept["log_ids"] == ids
    assert not waiting(desk) & set(ids)
    assert "уже ответили" in words_of(operator.get(f"/console/inbox/{ids[0]}"))
    name = kept["correction_id"]
    undone = operator.post(f"/console/answers/{name}/withdraw", **fields_of(response.text))
    assert "Отменено, всё как было." in words_of(undone)
    assert question in undone.text
    assert waiting(desk) >= set(ids)
    assert name not in answers(desk)


def test_a_preview_says_what_would_change_and_keeps_nothing(
    desk: Server, operator: Visitor, question: str
) -> None:
    desk.ask(question)
    before = answers(desk)
    response = operator.post("/console/inbox/preview", answer=ANSWER, wordings=question)
    assert response.status_code == 200
    assert question in response.text
    assert "Бот ответит так на" in words_of(response)
    empty = operator.post("/console/inbox/preview", answer=" ", wordings=question)
    assert "Начните писать ответ" in words_of(empty)
    refused = operator.post("/console/inbox/preview", answer="Only by the hour", wordings=question)
    assert "Ответ на другом языке" in words_of(refused)
    assert answers(desk) == before


def test_what_is_dismissed_is_gone_until_that_is_undone(
    desk: Server, operator: Visitor, question: str
) -> None:
    log_id = desk.ask(question)["log_id"]
    response = operator.post("/console/inbox/dismiss", **operator.opened(log_id))
    assert "Отклонено: 1 вопрос." in words_of(response)
    assert log_id not in waiting(desk)
    back = operator.post("/console/inbox/back", **fields_of(response.text))
    assert question in back.text
    assert log_id in waiting(desk)


def test_what_came_in_meanwhile_is_told_of(desk: Server, operator: Visitor, question: str) -> None:
    desk.ask(question)
    found = re.search(r"news\?since=([\d.]+)", operator.get("/console").text)
    assert found
    path = f"/console/inbox/news?since={found[1]}"
    assert operator.get(path).text == ""
    for _ in range(2):
        desk.ask(question)
    assert "Новое: 2 вопроса. Показать" in words_of(operator.get(path))
    assert operator.get("/console/inbox/news?since=x").status_code == 422


def test_a_turn_that_gets_its_low_rating_meanwhile_is_told_of(
    desk: Server, operator: Visitor, question: str
) -> None:
    first = desk.ask(question)["log_id"]
    operator.post("/console/answers", **{**operator.opened(first), "answer": ANSWER})
    told = desk.ask(question)
    assert told["response"] == ANSWER
    desk.ask("Кто чинит домофон?")  # waits, and is younger
    found = re.search(r"news\?since=([\d.]+)", operator.get("/console").text)
    assert found
    assert desk.rate(told["log_id"], 1).status_code == 200
    news = operator.get(f"/console/inbox/news?since={found[1]}")
    assert "Новое: 1 вопрос. Показать" in words_of(news)
    found = re.search(r"news\?since=([\d.]+)", operator.get("/console").text)
    assert found
    assert operator.get(f"/console/inbox/news?since={found[1]}").text == ""


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"answer": ""}, 422, "Поле «Правильный ответ» пустое"),
        ({"answer": " \n"}, 422, "Поле «Правильный ответ» пустое"),
        ({"answer": MARK + "ы" * 4_000}, 422, "Поле «Правильный ответ» длиннее 4000 знаков"),
        ({"answer": f"{MARK}\x00"}, 422, "нулевой символ"),
        ({"answer": "Only by the hour, at the desk"}, 422, "Ответ на другом языке"),
        ({"wordings": ""}, 422, "Поле «На какие вопросы отвечает» пустое"),
        ({"wordings": MARK + "ы" * 2_000}, 422, "длиннее 2000 знаков"),
        ({"wordings": "\n".join(f"{MARK} {n}" for n in range(51))}, 422, "больше 50 записей"),
        ({"log_id": MARK}, 404, "Такого диалога AudioBot не вёл"),
        ({"kind": "answer", "correction_id": MARK}, 404, "Такой правки нет"),
        ({"kind": "answer", "seen_version": "-1"}, 422, "неверное значение"),
        ({"kind": "answer", "seen_version": "9" * 5_000}, 422, "неверное значение"),
    ],
)
def test_a_bad_answer_ends_in_a_sentence_and_leaves_the_answers_alone(
    desk: Server, operator: Visitor, question: str, changes: dict, status: int, told: str
) -> None:
    log_id = desk.ask(question)["log_id"]
    before = answers(desk)
    fields = {**operator.opened(log_id), "answer": ANSWER, **changes}
    response = operator.post("/console/answers", **fields)
    assert response.status_code == status, response.text
    assert told in words_of(response)
    assert MARK not in response.text
    assert response.headers["hx-retarget"] == "#notice"
    assert answers(desk) == before
    assert log_id in waiting(desk)


def test_what_the_bot_said_already_is_no_better_answer(
    desk: Server, operator: Visitor, question: str
) -> None:
    told = desk.ask(question)
    fields = {**operator.opened(told["log_id"]), "answer": f" {told['response']} \n"}
    response = operator.post("/console/answers", **fields)
    assert response.status_code == 422
    assert "Это тот же ответ" in words_of(response)
    assert told["log_id"] in waiting(desk)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data; boundary=x", b"--x--", 415),
        ("application/x-www-form-urlencoded", b"answer=%ff", 400),
        ("application/x-www-form-urlencoded", "answer=ы".encode(), 400),
        ("application/x-www-form-urlencoded", b"a=1&" * 3_000, 400),
        ("application/x-www-form-urlencoded", b"a" * (5 << 20), 413),
    ],
)
def test_what_is_no_form_ends_in_a_sentence(
    operator: Visitor, kind: str, body: bytes, status: int
) -> None:
    headers = {"Content-Type": kind, "X-CSRF-Token": operator.proof}
    response = operator.client.post("/console/answers", content=body, headers=headers)
    assert response.status_code == status
    assert len(words_of(response)) > 20


@pytest.mark.parametrize("path", ["/console/sign-in", "/console/sign-out"])
def test_a_large_form_at_the_door_is_refused_before_it_is_read(
    desk: Server, operator: Visitor, path: str
) -> None:
    (cookie,) = operator.client.cookies.jar
    lines = [
        b"Content-Type: application/x-www-form-urlencoded",
        f"X-CSRF-Token: {operator.proof}".encode(),
    ]
    if path == "/console/sign-out":  # for operators; at the other one strangers stand
        lines.append(f"Cookie: {cookie.name}={cookie.value}".encode())
    answer = send(desk, head(path, *lines, b"Content-Length: 16385"))
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    start = head(path, *lines, b"Transfer-Encoding: chunked")
    piece = b"4000\r\n" + b"a" * 0x4000 + b"\r\n"
    sent, answer = send_until_answered(desk, start, piece, 4 << 20)
    assert answer.status == 413
    assert "16384 байт" in answer.text
    assert sent < 3 << 20
    assert operator.get("/console").status_code == 200


def test_two_operators_at_once_the_later_wins_and_is_told_of_the_earlier(
    desk: Server, operator: Visitor, colleague: Visitor, question: str
) -> None:
    ids = [desk.ask(question)["log_id"] for _ in range(2)]
    first, second = operator.opened(ids[0]), colleague.opened(ids[0])
    ids.append(desk.ask(question)["log_id"])
    first["answer"], second["answer"] = "Самокаты убираем мы.", "Самокаты убирает хозяин."
    operator.post("/console/answers", **first)
    response = colleague.post("/console/answers", **second)
    said = words_of(response)
    assert "другой оператор ответил: «Самокаты убираем мы.»" in said
    kept = settling(desk, ids[0])
    assert kept["answer"] == "Самокаты убирает хозяин."
    # The way back is to the earlier answer, not to none.
    undo = fields_of(response.text)
    path = f"/console/answers/{kept['correction_id']}/back"
    assert f'hx-post="{path}"' in response.text
    assert "Отменено" in words_of(colleague.post(path, **undo))
    assert settling(desk, ids[0])["answer"] == "Самокаты убираем мы."
    assert ids[2] in waiting(desk)


def test_an_undo_undoes_no_colleagues_later_answer(
    desk: Server, operator: Visitor, colleague: Visitor, question: str
) -> None:
    log_id = desk.ask(question)["log_id"]
    fields = {**operator.opened(log_id), "answer": ANSWER}
    undo = fields_of(operator.post("/console/answers", **fields).text)
    path = f"/console/answers/{settling(desk, log_id)['correction_id']}"

    def changed(who: Visitor, answer: str) -> Fields:
        edited = fields_of(who.get(path).text)
        return fields_of(who.post("/console/answers", **{**edited, "answer": answer}).text)

    theirs = changed(colleague, "Самокаты вывозит хозяин.")
    said = words_of(operator.post(f"{path}/withdraw", **undo))
    assert "уже изменил этот ответ: «Самокаты вывозит хозяин.»" in said
    assert settling(desk, log_id)["answer"] == "Самокаты вывозит хозяин."
    changed(operator, "Самокаты вывозим мы.")
    assert "«Самокаты вывозим мы.»" in words_of(colleague.post(f"{path}/back", **theirs))
    assert settling(desk, log_id)["answer"] == "Самокаты вывозим мы."
    operator.post(f"{path}/withdraw")
    assert "уже отозвал этот ответ" in words_of(colleague.post(f"{path}/back", **theirs))


def test_an_answer_is_withdrawn_as_it_was_seen_or_not_at_all(
    desk: Server, operator: Visitor, colleague: Visitor, question: str
) -> None:
    log_id = desk.ask(question)["log_id"]
    operator.post("/console/answers", **{**operator.opened(log_id), "answer": ANSWER})
    path = f"/console/answers/{settling(desk, log_id)['correction_id']}"

    def button(who: Visitor) -> Fields:
        page = who.get("/console/answers").text
        sent = re.search(f"\"{path}/withdraw\" hx-vals='(.+?)'", page)
        assert sent
        return json.loads(sent[1])

    seen = button(operator)
    edited = fields_of(colleague.get(path).text) | {"answer": "Самокаты вывозит хозяин."}
    colleague.post("/console/answers", **edited)
    late = operator.post(f"{path}/withdraw", **seen)
    assert "Не отозвано" in words_of(late)
    assert "«Самокаты вывозит хозяин.»" in words_of(late)
    assert settling(desk, log_id)["answer"] == "Самокаты вывозит хозяин."
    seen = button(operator)
    assert "больше не действует" in words_of(colleague.post(f"{path}/withdraw", **seen))
    assert "уже отозвал другой оператор" in words_of(operator.post(f"{path}/withdraw", **seen))


def test_an_answer_to_what_was_just_dismissed_counts_and_says_so(
    desk: Server, operator: Visitor, colleague: Visitor, question: str
) -> None:
    log_id = desk.ask(question)["log_id"]
    fields = {**operator.opened(log_id), "answer": ANSWER}
    colleague.post("/console/inbox/dismiss", **colleague.opened(log_id))
    response = operator.post("/console/answers", **fields)
    assert "другой оператор отклонил эти вопросы" in words_of(response)
    assert settling(desk, log_id)["answer"] == ANSWER


def test_a_dismissal_of_what_was_just_answered_leaves_the_answer_and_says_so(
    desk: Server, operator: Visitor, colleague: Visitor, question: str
) -> None:
    log_id = desk.ask(question)["log_id"]
    fields = operator.opened(log_id)
    colleague.post("/console/answers", **{**colleague.opened(log_id), "answer": ANSWER})
    response = operator.post("/console/inbox/dismiss", **fields)
    assert f"только что ответил другой оператор: «{ANSWER}»" in words_of(response)
    assert settling(desk, log_id)["answer"] == ANSWER
    assert log_id not in waiting(desk)


# -- the answers


def test_an_answer_is_edited_withdrawn_and_brought_back(
    desk: Server, operator: Visitor, question: str
) -> None:
    log_id = desk.ask(question)["log_id"]
    operator.post("/console/answers", **{**operator.opened(log_id), "answer": ANSWER})
    name = settling(desk, log_id)["correction_id"]
    assert ANSWER in operator.get("/console/answers").text
    begun = fields_of(operator.get(f"/console/answers/{name}").text)
    assert (begun["answer"], begun["wordings"]) == (ANSWER, question)
    begun |= {"answer": "Убираем по просьбе.", "wordings": f"{question}\n\n уберёте самокат \n"}
    edited = operator.post("/console/answers", **begun)
    assert "другой оператор" not in words_of(edited)
    kept = settling(desk, log_id)
    assert (kept["correction_id"], kept["answer"]) == (name, "Убираем по просьбе.")
    assert kept["wordings"] == [question, "уберёте самокат"]
    # Whoever began before that is told of it, and wins.
    late = operator.post("/console/answers", **{**begun, "answer": "Убираем за деньги."})
    assert "другой оператор ответил: «Убираем по просьбе.»" in words_of(late)
    operator.post(f"/console/answers/{name}/back", **fields_of(late.text))
    assert settling(desk, log_id)["answer"] == "Убираем по просьбе."
    assert "больше не действует" in words_of(operator.post(f"/console/answers/{name}/withdraw"))
    assert name not in answers(desk)
    assert log_id in waiting(desk)
    assert "снова действует" in words_of(operator.post(f"/console/answers/{name}/restore"))
    assert name in answers(desk)


def test_a_customers_words_are_accepted_by_an_operator_or_dismissed(
    desk: Server, operator: Visitor, question: str
) -> None:
    told = [desk.ask(f"{question} {n}") for n in range(2)]
    words = [f"Самокаты убирает хозяин, {uuid.uuid4().hex[:6]}.", "Звоните +7 999 123-45-67"]
    for asked, text in zip(told, words, strict=True):
        assert desk.rate(asked["log_id"], 2, corrected_response=text).status_code == 200
    found = api(desk, "suggestions", limit=500)["suggestions"]
    named = {s["text"]: s["op_id"] for s in found}
    page = operator.get("/console/answers").text
    assert words[0] in page
    assert "Осторожно: есть ссылка, телефон или брань" in page
    begun = fields_of(operator.get(f"/console/suggestions/{named[words[0]]}").text)
    assert (begun["answer"], begun["wordings"]) == (words[0], f"{question} 0")
    assert not [c for c in answers(desk).values() if c["answer"] == words[0]]
    operator.post("/console/answers", **begun)
    assert settling(desk, told[0]["log_id"])["answer"] == words[0]
    gone = operator.post(f"/console/suggestions/{named[words[1]]}/dismiss")
    assert "Предложение отклонено" in words_of(gone)
    left = {s["text"] for s in api(desk, "suggestions", limit=500)["suggestions"]}
    assert not left & set(words)
    operator.post(f"/console/suggestions/{named[words[1]]}/back")
    left = {s["text"] for s in api(desk, "suggestions", limit=500)["suggestions"]}
    assert words[1] in left
    unknown = operator.get(f"/console/suggestions/{uuid.uuid4()}")
    assert "уже ответили" in words_of(unknown)


# -- for everyone


def test_the_language_is_the_browsers_until_another_is_chosen(
    desk: Server, visit: Visiting
) -> None:
    english = visit(desk, "en")
    english.sign_in(TOKEN)
    assert "Waiting for an answer" in english.get("/console").text
    assert "Ждут ответа" in english.get("/console?lang=ru").text
    assert "Ждут ответа" in english.get("/console").text
    assert '<html lang="en"' in english.get("/console?lang=en").text
    response = english.post("/console/answers", answer="", kind="group")
    assert "The field" in words_of(response)


def test_what_a_person_said_is_text_and_never_markup(desk: Server, operator: Visitor) -> None:
    asked = f'<img src=x onerror=alert(1)> "{uuid.uuid4().hex}" & </textarea><b>'
    told = desk.ask(asked)
    pages = [operator.get("/console").text, operator.get(f"/console/inbox/{told['log_id']}").text]
    for page in pages:
        assert "<img src=x" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
    fields = operator.opened(told["log_id"])
    assert fields["wordings"] == asked
    saved = operator.post("/console/answers", **{**fields, "answer": f"{ANSWER} <i>x</i>"})
    assert "<i>" not in saved.text
    assert "<i>" not in operator.get("/console/answers").text


def test_a_first_try_on_this_machine_needs_no_sign_in_but_its_forms_need_their_proof(
    tmp_path: Path, visit: Visiting
) -> None:
    with serving(tmp_path / "data", AUDIOBOT_KNOWLEDGE="none") as server:
        visitor = visit(server)
        page = visitor.get("/console")
        assert page.status_code == 200
        assert "Всё разобрано" in page.text
        log_id = server.ask("Уберёте ли вы самокат?")["log_id"]
        fields = {**visitor.opened(log_id), "answer": ANSWER}
        proof, visitor.proof = visitor.proof, "0" * 64
        assert visitor.post("/console/answers", **fields).status_code == 403
        visitor.proof = proof
        assert visitor.post("/console/answers", **fields).status_code == 200
        forwarded = {"X-Forwarded-For": "203.0.113.9"}
        outside = server.client.get("/console", headers=forwarded, follow_redirects=True)
        assert "задайте AUDIOBOT_OPERATOR_TOKEN" in outside.text.replace("Задайте", "задайте")
