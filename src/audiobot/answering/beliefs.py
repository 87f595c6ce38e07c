"""From ratings to beliefs: what people's stars say of an answer, fairly to those who rate.

A rating says something only against what its rater usually gives, so it is centred on the
rater's mean, which is shrunk to the mean of all raters (the James-Stein way: Efron and Morris,
1975): who always gives five stars says nothing, and of whom little is known counts with all.
Three stars are no verdict. What is believed of an answer near a question is the mean of its
raters' verdicts, each rater heard once, weighed by nearness (Nadaraya, 1964; Watson, 1964) and
drawn to nothing while few have spoken. With ratings dealt at random it is nothing on the whole.

What an operator has answered himself is right, so ratings of it can be checked. Who blames it is
heard less everywhere: such questions are what crowdsourcing calls gold (Oleson et al., 2011).
"""

from __future__ import annotations

import itertools
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
NO_VERDICT: Final = 3
_HALF_SCALE: Final = 2.0
_BORNE_OUT: Final = 1.0
"""So often is everybody taken to have praised what is right before,"""
_REFUTED: Final = 4.0
"""and blaming it once weighs as much as praising it so often."""
Trust = Mapping[str, float]
"""How much a rater's word counts, 0-1, where that is not in full."""
IN_FULL: Final[Trust] = MappingProxyType({})


@lru_cache(1_000)
def _pair(count: int, total: int) -> tuple[int, int]:
    """One for all raters who gave so many ratings of that sum: most gave one."""
    return count, total


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
        """``rater`` gave ``rating``, in place of ``before`` if that is given and remembered."""
        if rater is None:
            return
        count, total = self._given.pop(rater, (0, 0))
        if count:
            self._means -= total / count
        else:
            before = None  # forgotten with his rater
        count, total = count + (before is None), total + rating - (before or 0)
        self._given[rater] = _pair(count, total)  # at the end: who rated last is forgotten last
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
            self._given[rater] = _pair(count - 1, total - rating)
            self._means += (total - rating) / (count - 1)

    @property
    def usual(self) -> float:
        """What people give: the mean of the raters' means, so that nobody's diligence rules it."""
        return (self._means + _USUAL_WEIGHT * USUAL_RATING) / (len(self._given) + _USUAL_WEIGHT)

    def verdict(self, rater: str | None, rating: int) -> float:
        """What one rating says: above 0 for the answer, below 0 against it, about -1 to 1."""
        if rating == NO_VERDICT:
            return 0.0
        count, total = self._given.get(rater, (0, 0)) if rater is not None else (0, 0)
        own = (total + _OWN_WEIGHT * self.usual) / (count + _OWN_WEIGHT)
        deviation = (rating - own) / _HALF_SCALE
        return max(0.0, deviation) if rating > NO_VERDICT else min(0.0, deviation)


def trust(checked: Iterable[tuple[str, bool]]) -> Trust:
    """How much each rater's word counts, by what he says of operators' own answers.

    ``checked`` holds a rater and whether he praised one.
    """
    tallies: dict[str, list[int]] = {}
    for rater, praised in checked:
        tallies.setdefault(rater, [0, 0])[praised] += 1
    return {
        rater: (right + _BORNE_OUT) / (right + _REFUTED * wrong + _BORNE_OUT)
        for rater, (wrong, right) in tallies.items()
        if wrong
    }


class Belief(NamedTuple):
    """What raters say of one item near a question.

    ``support`` is above 0 when they speak for it; ``for_it`` are the dialogues that do.
    """

    support: float
    for_it: tuple[Exemplar, ...]


def beliefs(
    near: Sequence[Near],
    nearness: Matrix,
    raters: Raters,
    doubt: float,
    trust: Trust = IN_FULL,
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
            verdict *= trust.get(dialogue.rater or "", 1.0)
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


class Verdicts(NamedTuple):
    """What raters said, a row for each dialogue, the oldest first of each question.

    Columns of one length: the number of the question, the place of the item in ``names``, the
    number of the rater and his verdict. As arrays, for there may be a hundred thousand.
    """

    questions: NDArray[np.int64]
    items: NDArray[np.int64]
    raters: NDArray[np.int64]
    verdicts: NDArray[np.float64]
    names: Sequence[str]

    def but(self, questions: Sequence[int]) -> Verdicts:
        """Those of other questions."""
        kept = ~np.isin(self.questions, questions)
        columns = self.questions[kept], self.items[kept], self.raters[kept]
        return Verdicts(*columns, self.verdicts[kept], self.names)


def heard(every: Sequence[Sequence[Exemplar]], raters: Raters, trust: Trust = IN_FULL) -> Verdicts:
    """The verdicts in rated dialogues; ``every`` question's are together."""
    names: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    who: defaultdict[str | None, int] = defaultdict(itertools.count().__next__)
    numbers, verdicts = array("q"), array("d")
    for number, dialogues in enumerate(every):
        for dialogue in dialogues:
            verdict = raters.verdict(dialogue.rater, dialogue.rating)
            verdict *= trust.get(dialogue.rater or "", 1.0)
            if dialogue.item_id is not None and verdict != 0.0:
                numbers.extend((number, names[dialogue.item_id], who[dialogue.rater]))
                verdicts.append(verdict)
    questions, items, by = np.array(numbers, dtype=np.int64).reshape(-1, 3).T
    return Verdicts(questions, items, by, np.array(verdicts, dtype=np.float64), [*names])


class Lessons(NamedTuple):
    """How much raters hold that items answer questions: columns, in the order of the questions."""

    questions: NDArray[np.int64]
    items: NDArray[np.int64]
    weights: NDArray[np.float64]


def lessons(said: Verdicts, places: Mapping[str, int], most: float = _HEARD) -> Lessons:
    """What verdicts teach of items at ``places``.

    Weights are sums of verdicts. Of one item a rater is heard up to ``most`` in all, for it or
    against it, so that nobody teaches it alone; of what he says of one question the newest counts.
    """
    place_of = np.array([places.get(name, -1) for name in said.names], dtype=np.int64)
    place = place_of[said.items]
    items, raters = len(places) + 1, int(said.raters.max(initial=0)) + 1
    pair = said.questions * items + place
    # The last of equal keys is the first of them from behind.
    _, from_behind = np.unique((pair * raters + said.raters)[::-1], return_index=True)
    newest = len(pair) - 1 - from_behind
    newest = newest[place[newest] >= 0]
    verdicts, by = said.verdicts[newest], said.raters[newest]
    _, which = np.unique(place[newest] * raters + by, return_inverse=True)
    in_all = np.bincount(which, np.abs(verdicts))[which]
    pairs, which = np.unique(pair[newest], return_inverse=True)
    weights: NDArray[np.float64] = np.zeros(len(pairs))
    np.add.at(weights, which, verdicts * np.minimum(1.0, most / in_all))
    return Lessons(pairs // items, pairs % items, weights)
