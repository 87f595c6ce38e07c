"""A proof's figures as cells of tables, and what is to be said beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from audiobot.domain import Language
from audiobot.proving.arms import Lived
from audiobot.proving.experiment import Measured, Proof
from audiobot.proving.metrics import Interval
from audiobot.proving.words import word

NONE: Final = "—"
_FEW_QUESTIONS: Final = 100


def percent(found: Interval | None) -> str:
    """A share with its bounds, the sign left to the column."""
    if found is None:
        return NONE
    value, low, high = (f"{100 * number:.0f}" for number in (found.value, found.low, found.high))
    return value if low == high else f"{value} ({low}–{high})"


def points(found: Interval | None) -> str:
    """A gain with its bounds."""
    if found is None:
        return NONE
    value, low, high = (_signed(100 * number) for number in (found.value, found.low, found.high))
    return value if low == high else f"{value} ({low}…{high})"


def area(found: Interval | None) -> str:
    """An area under a curve, to two digits."""
    if found is None:
        return NONE
    value, low, high = (f"{number:.2f}" for number in (found.value, found.low, found.high))
    return value if low == high else f"{value} ({low}–{high})"


def count(found: Interval) -> str:
    """A number of things."""
    return f"{found.value:.0f}"


def _signed(number: float) -> str:
    return f"{number:+.0f}".replace("-", "−").replace("+0", "0").replace("−0", "0")


def learning_row(lived: Lived) -> list[str]:
    """What it learned: right at the end, gain, gain elsewhere."""
    return [percent(lived.final), points(lived.gain), points(lived.gain_elsewhere)]


def work_row(lived: Lived) -> list[str]:
    """What it cost: recurring, answers, asked again."""
    return [percent(lived.recurring), count(lived.answers), percent(lived.again)]


def telling_row(lived: Lived) -> list[str]:
    """When it answers: coverage, what the shipped threshold tells."""
    told = lived.told
    shares = (told.coverage, told.wrong) if told else (None, None)
    return [percent(share) for share in (lived.coverage, *shares)]


def scope_row(lived: Lived) -> list[str]:
    """What it takes for its own: far, near."""
    return [area(lived.far), area(lived.near)]


Row = Callable[[Lived], list[str]]

SECTIONS: Final[dict[str, tuple[Row, tuple[str, ...]]]] = {
    "learning": (learning_row, ("final", "gain", "gain_elsewhere")),
    "work": (work_row, ("recurring", "answers", "again")),
    "telling": (telling_row, ("coverage", "told", "wrong")),
    "scope": (scope_row, ("far", "near")),
}


def phrase_sentence(measured: Measured, language: Language) -> str:
    """What one phrase for each answer did."""
    sign = " %" if language == "ru" else "%"
    shares = {
        name: percent(share) + sign * (share is not None)
        for name, share in msgspec.structs.asdict(measured.one_phrase).items()
    }
    return word("phrase_about", language, **shares)


def size_sentence(measured: Measured, language: Language) -> str:
    """How much was asked."""
    return word(
        "size", language, intents=measured.intents, stream=measured.stream, test=measured.test
    )


def notes(proof: Proof, language: Language) -> Iterator[str]:
    """What limits the figures."""
    if proof.quick:
        yield word("quick", language)
    if proof.whitening == "none":
        yield word("no_whitening", language)
    if proof.part == "own":
        if proof.measured[0].test < _FEW_QUESTIONS:
            yield word("own_few", language)
        if proof.left_out:
            yield word("left_out", language, count=proof.left_out)
    elif proof.language == "en":
        yield word("few", language, intents=proof.measured[0].intents)


def provenance(proof: Proof) -> list[tuple[str, str]]:
    """On what it was measured, name by name."""
    return [
        ("audiobot", proof.audiobot),
        ("date", proof.date),
        ("encoder", proof.encoder),
        ("weights.json", proof.weights[:16]),
        ("whitening.npz", proof.whitening[:16]),
        ("questions", f"{proof.part}, {proof.language}, {proof.questions[:16]}"),
        ("seeds", f"{proof.seeds[0]}–{proof.seeds[-1]}"),
        ("machine", ", ".join(f"{name} {value}" for name, value in proof.machine.items())),
        ("seconds", f"{proof.seconds:.0f}"),
    ]
