"""A proof told: tables on the terminal, and three files that appear together or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from audiobot.answering.knowledge import shown
from audiobot.domain import Language
from audiobot.errors import SetupError
from audiobot.proving.experiment import Measured, Proof
from audiobot.proving.page import page
from audiobot.proving.pictures import picture
from audiobot.proving.tables import SECTIONS, notes, phrase_sentence, size_sentence
from audiobot.proving.words import arm_name, word

NAMES: Final = ("prove.json", "learning.png", "prove.html")


def tell(proof: Proof, console: Console, language: Language) -> None:
    """Every figure on the terminal."""
    say = word("intro", language, seeds=len(proof.seeds), turns=proof.turns)
    console.print(say, markup=False, highlight=False)
    for measured in proof.measured:
        _tell_set(measured, console, language)
    for note in notes(proof, language):
        console.print(note, style="yellow", markup=False, highlight=False)


def _tell_set(measured: Measured, console: Console, language: Language) -> None:
    title = f"{word(f'set_{measured.name}', language)} ({size_sentence(measured, language)})"
    console.print(f"\n{title}", style="bold", markup=False, highlight=False)
    for section, (row, columns) in SECTIONS.items():
        if section == "scope" and not measured.far:
            continue
        table = Table(box=box.SIMPLE_HEAD, title=word(section, language), title_justify="left")
        table.add_column(word("arm", language))
        for column in columns:
            table.add_column(word(column, language), justify="right")
        for lived in measured.arms:
            table.add_row(arm_name(lived.arm, language), *row(lived))
        console.print(table)
    console.print(phrase_sentence(measured, language), markup=False, highlight=False)


def check_place(folder: Path) -> None:
    """Raise ``SetupError`` when ``folder`` cannot be written, before the long work begins."""
    place = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not place.is_dir():
        raise SetupError("output_unwritable", path=shown(place), cause="Not a directory")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SetupError("output_unwritable", path=shown(place), cause="Permission denied")


def save(proof: Proof, folder: Path, language: Language) -> list[Path]:
    """Write the JSON, the picture and the page; returns where they are."""
    contents = (
        msgspec.json.format(msgspec.json.encode(proof), indent=1) + b"\n",
        picture(proof, language),
        page(proof, language).encode(),
    )
    partial = [folder / f"{name}.part" for name in NAMES]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in zip(partial, contents, strict=True):
            path.write_bytes(content)
        for path in partial:
            path.replace(path.with_suffix(""))
    except OSError as error:
        for path in partial:
            path.unlink(missing_ok=True)
        cause = error.strerror or str(error)
        raise SetupError("output_unwritable", path=shown(folder), cause=cause) from error
    return [folder / name for name in NAMES]
