"""A language model beside AudioBot: its words when they hold, the answer without it when not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from audiobot.answering import language_model
from audiobot.errors import LanguageModelError
from audiobot.ports import Passage
from tests.models import (
    REAL_NAME,
    TALKER_NAME,
    Talker,
    completion,
    free_port,
    real_model,
    says,
    talking,
)
from tests.servers import Server, serving

QUESTION = "Сколько стоит уборка подъезда в пятиэтажном доме?"
GOOD = "Уборка одного подъезда в таком доме стоит 3 200 ₽ в месяц на тарифе «Стандарт»."
DEADLINE = 2.0
GRACE = 2.0
OWN_NAMES = {"retrieval", "handover", "small_talk", "correction", "error"}


def ask_in_time(server: Server, message: str = QUESTION, deadline: float = DEADLINE) -> dict:
    started = time.monotonic()
    told = server.ask(message)
    assert time.monotonic() - started < deadline + GRACE
    return told


def assert_stored(server: Server, told: dict) -> None:
    """What was told is what is kept."""
    assert server.rate(told["log_id"], 5).status_code == 200
    rows = server.client.get("/api/learning/export").json()["data"]
    mine = [row for row in rows if row["metadata"]["session_id"] == told["session_id"]]
    if told["outcome"] == "answered":
        assert [row["messages"][1]["content"] for row in mine] == [told["response"]]


@pytest.fixture(scope="module")
def talker() -> Iterator[Talker]:
    with talking() as running:
        yield running


@pytest.fixture(scope="module")
def bot(talker: Talker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """AudioBot with the talker as its model."""
    with serving(
        tmp_path_factory.mktemp("bot") / "data",
        AUDIOBOT_LLM_BASE_URL=talker.base_url,
        AUDIOBOT_LLM_MODEL=TALKER_NAME,
        AUDIOBOT_LLM_TIMEOUT=str(DEADLINE),
        AUDIOBOT_LLM_API_KEY="sesame-key-77",
    ) as running:
        running.wait_for_meaning()
        yield running


@pytest.fixture(scope="module")
def retrieved(bot: Server, talker: Talker) -> str:
    """The answer without a model."""
    talker.reply = says(completion("NOT_FOUND"))
    return str(bot.ask(QUESTION)["response"])


@pytest.fixture(autouse=True)
def circuit_closed(bot: Server, talker: Talker, retrieved: str) -> None:
    """Before each test the model gives a good answer, which AudioBot tells."""
    talker.reply = says(completion(GOOD))
    told = bot.ask(QUESTION)
    assert (told["response"], told["model_used"]) == (GOOD, TALKER_NAME)


def test_words_that_rest_on_the_passages_are_told_and_stored_under_the_models_name(
    bot: Server, talker: Talker
) -> None:
    told = bot.ask(QUESTION)
    assert (told["response"], told["model_used"], told["outcome"]) == (
        GOOD, TALKER_NAME, "answered",
    )  # fmt: skip
    assert told["learning_improved"] is False
    assert told["sources"]
    assert_stored(bot, told)
    sent = talker.asked[-1]
    assert sent["model"] == TALKER_NAME
    assert sent["messages"][-1] == {"role": "user", "content": QUESTION}
    assert "3 200 ₽" in sent["messages"][0]["content"]
    assert bot.health()["services"]["llm"] is True


def test_small_talk_never_asks_the_model(bot: Server, talker: Talker) -> None:
    before = len(talker.asked)
    assert bot.ask("привет")["model_used"] == "small_talk"
    assert len(talker.asked) == before


def test_when_the_model_finds_nothing_in_the_passages_the_answer_is_the_one_without_it(
    bot: Server, talker: Talker, retrieved: str
) -> None:
    talker.reply = says(completion("NOT_FOUND"))
    assert bot.ask(QUESTION)["response"] == retrieved
    far = bot.ask("Где купить билет на поезд до Владивостока?")
    assert (far["outcome"], far["model_used"]) == ("handed_over", "handover")


def praised(server: Server) -> list[dict]:
    return list(server.client.get("/api/learning/praised").json()["praised"])


def test_well_rated_words_of_a_model_are_learned_when_an_operator_approves_them(
    bot: Server, talker: Talker
) -> None:
    question = "Сколько берёте за уборку пятиэтажного подъезда?"
    talker.reply = says(completion("NOT_FOUND"))
    retrieved = bot.ask(question)["response"]
    talker.reply = says(completion(GOOD))
    told = [bot.ask(question) for _ in range(3)]
    for person, turn in enumerate(told):
        headers = {"X-Forwarded-For": f"203.0.113.{person}"}  # strangers, each another one
        body = {"log_id": turn["log_id"], "rating": 5}
        answer = bot.client.post("/api/voice/feedback", json=body, headers=headers)
        assert answer.status_code == 200
    time.sleep(0.5)
    talker.reply = says(completion("NOT_FOUND"))
    again = bot.ask(question)  # no stars make them the bot's own words
    assert (again["response"], again["learning_improved"]) == (retrieved, False)
    (found,) = (p for p in praised(bot) if told[0]["log_id"] in p["log_ids"])
    assert (found["ai_response"], found["user_message"]) == (GOOD, question)
    assert found["raters"] == 3
    assert not found["quarantined"]
    lesson = {"answer": GOOD, "wordings": [question], "log_ids": found["log_ids"]}
    kept = bot.client.post("/api/learning/corrections", json=lesson)
    assert kept.status_code == 200, kept.text
    assert bot.ask(question)["response"] == GOOD
    assert not any(told[0]["log_id"] in p["log_ids"] for p in praised(bot))
    named = f"/api/learning/corrections/{kept.json()['correction']['correction_id']}"
    assert bot.client.delete(named).status_code == 200
    assert any(told[0]["log_id"] in p["log_ids"] for p in praised(bot))


def test_the_operators_page_offers_a_models_well_rated_words_and_takes_no_for_an_answer(
    bot: Server,
) -> None:
    told = bot.ask("Почём уборка подъезда, если этажей пять?")
    assert told["response"] == GOOD
    assert bot.rate(told["log_id"], 4).status_code == 200

    def offered() -> list[dict]:
        return [found for found in praised(bot) if told["log_id"] in found["log_ids"]]

    page = bot.client.get("/console/answers").text
    path = f"/console/praised/{offered()[0]['praise_id']}"
    assert "Удачные слова языковой модели" in page
    assert path in page
    form = bot.client.get(path).text
    assert GOOD in form
    assert "Почём уборка подъезда, если этажей пять?" in form
    proof = page.partition('"X-CSRF-Token": "')[2].partition('"')[0]
    headers = {"X-CSRF-Token": proof, "Content-Type": "application/x-www-form-urlencoded"}
    gone = bot.client.post(f"{path}/dismiss", content="", headers=headers)
    assert "Слова модели отклонены" in gone.text
    assert not offered()
    assert "На этот вопрос уже ответили" in bot.client.get(path).text
    # The turn itself is not out of sight: rated low it waits like any other.
    assert bot.rate(told["log_id"], 1).status_code == 200
    turns = bot.client.get("/api/learning/inbox").json()["turns"]
    assert told["log_id"] in [turn["log_id"] for turn in turns]
    assert bot.rate(told["log_id"], 5).status_code == 200
    assert bot.client.post(f"{path}/back", content="", headers=headers).status_code == 200
    assert offered()


def test_what_an_operator_taught_is_told_to_the_letter(bot: Server, talker: Talker) -> None:
    answer = "Самокаты у подъезда вывозим мы сами, по средам, бесплатно."
    lesson = {"answer": answer, "wordings": ["Кто вывозит самокаты?"]}
    kept = bot.client.post("/api/learning/corrections", json=lesson).json()["correction"]
    before = len(talker.asked)
    for message in ("Кто вывозит самокаты?", "Здравствуйте! Скажите, кто вывозит самокаты?"):
        told = bot.ask(message)
        assert (told["response"], told["model_used"]) == (answer, "correction")
        assert told["learning_improved"] is True
        assert [s["kind"] for s in told["sources"]] == ["correction"]
    assert len(talker.asked) == before
    named = f"/api/learning/corrections/{kept['correction_id']}"
    assert bot.client.delete(named).status_code == 200


def closes(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def closes_midway(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + completion(GOOD)[:40])
    handler.wfile.flush()
    handler.connection.close()


def never_ends(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    started = time.monotonic()
    while time.monotonic() - started < 30:
        handler.wfile.write(b" " * 65_536)


def says_nothing(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.settimeout(30)
    handler.rfile.read(1)  # until the client gives up


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    handler.connection.close()


GARBAGE: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "an empty body": says(b""),
    "html": says(b"<html><body>Login</body></html>", kind="text/html"),
    "html that claims to be json": says(b"<html>"),
    "another object": says(b"{}"),
    "null": says(b"null"),
    "a list": says(b"[]"),
    "a string": says(b'"hello"'),
    "no choices": says(completion(GOOD, choices=[])),
    "choices that are null": says(completion(GOOD, choices=None)),
    "choices of another kind": says(completion(GOOD, choices="none")),
    "a choice that is null": says(completion(GOOD, choices=[None])),
    "a message that is null": says(completion(GOOD, choices=[{"message": None}])),
    "a message that is text": says(completion(GOOD, choices=[{"message": GOOD}])),
    "words that are null": says(completion(None)),
    "words that are empty": says(completion(" \n ")),
    "words that are a number": says(completion(5)),
    "words that are a list": says(completion([{"type": "text", "text": GOOD}])),
    "broken json": says(completion(GOOD)[:-5]),
    "broken utf-8": says(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}'),
    "deep json": says(b"[" * 100_000),
    "a lone surrogate": says(completion(GOOD + " \ud800")),
    "nul": says(completion(GOOD + "\x00")),
    "another language": says(completion("Cleaning the entrance costs a lot of money per month.")),
    "an invented number": says(completion("Уборка подъезда стоит 9 999 ₽ в месяц.")),
    "an invented date": says(completion("Приедем 31 февраля 2077 года.")),
    "endless words": says(completion("слово за слово " * 100_000)),
    "repetition": says(completion("да " * 100)),
    "status 500": says(b'{"error": "x"}', 500),
    "status 429 with a long wait": says(b"{}", 429, Retry_After="50"),
    "status 401": says(b'{"error": {"message": "sesame-key-77"}}', 401),
    "status 404": says(b"", 404),
    "a redirect to itself": says(b"", 307, Location="/v1/chat/completions"),
    "a false content encoding": says(completion(GOOD), Content_Encoding="gzip"),
    "a closed socket": closes,
    "a socket closed midway": closes_midway,
    "a body without an end": never_ends,
    "silence": says_nothing,
    "something that is not http": no_http,
}


@pytest.mark.parametrize("reply", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_model_that_talks_garbage_costs_its_deadline_at_most_and_never_an_answer(
    bot: Server, talker: Talker, retrieved: str, reply: Callable[[BaseHTTPRequestHandler], None]
) -> None:
    before, log = len(talker.asked), len(bot.log)
    talker.reply = reply
    told = ask_in_time(bot)
    assert len(talker.asked) > before, "the model was not asked at all"
    assert (told["response"], told["model_used"]) == (retrieved, "retrieval")
    assert "request failed" not in bot.log[log:]
    assert "sesame-key-77" not in bot.log


ODD_NAMES = [None, 5, "", "a" * 100_000, "a\x00b", "\ud800", {}, *sorted(OWN_NAMES)]
ODD_USAGE = [None, 5, "x", [], {}, {"completion_tokens": "x"}, {"completion_tokens": 10**40}]


@pytest.mark.parametrize(
    "changes",
    [*({"model": name} for name in ODD_NAMES), *({"usage": usage} for usage in ODD_USAGE)],
    ids=lambda changes: repr(changes)[:40],
)
def test_an_odd_name_or_count_of_the_models_own_never_becomes_a_lie_or_an_error(
    bot: Server, talker: Talker, retrieved: str, changes: dict[str, object]
) -> None:
    talker.reply = says(completion(GOOD, **changes))
    told = ask_in_time(bot)
    if told["response"] == GOOD:
        assert told["model_used"] not in OWN_NAMES
        assert 1 <= len(told["model_used"]) <= 200
        assert "\x00" not in told["model_used"]
    else:
        assert (told["response"], told["model_used"]) == (retrieved, "retrieval")
    assert_stored(bot, told)


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:{port}/v1"])
def test_health_says_that_a_model_which_is_not_there_cannot_be_used(
    tmp_path: Path, base_url: str
) -> None:
    url = base_url.format(port=free_port())
    with serving(tmp_path / "data", AUDIOBOT_LLM_BASE_URL=url, AUDIOBOT_LLM_MODEL="m") as server:
        deadline = time.monotonic() + 10
        while server.health()["services"]["llm"]:
            assert time.monotonic() < deadline, "health calls a model usable that never answered"
            time.sleep(0.05)
        server.kill()


async def test_a_real_small_model_gives_words_that_hold_or_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(language_model, "MAX_TOKENS", 24)
    passages = [Passage("Windows", "Windows in the entrance are washed in April and October.")]
    question = "When are the windows washed?"
    with real_model() as running:
        model = language_model.OpenAICompatibleModel(running.base_url, REAL_NAME, None, deadline=30)
        assert await model.check()
        for _ in range(2):
            try:
                completion = await model.complete(question, passages, "en")
            except LanguageModelError:
                continue  # refused by the checks
            if completion is not None:
                assert language_model.find_fault(completion.text, question, passages, "en") is None
                assert completion.model == REAL_NAME
                assert completion.token_count in range(1, 25)
        await model.close()


def test_a_real_small_model_may_be_slow_freeze_come_back_and_die(tmp_path: Path) -> None:
    with (
        real_model() as model,
        serving(
            tmp_path / "data",
            AUDIOBOT_LLM_BASE_URL=model.base_url,
            AUDIOBOT_LLM_MODEL=REAL_NAME,
            AUDIOBOT_LLM_TIMEOUT=str(DEADLINE),
        ) as server,
    ):
        server.wait_for_meaning()
        told = ask_in_time(server)
        assert told["outcome"] == "answered"
        assert told["model_used"] in {REAL_NAME, "retrieval"}
        assert_stored(server, told)
        for end in (model.freeze, model.kill):
            end()
            for _ in range(3):
                assert ask_in_time(server)["model_used"] == "retrieval"
            assert server.health()["services"]["llm"] is False
            if end == model.freeze:
                model.thaw()
                deadline = time.monotonic() + 45
                while not server.health()["services"]["llm"]:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
