"""Evaluations: when there is one, what it tells, and that its accuracy is of unseen questions."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from audiobot.answering.corrections import lay_over
from audiobot.answering.evaluating import ENOUGH, EVERY, Cycle, HeldOut, held_out
from audiobot.answering.experience import Experience
from audiobot.answering.mind import keys_of, make_ranker
from audiobot.answering.ranking import Ranker
from audiobot.answering.recall import Exemplar
from audiobot.answering.weights import load_weights
from audiobot.answering.whitening import NO_WHITENING
from audiobot.domain import (
    Correction,
    KnowledgeItem,
    Language,
    ModelMetrics,
    Stats,
    stats_of_counts,
)
from audiobot.errors import StorageUnavailable

pytestmark = pytest.mark.unit
NOW = datetime.now(UTC)


def stats(low: int, high: int) -> Stats:
    counts = {0: 5, 1: low, 2: 0, 3: 0, 4: 0, 5: high}
    return stats_of_counts(counts, recent=0, recent_positive=0, as_of=NOW)


class Desk:
    """A store and a learner as far as a cycle sees them."""

    version = "voices-9"

    def __init__(self, *told: Stats | Exception) -> None:
        self.told = list(told)
        self.kept: list[ModelMetrics] = []
        self.heard: list[tuple[ModelMetrics, str]] = []
        self.put_off: list[Exception] = []
        self.evaluated = 0

    async def get_stats(self) -> Stats:
        if not self.told:
            raise asyncio.CancelledError  # the script is at its end
        now = self.told.pop(0)
        if isinstance(now, Exception):
            raise now
        return now

    async def get_evaluations(self, most: int) -> list[ModelMetrics]:
        return self.kept[-most:]

    async def add_evaluation(self, metrics: ModelMetrics) -> None:
        self.kept.append(metrics)

    async def evaluate(self) -> HeldOut:
        self.evaluated += 1
        return HeldOut(0.75, 12, 3)

    def cycle(self) -> Cycle:
        whatever: Any = self
        heard = self.heard.append
        return Cycle(whatever, self, 3.5, lambda *told: heard(told), self.put_off.append)


async def test_a_low_average_with_enough_ratings_starts_a_fit_and_an_evaluation() -> None:
    desk = Desk(stats(ENOUGH - 1, 0), stats(ENOUGH, 0), stats(ENOUGH + 1, 0))
    cycle = desk.cycle()
    assert [await cycle.look() for _ in range(3)] == [None, desk.kept[0], None]
    kept = desk.kept[0]
    assert (kept.model_version, kept.avg_rating, kept.held_out_accuracy) == ("voices-9", 1.0, 0.75)
    assert (kept.negative_ratings, kept.positive_ratings, kept.total_interactions) == (20, 0, 25)
    assert (kept.user_satisfaction, kept.requires_retraining) == (0.0, True)
    assert kept.details["held_out_questions"] == 12
    assert kept.details["taught_questions"] == 3
    assert kept.is_current_model
    assert kept.evaluation_period_end == kept.created_at
    assert [(m.evaluation_id, why) for m, why in desk.heard] == [
        (kept.evaluation_id, "ratings_low")
    ]


async def test_good_ratings_are_evaluated_when_there_are_many_new_ones() -> None:
    desk = Desk(stats(0, EVERY - 1), stats(0, EVERY), stats(0, 2 * EVERY - 1))
    cycle = desk.cycle()
    for _ in range(3):
        await cycle.look()
    assert [m.requires_retraining for m in desk.kept] == [False]
    assert desk.heard[0][1] == "ratings_many"


async def test_the_more_was_rated_the_more_must_be_new() -> None:
    desk = Desk(stats(0, 100 * EVERY), stats(0, 104 * EVERY), stats(0, 106 * EVERY))
    cycle = desk.cycle()
    assert [await cycle.look() is None for _ in range(3)] == [False, True, False]


async def test_after_a_restart_it_goes_on_where_the_last_evaluation_stopped() -> None:
    desk = Desk(stats(ENOUGH, 0), stats(ENOUGH + 1, 0), stats(2 * ENOUGH, 0))
    await desk.cycle().look()
    again = desk.cycle()
    assert await again.look() is None
    found = await again.look()
    assert found is not None
    assert found.evaluation_period_start == desk.kept[0].created_at


async def test_what_another_machine_has_evaluated_is_not_evaluated_again() -> None:
    desk = Desk(stats(ENOUGH, 0), stats(2 * ENOUGH, 0), stats(2 * ENOUGH, 0), stats(3 * ENOUGH, 0))
    one, other = desk.cycle(), desk.cycle()
    assert [await c.look() is None for c in (one, other, one, one)] == [False, False, True, False]
    assert desk.kept[2].evaluation_period_start == desk.kept[1].created_at


@pytest.mark.parametrize("error", [StorageUnavailable("database_away"), ZeroDivisionError("?")])
async def test_a_store_that_is_away_and_a_fault_of_ours_end_no_cycle(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("audiobot.answering.evaluating.LOOK_SECONDS", 0.0)
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: told.append(context["message"])
    )
    desk = Desk(error, error, stats(ENOUGH, 0), error)
    with pytest.raises(asyncio.CancelledError):
        await desk.cycle().run()
    assert desk.evaluated == 1
    away = isinstance(error, StorageUnavailable)
    assert desk.put_off == ([error] * 2 if away else [])  # once each time
    assert told == ([] if away else ["an evaluation failed"] * 3)


# -- the accuracy -------------------------------------------------------------------------


def world(items: Sequence[str], *corrections: Correction) -> tuple[Ranker, np.random.Generator]:
    chance = np.random.default_rng(3)
    known = lay_over(
        [KnowledgeItem(item_id=i, title="", answer=f"Ответ {i}.") for i in items], corrections
    )
    vectors = {key: chance.normal(size=384).astype(np.float32) for key in keys_of(known)}
    made = make_ranker(known, vectors, 384, load_weights(), NO_WHITENING, "another encoder")
    assert made is not None
    return made, chance


def lived(ranker: Ranker, chance: np.random.Generator, rating: int) -> Experience:
    """Ten questions of each item, alike in direction, with one rating each."""
    experience = Experience(384)
    for item in ranker.items:
        towards = 3 * chance.normal(size=384)
        rows = (towards + chance.normal(size=(10, 384))).astype(np.float32)
        said = [Exemplar(uuid.uuid4(), item.item_id, rating, NOW, f"r{n}") for n in range(10)]
        experience.take([f"{item.item_id} {n}" for n in range(10)], said, rows)
    return experience


def test_what_others_taught_is_told_right_of_questions_left_out() -> None:
    ranker, chance = world("абвг")
    found = held_out(ranker, lived(ranker, chance, 5).snapshot())
    assert found.questions == 40
    assert found.accuracy is not None
    assert found.accuracy > 0.9


def corrected(answer: str, language: Language, *wordings: str) -> Correction:
    return Correction(
        correction_id=uuid.uuid4(),
        answer=answer,
        wordings=wordings,
        language=language,
        corrected_at=NOW,
        version=1,
    )


def test_a_question_that_an_operator_taught_word_for_word_is_not_held_out() -> None:
    ranker, chance = world(
        "абвг",
        corrected("Ответ а.", "ru", "А, 0!", "а 1", "другой вопрос"),
        corrected("English answer.", "en", "б 0"),
    )
    found = held_out(ranker, lived(ranker, chance, 5).snapshot())
    assert (found.questions, found.taught) == (48, 2)


def test_a_question_that_nothing_else_is_like_is_not_learned_from_itself() -> None:
    ranker, chance = world("абвгдежз")
    experience = Experience(384)
    rows = chance.normal(size=(8, 384)).astype(np.float32)
    said = [Exemplar(uuid.uuid4(), i.item_id, 5, NOW, f"r{i.item_id}") for i in ranker.items]
    experience.take([f"вопрос {n}" for n in range(8)], said, rows)
    found = held_out(ranker, experience.snapshot())
    assert found.questions == 8
    assert found.accuracy is not None
    assert found.accuracy < 0.6


def test_without_a_well_rated_question_there_is_nothing_to_tell() -> None:
    ranker, chance = world("аб")
    assert held_out(ranker, lived(ranker, chance, 1).snapshot()) == HeldOut(None, 0)
    assert held_out(ranker, Experience(384).snapshot()) == HeldOut(None, 0)
