"""Likeness of letters: which texts share character n-grams with a question, typos or not.

Tf-idf (Salton and Buckley, 1988) with 1 + log counts over groups of 2-4 letters within words, found
through postings, since a question has some sixty groups and the knowledge many thousands.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiobot.ports import Matrix

_SIZES: Final = (2, 3, 4)
_ROWS_KEPT: Final = 1_000
_MOSTLY: Final = 0.8


def letter_groups(text: str) -> list[str]:
    """The groups of 2-4 letters of each word, blanks around it; all of a shorter word is one."""
    groups: list[str] = []
    for word in text.lower().split():
        letters = f" {word} "
        for size in _SIZES:
            last = max(0, len(letters) - size)
            groups += [letters[start : start + size] for start in range(last + 1)]
            if last == 0:
                break
    return groups


class Row(NamedTuple):
    """A text's n-grams as feature numbers and their weights, of length 1."""

    features: NDArray[np.int32]
    weights: Matrix

    def likeness(self, other: Row) -> float:
        """The cosine of two texts."""
        mine = dict(zip(self.features.tolist(), self.weights.tolist(), strict=True))
        pairs = zip(other.features.tolist(), other.weights.tolist(), strict=True)
        return float(sum(mine.get(feature, 0.0) * weight for feature, weight in pairs))


_Counted = tuple[NDArray[np.int32], Matrix]


def _arrays(places: Iterable[int], counts: Counter[str]) -> _Counted:
    """Feature numbers, and how often each is there."""
    size = len(counts)
    return np.fromiter(places, np.int32, size), np.fromiter(counts.values(), np.float32, size)


class Letters:
    """Which groups there are and how rare: smoothed inverse document frequencies of some texts."""

    def __init__(self, numbers: dict[str, int], texts_with: Matrix, texts: int) -> None:
        self.texts = texts
        self.numbers = numbers
        self.rarity: Matrix = np.log((1.0 + texts) / (1.0 + texts_with)) + 1.0
        self.rarest = float(self.rarity.max(initial=1.0))

    @classmethod
    def of(cls, texts: Sequence[str]) -> tuple[Letters, list[Row]]:
        """Those of ``texts``, and the row of each; every text is cut into groups once."""
        numbers: defaultdict[str, int] = defaultdict(itertools.count().__next__)
        counted: list[_Counted] = []
        for text in texts:
            counts = Counter(letter_groups(text))
            counted.append(_arrays(map(numbers.__getitem__, counts), counts))
        features = np.concatenate([np.empty(0, np.int32), *(found for found, _ in counted)])
        texts_with = np.bincount(features, minlength=len(numbers)).astype(np.float32)
        letters = cls(dict(numbers), texts_with, len(texts))
        return letters, [letters._weighed_row(*found) for found in counted]

    def row(self, text: str) -> Row:
        """A text's groups, but those that no text has."""
        numbers = self.numbers
        counts = Counter(group for group in letter_groups(text) if group in numbers)
        return self._weighed_row(*_arrays((numbers[group] for group in counts), counts))

    def _weighed_row(self, features: NDArray[np.int32], counts: Matrix) -> Row:
        weights = (1.0 + np.log(counts)) * self.rarity[features]
        length = float(np.linalg.norm(weights))
        return Row(features, (weights / (length or 1.0)).astype(np.float32))

    def weighed(self, text: str) -> dict[str, float]:
        """A text's groups with their weights; one that no text has weighs the most."""
        numbers, rarity = self.numbers, self.rarity
        return {
            group: (1.0 + math.log(count))
            * (float(rarity[numbers[group]]) if group in numbers else self.rarest)
            for group, count in Counter(letter_groups(text)).items()
        }


class NgramIndex:
    """An immutable index over ``texts``; it keeps the rows of the last questions at hand.

    Where most texts are those of the index ``before``, only the others are looked at, with the
    letters' weights of then.
    """

    def __init__(self, texts: Sequence[str], before: NgramIndex | None = None) -> None:
        rows = before._rows_of(texts) if before is not None else None  # noqa: SLF001  # of its kind
        if before is not None and rows is not None:
            self.letters: Letters = before.letters
        else:
            self.letters, rows = Letters.of(texts)
        self._texts = len(texts)
        self._places = {text: place for place, text in enumerate(texts)}
        features = np.concatenate([np.empty(0, np.int32), *(row.features for row in rows)])
        weights = np.concatenate([np.empty(0, np.float32), *(row.weights for row in rows)])
        order = np.argsort(features, kind="stable")
        lengths = [len(row.features) for row in rows]
        self._holders = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)[order]
        self._weights = weights[order]
        self._starts = np.searchsorted(features[order], np.arange(len(self.letters.numbers) + 1))
        self._rows: OrderedDict[str, Row] = OrderedDict()

    def _rows_of(self, texts: Sequence[str]) -> list[Row] | None:
        """The rows of ``texts`` where nearly all were looked at before, else None."""
        known = sum(text in self._places for text in texts)
        if not texts or known < _MOSTLY * max(len(texts), self.letters.texts):
            return None
        order = np.argsort(self._holders, kind="stable")
        features = np.repeat(
            np.arange(len(self._starts) - 1, dtype=np.int32), np.diff(self._starts)
        )[order]
        weights = self._weights[order]
        ends = np.searchsorted(self._holders[order], np.arange(self._texts + 1))
        new: dict[str, Row] = {}
        rows = []
        for text in texts:
            place = self._places.get(text)
            if place is None:
                rows.append(new[text] if text in new else new.setdefault(text, self.row(text)))
            else:
                own = slice(ends[place], ends[place + 1])
                rows.append(Row(features[own], weights[own]))
        return rows

    def row(self, text: str) -> Row:
        """A text's n-grams, as far as the index knows them."""
        found = self._rows.get(text)
        if found is not None:
            return found
        row = self._rows[text] = self.letters.row(text)
        while len(self._rows) > _ROWS_KEPT:
            self._rows.popitem(last=False)
        return row

    def likeness(self, row: Row) -> Matrix:
        """The cosine of ``row`` to each text: only its own n-grams are looked at."""
        first = self._starts[row.features]
        lengths = self._starts[row.features + 1] - first
        before = np.cumsum(lengths) - lengths
        places = np.repeat(first - before, lengths) + np.arange(lengths.sum())
        products = self._weights[places] * np.repeat(row.weights, lengths)
        found = np.bincount(self._holders[places], products, minlength=self._texts)
        return found.astype(np.float32)

    def overlap(self, question: str, wordings: Iterable[str]) -> float:
        """How much of ``question``, letter group by letter group, the best wording has: 0-1.

        Unlike ``likeness`` it counts what no text has ever had: of "foo bar baz" that is nearly
        all.
        """
        weighed = self.letters.weighed
        asked = weighed(question)
        return max((_cosine(asked, weighed(wording)) for wording in wordings), default=0.0)


def _cosine(one: dict[str, float], other: dict[str, float]) -> float:
    product = sum(weight * other.get(gram, 0.0) for gram, weight in one.items())
    length = math.hypot(*one.values()) * math.hypot(*other.values())
    return product / length if length else 0.0
