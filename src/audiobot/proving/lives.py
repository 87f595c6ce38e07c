"""The lives of a proof: which there are, and all of them lived, on every core."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Final, Literal, NamedTuple

import msgspec

from audiobot.answering.embedding import Side
from audiobot.answering.weights import Weights
from audiobot.answering.whitening import Whitening
from audiobot.ports import Matrix
from audiobot.proving.arms import ARMS, DRAWN, FROZEN, QUICK, one_phrase
from audiobot.proving.company import Company, Intent, Part, Style, shipped
from audiobot.proving.owner import OwnSet
from audiobot.proving.simulation import EVERY, TURNS, Arm, Course, live

Step = Literal["encode", "live"]

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


class Job(NamedTuple):
    """One life: in which company, in which arm (None: one phrase taught for each answer)."""

    name: str
    arm: Arm | None
    seed: int


class World(NamedTuple):
    """What a process needs to live any life."""

    plan: Plan
    texts: dict[tuple[Side, str], Matrix]
    weights: Weights
    whitening: Whitening
    encoder: str


Outcome = Course | list[tuple[float, bool]]
_world: list[World] = []


def all_lives(world: World, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
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
    pool = ProcessPoolExecutor(cores, spawn, initializer=_settle, initargs=(world,))
    try:
        with _uninterrupted():
            running = {pool.submit(_live, job): job for job in jobs}
        for done in as_completed(running):
            yield running[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _settle(world: World) -> None:
    _world[:] = [world]


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """An interruption waits; processes that begin meanwhile never hear of it, by inheritance."""
    heard: list[int] = []
    # Other threads may take the signal, and then it is told here all the same.
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


def _live(job: Job) -> Outcome:
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
