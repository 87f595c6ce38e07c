"""README.md and README.ru.md are twins: the same sections, settings, commands and figures."""

from __future__ import annotations

import re
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
        r"^ *(make \w+|AUDIOBOT_\w+=|sudo \S+ \S+ \w+|\.venv/bin/audiobot \w+)",
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
