"""What ``audiobot prove`` does: read, live, tell, write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress, TaskID

from audiobot.answering.knowledge import shown
from audiobot.domain import Language
from audiobot.proving.company import Part, Style
from audiobot.proving.experiment import prove
from audiobot.proving.lives import QUICK_SEEDS, SEEDS, Plan, Step
from audiobot.proving.owner import MOST_WHEN_QUICK, MOST_WORDINGS, read_own
from audiobot.proving.report import check_place, save, tell
from audiobot.proving.words import word


class Asking(NamedTuple):
    """What was asked for; None where the command is to choose."""

    quick: bool
    part: Part
    styles: tuple[Style, ...] | None
    asked_in: Language | None
    seeds: int | None
    data: Path | None
    output: Path


def prove_learning(asking: Asking, language: Language) -> None:
    """Live the lives, tell of them, write the files; a file that cannot be used stops it first."""
    most = MOST_WHEN_QUICK if asking.quick else MOST_WORDINGS
    own = read_own(asking.data, most) if asking.data is not None else None
    check_place(asking.output)
    plan = Plan(
        part=asking.part,
        styles=asking.styles or (("full",) if asking.quick else ("full", "terse")),
        language=asking.asked_in or "ru",
        seeds=asking.seeds or (QUICK_SEEDS if asking.quick else SEEDS),
        quick=asking.quick,
        own=own,
    )
    told_in = asking.asked_in or language
    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[Step, TaskID] = {
            "encode": bar.add_task(word("step_encode", told_in), total=None),
            "live": bar.add_task(word("step_live", told_in), total=None),
        }
        proof = prove(
            plan, lambda step, done, total: bar.update(tasks[step], completed=done, total=total)
        )
    console = Console(soft_wrap=not sys.stdout.isatty())
    tell(proof, console, told_in)
    written = ", ".join(map(shown, save(proof, asking.output, told_in)))
    console.print(word("written", told_in, paths=written), markup=False, highlight=False)
