"""Recall: rated dialogues found by nearness; one wording is one point, its newest speak."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from audiobot.answering.recall import PER_QUESTION, Exemplar, Recall
from audiobot.ports import Matrix

pytestmark = pytest.mark.unit
NOW = datetime.now(UTC)


def unit(seed: int, dimension: int = 16) -> Matrix:
    row = np.random.default_rng(seed).normal(size=dimension)
    return (row / np.linalg.norm(row)).astype(np.float32)


def exemplar(seed: int, log_id: uuid.UUID | None = None) -> Exemplar:
    return Exemplar(log_id or uuid.uuid4(), "a", 5, NOW + timedelta(seconds=seed))


def add(recall: Recall, *given: tuple[int, Exemplar]) -> None:
    recall.add(
        [f"q{n}" for n, _ in given], [e for _, e in given], np.stack([unit(n) for n, _ in given])
    )


def test_the_nearest_come_first_and_no_more_than_asked_for() -> None:
    recall = Recall(16)
    add(recall, *((n, exemplar(n)) for n in range(200)))
    for seed in range(0, 200, 17):
        found = recall.near(unit(seed), 5)
        assert found[0].question == f"q{seed}"
        assert found[0].cosine == pytest.approx(1, abs=1e-2)
        assert [near.cosine for near in found] == sorted((n.cosine for n in found), reverse=True)
        assert len(found) == 5


def test_a_dialogue_that_is_rated_again_is_in_once_with_its_newest_rating() -> None:
    recall, log_id = Recall(16), uuid.uuid4()
    for rating in (5, 1, 4):
        add(recall, (1, Exemplar(log_id, "a", rating, NOW)))
    assert len(recall) == 1
    assert [e.rating for e in recall.near(unit(1), 10)[0].dialogues] == [4]
    assert recall.get(log_id) == Exemplar(log_id, "a", 4, NOW)
    assert recall.get(uuid.uuid4()) is None


def test_a_question_asked_in_the_same_words_is_one_point_whose_newest_speak() -> None:
    recall = Recall(16)
    asked = [exemplar(n) for n in range(PER_QUESTION + 3)]
    add(recall, *((1, e) for e in asked[:3]))
    add(recall, (2, exemplar(2)), *((1, e) for e in asked[3:]))
    found = recall.near(unit(1), 10)
    assert [near.question for near in found] == ["q1", "q2"]
    assert list(found[0].dialogues) == asked[:2:-1]
    assert len(recall) == PER_QUESTION + 1
    for gone in asked:
        recall.discard(gone.log_id, NOW)
    assert [near.question for near in recall.near(unit(1), 10)] == ["q2"]
    add(recall, (1, asked[0]))
    assert recall.near(unit(1), 1)[0].dialogues == (asked[0],)


def test_beyond_its_limit_the_oldest_go() -> None:
    recall = Recall(16, limit=10)
    for n in range(15):
        add(recall, (n, exemplar(n)))
    assert len(recall) == 10
    assert recall.partial
    assert {near.question for near in recall.near(unit(0), 50)} == {f"q{n}" for n in range(5, 15)}


def test_every_tells_the_newest_questions_with_their_vectors() -> None:
    recall = Recall(16)
    assert recall.every(10)[:2] == ([], [])
    add(recall, *((n, exemplar(n)) for n in range(5)))
    questions, said, vectors = recall.every(3)
    assert questions == ["q2", "q3", "q4"]
    assert [len(dialogues) for dialogues in said] == [1, 1, 1]
    assert np.allclose(vectors, np.stack([unit(n) for n in (2, 3, 4)]), atol=1e-2)


def test_last_change_is_that_of_the_newest_rating_or_of_the_last_loss() -> None:
    recall, log_id = Recall(16), uuid.uuid4()
    assert recall.last_change is None
    recall.discard(uuid.uuid4(), NOW)
    assert recall.last_change is None
    add(recall, (5, exemplar(5, log_id)), (3, exemplar(3)))
    assert recall.last_change == NOW + timedelta(seconds=5)
    recall.discard(log_id, NOW + timedelta(seconds=9))
    assert recall.last_change == NOW + timedelta(seconds=9)
    add(recall, (6, exemplar(6)))
    assert recall.last_change == NOW + timedelta(seconds=9)


def test_what_changes_no_answer_changes_no_last_change() -> None:
    recall, log_id = Recall(16), uuid.uuid4()
    add(recall, (1, Exemplar(log_id, None, 5, NOW)))
    recall.discard(log_id, NOW)
    assert recall.last_change is None
