"""From ratings to beliefs: what people's stars say of an answer, fairly to those who rate.

A rating says something only against what its rater usually gives, so it is centred on the
rater's mean, which is shrunk to the mean of all raters (the James-Stein way: Efron and Morris,
1975): who always gives five stars says nothing, and of whom little is known counts with all.
Three stars are no verdict. What is believed of an answer near a question is the mean of its
raters' verdicts, each rater heard once, weighed by nearness (Nadaraya, 1964; Watson, 1964) and
drawn to nothing while few have spoken. With ratings dealt at random it is nothing on the whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from audiobot.answering.recall import Exemplar, Near
from audiobot.ports import Matrix

USUAL_RATING: Final = 3.5
"""What people give when nothing is known of them, with the weight of so many raters:"""
_USUAL_WEIGHT: Final = 10.0
_OWN_WEIGHT: Final = 4.0
"""So many ratings of one rater count as much as what others usually give."""
_HEARD: Final = 3.0
MOST_RATERS: Final = 10_000
"""Who has not rated for so long is one of whom nothing is known."""
_NO_VERDICT: Final = 3
_HALF_SCALE: Final = 2.0


class Raters:
    """How each rater has rated so far: a count and a sum. Of the last ``most`` that rated."""

    def __init__(self, most: int = MOST_RATERS) -> None:
        self._most = most
        self._given: dict[str, tuple[int, int]] = {}
        self._means = 0.0

    def copy(self) -> Raters:
        """As they are now."""
        other = Raters(self._most)
        other._given, other._means = self._given.copy(), self._means
        return other

    def rated(self, rater: str | None, rating: int, before: int | None = None) -> None:
        """``rater`` gave ``rating``, in place of ``before`` if that is given."""
        if rater is None:
            return
        count, total = self._given.pop(rater, (0, 0))
        self._means -= total / count if count else 0.0
        count, total = count + (before is None), total + rating - (before or 0)
        self._given[rater] = (count, total)  # at the end: who rated last is forgotten last
        self._means += total / count
        while len(self._given) > self._most:
            count, total = self._given.pop(next(iter(self._given)))
            self._means -= total / count

    def withdrawn(self, rater: str | None, rating: int) -> None:
        """A rating is out of sight."""
        if rater is None or rater not in self._given:
            return
        count, total = self._given.pop(rater)
        self._means -= total / count
        if count > 1:
            self._given[rater] = (count - 1, total - rating)
            self._means += (total - rating) / (count - 1)

    @property
    def usual(self) -> float:
        """What people give: the mean of the raters' means, so that nobody's diligence rules it."""
        return (self._means + _USUAL_WEIGHT * USUAL_RATING) / (len(self._given) + _USUAL_WEIGHT)

    def verdict(self, rater: str | None, rating: int) -> float:
        """What one rating says: above 0 for the answer, below 0 against it, about -1 to 1."""
        if rating == _NO_VERDICT:
            return 0.0
        count, total = self._given.get(rater, (0, 0)) if rater is not None else (0, 0)
        own = (total + _OWN_WEIGHT * self.usual) / (count + _OWN_WEIGHT)
        deviation = (rating - own) / _HALF_SCALE
        return max(0.0, deviation) if rating > _NO_VERDICT else min(0.0, deviation)


class Belief(NamedTuple):
    """What raters say of one item near a question.

    ``support`` is above 0 when they speak for it; ``for_it`` are the dialogues that do.
    """

    support: float
    for_it: tuple[Exemplar, ...]


def beliefs(
    near: Sequence[Near], nearness: Matrix, raters: Raters, doubt: float
) -> dict[str, Belief]:
    """What is believed of each item that was told to questions ``near`` to the one asked.

    ``nearness``, shape (near,), is 0-1; ``doubt`` is the weight of nobody having spoken, in raters
    right at the question. All raters of whom nothing is known are one person.
    """
    spoken: dict[str, dict[str | None, list[tuple[float, float]]]] = defaultdict(dict)
    for_it: dict[str, list[Exemplar]] = defaultdict(list)
    for question, weight in zip(near, nearness.tolist(), strict=True):
        if weight <= 0.0:
            continue
        for dialogue in question.dialogues:
            if dialogue.item_id is None:
                continue
            verdict = raters.verdict(dialogue.rater, dialogue.rating)
            by_rater = spoken[dialogue.item_id]
            by_rater.setdefault(dialogue.rater, []).append((weight, verdict))
            if verdict > 0.0:
                for_it[dialogue.item_id].append(dialogue)
    return {
        item_id: Belief(_support(by_rater.values(), doubt), tuple(for_it[item_id]))
        for item_id, by_rater in spoken.items()
    }


def _support(by_rater: Iterable[list[tuple[float, float]]], doubt: float) -> float:
    """The raters' mean verdict: each counts as near as the nearest that they rated."""
    total = weight = 0.0
    for given in by_rater:
        nearest = max(near for near, _ in given)
        mean = sum(near * said for near, said in given) / sum(near for near, _ in given)
        total += nearest * mean
        weight += nearest
    return total / (weight + doubt)


class Lesson(NamedTuple):
    """Of one question and one item: how much raters hold that the one answers the other."""

    question: int
    item: int
    weight: float


def lessons(
    every: Sequence[Sequence[Exemplar]], places: Mapping[str, int], raters: Raters
) -> list[Lesson]:
    """What rated dialogues teach of items at ``places``; ``every`` question's are together.

    Weights are sums of verdicts. Of one item a rater is heard up to ``_HEARD`` in all, for it
    or against it, so that nobody teaches it alone.
    """
    said: dict[tuple[int, int, str | None], float] = {}
    in_all: dict[tuple[int, str | None], float] = defaultdict(float)
    for number, dialogues in enumerate(every):
        for dialogue in dialogues:
            place = places.get(dialogue.item_id) if dialogue.item_id is not None else None
            verdict = raters.verdict(dialogue.rater, dialogue.rating)
            if place is None or verdict == 0.0:
                continue
            # Of what one rater says of one question the newest counts, and comes last.
            key = number, place, dialogue.rater
            in_all[place, dialogue.rater] += abs(verdict) - abs(said.get(key, 0.0))
            said[key] = verdict
    weights: dict[tuple[int, int], float] = defaultdict(float)
    for (number, place, rater), verdict in said.items():
        weights[number, place] += verdict * min(1.0, _HEARD / in_all[place, rater])
    return [Lesson(number, place, weight) for (number, place), weight in weights.items()]
