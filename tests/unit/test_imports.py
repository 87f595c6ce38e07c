"""What a start loads: nothing that it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
