"""Knowledge coming in: through the running server, offline, at start, and what it changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Home, settled
from tests.postgres import Cluster
from tests.servers import Server, run, serving

SAMPLE = "Сколько стоит уборка подъезда в пятиэтажном доме?"
OURS = "Как зовут кота директора?"
CSV = f"question,answer\n{OURS},Кота директора зовут Барсик.\n"


@pytest.fixture(scope="module")
def owned(
    tmp_path_factory: pytest.TempPathFactory, home: Home, cluster: Cluster
) -> Iterator[Server]:
    """A server that takes imports in; each test brings files of its own names."""
    place = tmp_path_factory.mktemp("owned") / "data"
    with settled(home, cluster) as settings, serving(place, **settings) as running:
        running.wait_for_meaning()
        yield running
        running.kill()  # how it stops is another test's


def bring(server: Server, name: str, content: str | bytes) -> dict[str, Any]:
    """What became of a file that was given to the running server."""
    data = content.encode() if isinstance(content, str) else content
    response = server.client.post(f"/api/knowledge/{name}", content=data)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    assert set(body) == {"source", "items", "changed", "bad_rows"}
    assert all(set(row) == {"line", "code", "detail"} for row in body["bad_rows"])
    return body


def command(data: Path, file: Path, exit_code: int = 0, **settings: str) -> str:
    """What ``audiobot import`` printed, on one line."""
    done = run(data, "import", str(file), **settings)
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return "".join(done.stderr.splitlines())


def test_imported_knowledge_counts_at_once_replaces_the_sample_and_outlives_a_restart(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    data = tmp_path / "data"
    with serving(data, **settings) as server:
        server.wait_for_meaning()
        assert server.ask(SAMPLE)["outcome"] == "answered"
        assert server.ask(OURS)["outcome"] == "handed_over"
        bring(server, "ours.csv", CSV)
        assert server.ask(OURS)["response"] == "Кота директора зовут Барсик."
        assert server.ask(SAMPLE)["outcome"] == "handed_over"
        changed = CSV.replace("Барсик", "Пушок")
        bring(server, "ours.csv", changed)
        assert server.ask(OURS)["response"] == "Кота директора зовут Пушок."
    with serving(data, **settings) as server:
        server.wait_for_meaning()
        assert server.ask(OURS)["response"] == "Кота директора зовут Пушок."
        assert server.ask(SAMPLE)["outcome"] == "handed_over"


def test_importing_again_changes_nothing(owned: Server) -> None:
    assert bring(owned, "again.csv", CSV)["changed"] is True
    assert bring(owned, "again.csv", CSV)["changed"] is False
    assert bring(owned, "again.csv", CSV.replace("Барсик", "Пушок"))["changed"] is True
    bring(owned, "again.csv", "question,answer\nОдин вопрос?,Один ответ.\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bom.csv", b"\xef\xbb\xbf" + b"question,answer\n%s,%s\n"),
        ("semicolon.csv", b"question;answer\n%s;%s\n"),
        ("russian.csv", "Вопрос;Ответ\n%s;%s\n".encode()),
        ("crlf.csv", b"question,answer\r\n%s,%s\r\n"),
        ("quoted.csv", b'question,answer\n"%s","%s"\n'),
        ("order.csv", b"id,answer,question\n1,%s,%s\n"),
        ("UPPER.CSV", b"QUESTION,ANSWER\n%s,%s\n"),
        ("lines.jsonl", b'\n{"question": "%s", "answer": "%s"}\n\n'),
        ("bom.jsonl", b'\xef\xbb\xbf{"question": "%s", "answer": "%s"}'),
    ],
)
def test_the_usual_forms_of_a_table_are_read(owned: Server, name: str, content: bytes) -> None:
    question = f"Какой пароль у файла {name}?"
    answer = f"Пароль файла — слово {name}."
    values = (question.encode(), answer.encode())
    bring(owned, name, content % (values[::-1] if name == "order.csv" else values))
    assert owned.ask(question)["response"] == answer


def test_a_table_saved_by_russian_excel_is_read(owned: Server) -> None:
    table = "вопрос;ответ\nГде хранится швабра?;Швабра — в кладовке №1.\n".encode("cp1251")
    bring(owned, "excel.csv", table)
    assert owned.ask("Где хранится швабра?")["response"] == "Швабра — в кладовке №1."


def test_a_document_is_read_by_its_sections(owned: Server) -> None:
    document = (
        "# Талисман\n\nТалисман компании — енот Семён.\n\n"
        "## Сколько лет талисману?\n\nТалисману компании, еноту Семёну, семь лет.\n"
    )
    bring(owned, "mascot.md", document)
    told = owned.ask("Сколько лет талисману компании еноту Семёну?")
    assert told["response"] == "Талисману компании, еноту Семёну, семь лет."
    assert told["sources"][0]["kind"] == "document"


def test_a_bad_row_is_named_by_file_and_line_and_the_good_ones_go_in(
    owned: Server, tmp_path: Path
) -> None:
    table = (
        "question,answer\n"
        "Где лежит ведро?,\n"
        '"Где лежит\nсовок?",Совок лежит в шкафу.\n'
        ",Ответ без вопроса.\n"
        "Где лежит метла?,Метла стоит за дверью.\n"
        "где лежит метла?,Метла повторяется.\n"
    )
    (tmp_path / "rows.csv").write_text(table)
    printed = command(owned.data_dir, tmp_path / "rows.csv", exit_code=1)
    for line in (2, 5, 7):
        assert f"rows.csv:{line}:" in printed
    for line in (3, 4, 6):
        assert f"rows.csv:{line}:" not in printed
    assert owned.ask("Где лежит метла?")["response"] == "Метла стоит за дверью."
    assert owned.ask("Где лежит совок?")["response"] == "Совок лежит в шкафу."


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("columns.csv", b"q,a\nx,y\n", 1),
        ("empty.csv", b"", 1),
        ("json.jsonl", b'{"question": "a"}\n', 1),
        ("list.jsonl", b'{"question": "a", "answer": "b"}\n[1]\n', 2),
        ("deep.jsonl", b"[" * 100_000, 1),
        ("surrogate.jsonl", b'{"question": "\\ud800", "answer": "b"}', 1),
        ("nul.jsonl", b'{"question": "a\\u0000", "answer": "b"}', 1),
        ("utf8.jsonl", b'{"question": "a"\n\xff', 2),
        ("utf8.md", b"# a\n\nb\n\xff", 4),
        ("long.jsonl", b'{"question": "%s", "answer": "b"}' % (b"q" * 2_001), 1),
        ("longer.jsonl", b'{"question": "q", "answer": "%s"}' % (b"b" * 8_001), 1),
        ("also.jsonl", b'{"question": "q", "answer": "b", "also": "c"}', 1),
        ("nul.csv", b"question,answer\na\x00,b\n", 2),
    ],
)
def test_what_cannot_be_read_is_named_and_nothing_breaks(
    owned: Server, name: str, content: bytes, line: int
) -> None:
    assert [row["line"] for row in bring(owned, name, content)["bad_rows"]] == [line]
    assert "request failed" not in owned.log


def test_a_file_without_one_good_row_replaces_nothing(owned: Server) -> None:
    bring(owned, "kept.csv", "question,answer\nГде ключ?,Ключ под ковриком.\n")
    assert bring(owned, "kept.csv", "question,answer\n,\nГде ключ?,\n")["changed"] is False
    assert owned.ask("Где ключ?")["response"] == "Ключ под ковриком."


def test_a_path_that_is_not_there_and_another_kind_of_file_are_a_sentence(
    owned: Server, tmp_path: Path
) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    for path in (tmp_path / "nothing.csv", tmp_path / "a.pdf"):
        done = run(owned.data_dir, "import", str(path))
        assert done.returncode == 2
        assert done.stderr.strip()
        assert "Traceback" not in done.stderr


def test_one_wrong_file_among_several_is_named_and_the_others_go_in(
    owned: Server, tmp_path: Path
) -> None:
    (tmp_path / "first.csv").write_text("question,answer\nКто первый?,Первый — Пётр Первый.\n")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    (tmp_path / "large.md").write_bytes(b"x" * ((8 << 20) + 1))
    (tmp_path / os.fsdecode(b"\xff.csv")).write_text("question,answer\nA?,B.\n")
    (tmp_path / "last.csv").write_text("question,answer\nКто последний?,Последний — Иван.\n")
    names = ("first.csv", "a.pdf", "nothing.csv", "large.md", os.fsdecode(b"\xff.csv"), "last.csv")
    done = run(owned.data_dir, "import", *(str(tmp_path / name) for name in names))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    told = done.stderr.splitlines()
    for name in ("a.pdf", "nothing.csv", "large.md", "?.csv"):
        assert [line for line in told if line.startswith(f"{tmp_path / name}: ")], done.stderr
    assert owned.ask("Кто первый?")["response"] == "Первый — Пётр Первый."
    assert owned.ask("Кто последний?")["response"] == "Последний — Иван."


def test_two_files_of_one_name_in_one_import_never_take_each_others_place(
    owned: Server, tmp_path: Path
) -> None:
    for folder, animal in (("a", "Барсик"), ("b", "Полкан")):
        (tmp_path / folder).mkdir()
        text = f"question,answer\nКто живёт в доме {folder}?,Там живёт {animal}.\n"
        (tmp_path / folder / "same.csv").write_text(text)
    first, second = tmp_path / "a" / "same.csv", tmp_path / "b" / "same.csv"
    # The first one once more, through its folder, is the same file and no clash.
    done = run(owned.data_dir, "import", *map(str, (first, tmp_path / "a", second)))
    assert done.returncode == 1
    refused = [line for line in done.stderr.splitlines() if line.startswith(f"{tmp_path}")]
    assert len(refused) == 1
    assert refused[0].startswith(f"{second}: ")
    assert str(first) in refused[0]
    assert owned.ask("Кто живёт в доме a?")["response"] == "Там живёт Барсик."


def test_a_table_whose_rows_are_all_gone_is_withdrawn_by_importing_it(
    owned: Server, tmp_path: Path
) -> None:
    file = tmp_path / "gone.csv"
    file.write_text("question,answer\nГде наш зонтик?,Зонтик висит в прихожей.\n")
    command(owned.data_dir, file)
    assert owned.ask("Где наш зонтик?")["response"] == "Зонтик висит в прихожей."
    file.write_text("question,answer\n")
    assert "counts no more" in command(owned.data_dir, file)
    assert owned.ask("Где наш зонтик?")["response"] != "Зонтик висит в прихожей."


def test_offline_a_folder_is_imported_whole_and_again_without_a_change(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    data, folder = tmp_path / "data", tmp_path / "knowledge"
    for name, animal in (("one", "Барсик"), ("two", "Полкан")):
        (folder / name).mkdir(parents=True)
        text = f"question,answer\nКто живёт в папке {name}?,Там живёт {animal}.\n"
        (folder / name / "faq.csv").write_text(text)
    (folder / "doc.md").write_text("# Кот\n\nКот любит рыбу минтай.\n")
    (folder / "README.md").write_text("# Не знания\n\nСлова о папке.\n")
    (folder / "photo.png").write_bytes(b"\x89PNG")
    first = command(data, folder, **settings)
    assert "README" not in first
    assert first.count("=") == 0
    with serving(data, **settings) as server:
        assert command(data, folder, **settings).count("=") == 3
        server.wait_for_meaning()
        # Files of one name in two folders do not take each other's place.
        assert server.ask("Кто живёт в папке one?")["response"] == "Там живёт Барсик."
        assert server.ask("Кто живёт в папке two?")["response"] == "Там живёт Полкан."
        server.kill()


def test_knowledge_none_leaves_small_talk_and_hands_all_else_over(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    with serving(tmp_path / "data", **settings, AUDIOBOT_KNOWLEDGE="none") as server:
        server.wait_for_meaning()
        assert server.ask("привет")["model_used"] == "small_talk"
        for question in (SAMPLE, "How much does entrance cleaning cost?", "да"):
            assert server.ask(question)["outcome"] == "handed_over"
        assert server.health()["status"] == "healthy"
        server.kill()


def test_knowledge_none_ignores_what_was_imported_before_and_takes_what_comes_then(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    (tmp_path / "ours.csv").write_text(CSV)
    command(tmp_path / "data", tmp_path / "ours.csv", **settings)
    with serving(tmp_path / "data", **settings, AUDIOBOT_KNOWLEDGE="none") as server:
        server.wait_for_meaning()
        for question in (OURS, SAMPLE):
            assert server.ask(question)["outcome"] == "handed_over"
        assert bring(server, "ours.csv", CSV)["changed"] is True
        assert server.ask(OURS)["response"] == "Кота директора зовут Барсик."
        server.kill()


def test_a_file_that_is_gone_from_the_folder_is_withdrawn_at_the_next_start(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    folder = tmp_path / "knowledge"
    folder.mkdir()
    (folder / "cat.csv").write_text(CSV)
    (folder / "dog.csv").write_text(
        "question,answer\nГде живёт пёс Полкан?,Полкан живёт в будке.\n"
    )
    setting = {"AUDIOBOT_KNOWLEDGE": str(folder)}
    with serving(tmp_path / "data", **settings, **setting) as server:
        server.wait_for_meaning()
        assert server.ask(OURS)["outcome"] == "answered"
        server.kill()
    (folder / "cat.csv").unlink()
    with serving(tmp_path / "data", **settings, **setting) as server:
        server.wait_for_meaning()
        assert server.ask(OURS)["response"] != "Кота директора зовут Барсик."
        assert "knowledge withdrawn" in server.log
        server.kill()
    (folder / "dog.csv").write_text("question,answer\n")
    with serving(tmp_path / "data", **settings, **setting) as server:
        server.wait_for_meaning()
        for question in ("Где живёт пёс Полкан?", SAMPLE):
            assert server.ask(question)["outcome"] == "handed_over"
        server.kill()


def test_knowledge_of_a_folder_is_known_at_start_and_the_sample_is_not(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    folder = tmp_path / "knowledge"
    folder.mkdir()
    (folder / "faq.csv").write_text(CSV + "Вопрос без ответа,\n")
    with serving(tmp_path / "data", **settings, AUDIOBOT_KNOWLEDGE=str(folder)) as server:
        server.wait_for_meaning()
        assert server.ask(OURS)["response"] == "Кота директора зовут Барсик."
        assert server.ask(SAMPLE)["outcome"] == "handed_over"
        assert '"line": 3' in server.log
        server.kill()
