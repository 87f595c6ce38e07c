"""Every sentence exists in both languages, with the same blanks, and for every code in use."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest

import audiobot
from audiobot import messages
from audiobot.errors import AudioBotError
from audiobot.messages import codes, sentence

SOURCES = sorted(Path(audiobot.__file__).parent.rglob("*.py"))
RAISING = {kind.__name__ for kind in AudioBotError.__subclasses__()} | {
    "InvalidValue", "StorageFull", "StorageUnavailable", "TooManyRequests", "BadRow",
    "PydanticCustomError", "error_reply", "sentence", "Unavailable",
}  # fmt: skip
LIBRARY_ERRORS = {"MalformedRequest"}


def used_codes() -> set[str]:
    """String literals in the place of a code, wherever one is raised, told or returned."""
    found: set[str] = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name not in RAISING:
                continue
            place = {"BadRow": 1, "error_reply": 2}.get(name, 0)
            if len(node.args) > place:
                found |= {
                    part.value
                    for part in ast.walk(node.args[place])
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                }
    return {code for code in found if re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", code)}


def blanks(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_code_in_use_has_its_sentence() -> None:
    used = used_codes()
    assert len(used) > 25, "the search found too little to mean anything"
    assert used <= codes()


@pytest.mark.parametrize("code", sorted(codes()))
def test_a_sentence_is_there_in_both_languages_with_the_same_blanks(code: str) -> None:
    russian, english = messages._SENTENCES[code]
    assert blanks(russian) == blanks(english)
    assert re.search("[а-яё]", russian)
    assert not re.search("[а-яё]", english)
    for text in (russian, english):
        assert text == text.strip()
        assert len(text) <= 240


@pytest.mark.parametrize("code", sorted(codes()))
def test_a_missing_detail_never_hides_the_error(code: str) -> None:
    for language in ("ru", "en"):
        assert sentence(code, language)
        assert "{" not in sentence(code, language).replace('{"question"', "")


def test_a_detail_is_never_read_as_a_format() -> None:
    told = sentence("setting_invalid", "en", name="A", cause="{name.__class__} {0} %s")
    assert "{name.__class__} {0} %s" in told


def test_an_unknown_code_is_told_as_itself() -> None:
    assert sentence("nothing_of_the_kind", "ru") == "nothing_of_the_kind"
