"""Lines about errors: where it was and of what kind, never what the error says."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from audiobot.telemetry import configure_logging, get_logger, watch_loop

SAID = "Квартира 12, Анна Петровна"


@pytest.fixture(autouse=True)
def hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Python's hooks be again what they were before the test."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    root, lines = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", lines)
    configure_logging("info")
    yield lines
    root.handlers[:], root.level = handlers, level


def fail() -> None:
    try:
        int(SAID)
    except ValueError as error:
        raise KeyError(SAID) from error


def test_an_error_is_told_by_its_kind_and_its_place_without_its_text(written: io.StringIO) -> None:
    for log in (logging.getLogger("a.library"), get_logger("ours")):
        try:
            fail()
        except KeyError:
            log.exception("it failed")
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line["logger"] for line in lines] == ["a.library", "ours"]
    for line in lines:
        assert line["event"] == "it failed"
        assert line["exception"].startswith("Traceback")
        for word in ("KeyError", "ValueError", "in fail", "test_logs.py"):
            assert word in line["exception"]
    assert "Анна" not in written.getvalue()


async def test_what_nobody_caught_is_told_so_too(written: io.StringIO) -> None:
    watch_loop()

    async def said() -> None:
        raise ExceptionGroup(SAID, [KeyError(SAID)])

    task = asyncio.create_task(said(), name=SAID)
    await asyncio.wait([task])
    del task
    gc.collect()
    (line,) = map(json.loads, written.getvalue().splitlines())
    assert line["event"] == "Task exception was never retrieved"
    for word in ("ExceptionGroup", "KeyError", "in said"):
        assert word in line["exception"]
    assert "Анна" not in written.getvalue()


def test_what_ends_a_thread_or_a_finalizer_is_told_so_too(written: io.StringIO) -> None:
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()

    class Fragile:
        def __del__(self) -> None:
            fail()

    Fragile()
    gc.collect()
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert len(lines) == 2
    assert all("KeyError" in line["exception"] for line in lines)
    assert all("in fail" in line["exception"] for line in lines)
    assert "Анна" not in written.getvalue()


def test_on_a_terminal_lines_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    root, lines = logging.getLogger(), Terminal()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr("sys.stderr", lines)
    try:
        configure_logging("info")
        get_logger("ours").warning("the journal did not take an operation", reason="full")
        try:
            fail()
        except KeyError:
            logging.getLogger("a.library").exception("it failed")
    finally:
        root.handlers[:], root.level = handlers, level
    told = lines.getvalue()
    assert "the journal did not take an operation" in told
    assert "full" in told
    assert not any(line.startswith("{") for line in told.splitlines())
    assert "KeyError" in told
    assert "Анна" not in told
