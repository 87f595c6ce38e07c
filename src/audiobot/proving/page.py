"""A proof as one page that asks nothing of any server: words, tables and pictures in one file."""

from __future__ import annotations

import base64
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from audiobot.domain import Language
from audiobot.proving.experiment import Measured, Proof
from audiobot.proving.pictures import DRAWINGS, single
from audiobot.proving.tables import (
    SECTIONS,
    count,
    notes,
    percent,
    phrase_sentence,
    points,
    provenance,
    size_sentence,
    telling_row,
)
from audiobot.proving.words import arm_name, word

_LANGUAGES: Final[tuple[tuple[Language, str], ...]] = (("ru", "Русский"), ("en", "English"))


def page(proof: Proof, language: Language) -> str:
    """The page in both languages, ``language`` first seen."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = (resources.files("audiobot") / "proving" / "page.html").read_text("utf-8")
    return environment.from_string(text).render(
        first=language, texts=[_text(proof, code, name) for code, name in _LANGUAGES]
    )


def _text(proof: Proof, language: Language, name: str) -> dict[str, Any]:
    """All that the page says in one language."""

    def say(key: str) -> str:
        return word(key, language)

    return {
        "code": language,
        "name": name,
        "say": say,
        "intro": word("intro", language, seeds=len(proof.seeds), turns=proof.turns),
        "notes": [*notes(proof, language)],
        "sets": [_set(proof, measured, language) for measured in proof.measured],
        "sections": [_section(proof, section, language) for section in SECTIONS],
        "provenance": provenance(proof),
    }


def _set(proof: Proof, measured: Measured, language: Language) -> dict[str, Any]:
    """A company: its figures in large, its pictures, its phrase."""
    lived = next(arm for arm in measured.arms if arm.arm == "both")
    _, told, wrong = telling_row(lived)
    return {
        "title": word(f"set_{measured.name}", language),
        "about": word(f"set_{measured.name}_about", language),
        "size": size_sentence(measured, language),
        "tiles": [
            (_apart(percent(lived.curve[0].accuracy)), word("before", language)),
            (_apart(percent(lived.final)), word("after", language, turns=proof.turns)),
            (_apart(points(lived.gain)), word("gain", language)),
            (_apart(told), word("told", language)),
            (_apart(wrong), word("wrong", language)),
            ((count(lived.answers), ""), word("spent", language)),
        ],
        "pictures": [
            (word(_TITLES[name], language), _inlined(single(name, measured, language)))
            for name in DRAWINGS
        ],
        "phrase": phrase_sentence(measured, language),
    }


_TITLES: Final = {"learning": "learning", "risk": "telling", "reliability": "reliability"}


def _apart(cell: str) -> tuple[str, str]:
    """A value and its bounds, which a narrow screen puts below it."""
    value, _, bounds = cell.partition(" (")
    return value, f"({bounds}" if bounds else ""


def _inlined(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _section(proof: Proof, section: str, language: Language) -> dict[str, Any]:
    """One kind of figure: what it means, and a table for each company."""
    row, columns = SECTIONS[section]
    measured = [one for one in proof.measured if section != "scope" or one.far]
    return {
        "title": word(section, language),
        "about": [
            word(f"{section}_about" if measured else "scope_none", language),
            *([word("controls_about", language)] if section == "learning" else []),
        ],
        "columns": [word("arm", language), *(word(column, language) for column in columns)],
        "tables": [
            (
                word(f"set_{one.name}", language),
                [
                    (arm_name(lived.arm, language), [_apart(cell) for cell in row(lived)])
                    for lived in one.arms
                ],
            )
            for one in measured
        ],
    }
