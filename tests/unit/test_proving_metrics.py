"""A proof's figures against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from audiobot.proving.metrics import (
    Bin,
    Interval,
    Told,
    auroc,
    coverage_at,
    median,
    over_lives,
    over_lives_and_intents,
    reliability,
    risk_curve,
    thinned,
    told_from,
)

pytestmark = pytest.mark.unit

SURE = [(0.9, True), (0.8, True), (0.8, False), (0.4, True), (0.1, False)]


def test_risk_against_coverage_takes_questions_told_alike_together() -> None:
    curve = [pytest.approx(point) for point in [(0.2, 0.0), (0.6, 1 / 3), (0.8, 0.25), (1.0, 0.4)]]
    assert risk_curve(SURE) == curve


@pytest.mark.parametrize(
    ("risk", "coverage"), [(0.0, 0.2), (0.24, 0.2), (0.25, 0.8), (0.34, 0.8), (0.4, 1.0)]
)
def test_coverage_is_the_most_that_a_threshold_lets_through(risk: float, coverage: float) -> None:
    assert coverage_at(SURE, risk) == pytest.approx(coverage)


def test_nothing_can_be_told_where_the_surest_is_wrong() -> None:
    assert coverage_at([(0.9, False), (0.1, False)], 0.1) == 0.0
    assert coverage_at([], 0.1) == 0.0


def test_what_a_threshold_tells() -> None:
    assert told_from(SURE, 0.8) == Told(coverage=0.6, right=0.4, wrong=pytest.approx(1 / 3))
    assert told_from(SURE, 0.95) == Told(coverage=0.0, right=0.0, wrong=None)
    assert told_from([], 0.5) == Told(coverage=0.0, right=0.0, wrong=None)


def test_area_under_the_curve() -> None:
    # Of six pairs four are in order, one is a tie.
    assert auroc([0.9, 0.5, 0.2], [0.5, 0.1]) == pytest.approx(4.5 / 6)
    assert auroc([0.9, 0.8], [0.1]) == 1.0
    assert auroc([0.1], [0.9, 0.8]) == 0.0
    assert auroc([0.3, 0.3], [0.3]) == 0.5
    assert auroc([], [0.3]) is None
    assert auroc([0.3], []) is None


def test_reliability_counts_each_question_in_one_bin() -> None:
    sure = [(0.05, False), (0.15, False), (0.15, True), (0.95, True), (1.0, True)]
    assert reliability(sure) == [
        Bin(1, pytest.approx(0.05), 0.0),
        Bin(2, pytest.approx(0.15), 0.5),
        Bin(2, pytest.approx(0.975), 1.0),
    ]


def test_an_interval_holds_the_figure_and_is_nothing_wide_when_all_lives_are_alike() -> None:
    assert over_lives([0.5, 0.5, 0.5], median) == Interval(0.5, 0.5, 0.5)
    spread = over_lives([0.1, 0.2, 0.3, 0.4, 0.5], median)
    assert spread is not None
    assert spread.value == 0.3
    assert 0.1 <= spread.low < 0.3 < spread.high <= 0.5
    assert over_lives([], median) is None


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        found = over_lives([*chance.normal(0.0, 1.0, 25)], median)
        assert found is not None
        covered += found.low <= 0.0 <= found.high
    assert 52 <= covered <= 60


def test_other_intents_make_an_interval_wider_than_other_lives_alone() -> None:
    # Every life gains the same: all on one intent of four.
    right = np.tile([1.0, 0.0, 0.0, 0.0], (6, 1))
    found = over_lives_and_intents(right)
    assert found.value == 0.25
    assert found.low == 0.0
    assert found.high >= 0.5
    assert over_lives([*right.mean(axis=1)], median) == Interval(0.25, 0.25, 0.25)


def test_a_thinned_curve_keeps_its_end() -> None:
    curve = [(i / 1_000, 0.0) for i in range(1, 1_001)]
    kept = thinned(curve)
    assert len(kept) == 100
    assert kept[-1] == curve[-1]
    assert thinned(curve[:3]) == curve[:3]
    assert thinned([]) == []
