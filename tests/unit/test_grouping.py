"""Questions by what they ask: groups of vectors, their order, what they cost."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from itertools import combinations

import numpy as np
import pytest

from audiobot.answering.embedding import make_encoder, read_vectors, shipped_vectors, text_key
from audiobot.answering.grouping import group_by_meaning
from audiobot.answering.weights import load_background
from audiobot.ports import Matrix

DIMENSION = 64


def unit(rows: Matrix) -> Matrix:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def around(topics: list[int], spread: float = 0.03, seed: int = 1) -> Matrix:
    """A row near its topic's direction, all of them in a narrow cone as an encoder's are."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(max(topics) + 1, DIMENSION)) / 8
    common = 3 * np.ones(DIMENSION) / 8
    noise = rng.normal(size=(len(topics), DIMENSION)) * spread
    return unit(common + directions[topics] + noise)


def test_questions_near_one_another_are_one_group_and_groups_stand_by_their_first() -> None:
    groups = group_by_meaning(around([2, 0, 2, 1, 0, 2, 1]))
    assert groups == [[0, 2, 5], [1, 4], [3, 6]]


def test_every_question_is_in_exactly_one_group_in_its_order() -> None:
    topics = list(np.random.default_rng(5).integers(0, 40, size=200))
    groups = group_by_meaning(around(topics))
    assert sorted(row for group in groups for row in group) == list(range(200))
    assert all(group == sorted(group) for group in groups)
    assert [group[0] for group in groups] == sorted(group[0] for group in groups)
    assert groups == group_by_meaning(around(topics))


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [[0]])])
def test_none_and_one_are_what_they_are(count: int, expected: list[list[int]]) -> None:
    assert group_by_meaning(np.ones((count, 8), dtype=np.float32) / 8**0.5) == expected


def test_the_same_question_again_is_in_its_group_even_when_there_is_nothing_else() -> None:
    one = around([0])
    assert group_by_meaning(np.repeat(one, 3, axis=0)) == [[0, 1, 2]]
    two = around([0, 1])
    assert group_by_meaning(np.concatenate([two, two])) == [[0, 2], [1, 3]]


def test_beside_a_background_questions_that_are_all_alike_are_one_group() -> None:
    everything = around(list(range(30)), seed=1)
    alike = around([3] * 6, seed=1)
    assert len(group_by_meaning(alike)) > 1
    assert group_by_meaning(alike, everything) == [list(range(6))]


def test_five_hundred_are_grouped_too() -> None:
    topics = list(np.random.default_rng(3).integers(0, 20, size=500))
    groups = group_by_meaning(around(topics, spread=0.01))
    assert len(groups) in {19, 20}  # two topics may differ in a main direction only
    assert len({(topics[row], at) for at, group in enumerate(groups) for row in group}) == 20


def test_questions_of_the_tuning_part_are_grouped_mostly_with_their_own() -> None:
    folder = resources.files("audiobot") / "evaluation_set"
    lines = [json.loads(line) for line in (folder / "intents.jsonl").read_text().splitlines()]
    tuning = {*[line["intent"] for line in lines if line["part"] == "tuning"][::2]}
    read = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    asked = [q for q in read if q["intent"] in tuning and q["language"] == "ru"]
    encoder = make_encoder()
    vectors = encoder.query([q["text"] for q in asked])
    shipped = read_vectors(shipped_vectors(), encoder)
    background = np.stack([shipped[text_key("query", line)] for line in load_background()])
    together = [
        (asked[a]["intent"], asked[b]["intent"])
        for group in group_by_meaning(vectors, background)
        for a, b in combinations(group, 2)
    ]
    own = Counter(a == b for a, b in together)
    assert own[True] > 40
    assert own[True] / len(together) > 0.6
