"""Evaluating: how well what was learned holds for questions that it was not learned from.

Of every question whose answer people rated well it is known what is right. Those that an operator
or a document taught word for word are left out: they prove nothing. The others are dealt into five
parts; each part is ranked by a head that the other four taught, without what raters said of it: the
share told right is the held-out accuracy. An evaluation is kept whenever so many ratings came in,
and sooner, with a new fit before it, when the average rating is under the threshold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, NamedTuple, Protocol
from uuid import uuid4

import numpy as np

from audiobot.answering.beliefs import IN_FULL, Lessons, Trust, lessons
from audiobot.answering.experience import Snapshot
from audiobot.answering.ranking import Ranker
from audiobot.answering.words import exact
from audiobot.domain import ModelMetrics, Stats, utc_now
from audiobot.errors import AudioBotError, report_fault
from audiobot.ports import Store

ENOUGH: Final = 20
"""Ratings without which an average says nothing; so many new ones ask for a new look."""
EVERY: Final = 200
"""New ratings after which there is an evaluation however good they are;"""
PART: Final = 20
"""where there are many, one in so many of all: the more there is, the less a few change."""
LOOK_SECONDS: Final = 15.0
FOLDS: Final = 5
MOST: Final = 500
"""Questions that an evaluation ranks: the newest."""

Reason = Literal["ratings_low", "ratings_many"]


class HeldOut(NamedTuple):
    """Of so many ``questions`` the share whose well-rated answer was told; None without any.

    ``taught`` counts those left out: word for word they are among the wordings learned from.
    """

    accuracy: float | None
    questions: int
    taught: int = 0


def held_out(ranker: Ranker, snapshot: Snapshot, trust: Trust = IN_FULL) -> HeldOut:
    """Cross-validated accuracy on well-rated questions."""
    said = snapshot.heard(trust)
    rated = _rated_best(lessons(said, ranker.by_id, np.inf))
    wordings = {(item.language, exact(q)) for item in ranker.items for q in item.questions}
    wanted = {
        number: place
        for number, place in rated.items()
        if (ranker.items[place].language, exact(snapshot.questions[number])) not in wordings
    }
    asked = [*wanted][-MOST:]
    right = []
    for fold in range(FOLDS):
        part = asked[fold::FOLDS]
        if not part:
            continue
        head = ranker.fit_head(snapshot.vectors, lessons(said.but(part), ranker.by_id))
        for i in part:
            place = wanted[i]
            language, vector = ranker.items[place].language, snapshot.vectors[i].astype(np.float32)
            ranking = ranker.rank(snapshot.questions[i], vector, language, head=head)
            right.append(ranker.by_id[ranking.ranked[0].item.item_id] == place)
    accuracy = round(float(np.mean(right)), 4) if right else None
    return HeldOut(accuracy, len(right), len(rated) - len(wanted))


def _rated_best(taught: Lessons) -> dict[int, int]:
    """The item that raters hold to be the answer, by question, where there is one."""
    good = taught.weights > 0.0
    questions, items = taught.questions[good], taught.items[good]
    order = np.lexsort((items, taught.weights[good], questions))  # the best comes last
    return dict(zip(questions[order].tolist(), items[order].tolist(), strict=True))


class Learning(Protocol):
    """Who is evaluated: the answerer."""

    @property
    def version(self) -> str:
        """Which ranking it is."""
        ...

    async def evaluate(self) -> HeldOut:
        """Fit the head anew and say how it holds."""
        ...


class Cycle:
    """Looks at the ratings time and again; ``tell`` hears of each evaluation and why it was.

    ``put_off`` hears of the error that keeps the store from giving or keeping one, once.
    """

    def __init__(
        self,
        store: Store,
        learning: Learning,
        threshold: float,
        tell: Callable[[ModelMetrics, Reason], None],
        put_off: Callable[[AudioBotError], None],
    ) -> None:
        self._store = store
        self._learning = learning
        self._threshold = threshold
        self._tell = tell
        self._put_off = put_off
        self._rated = 0
        self._until: datetime | None = None

    async def run(self) -> None:
        """For ever; what the store cannot tell now it is asked again."""
        waits = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
                waits = False
            except AudioBotError as error:
                if not waits:
                    self._put_off(error)
                waits = True
            except Exception as error:  # noqa: BLE001  # whatever it is, it is looked at again
                report_fault("an evaluation failed", error)

    async def look(self) -> ModelMetrics | None:
        """An evaluation, if it is time for one."""
        stats = await self._store.get_stats()
        if self._reason(stats) is None:
            return None
        await self._recollect()
        reason = self._reason(stats)
        if reason is None:
            return None
        found = await self._learning.evaluate()
        now, rated = utc_now(), stats.rated_interactions
        metrics = ModelMetrics(
            evaluation_id=uuid4(),
            model_version=self._learning.version,
            created_at=now,
            avg_rating=round(stats.avg_rating, 4),
            total_interactions=stats.total_interactions,
            positive_ratings=stats.positive_ratings,
            negative_ratings=stats.negative_ratings,
            user_satisfaction=round(stats.positive_ratings / rated, 4),
            held_out_accuracy=found.accuracy,
            evaluation_period_start=self._until,
            evaluation_period_end=now,
            is_current_model=True,
            requires_retraining=stats.avg_rating < self._threshold,
            details={
                "rated": rated,
                "held_out_questions": found.questions,
                "taught_questions": found.taught,
                "reason": reason,
            },
        )
        await self._store.add_evaluation(metrics)
        self._rated, self._until = rated, now
        self._tell(metrics, reason)
        return metrics

    async def _recollect(self) -> None:
        """Where the last evaluation stopped: before a restart maybe, or on another machine."""
        for newest in await self._store.get_evaluations(1):
            rated = newest.details.get("rated", 0)
            # In an outage the newest in reach may be older than the last of our own.
            if isinstance(rated, int) and rated >= self._rated:
                self._rated, self._until = rated, newest.created_at

    def _reason(self, stats: Stats) -> Reason | None:
        new = stats.rated_interactions - self._rated
        if new < ENOUGH:
            return None
        if stats.avg_rating < self._threshold:
            return "ratings_low"
        many = max(EVERY, stats.rated_interactions // PART)
        return "ratings_many" if new >= many else None
