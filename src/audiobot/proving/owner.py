"""The owner's own questions and answers as a company to learn on: rows with one answer are one."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from audiobot.answering.knowledge import Parsed, parse, read_file
from audiobot.answering.words import plain
from audiobot.errors import SetupError
from audiobot.ports import BadRow
from audiobot.proving.company import Company, Intent

SUFFIXES: Final = (".csv", ".jsonl")
LEAST_INTENTS: Final = 3
_KEPT_BACK: Final = 0.4
MOST_WORDINGS: Final = 2_000
MOST_WHEN_QUICK: Final = 250
"""More would take hours, or minutes; which intents stay is drawn."""
MOST_OF_ONE: Final = 50


class OwnSet(msgspec.Struct, frozen=True):
    """Wordings by answer; ``left_out`` counts the wordings that nothing can be measured with."""

    wordings: dict[str, tuple[str, ...]]
    left_out: int
    sha256: str

    def company(self, seed: int) -> Company:
        """Some wordings of each intent to learn on, the others kept back, as the seed has it."""
        chance = np.random.default_rng([seed, 5])
        return Company(
            name="own",
            intents=tuple(
                _split(number, answer, [asked[i] for i in chance.permutation(len(asked))])
                for number, (answer, asked) in enumerate(self.wordings.items())
            ),
        )


def read_own(path: Path, most: int = MOST_WORDINGS) -> OwnSet:
    """The file's questions and answers, ``most`` wordings of them.

    ``SetupError`` says why they cannot be learned on.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise SetupError("prove_kind")
    data = read_file(path)
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SetupError("row_not_utf8") from None
    sha256 = hashlib.sha256(data).hexdigest()
    parsed = parse(path.name, data)
    _check(parsed)
    asked: dict[str, dict[str, str]] = defaultdict(dict)
    answers: dict[str, str] = {}
    for item in parsed.items:
        key = answers.setdefault(" ".join(item.answer.split()), item.answer)
        for question in item.questions:
            asked[key].setdefault(plain(question) or question, question)
    answered = Counter(wording for own in asked.values() for wording in own)
    # What has two answers would be learned with the one and asked with the other.
    clear = {a: [own[w] for w in own if answered[w] == 1] for a, own in asked.items()}
    usable = {a: tuple(own[:MOST_OF_ONE]) for a, own in clear.items() if len(own) > 1}
    if len(usable) < LEAST_INTENTS:
        raise SetupError("prove_few_intents", found=len(usable), least=LEAST_INTENTS)
    kept = _bounded(usable, most)
    held = sum(map(len, kept.values()))
    return OwnSet(kept, sum(map(len, asked.values())) - held + len(parsed.bad), sha256)


def _check(parsed: Parsed) -> None:
    """Tell what is wrong with the file as a whole."""
    rows = len(parsed.items) + len(parsed.bad)
    if not rows:
        raise SetupError("prove_empty")
    if not parsed.items:
        first = parsed.bad[0]
        if all(_has_no_answer(bad) for bad in parsed.bad):
            raise SetupError("prove_no_answers")
        raise SetupError(first.code, **first.details)
    if rows == 1:
        raise SetupError("prove_one_row")
    if len(parsed.items) == 1 and all(bad.code == "row_repeated" for bad in parsed.bad):
        raise SetupError("prove_all_repeated")


def _has_no_answer(bad: BadRow) -> bool:
    return bad.code == "text_blank" and bad.details.get("field") == "answer"


def _bounded(wordings: dict[str, tuple[str, ...]], room: int) -> dict[str, tuple[str, ...]]:
    """Whole intents, drawn, as long as there are not too many wordings."""
    answers = [*wordings]
    kept: dict[str, tuple[str, ...]] = {}
    for place in np.random.default_rng(0).permutation(len(answers)).tolist():
        own = wordings[answers[place]]
        if len(own) <= room:
            kept[answers[place]] = own
            room -= len(own)
    return {answer: own for answer, own in wordings.items() if answer in kept}


def _split(number: int, answer: str, asked: list[str]) -> Intent:
    back = min(len(asked) - 1, max(1, round(_KEPT_BACK * len(asked))))
    return Intent(
        name=f"intent {number}", answer=answer, stream=tuple(asked[back:]), test=tuple(asked[:back])
    )
