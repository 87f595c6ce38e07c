"""The receipt: what stands behind an answer, never more people than are known to be."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from audiobot.answering.beliefs import Belief
from audiobot.answering.learner import exemplar_of
from audiobot.answering.ranking import Ranked
from audiobot.answering.recall import Exemplar
from audiobot.answering.replying import receipt, worded
from audiobot.domain import Conversation, KnowledgeItem
from audiobot.ports import Completion, Reply

pytestmark = pytest.mark.unit
ITEM = KnowledgeItem(item_id="a", title="Окна", answer="Моем весной.", questions=("Когда?",))
NOW = datetime.now(UTC)


def ranked(*raters: str | None, item: KnowledgeItem = ITEM) -> Ranked:
    said = tuple(Exemplar(uuid.uuid4(), item.item_id, 5, NOW, rater) for rater in raters)
    return Ranked(item, 1.0, Belief(0.5, said))


@pytest.mark.parametrize(
    ("raters", "counted"),
    [
        (["x"], 1),
        (["x", "x", "x"], 1),
        (["x", "y", "x"], 2),
        ([None], 1),
        ([None, None], 1),
        ([None, "x", "y", None], 2),
    ],
)
def test_one_rater_of_many_dialogues_is_one_and_unknown_ones_add_nobody(
    raters: list[str | None], counted: int
) -> None:
    line = receipt(ranked(*raters), (), "ru")[1]
    assert (line.dialogues, line.raters) == (len(raters), counted)


def test_an_operators_answer_says_so_and_shows_nobodys_question() -> None:
    taught = (uuid.uuid4(),)
    nameless = KnowledgeItem(item_id="b", title="", answer="Да.", questions=("секрет",))
    lines = receipt(ranked("x", item=nameless), taught, "en")
    assert [(line.kind, line.title) for line in lines] == [
        ("correction", "An operator's answer"),
        ("dialogues", "An operator's answer"),
    ]
    assert lines[0].ids == (str(taught[0]),)


def test_who_rated_a_dialogue_comes_from_the_dialogue() -> None:
    kept = Conversation(
        log_id=uuid.uuid4(),
        session_id="s",
        user_message="когда",
        ai_response="Моем весной.",
        created_at=NOW,
        rating=5,
        rater="x",
    )
    assert exemplar_of(kept).rater == "x"


def test_a_models_words_name_the_operators_answers_that_they_were_made_of() -> None:
    imported = KnowledgeItem(item_id="i", title="Окна", answer="Моем в мае.", questions=("Окна?",))
    taught = KnowledgeItem(item_id="t", title="", answer="По средам.", questions=("Самокаты?",))
    correction = uuid.UUID(int=7)
    told = worded(
        Reply(text="otherwise"),
        Completion("В мае и по средам.", "model", 9),
        [imported, taught],
        {"t": [correction]},
        "ru",
    )
    assert [(s.kind, s.ids) for s in told.sources] == [
        ("knowledge", ("i",)),
        ("correction", (str(correction),)),
    ]
    assert told.sources[1].title
