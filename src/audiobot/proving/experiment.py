"""A proof: every text is encoded once, then all arms live with all seeds, on every core."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import platform
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Final, Literal, NamedTuple

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
from audiobot.answering.weights import (
    Weights,
    kind_of,
    load_background,
    load_weights,
    weights_file,
)
from audiobot.answering.whitening import Whitening, load_whitening, whitening_file
from audiobot.ports import Encoder, Matrix
from audiobot.proving.arms import (
    ARMS,
    DRAWN,
    FROZEN,
    QUICK,
    RISK,
    Lived,
    Phrase,
    lived,
    one_phrase,
    phrase,
)
from audiobot.proving.company import Company, Intent, Part, Style, shipped
from audiobot.proving.owner import OwnSet
from audiobot.proving.simulation import EVERY, TURNS, Arm, Course, live

Step = Literal["encode", "live"]
Progress = Callable[[Step, int, int], None]

SEEDS: Final = 10
QUICK_SEEDS: Final = 2
_QUICK_TURNS: Final = 500
_QUICK_STREAM, _QUICK_TEST, _QUICK_OUTSIDE = 5, 3, 20
_THREADS: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be proved. ``own`` takes the place of the shipped set."""

    part: Part = "heldout"
    styles: tuple[Style, ...] = ("full", "terse")
    language: str = "ru"
    seeds: int = SEEDS
    quick: bool = False
    own: OwnSet | None = None

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of what is measured, one after another."""
        return ("own",) if self.own is not None else self.styles

    def company(self, name: str, seed: int) -> Company:
        """The company of that name; an owner's is split anew for each seed."""
        if self.own is not None:
            return self.own.company(seed)
        found = shipped(self.part, "terse" if name == "terse" else "full", self.language)
        if self.language != "ru":
            # The questions out of scope are Russian: too easily told from the others.
            found = msgspec.structs.replace(found, far=(), near=())
        return _fewer(found) if self.quick else found

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The ways of living that are compared."""
        return tuple(arm for arm in ARMS if not self.quick or arm.name in QUICK)

    @property
    def turns(self) -> int:
        """How many questions each life has."""
        return _QUICK_TURNS if self.quick else TURNS


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


class _Job(NamedTuple):
    name: str
    arm: Arm | None
    seed: int


class _World(NamedTuple):
    """What a process needs to live any life."""

    plan: Plan
    texts: dict[tuple[Side, str], Matrix]
    weights: Weights
    whitening: Whitening
    encoder: str


_Outcome = Course | list[tuple[float, bool]]
_world: list[_World] = []


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
    world = _World(
        plan,
        _encode(encoder, [*companies.values()], progress),
        load_weights(),
        load_whitening(encoder.name),
        encoder.name,
    )
    jobs = [
        _Job(name, arm, seed) for name in plan.sets for seed in seeds for arm in (*plan.arms, None)
    ]
    outcomes: dict[_Job, _Outcome] = {}
    for job, outcome in _all_lives(world, jobs):
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
    outcomes: dict[_Job, _Outcome],
    threshold: float,
) -> Measured:
    sizes = [len(intent.test) for intent in company.intents]

    def courses(arm: Arm) -> list[Course]:
        every = [outcomes[_Job(name, arm, seed)] for seed in seeds]
        return [outcome for outcome in every if isinstance(outcome, Course)]

    frozen = courses(next(arm for arm in plan.arms if arm.name == FROZEN))
    taught = [outcomes[_Job(name, None, seed)] for seed in seeds]
    return Measured(
        name=name,
        intents=len(sizes),
        stream=sum(len(intent.stream) for intent in company.intents),
        test=sum(sizes),
        far=len(company.far),
        near=len(company.near),
        arms=[lived(courses(arm), frozen, sizes, threshold) for arm in plan.arms],
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
        asked |= dict.fromkeys(company.questions())
    told = dict.fromkeys(intent.answer for company in companies for intent in company.intents)
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


def _all_lives(world: _World, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, _Outcome]]:
    """Every job's outcome as it comes: in a process for each core, or here when there is one."""
    cores = min(len(jobs), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    if cores < 2:
        _settle(world)
        yield from ((job, _live(job)) for job in jobs)
        return
    for name in _THREADS:
        # Many processes with many threads each would only wait for each other.
        os.environ.setdefault(name, "1")
    # Not forked: the encoder's threads would be missing in the child.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(cores, spawn, initializer=_settle_apart, initargs=(world,))
    try:
        running = {pool.submit(_live, job): job for job in jobs}
        for done in as_completed(running):
            yield running[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _settle(world: _World) -> None:
    _world[:] = [world]


def _settle_apart(world: _World) -> None:
    # An interruption is the parent's to tell of.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _settle(world)


def _live(job: _Job) -> _Outcome:
    plan, texts, weights, whitening, encoder = _world[0]
    company = plan.company(job.name, job.seed)
    if job.arm is None:
        return one_phrase(company, job.seed, texts, weights, whitening, encoder)
    measured = EVERY if job.arm.name in DRAWN and not plan.quick else plan.turns // 2
    return live(
        company,
        job.arm,
        job.seed,
        texts,
        weights,
        whitening,
        encoder,
        turns=plan.turns,
        measured=plan.turns if job.arm.name == FROZEN else measured,
    )


def _fewer(company: Company) -> Company:
    """So few questions that a minute is enough."""
    return msgspec.structs.replace(
        company,
        intents=tuple(_first(intent) for intent in company.intents),
        far=company.far[:_QUICK_OUTSIDE],
        near=company.near[:_QUICK_OUTSIDE],
    )


def _first(intent: Intent) -> Intent:
    return msgspec.structs.replace(
        intent, stream=intent.stream[:_QUICK_STREAM], test=intent.test[:_QUICK_TEST]
    )


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
