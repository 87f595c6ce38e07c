"""A proof: every text is encoded once, then all arms live with all seeds, on every core."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np

from audiobot import __version__
from audiobot.answering.embedding import (
    MAX_BATCH,
    Side,
    make_encoder,
    read_vectors,
    shipped_vectors,
    text_key,
)
from audiobot.answering.mind import ANSWER_CHARACTERS, clause_keys, question_key
from audiobot.answering.weights import kind_of, load_background, load_weights, weights_file
from audiobot.answering.whitening import load_whitening, whitening_file
from audiobot.ports import Encoder, Matrix
from audiobot.proving.arms import FROZEN, FROZEN_CHANGES, RISK, Lived, Phrase, lived, phrase
from audiobot.proving.company import Company
from audiobot.proving.lives import Job, Outcome, Plan, Step, World, all_lives
from audiobot.proving.simulation import Arm, Course

Progress = Callable[[Step, int, int], None]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One company: how large it was, what each arm came to, what one phrase each did."""

    name: str
    intents: int
    stream: int
    test: int
    far: int
    near: int
    arms: list[Lived]
    one_phrase: Phrase


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured, and on what."""

    audiobot: str
    date: str
    machine: dict[str, str | int]
    encoder: str
    weights: str
    whitening: str
    questions: str
    part: str
    language: str
    quick: bool
    left_out: int
    turns: int
    seeds: list[int]
    threshold: float
    error_rate: float = RISK
    seconds: float
    measured: list[Measured]


def prove(
    plan: Plan,
    progress: Progress = lambda step, done, total: None,
    make: Callable[[], Encoder] = make_encoder,
) -> Proof:
    """Live every life of the plan; a minute of ``--quick``, else a quarter of an hour."""
    began = time.monotonic()
    encoder = make()
    seeds = [*range(1, plan.seeds + 1)]
    companies = {name: plan.company(name, seeds[0]) for name in plan.sets}
    world = World(
        plan,
        _encode(encoder, [*companies.values()], progress),
        load_weights(),
        load_whitening(encoder.name),
        encoder.name,
    )
    jobs = [
        Job(name, arm, seed) for name in plan.sets for seed in seeds for arm in (*plan.arms, None)
    ]
    outcomes: dict[Job, Outcome] = {}
    for job, outcome in all_lives(world, jobs):
        outcomes[job] = outcome
        progress("live", len(outcomes), len(jobs))
    threshold = world.weights.decision[kind_of(encoder.name)].threshold(RISK)
    return Proof(
        audiobot=__version__,
        date=datetime.now(UTC).date().isoformat(),
        machine=_machine(),
        encoder=encoder.name,
        weights=_hash(weights_file()),
        whitening=_hash(whitening_file()) if world.whitening.matrix is not None else "none",
        questions=plan.own.sha256 if plan.own is not None else _frozen_hash(),
        part="own" if plan.own is not None else plan.part,
        language=plan.language,
        quick=plan.quick,
        left_out=plan.own.left_out if plan.own is not None else 0,
        turns=plan.turns,
        seeds=seeds,
        threshold=threshold,
        seconds=round(time.monotonic() - began, 1),
        measured=[
            _measured(name, company, plan, seeds, outcomes, threshold)
            for name, company in companies.items()
        ],
    )


def _measured(
    name: str,
    company: Company,
    plan: Plan,
    seeds: Sequence[int],
    outcomes: dict[Job, Outcome],
    threshold: float,
) -> Measured:
    sizes = [len(intent.test) for intent in company.intents]

    def courses(arm: Arm) -> list[Course]:
        every = [outcomes[Job(name, arm, seed)] for seed in seeds]
        return [outcome for outcome in every if isinstance(outcome, Course)]

    def frozen(beside: Arm) -> list[Course]:
        still = FROZEN_CHANGES if beside.changes else FROZEN
        return courses(next(arm for arm in plan.arms if arm.name == still))

    taught = [outcomes[Job(name, None, seed)] for seed in seeds]
    return Measured(
        name=name,
        intents=len(sizes),
        stream=sum(len(intent.stream) for intent in company.intents),
        test=sum(sizes),
        far=len(company.far),
        near=len(company.near),
        arms=[lived(courses(arm), frozen(arm), sizes, threshold) for arm in plan.arms],
        one_phrase=phrase([life for life in taught if isinstance(life, list)], threshold),
    )


def _encode(
    encoder: Encoder, companies: Sequence[Company], progress: Progress
) -> dict[tuple[Side, str], Matrix]:
    """The vectors of all that may be asked or told, each made once, in batches.

    Those of questions outside any company come with the program, as the product uses them.
    """
    texts: dict[tuple[Side, str], Matrix] = {}
    shipped_ones = read_vectors(shipped_vectors(), encoder)
    for line in load_background():
        if (kept := shipped_ones.get(text_key("query", line))) is not None:
            texts["query", line] = kept
    asked = dict.fromkeys(line for line in load_background() if ("query", line) not in texts)
    for company in companies:
        asked |= dict.fromkeys(question_key(text)[1] for text in company.questions())
    answers = [intent.answer for company in companies for intent in company.intents]
    asked |= dict.fromkeys(text for answer in answers for _, text in clause_keys(answer))
    told = dict.fromkeys(answer[:ANSWER_CHARACTERS] for answer in answers)
    wanted: list[tuple[Side, list[str]]] = [("query", [*asked]), ("passage", [*told])]
    done, total = 0, len(asked) + len(told)
    progress("encode", done, total)
    for side, every in wanted:
        encode = encoder.query if side == "query" else encoder.passage
        for first in range(0, len(every), MAX_BATCH):
            batch = every[first : first + MAX_BATCH]
            for text, vector in zip(batch, encode(batch), strict=True):
                texts[side, text] = np.asarray(vector, dtype=np.float32)
            done += len(batch)
            progress("encode", done, total)
    return texts


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _frozen_hash() -> str:
    place = resources.files("audiobot") / "evaluation_set" / "FROZEN.sha256"
    return place.read_text("utf-8").split()[0]


def _machine() -> dict[str, str | int]:
    """Where this was measured: nothing that names the machine or its owner."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text("utf-8"))
        model = found[1] if found else model
    return {
        "cores": os.cpu_count() or 1,
        "processor": model,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }
