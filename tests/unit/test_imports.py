"""What a start loads: nothing that it does not need."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from audiobot.cli import THREADS

pytestmark = pytest.mark.unit
HEAVY = ("sqlalchemy", "alembic", "psycopg", "scipy", "matplotlib", "openai")


@pytest.mark.parametrize(
    ("module", "left_out"),
    [("audiobot.cli", (*HEAVY, "fastapi", "numpy")), ("audiobot.commands", HEAVY)],
)
def test_what_is_needed_later_or_never_is_not_loaded(
    module: str, left_out: tuple[str, ...]
) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert module in done.stdout.split()
    assert not set(left_out) & set(done.stdout.split())


def test_what_the_command_sets_keeps_matrices_to_one_thread() -> None:
    """Seen by the threads that are there: a variable with a name that nobody reads sets nothing."""
    code = (
        "import contextlib, os, sys; from audiobot.cli import main\n"
        "sys.argv = ['audiobot', '--version']\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "import numpy; numpy.ones((500, 500)) @ numpy.ones((500, 500))\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    env = {name: value for name, value in os.environ.items() if name not in THREADS}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines()[-1] == "1"
