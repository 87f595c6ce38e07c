"""Companies to learn on: the evaluation set that comes with AudioBot, or the owner's own."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

Part = Literal["tuning", "heldout"]
Style = Literal["full", "terse"]


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that people ask: its answer, what is asked while learning, what is kept back."""

    name: str
    answer: str
    stream: tuple[str, ...]
    test: tuple[str, ...]
    protected: bool = False


class Company(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a company; ``far`` and ``near`` are questions that it has no answer to."""

    name: str
    intents: tuple[Intent, ...]
    far: tuple[str, ...] = ()
    near: tuple[str, ...] = ()

    def questions(self) -> Iterator[str]:
        """Every question, the ones out of scope too."""
        for intent in self.intents:
            yield from intent.stream
            yield from intent.test
        yield from self.far
        yield from self.near


def shipped(part: Part, style: Style, language: str = "ru") -> Company:
    """A part of the shipped evaluation set; see its README for how it was written."""
    folder = Path(str(resources.files("audiobot") / "evaluation_set"))

    def rows(name: str) -> list[dict[str, str]]:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        return [msgspec.json.decode(line) for line in lines]

    questions = [row for row in rows("questions.jsonl") if row["language"] == language]
    answer = style if language == "ru" else f"{style}_{language}"

    def asked(intent: str, use: str) -> tuple[str, ...]:
        return tuple(q["text"] for q in questions if q["intent"] == intent and q["use"] == use)

    intents = tuple(
        Intent(
            name=row["intent"],
            answer=row[answer],
            stream=asked(row["intent"], "stream"),
            test=asked(row["intent"], "test"),
            protected=bool(row["protected"]),
        )
        for row in rows("intents.jsonl")
        if row["part"] == part and answer in row
    )
    outside = [row for row in rows("out_of_scope.jsonl") if row["part"] == part]
    return Company(
        name=f"{part}, {style}, {language}",
        intents=intents,
        far=tuple(row["text"] for row in outside if row["kind"] == "far"),
        near=tuple(row["text"] for row in outside if row["kind"] == "near"),
    )
