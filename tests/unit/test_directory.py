"""The data directory: whose it is, what mode it has, and when its server's note is believed."""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
from pathlib import Path

import pytest

from audiobot.errors import SetupError
from audiobot.storage.directory import DataDirectory, read_server_note


def served(path: Path) -> DataDirectory:
    directory = DataDirectory(path)
    directory.announce("http://127.0.0.1:1", "token")
    return directory


def test_the_note_of_the_server_that_owns_the_directory_is_believed(tmp_path: Path) -> None:
    directory = served(tmp_path / "data")
    note = read_server_note(tmp_path / "data")
    assert note is not None
    assert (note.address, note.pid) == ("http://127.0.0.1:1", os.getpid())
    directory.release()
    assert read_server_note(tmp_path / "data") is None


def test_the_note_of_a_killed_server_is_not_believed_though_its_pid_lives(tmp_path: Path) -> None:
    directory = served(tmp_path / "data")
    kept = (tmp_path / "data" / "server.json").read_bytes()
    directory.release()
    (tmp_path / "data" / "server.json").write_bytes(kept)
    assert read_server_note(tmp_path / "data") is None


def test_a_killed_servers_note_is_not_taken_for_the_next_owners(tmp_path: Path) -> None:
    directory = served(tmp_path / "data")
    kept = (tmp_path / "data" / "server.json").read_bytes()
    directory.release()
    (tmp_path / "data" / "server.json").write_bytes(kept)
    command = DataDirectory(tmp_path / "data")
    assert read_server_note(tmp_path / "data") is None
    command.release()


def test_in_a_copy_of_the_directory_the_note_is_anothers(tmp_path: Path) -> None:
    directory = served(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    assert read_server_note(tmp_path / "copy") is None
    owner = DataDirectory(tmp_path / "copy")
    shutil.copy(tmp_path / "data" / "server.json", tmp_path / "copy" / "server.json")
    assert read_server_note(tmp_path / "copy") is None
    owner.release()
    assert read_server_note(tmp_path / "data") is not None
    directory.release()


def test_whoever_just_looks_keeps_no_server_from_starting(tmp_path: Path) -> None:
    served(tmp_path / "data").release()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            read_server_note(tmp_path / "data")
            time.sleep(0)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(200):
            served(tmp_path / "data").release()
    finally:
        stop.set()
        looking.join()


def test_a_directory_that_is_owned_is_refused_and_its_server_named(tmp_path: Path) -> None:
    directory = served(tmp_path / "data")
    with pytest.raises(SetupError) as raised:
        DataDirectory(tmp_path / "data")
    assert raised.value.code == "data_dir_in_use"
    assert "http://127.0.0.1:1" in str(raised.value.details["owner"])
    directory.release()


def test_a_directory_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "a" / "data")
    assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700
    assert not directory.open_to_others
    directory.release()


@pytest.mark.parametrize("mode", [0o755, 0o2770, 0o700])
def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(mode)
    directory = DataDirectory(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == mode
    assert directory.open_to_others == (mode != 0o700)
    directory.release()
