"""The owner's own questions: read, split by seed, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audiobot.errors import AudioBotError, SetupError
from audiobot.proving.owner import read_own

pytestmark = pytest.mark.unit


def written(tmp_path: Path, text: str | bytes, name: str = "own.csv") -> Path:
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


ROWS = [(f"{word} {number}", f"Ответ {number}.") for number in range(4) for word in
        ("когда", "сколько", "почему", "где", "зачем")]  # fmt: skip


def test_rows_with_one_answer_are_one_intent_split_by_seed(tmp_path: Path) -> None:
    lines = [json.dumps({"question": q, "answer": a}, ensure_ascii=False) for q, a in ROWS]
    own = read_own(written(tmp_path, "\n".join(lines), "own.jsonl"))
    assert own.left_out == 0
    first, second = own.company(1), own.company(2)
    assert first == own.company(1)
    assert first != second
    for company in (first, second):
        assert [(len(i.stream), len(i.test)) for i in company.intents] == [(3, 2)] * 4
        assert set(company.questions()) == {question for question, _ in ROWS}
        assert all(not set(i.stream) & set(i.test) for i in company.intents)


def test_two_wordings_are_one_to_learn_and_one_kept_back(tmp_path: Path) -> None:
    text = "вопрос,ответ\n" + "".join(f"{q},{a}\n" for q, a in ROWS if q.split()[0] < "когдб")
    own = read_own(written(tmp_path, text + "одинокий вопрос,Одинокий ответ.\n"))
    assert own.left_out == 1
    assert {(len(i.stream), len(i.test)) for i in own.company(1).intents} <= {(1, 1), (2, 1)}


def test_a_wording_with_two_answers_is_neither_learned_nor_asked(tmp_path: Path) -> None:
    rows = [*ROWS, ("Когда, 0?", "Ответ 1."), ("новый вопрос", "Ответ 2.")]
    own = read_own(written(tmp_path, "question,answer\n" + "".join(
        f'"{question}","{answer}"\n' for question, answer in rows)))  # fmt: skip
    assert own.left_out == 2
    assert set(own.company(1).questions()) == {q for q, _ in rows} - {"когда 0", "Когда, 0?"}


def test_of_very_many_wordings_whole_intents_stay(tmp_path: Path) -> None:
    text = "question,answer\n" + "".join(f"{q},{a}\n" for q, a in ROWS)
    own = read_own(written(tmp_path, text), most=15)
    assert [len(asked) for asked in own.wordings.values()] == [5, 5, 5]
    assert own.left_out == 5


@pytest.mark.parametrize(
    ("text", "name", "code"),
    [
        ("question,answer\nкогда,В мае.\n", "one.csv", "prove_one_row"),
        ("question,answer\nкогда,\nгде,\n", "none.csv", "prove_no_answers"),
        ("question,answer\n" + "когда,В мае.\n" * 9, "same.csv", "prove_all_repeated"),
        ("question,answer\nа,Да.\nб,Да.\nв,Нет.\nг,Нет.\n", "few.csv", "prove_few_intents"),
        ("question,answer\n", "empty.csv", "prove_empty"),
        ("", "nothing.jsonl", "prove_empty"),
        ("a,b\n1,2\n", "columns.csv", "row_no_columns"),
        ("[1]\n", "list.jsonl", "row_not_json"),
        ("вопрос,ответ\nкогда,В мае\n".encode("cp1251"), "old.csv", "row_not_utf8"),
        (b"\xff\xfe", "bytes.jsonl", "row_not_utf8"),
        ("# Услуги\n", "text.md", "prove_kind"),
        ("question,answer\n" + "x" * (8 << 20), "large.csv", "knowledge_too_large"),
    ],
)
def test_a_file_that_cannot_be_learned_on_is_told_why(tmp_path, text, name, code) -> None:
    with pytest.raises(SetupError) as refused:
        read_own(written(tmp_path, text, name))
    assert refused.value.code == code


def test_a_file_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(AudioBotError) as refused:
        read_own(tmp_path / "no.csv")
    assert refused.value.code == "knowledge_unreadable"
