"""The receipt counts people who rated, never more of them than are known to be."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import numpy as np
import pytest

from audiobot.answering.answer import _exemplar, _receipt
from audiobot.answering.recall import Exemplar, Near
from audiobot.domain import Conversation, KnowledgeItem

ITEM = KnowledgeItem(item_id="a", title="Окна", answer="Моем весной.", questions=("Когда?",))
NOW = datetime.now(UTC)


def near(rater: str | None) -> Near:
    exemplar = Exemplar(uuid.uuid4(), "когда", "a", 5, NOW, rater)
    return Near(exemplar, np.zeros(4, np.float32), 1.0)


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
    line = _receipt(ITEM, [near(rater) for rater in raters])[1]
    assert (line.dialogues, line.raters) == (len(raters), counted)


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
    assert _exemplar(kept).rater == "x"
