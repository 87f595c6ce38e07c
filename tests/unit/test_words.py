"""Words and clauses of a text."""

from __future__ import annotations

import pytest

from audiobot.answering.words import clauses

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("  ", []),
        ("В четверг.", ["В четверг."]),
        ("Окна моем дважды в год, в мае.", ["Окна моем дважды в год, в мае."]),
        (
            "Да, конечно, моем: пол, стены и зеркала. Лифт — каждый будний день, кроме среды.",
            [
                "Да, конечно, моем: пол,",
                "стены и зеркала. Лифт",
                "каждый будний день, кроме среды.",
            ],
        ),
    ],
)
def test_clauses_are_cut_at_stops_and_say_something_each(text: str, parts: list[str]) -> None:
    assert [*clauses(text)] == parts


def test_no_word_of_a_text_is_lost_to_its_clauses() -> None:
    text = "Снег сгребаем до восьми утра; если метёт — ещё раз после обеда, и так весь день!"
    assert " ".join(clauses(text)).replace("—", "").split() == text.replace("—", "").split()
