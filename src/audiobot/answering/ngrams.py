"""Likeness of letters: which texts share character n-grams with a question, typos or not.

Tf-idf over groups of 2-4 letters within words (scikit-learn's ``char_wb``), found through
postings, since a question has some sixty groups and the knowledge many thousands.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiobot.ports import Matrix

_ROWS_KEPT: Final = 1_000
_MOSTLY: Final = 0.8


class Row(NamedTuple):
    """A text's n-grams as feature numbers and their weights, of length 1."""

    features: NDArray[np.int64]
    weights: Matrix

    def likeness(self, other: Row) -> float:
        """The cosine of two texts."""
        mine = dict(zip(self.features.tolist(), self.weights.tolist(), strict=True))
        pairs = zip(other.features.tolist(), other.weights.tolist(), strict=True)
        return float(sum(mine.get(feature, 0.0) * weight for feature, weight in pairs))


class NgramIndex:
    """An immutable index over ``texts``; it keeps the rows of the last questions at hand.

    Where most texts are those of the index ``before``, only the others are looked at, with the
    letters' weights of then.
    """

    def __init__(self, texts: Sequence[str], before: NgramIndex | None = None) -> None:
        self._texts = len(texts)
        rows: Any = before.rows_of(texts) if before is not None else None
        if before is not None and rows is not None:
            self._tfidf: Any = before._tfidf  # noqa: SLF001  # of its own kind
            self._fitted_on: int = before._fitted_on  # noqa: SLF001
        else:
            # Imported here: a start must not wait two seconds for it.
            from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

            self._tfidf = TfidfVectorizer(
                analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, dtype=np.float32
            )
            rows = self._tfidf.fit_transform(texts)
            self._fitted_on = len(texts)
        self._places = {text: place for place, text in enumerate(texts)}
        by_feature = rows.T.tocsr()
        self._starts: NDArray[np.int32] = by_feature.indptr
        self._holders: NDArray[np.int32] = by_feature.indices
        self._weights: Matrix = by_feature.data
        self._analyse = self._tfidf.build_analyzer()
        self._rows: OrderedDict[str, Row] = OrderedDict()

    def rows_of(self, texts: Sequence[str]) -> Any:
        """The sparse rows of ``texts`` where nearly all were fitted on, else None."""
        from scipy.sparse import csr_matrix, vstack  # noqa: PLC0415  # here already, with scikit-learn

        new = [text for text in dict.fromkeys(texts) if text not in self._places]
        known = len(texts) - len(new)
        if not texts or known < _MOSTLY * max(len(texts), self._fitted_on):
            return None
        shape = len(self._starts) - 1, self._texts
        rows = csr_matrix((self._weights, self._holders, self._starts), shape=shape).T.tocsr()
        if new:
            rows = vstack([rows, self._tfidf.transform(new)]).tocsr()
        places = self._places | {text: self._texts + i for i, text in enumerate(new)}
        return rows[[places[text] for text in texts]]

    def row(self, text: str) -> Row:
        """A text's n-grams: what ``TfidfVectorizer.transform`` gives, at a sixth of its cost."""
        found = self._rows.get(text)
        if found is not None:
            return found
        vocabulary = self._tfidf.vocabulary_
        counts = Counter(vocabulary[g] for g in self._analyse(text) if g in vocabulary)
        features = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
        weights = 1.0 + np.log(np.fromiter(counts.values(), dtype=np.float32, count=len(counts)))
        weights *= self._tfidf.idf_[features]
        length = float(np.linalg.norm(weights))
        row = Row(features, (weights / (length or 1.0)).astype(np.float32))
        self._rows[text] = row
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
        asked = self._weighed(question)
        return max((_cosine(asked, self._weighed(wording)) for wording in wordings), default=0.0)

    def _weighed(self, text: str) -> dict[str, float]:
        """A text's n-grams with their weights; one that no text has weighs the most."""
        vocabulary, idf = self._tfidf.vocabulary_, self._tfidf.idf_
        rarest = float(idf.max())
        return {
            gram: (1.0 + math.log(count))
            * (float(idf[vocabulary[gram]]) if gram in vocabulary else rarest)
            for gram, count in Counter(self._analyse(text)).items()
        }


def _cosine(one: dict[str, float], other: dict[str, float]) -> float:
    product = sum(weight * other.get(gram, 0.0) for gram, weight in one.items())
    length = math.hypot(*one.values()) * math.hypot(*other.values())
    return product / length if length else 0.0
