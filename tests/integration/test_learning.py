"""It learns over HTTP: corrections and ratings, what they change, and that the receipt is true."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.conformance.local import opened
from tests.conftest import Home
from tests.integration.conftest import MODE
from tests.servers import Server, serving

PARKING = "Можно ли оставить велосипед в тамбуре у почтовых ящиков?"
PARAPHRASE = "Можно ли оставить велосипед у почтовых ящиков в тамбуре на ночь?"
NO_BIKES = "Велосипед в тамбуре у почтовых ящиков оставлять нельзя, он мешает уборке подъезда."
ODD = "песок с ботинок на лестнице часто выметают у нас"
EXACT = "Как часто моют окна в подъезде?"
UNUSUAL = "почём полы помыть в пятиэтажке"
ALIKE = "в кабине липкий пол, когда помоют?"


@pytest.fixture(scope="module")
def bot(home: Home, tmp_path_factory: pytest.TempPathFactory, cluster) -> Iterator[Server]:
    """A server with the sample company."""
    from tests.conftest import settled

    with settled(home, cluster) as settings:
        data = tmp_path_factory.mktemp(f"bot-{home}") / "data"
        with serving(data, **settings) as running:
            running.wait_for_mode(MODE[home])
            running.wait_for_meaning()
            yield running


def correct(bot: Server, answer: str, *wordings: str) -> str:
    body = {"answer": answer, "wordings": list(wordings)}
    response = bot.client.post("/api/learning/corrections", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["correction"]["correction_id"])


def withdraw(bot: Server, name: str) -> None:
    assert bot.client.delete(f"/api/learning/corrections/{name}").status_code == 200


def eventually(holds, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def test_two_that_stand_close_are_asked_back_and_the_choice_is_answered(bot: Server) -> None:
    told = bot.ask(ALIKE)
    assert told["outcome"] == "asked"
    titles = [line["title"] for line in told["sources"]]
    assert len(titles) == 2
    assert all(title in told["response"] for title in titles)
    assert 0 < told["confidence"] <= 1
    for title in titles:
        assert bot.ask(title)["outcome"] == "answered"
    assert bot.rate(told["log_id"], 5).json()["will_be_used_for_training"] is False


def test_an_operators_answer_is_told_to_the_letter_and_found_by_who_asks_otherwise(
    bot: Server,
) -> None:
    before = [bot.ask(question) for question in (PARKING, PARAPHRASE)]
    assert all(told["response"] != NO_BIKES for told in before)
    name = correct(bot, NO_BIKES, PARKING)
    # From the reply on: nothing is waited for.
    told = bot.ask(PARKING.upper())
    assert (told["response"], told["model_used"]) == (NO_BIKES, "correction")
    assert (told["outcome"], told["learning_improved"]) == ("answered", True)
    assert told["similar_found"] >= 1
    assert told["confidence"] == 0.99
    assert [(line["kind"], line["ids"]) for line in told["sources"]] == [("correction", [name])]
    eventually(lambda: bot.ask(PARAPHRASE)["response"] == NO_BIKES)  # a busy machine takes longer
    other = bot.ask(PARAPHRASE)
    assert (other["response"], other["model_used"]) == (NO_BIKES, "correction")
    assert 0.5 < other["confidence"] <= 0.99
    # Taken away, everything is as it was: the receipt was true.
    withdraw(bot, name)
    fields = ("response", "outcome", "confidence", "sources")

    def as_it_was() -> bool:
        again = [bot.ask(question) for question in (PARKING, PARAPHRASE)]
        return [[t[f] for f in fields] for t in again] == [[t[f] for f in fields] for t in before]

    eventually(as_it_was)


def test_a_correction_stands_before_built_in_replies_and_known_answers(bot: Server) -> None:
    thanks, windows = bot.ask("спасибо")["response"], bot.ask(EXACT)["response"]
    names = [
        correct(bot, "Пожалуйста, обращайтесь к нам ещё.", "Спасибо!"),
        correct(bot, "Окна в подъезде в этом году моем в июне.", EXACT),
    ]
    assert bot.ask("спасибо")["response"] == "Пожалуйста, обращайтесь к нам ещё."
    assert bot.ask(EXACT)["response"] == "Окна в подъезде в этом году моем в июне."
    for name in names:
        withdraw(bot, name)
    eventually(lambda: bot.ask(EXACT)["response"] == windows)
    assert bot.ask("спасибо")["response"] == thanks


def test_a_strangers_better_answer_changes_nothing(bot: Server) -> None:
    told = bot.ask(EXACT)
    headers = {"X-Forwarded-For": "203.0.113.9"}  # no longer a first try on one's own machine
    body = {"log_id": told["log_id"], "rating": 3, "corrected_response": "Никогда."}
    assert bot.client.post("/api/voice/feedback", json=body, headers=headers).status_code == 200
    time.sleep(0.5)
    assert bot.ask(EXACT)["response"] == told["response"]


def test_the_dialogues_on_the_receipt_carry_the_answer(bot: Server) -> None:
    before = bot.ask(UNUSUAL)
    assert before["outcome"] == "answered"
    bot.rate(before["log_id"], 5)
    after: dict = {}

    def named() -> bool:
        after.update(bot.ask(UNUSUAL))
        return any(line["kind"] == "dialogues" for line in after["sources"])

    eventually(named)
    assert after["response"] == before["response"]
    assert after["confidence"] > before["confidence"]
    line = next(line for line in after["sources"] if line["kind"] == "dialogues")
    assert line["ids"] == [before["log_id"]]
    assert (line["dialogues"], line["raters"]) == (1, 1)
    bot.rate(before["log_id"], 1)  # taken away, it is no longer named, and was missed
    eventually(lambda: not any(s["kind"] == "dialogues" for s in bot.ask(UNUSUAL)["sources"]))
    again = bot.ask(UNUSUAL)
    assert (again["response"], again["confidence"]) != (after["response"], after["confidence"])


def test_stars_for_an_answer_to_its_own_words_are_on_no_receipt(bot: Server) -> None:
    """They change nothing there, so they are not named."""
    title = bot.ask(ALIKE)["sources"][0]["title"]
    before = bot.ask(title)
    seen = bot.stats()["last_learning_update"]
    bot.rate(before["log_id"], 5)
    eventually(lambda: bot.stats()["last_learning_update"] != seen)
    after = bot.ask(title)
    fields = ("response", "confidence", "sources", "similar_found", "learning_improved")
    assert [after[f] for f in fields] == [before[f] for f in fields]
    assert after["learning_improved"] is False


@pytest.mark.parametrize("home", ["journal"], indirect=True)
async def test_every_turn_keeps_what_it_weighed(tmp_path: Path, home: Home) -> None:
    def ask() -> UUID:
        with serving(tmp_path / "data") as server:
            server.wait_for_meaning()
            return UUID(server.ask(ODD)["log_id"])

    log_id = await asyncio.to_thread(ask)
    async with opened(tmp_path / "data") as store:
        kept = await store.get_conversation(log_id)
    assert kept is not None
    scores = [candidate.score for candidate in kept.candidates]
    assert len(scores) > 1
    assert scores == sorted(scores, reverse=True)
    assert kept.propensity == 1.0
    assert kept.embedding is not None
    assert kept.versions["encoder"] == kept.embedding.model
    assert all(kept.versions.values())


@pytest.mark.parametrize("home", ["journal"], indirect=True)
def test_what_was_learned_survives_a_restart(tmp_path: Path, home: Home) -> None:
    with serving(tmp_path / "data") as server:
        server.wait_for_meaning()
        correct(server, NO_BIKES, PARKING)
        stamp = server.stats()["last_learning_update"]
        assert stamp is not None
    with serving(tmp_path / "data") as server:
        # Pinned before the encoder is there.
        assert server.ask(PARKING)["response"] == NO_BIKES
        server.wait_for_meaning()
        eventually(lambda: server.ask(PARAPHRASE)["response"] == NO_BIKES)
        assert server.stats()["last_learning_update"] == stamp


@pytest.mark.parametrize("home", ["journal"], indirect=True)
def test_ratings_that_fall_bring_a_fit_and_an_evaluation_by_themselves(
    tmp_path: Path, home: Home
) -> None:
    with serving(tmp_path / "data") as server:
        server.wait_for_meaning()
        for n in range(21):
            server.rate(server.ask(EXACT)["log_id"], 1 if n else 5)
        eventually(lambda: "fitted anew and evaluated" in server.log, 40)
        line = next(row for row in server.log.splitlines() if "fitted anew" in row)
        assert "RETRAINING_THRESHOLD" in line
        assert "held_out_questions" in line


def test_the_fewer_errors_are_allowed_the_more_is_handed_over(tmp_path: Path) -> None:
    outcomes = {}
    for rate in ("0", "1"):
        with serving(tmp_path / rate, AUDIOBOT_ERROR_RATE=rate) as server:
            server.wait_for_meaning()
            outcomes[rate] = [server.ask(question)["outcome"] for question in (ODD, PARKING)]
    assert outcomes == {"0": ["handed_over"] * 2, "1": ["answered"] * 2}
