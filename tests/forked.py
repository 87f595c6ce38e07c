"""AudioBot forked from a process that has imported it: most of a start is imports.

Each is a process of its own, with the environment, the files and the arguments of a command; what
is imported is shared, and nothing runs before the fork. People start another way: the tests of
commands do, and the benchmarks.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from unittest.mock import patch

from audiobot.cli import THREADS
from tests.servers import Files, Process, fresh

_OF_PYTHON = ("PYTHONPATH", "PYTHONMALLOC", "PYTHONASYNCIODEBUG", "PYTHONIOENCODING", *THREADS)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["audiobot.cli", "audiobot.main", "audiobot.answering.language_model"]
)


def begin(arguments: Sequence[str], env: Mapping[str, str], files: Files) -> Process:
    """As ``fresh``, but forked, unless the interpreter is to differ from this one."""
    if any(env.get(name) != os.environ.get(name) for name in _OF_PYTHON):
        return fresh(arguments, env, files)
    return Forked(arguments, env, files)


class Forked:
    """As much of ``subprocess.Popen`` as tests ask of a process."""

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], files: Files) -> None:
        told = ([*arguments], dict(env), files)
        self._process = _context.Process(target=_run, args=told)
        with patch.dict(os.environ, THREADS):  # libraries read them when they are imported
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has one."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("audiobot", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """As from a terminal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """At once."""
        self._process.kill()


def _run(arguments: list[str], env: dict[str, str], files: Files) -> None:
    """What the child does, from its first step to its exit code."""
    from audiobot.cli import main

    for number, name in enumerate(files):
        descriptor = os.open(name, os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    # The one there was is closed by multiprocessing.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # for good
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["audiobot", *arguments]
    main()
