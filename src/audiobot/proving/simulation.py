"""A year of a company in a second: people ask, rate and correct, and the bot learns as it does.

The ranking, the beliefs and the corrections are the product's own; only people are simulated, from
a seed. A turn asks one of the company's learning phrasings, all alike often. Three in ten turns
are rated: who rates is one of fifty people, each with a leaning of his own, and one rating in seven
is thoughtless. An operator answers low-rated turns and, every hundred turns, the five that the bot
was least sure of, until his answers are spent. What is measured is told by questions that no turn
ever asked.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

import msgspec
import numpy as np

from audiobot.answering.corrections import lay_over
from audiobot.answering.experience import Experience
from audiobot.answering.mind import Head, Key, fitted, make_ranker, question_key
from audiobot.answering.ranking import Ranker, Ranking, pinned
from audiobot.answering.recall import Exemplar
from audiobot.answering.weights import Weights, kind_of
from audiobot.answering.whitening import Whitening
from audiobot.answering.words import plain
from audiobot.domain import Correction, KnowledgeItem
from audiobot.ports import Matrix
from audiobot.proving.company import Company, Intent

Texts = Mapping[Key, Matrix]

TURNS: Final = 1_000
BUDGET: Final = 70
"""Answers that the operator gives in all."""
RATED: Final = 0.3
RATERS: Final = 50
CORRECTED: Final = 0.3
"""Share of the low-rated turns that the operator answers."""
UNSURE: Final = 5
"""Turns that the operator answers from the inbox, each time."""
EVERY: Final = 100
_LAST: Final = 200
_LOW: Final = 2
_THOUGHTLESS: Final = 0.15
_LEANING: Final = 0.5
_FIRMLY: Final = 0.6
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)

Ratings = Literal["none", "honest", "shuffled", "fives"]


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One way of living through the same turns.

    ``attackers``: share of the raters who say the opposite of what they think. ``nearest``: the
    answer of the nearest well-rated question is told, nothing else is learned. ``changes``: half
    of the way one intent's answer becomes another's.
    """

    name: str
    ratings: Ratings = "none"
    corrections: bool = False
    attackers: float = 0.0
    nearest: bool = False
    empty: bool = False
    changes: bool = False


class Point(msgspec.Struct, frozen=True):
    """What was measured after so many ``turns``, with so many operator ``answers`` spent."""

    turns: int
    answers: int
    accuracy: float


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """One life: its curve, its last two hundred turns, and what it knew at the end.

    ``sure`` holds (probability, right) of every kept-back question; ``scope`` how likely each of
    these, of the far and of the near questions is asked of what is known at all.
    """

    arm: str
    seed: int
    curve: list[Point]
    recurring: float
    corrected: float
    sure: list[tuple[float, bool]]
    scope: dict[str, list[float]]


class _Turn(NamedTuple):
    intent: Intent
    text: str
    told: str
    sure: float


class Bot:
    """The product's learner without a server: ``texts`` holds every vector that it may need."""

    def __init__(
        self,
        company: Company,
        texts: Texts,
        weights: Weights,
        whitening: Whitening,
        encoder: str,
        *,
        empty: bool = False,
    ) -> None:
        self._texts, self._weights, self._whitening = texts, weights, whitening
        self._encoder = encoder
        self._decision = weights.decision[kind_of(encoder)]
        self._dimension = len(next(iter(texts.values())))
        self._imported = [] if empty else [
            KnowledgeItem(item_id=intent.name, title="", answer=intent.answer)
            for intent in company.intents
        ]  # fmt: skip
        self._corrections: dict[str, Correction] = {}
        self.experience = Experience(self._dimension)
        self._count = 0
        self.ranker: Ranker | None = None
        self._head: Head | None = None
        self._build()

    def _build(self) -> None:
        self.known = lay_over(self._imported, self._corrections.values())
        self.refit()
        self.ranker = make_ranker(
            self.known,
            self._texts,
            self._dimension,
            self._weights,
            self._whitening,
            self._encoder,
            self.ranker,
        )

    def ask(self, text: str) -> Ranking | None:
        """The items that may answer."""
        if self.ranker is None:
            return None
        vector = self._texts[question_key(text)]
        if self._head is None:
            self._head = fitted(self.known, self.ranker, self.experience.snapshot())
        believed = self.experience.believed(self.ranker, vector, self._head.trust)
        ranking = self.ranker.rank(text, vector, "ru", believed, self._head.matrix)
        item = self.known.pinned(text, "ru")
        return ranking if item is None else pinned(ranking, item)

    def sure(self, ranking: Ranking) -> float:
        """How likely its best item is right."""
        if ranking.is_pinned:
            return 1.0
        return self._decision.probability(ranking.features)

    def in_scope(self, ranking: Ranking) -> float:
        """How likely it is asked of what the company knows at all."""
        return self._decision.scope.probability(ranking.features)

    def answer_of(self, ranking: Ranking | None) -> str:
        """What would be told, whatever the probability."""
        return ranking.ranked[0].item.answer if ranking is not None else ""

    def rate(self, text: str, item_id: str, rating: int, rater: str) -> None:
        """A dialogue was rated."""
        self._count += 1
        at = _START + timedelta(seconds=self._count)
        exemplar = Exemplar(uuid.UUID(int=self._count), item_id, rating, at, rater)
        self.experience.take([text], [exemplar], self._texts[question_key(text)][np.newaxis])

    def refit(self) -> None:
        """Let the head know of every rating; the product does so in the background."""
        self._head = None

    def item_of(self, answer: str) -> str | None:
        """The item that tells ``answer``."""
        return next((i.item_id for i in self.known.items if i.answer == answer), None)

    def nearest(self, text: str) -> str | None:
        """The answer of the nearest well-rated question: what the learner is compared with.

        None when none is near at all: else the first that was rated well would answer everything.
        """
        assert self.ranker is not None
        vector = self._texts[question_key(text)]
        found = self.experience.recall.near(vector, 32)
        if not found:
            return None
        nearness = self.ranker.nearness(vector, np.stack([near.vector for near in found]))
        for near in (near for near, how in zip(found, nearness, strict=True) if how > 0.0):
            for dialogue in near.dialogues:
                if dialogue.rating >= 4 and dialogue.item_id in self.ranker.by_id:
                    return self.ranker.items[self.ranker.by_id[dialogue.item_id]].answer
        return None

    def correct(self, text: str, answer: str) -> bool:
        """An operator answered this question; False when he had said just that before."""
        before = self._corrections.get(plain(text))
        if before is not None and before.answer == answer:
            return False
        self._count += 1
        correction = Correction(
            correction_id=uuid.UUID(int=self._count),
            answer=answer,
            wordings=(text,),
            language="ru",
            corrected_at=_START + timedelta(seconds=self._count),
            version=self._count,
        )
        self._corrections.pop(plain(text), None)
        self._corrections[plain(text)] = correction
        self._build()
        return True


def live(
    company: Company,
    arm: Arm,
    seed: int,
    texts: Texts,
    weights: Weights,
    whitening: Whitening,
    encoder: str,
    *,
    turns: int = TURNS,
    measured: int = EVERY,
    keep: Callable[[Bot], None] = lambda bot: None,
) -> Course:
    """One life of ``turns`` turns; the same seed asks the same questions in every arm.

    ``keep`` is given the bot as it has become.
    """
    bot = Bot(company, texts, weights, whitening, encoder, empty=arm.empty)
    life = _Life(bot, company, arm, seed)
    curve: list[Point] = []
    for turn in range(turns + 1):
        if arm.changes and turn == turns // 2:
            life.change()
        if turn % EVERY == 0:
            life.rest()
        if turn % measured == 0:
            curve.append(Point(turn, life.spent, life.accuracy()))
        if turn < turns:
            life.turn()
    keep(bot)
    return Course(
        arm=arm.name,
        seed=seed,
        curve=curve,
        recurring=_mean(life.repeated[-_LAST:]),
        corrected=life.accuracy_again(),
        sure=life.sure(),
        scope={
            "inside": [_in_scope(bot, text) for i in company.intents for text in i.test],
            "far": [_in_scope(bot, text) for text in company.far],
            "near": [_in_scope(bot, text) for text in company.near],
        },
    )


class _Life:
    """One bot among its people."""

    def __init__(self, bot: Bot, company: Company, arm: Arm, seed: int) -> None:
        self._bot, self._company, self._arm = bot, company, arm
        self._people = _People(arm, seed)
        self._asked = np.random.default_rng([seed, 1])
        self._answers = {intent.name: intent.answer for intent in company.intents}
        self._recent: list[_Turn] = []
        self._taught: list[_Turn] = []
        self.spent = 0
        self.repeated: list[bool] = []

    def change(self) -> None:
        """One intent's answer becomes another's."""
        one, other = self._company.intents[0].name, self._company.intents[1].name
        self._answers[one] = self._answers[other]

    def rest(self) -> None:
        """The head is fitted, the operator looks at his inbox."""
        self._bot.refit()
        if self._arm.corrections:
            answered = 0
            for unsure in sorted(self._recent, key=lambda turn: turn.sure):
                answered += self._correct(unsure)
                if answered >= UNSURE:
                    break
        self._recent.clear()

    def _correct(self, turn: _Turn) -> bool:
        """The operator answers, unless he said just that before or has no answers left."""
        answer = self._answers[turn.intent.name]
        if self.spent >= BUDGET or not self._bot.correct(turn.text, answer):
            return False
        self.spent += 1
        self._taught.append(turn)
        return True

    def turn(self) -> None:
        """Somebody asks, and maybe rates; the operator maybe answers."""
        intents = self._company.intents
        intent = intents[int(self._asked.integers(len(intents)))]
        text = intent.stream[int(self._asked.integers(len(intent.stream)))]
        ranking = self._bot.ask(text)
        told = self._told(text, ranking)
        right = told == self._answers[intent.name]
        sure = self._bot.sure(ranking) if ranking is not None else 0.0
        asked = _Turn(intent, text, told, sure)
        self._recent.append(asked)
        self.repeated.append(right)
        rated = self._people.rate(right=right)
        if rated is None or ranking is None:
            return
        item_id = self._bot.item_of(told)
        if self._arm.ratings != "none" and item_id is not None:
            self._bot.rate(text, item_id, *rated)
        if self._arm.corrections and rated[0] <= _LOW and self._people.corrects():
            self._correct(asked)

    def _told(self, text: str, ranking: Ranking | None) -> str:
        if self._arm.nearest and (found := self._bot.nearest(text)) is not None:
            return found
        return self._bot.answer_of(ranking)

    def _right(self, text: str, intent: Intent) -> bool:
        return self._told(text, self._bot.ask(text)) == self._answers[intent.name]

    def accuracy(self) -> float:
        """Of the questions that no turn asks."""
        return _mean([self._right(t, i) for i in self._company.intents for t in i.test])

    def accuracy_again(self) -> float:
        """Of the questions that the operator answered."""
        return _mean([self._right(turn.text, turn.intent) for turn in self._taught])

    def sure(self) -> list[tuple[float, bool]]:
        """Of every kept-back question how sure the bot is, and whether it is right."""
        found = []
        for intent in self._company.intents:
            for text in intent.test:
                ranking = self._bot.ask(text)
                sure = self._bot.sure(ranking) if ranking is not None else 0.0
                found.append((sure, self._bot.answer_of(ranking) == self._answers[intent.name]))
        return found


class _People:
    """Who rates, and how."""

    def __init__(self, arm: Arm, seed: int) -> None:
        self._arm = arm
        self._chance = np.random.default_rng([seed, 2])
        self._leaning = np.random.default_rng([seed, 3]).normal(0.0, _LEANING, RATERS)
        self._hostile = round(arm.attackers * RATERS)
        self._seen: list[bool] = []

    def rate(self, *, right: bool) -> tuple[int, str] | None:
        """A rating of 1-5 and its rater; None when nobody cares. Every arm draws alike."""
        cares, who, thoughtless, whim, doubt, other = self._chance.random(6)
        if cares >= RATED:
            return None
        self._seen.append(right)
        if self._arm.ratings == "shuffled":
            # Of another rated turn: as many stars of each kind, none where it belongs.
            right = self._seen[int(other * len(self._seen))]
        rater = int(who * RATERS)
        if self._arm.ratings == "fives":
            return 5, f"rater {rater}"
        pleased = right if rater >= self._hostile else not right
        high, low = (5 if doubt < _FIRMLY else 4), (1 if doubt < _FIRMLY else 2)
        rating = high if pleased else low
        if thoughtless < _THOUGHTLESS:
            rating = 1 + int(whim * 5)
        return int(np.clip(round(rating + self._leaning[rater]), 1, 5)), f"rater {rater}"

    def corrects(self) -> bool:
        """Whether the operator answers a turn that was rated low."""
        return bool(self._chance.random() < CORRECTED)


def _in_scope(bot: Bot, text: str) -> float:
    ranking = bot.ask(text)
    return bot.in_scope(ranking) if ranking is not None else 0.0


def _mean(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
