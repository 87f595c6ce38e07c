"""README.md and README.ru.md are twins: the same sections, settings, commands and figures."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from audiobot.settings import Settings

ROOT = Path(__file__).parents[2]
ENGLISH, RUSSIAN = ((ROOT / name).read_text() for name in ("README.md", "README.ru.md"))


@pytest.mark.parametrize(
    "pattern",
    [
        r"^(#+) ",
        r"^\d\. ",
        r"^ *(make \w+|AUDIOBOT_\w+=|DATABASE_URL=|audiobot\(\).+|exec .+|audiobot \w+)",
        r"^(\.venv/bin/audiobot \w+)",
        r"^\| (`[^|]+`) \|",
        r"\]\(((?:docs|deploy|CONTRIBUTING)[^)]*)\)",
        r"\b(\d+\.\d+)\b",
        r"`(/[\w/.]+|[A-Z_]{4,})`",
    ],
)
def test_the_two_are_twins(pattern: str) -> None:
    english = re.findall(pattern, ENGLISH, re.MULTILINE)
    assert english, "the pattern finds nothing"
    assert re.findall(pattern, RUSSIAN, re.MULTILINE) == english


@pytest.mark.parametrize("text", [ENGLISH, RUSSIAN])
def test_every_setting_that_is_ours_is_told_of(text: str) -> None:
    told = set(re.findall(r"AUDIOBOT_([A-Z_]+)", text)) | {"LLM_API_KEY", "LLM_TIMEOUT"}
    ours = {n.upper() for n, f in Settings.model_fields.items() if f.validation_alias is None}
    assert ours <= told
    assert "AUDIOBOT_DATA_DIR=/var/lib/audiobot" in text


@pytest.mark.parametrize("text", [ENGLISH, RUSSIAN])
def test_what_machines_that_share_a_database_must_share_is_told_where_they_are(text: str) -> None:
    (section,) = re.findall(r"^### \S+ PostgreSQL$(.+?)^### ", text, re.MULTILINE | re.DOTALL)
    for name in ("AUDIOBOT_SECRET", "AUDIOBOT_OPERATOR_TOKEN", "AUDIOBOT_RATE_LIMIT"):
        assert f"`{name}`" in section


SETTINGS = """
# openssl rand -hex 24
AUDIOBOT_OPERATOR_TOKEN=0123abcd
DATABASE_URL='postgresql://u:p$w;d@db/x?sslmode=require&connect_timeout=5'
"""


@pytest.mark.parametrize("text", [ENGLISH, RUSSIAN])
def test_the_command_of_an_installed_server_has_its_settings(text: str, tmp_path: Path) -> None:
    (command,) = re.findall(r"^ +(audiobot\(\) \{.+?; \})$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "env").write_text(SETTINGS)
    program = tmp_path / "program"
    told = '"$AUDIOBOT_OPERATOR_TOKEN" "$DATABASE_URL" "$AUDIOBOT_DATA_DIR" "$@"'
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' {told}\n")
    program.chmod(0o755)
    for installed, ours in (
        ("/etc/audiobot.env", tmp_path / "env"),
        ("/opt/audiobot/.venv/bin/audiobot", program),
        ("sudo ", ""),
    ):
        assert command.count(installed) == 1
        command = command.replace(installed, str(ours))
    done = subprocess.run(
        ["sh", "-c", f"{command}\naudiobot import 'two words.csv'"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "0123abcd",
        "postgresql://u:p$w;d@db/x?sslmode=require&connect_timeout=5",
        "/var/lib/audiobot",
        "import",
        "two words.csv",
    ]
