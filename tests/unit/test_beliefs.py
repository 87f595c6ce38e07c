"""Beliefs: what ratings say, fairly to raters, and what they do not say."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import numpy as np
import pytest

from audiobot.answering.beliefs import USUAL_RATING, Raters, beliefs, heard, lessons, trust
from audiobot.answering.recall import Exemplar, Near

pytestmark = pytest.mark.unit
NOW = datetime.now(UTC)


def said(rating: int, rater: str | None = "r", item: str | None = "a") -> Exemplar:
    return Exemplar(uuid.uuid4(), item, rating, NOW, rater)


def near(*dialogues: Exemplar) -> Near:
    return Near("q", np.zeros(4, np.float32), 1.0, dialogues)


def support(*dialogues: Exemplar, nearness: float = 1.0, raters: Raters | None = None) -> float:
    heard = raters or heard_of(*dialogues)
    found = beliefs([near(*dialogues)], np.array([nearness], np.float32), heard, 0.5)
    return found["a"].support if "a" in found else 0.0


def heard_of(*dialogues: Exemplar) -> Raters:
    raters = Raters()
    for dialogue in dialogues:
        raters.rated(dialogue.rater, dialogue.rating)
    return raters


def test_stars_speak_for_and_against_and_three_say_nothing() -> None:
    values = [support(said(rating)) for rating in (1, 2, 3, 4, 5)]
    assert values == sorted(values)
    assert values[0] < values[1] < 0.0 == values[2] < values[3] < values[4]


def test_few_voices_count_in_part_and_one_that_repeats_itself_is_one() -> None:
    raters = Raters()
    verdict = raters.verdict("new", 5)

    def from_raters(*names: str) -> float:
        return support(*(said(5, name) for name in names), raters=raters) / verdict

    assert from_raters("a") == from_raters("a", "a", "a") == pytest.approx(1 / 1.5)
    assert from_raters("a", "b", "c") == pytest.approx(3 / 3.5)
    assert from_raters(*map(str, range(100))) > 0.99


def test_who_always_gives_five_stars_says_next_to_nothing() -> None:
    lavish, fair = Raters(), Raters()
    for _ in range(50):
        lavish.rated("r", 5)
    for rating in (1, 5) * 25:
        fair.rated("r", rating)
    assert 0 <= lavish.verdict("r", 5) < 0.1 < 0.5 < fair.verdict("r", 5)


def test_a_rater_of_whom_nothing_is_known_counts_with_what_is_usual() -> None:
    raters = Raters()
    assert raters.usual == USUAL_RATING
    assert raters.verdict(None, 5) == pytest.approx(0.75)
    assert raters.verdict("new", 1) == pytest.approx(-1.25)


def test_a_rating_that_is_changed_or_gone_leaves_no_trace() -> None:
    raters = Raters()
    raters.rated("r", 4)
    usual = raters.usual
    raters.rated("r", 1)
    raters.rated("r", 5, before=1)
    raters.withdrawn("r", 5)
    assert raters.usual == pytest.approx(usual)
    copied = raters.copy()
    raters.withdrawn("r", 4)
    raters.withdrawn("r", 4)
    assert raters.usual == pytest.approx(USUAL_RATING)
    assert copied.usual == pytest.approx(usual)


def test_who_has_not_rated_for_long_is_forgotten() -> None:
    raters = Raters(most=2)
    for rater in ("a", "b", "a", "c"):
        raters.rated(rater, 5)
    alone = Raters()
    for rater in ("a", "a", "c"):
        alone.rated(rater, 5)
    assert raters.usual == pytest.approx(alone.usual)
    assert raters.verdict("b", 5) == alone.verdict("new", 5)


def test_who_was_forgotten_may_change_his_rating_and_take_it_back() -> None:
    raters = Raters(most=2)
    for rater in ("a", "b", "c"):
        raters.rated(rater, 5)
    raters.rated("a", 4, before=5)
    alone = Raters()
    for rater, rating in (("c", 5), ("a", 4)):
        alone.rated(rater, rating)
    assert raters.usual == pytest.approx(alone.usual)
    raters.withdrawn("a", 4)
    raters.withdrawn("b", 5)
    alone.withdrawn("a", 4)
    assert raters.usual == pytest.approx(alone.usual)


def test_one_rater_of_many_dialogues_is_heard_once() -> None:
    once = support(said(5, "x"), raters=Raters())
    assert support(*(said(5, "x") for _ in range(8)), raters=Raters()) == pytest.approx(once)
    assert support(*(said(5, f"r{n}") for n in range(8)), raters=Raters()) > once
    assert support(*(said(5, None) for _ in range(8)), raters=Raters()) == pytest.approx(
        support(said(5, None), raters=Raters())
    )


def test_more_people_are_believed_more_and_never_more_than_they_say() -> None:
    values = [support(*(said(5, f"r{n}") for n in range(k)), raters=Raters()) for k in (1, 2, 8)]
    assert values == sorted(values)
    assert values[-1] < Raters().verdict("new", 5)


def test_what_was_said_far_away_counts_less_and_at_no_nearness_nothing() -> None:
    assert support(said(5), nearness=1.0) > support(said(5), nearness=0.3) > 0.0
    assert support(said(5), nearness=0.0) == 0.0


def test_only_those_who_speak_for_an_item_are_named() -> None:
    good, bad = said(5, "x"), said(1, "y")
    found = beliefs([near(good, bad)], np.ones(1, np.float32), heard_of(good, bad), 0.5)
    assert found["a"].for_it == (good,)


def test_whom_operators_refute_is_heard_less_and_more_again_when_they_bear_him_out() -> None:
    assert trust([]) == {}
    assert trust([("fair", True), ("fair", True)]) == {}
    liar, slip, mended = (
        trust([("x", given) for given in borne_out])["x"]
        for borne_out in ([False] * 3, [False], [False] + [True] * 12)
    )
    assert 0.0 < liar < slip < 0.5 < mended < 1.0


def test_what_a_rater_says_counts_as_far_as_he_is_trusted() -> None:
    dialogues = [said(5, "liar", "a"), said(5, "fair", "b"), said(5, None, "c")]
    raters, heeded = heard_of(*dialogues), {"liar": 0.1}
    found = beliefs([near(*dialogues)], np.ones(1, np.float32), raters, 0.5, heeded)
    assert 0.0 < found["a"].support < 0.2 * found["b"].support
    assert found["c"] == beliefs([near(*dialogues)], np.ones(1, np.float32), raters, 0.5)["c"]
    taught = lessons(heard([dialogues], raters, heeded), {"a": 0, "b": 1, "c": 2})
    assert 0.0 < taught.weights[0] < 0.2 * taught.weights[1]


def test_shuffled_ratings_cancel_out() -> None:
    chance = np.random.default_rng(7)
    stars = chance.permutation([1] * 300 + [5] * 500)
    every = [said(int(star), f"r{n % 50}", f"i{n % 8}") for n, star in enumerate(stars)]
    raters = heard_of(*every)
    taught = lessons(heard([[e] for e in every], raters), {f"i{n}": n for n in range(8)})
    by_item = [taught.weights[taught.items == n].sum() for n in range(8)]
    assert (taught.weights > 0).sum() > 400
    assert abs(float(np.mean(by_item))) < 0.12 * 100


def test_of_one_item_no_rater_teaches_more_than_his_share() -> None:
    flood = [[said(5, "x", "a")] for _ in range(100)]
    taught = lessons(heard(flood, Raters()), {"a": 0})
    assert taught.weights.sum() == pytest.approx(3.0)
    crowd = [[said(5, f"r{n}", "a")] for n in range(100)]
    assert lessons(heard(crowd, Raters()), {"a": 0}).weights.sum() > 50


def test_of_one_question_a_raters_newest_word_counts() -> None:
    other = said(4, "x", "b")
    taught = lessons(heard([[said(5, "x"), other, said(1, "x")]], Raters()), {"a": 0, "b": 1})
    assert taught.questions.tolist() == [0, 0]
    assert taught.items.tolist() == [0, 1]
    assert taught.weights[0] < 0 < taught.weights[1]


def test_what_is_no_items_or_no_verdict_teaches_nothing() -> None:
    nothing = heard([[said(5, "x", None), said(3), said(5, "x", "gone")]], Raters())
    assert [column.size for column in lessons(nothing, {"a": 0})] == [0, 0, 0]


def test_what_is_said_of_items_that_are_gone_is_not_said_of_others() -> None:
    every = [[said(5, "x", "a"), said(5, "x", "gone")], [said(1, "x", "gone"), said(5, "y", "b")]]
    taught = lessons(heard(every, Raters()), {"a": 0, "b": 1})
    assert taught.questions.tolist() == [0, 1]
    assert taught.items.tolist() == [0, 1]
    assert (taught.weights > 0).all()
    assert lessons(heard(every, Raters()).but([0]), {"a": 0, "b": 1}).questions.tolist() == [1]


def test_lessons_are_those_of_the_plain_rules() -> None:
    chance = np.random.default_rng(11)
    names, raters = ["a", "b", "gone", None], Raters()
    every = []
    for _ in range(40):
        dealt = chance.integers((1, 0, 0), (6, 6, 4), size=(6, 3)).tolist()
        every.append([said(stars, f"r{who}" if who else None, names[n]) for stars, who, n in dealt])
    for dialogue in (dialogue for dialogues in every for dialogue in dialogues):
        raters.rated(dialogue.rater, dialogue.rating)
    newest: dict[tuple[int, str, str | None], float] = {}
    for number, dialogues in enumerate(every):
        for d in dialogues:
            verdict = raters.verdict(d.rater, d.rating)
            if d.item_id in {"a", "b"} and verdict:
                newest[number, d.item_id, d.rater] = verdict
    weights: dict[tuple[int, str], float] = {}
    for (number, item, rater), verdict in newest.items():
        told = sum(abs(v) for (_, i, r), v in newest.items() if (i, r) == (item, rater))
        share = verdict * min(1.0, 3.0 / told)
        weights[number, item] = weights.get((number, item), 0.0) + share
    taught = lessons(heard(every, raters), {"a": 1, "b": 0})
    found = {
        (question, "ba"[item]): weight
        for question, item, weight in zip(*(column.tolist() for column in taught), strict=True)
    }
    assert found == pytest.approx(weights)
    assert taught.questions.tolist() == sorted(taught.questions.tolist())
