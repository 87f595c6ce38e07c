"""Ranking: how well each thing the company knows answers a question.

Voices speak for an item. Its wordings and the question are compared by meaning, whitened
(``whitening.py``), and the nearest wording counts; so does the nearest clause of its answer, taken
as if somebody had asked it. Its answer and the question are compared too, which says less the fewer
words the answer has; so are their letters, for typos and names (``ngrams.py``). A balanced ridge
head tells its wordings and its answer as a whole from those of all others. What
raters said of it near the question (``beliefs.py``) speaks for or against it. They are summed with
the weights of ``weights.json``, which ``benchmarks/fit_answering.py`` fits by the likelihood of
the right item among all (McFadden, 1974: conditional logit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiobot.answering.beliefs import Belief, Lessons
from audiobot.answering.ngrams import NgramIndex
from audiobot.answering.weights import VOICES, Voices, Weights, kind_of
from audiobot.answering.whitening import Whitening, unit
from audiobot.answering.words import exact
from audiobot.domain import KnowledgeItem, Language
from audiobot.ports import Halves, Matrix

TOP: Final = 5
_ANSWERED_BY_KNOWLEDGE: Final = 0.8
_LEAST_FULLNESS: Final = 0.1
_FEW_ITEMS: Final = 12
_BLOCK: Final = 512
"""Questions that a head is fitted to at a time: of more there would be megabytes in between."""
_SUPPORT: Final = VOICES.index("support")
_NOBODY: Final = Belief(0.0, ())


class Ranked(NamedTuple):
    """One item in its place: its fused score, and what raters said of it near the question."""

    item: KnowledgeItem
    score: float
    belief: Belief


class Ranking(NamedTuple):
    """The best items, best first, and the features that the decision to answer rests on."""

    ranked: list[Ranked]
    features: tuple[float, ...]
    """Of the best item, in the order of ``weights.FEATURES``."""
    is_pinned: bool = False
    """True when this very question is answered there: there is nothing to be unsure of."""


class Vectors(NamedTuple):
    """Raw vectors: of all items' questions in order, of their answers, of the answers' clauses.

    An item has as many clauses as ``clauses_each`` tells. ``background`` are questions outside any
    such knowledge; those that this knowledge does answer are left out.
    """

    wordings: Matrix
    answers: Matrix
    clauses: Matrix
    clauses_each: Sequence[int]
    background: Matrix


class _Owners(NamedTuple):
    """Which ``items`` have rows in a matrix of the rows of all, and where each one's begin."""

    items: NDArray[np.int64]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, counts: Sequence[int]) -> _Owners:
        """Of matrices in which item after item has so many rows."""
        rows = np.array(counts, dtype=np.int64)
        items = np.flatnonzero(rows)
        return cls(items, (np.cumsum(rows) - rows)[items])

    def best(self, scores: Matrix, otherwise: Matrix) -> Matrix:
        """For each item its best row's score; ``otherwise`` where it has none."""
        best = otherwise.copy()
        if len(scores):
            best[self.items] = np.maximum.reduceat(scores, self.first)
        return best


class Ranker:
    """An immutable index over a set of items; a change of knowledge makes a new one.

    ``taught`` are the ids of items whose answer an operator wrote: they go before what is as near.
    What the ranker ``before`` shares with this one is not made again.
    """

    def __init__(
        self,
        items: Sequence[KnowledgeItem],
        vectors: Vectors,
        weights: Weights,
        whitening: Whitening,
        encoder: str,
        taught: frozenset[str] = frozenset(),
        before: Ranker | None = None,
    ) -> None:
        self.items = list(items)
        self.by_id = {item.item_id: i for i, item in enumerate(self.items)}
        self.encoder = encoder
        self.weights = weights
        self._voices: Voices = weights.voices[kind_of(encoder)]
        self._voice_weights = np.array([getattr(self._voices, n) for n in VOICES], np.float32)
        self._whitening = whitening
        texts = [q for item in self.items for q in item.questions]
        counts = [len(item.questions) for item in self.items]
        self._counts = np.array(counts)
        self._of_wordings, self._of_clauses = _Owners.of(counts), _Owners.of(vectors.clauses_each)
        languages = np.array([item.language for item in self.items])
        apart: dict[Language, Matrix] = {
            language: (weights.foreign * (languages != language)).astype(np.float32)
            for language in ("ru", "en")
        }
        favour = np.array([item.item_id in taught for item in self.items], dtype=np.float32)
        self._offset = {language: weights.taught * favour - apart[language] for language in apart}
        # Letters alone are a poor judge of meaning, but what stands there word by word is no guess.
        self._own = {
            (item.language, exact(question)): item.item_id
            for item in reversed(self.items if kind_of(encoder) == "ngrams" else ())
            for question in item.questions
        }
        self._fullness = np.array([fullness(i.answer) for i in self.items], dtype=np.float32)
        self._query_mean = _mean(vectors.wordings, whitening.query_mean, vectors.answers.shape[1])
        answer_mean = _mean(vectors.answers, whitening.passage_mean, vectors.answers.shape[1])
        self._answers = unit(vectors.answers - answer_mean)
        self._wordings = self._seen(vectors.wordings)
        self._clauses = self._seen(vectors.clauses)
        outside = self._seen(vectors.background)
        if texts and len(outside):
            known = (outside @ self._wordings.T).max(axis=1) >= _ANSWERED_BY_KNOWLEDGE
            outside = outside[~known]
        self._background = outside
        self.head = self.fit_head(vectors.background[:0])
        bodies = [f"{item.title} {item.answer}" for item in self.items]
        self.ngrams: NgramIndex = NgramIndex([*texts, *bodies], before.ngrams if before else None)

    def _seen(self, questions: Matrix) -> Matrix:
        """Raw query-side vectors, centred and whitened: shape as given."""
        if not questions.size:
            return questions
        return self._whitening.apply(unit(questions - self._query_mean))

    def fit_head(self, questions: Matrix | Halves, taught: Lessons | None = None) -> Matrix:
        """The head, shape (items, dimension): ridge regression of items on their prototypes.

        Each item is one row however many wordings it has, so that none outvotes another: the
        mean of its wordings, of its answer, and of the ``questions`` (raw, query side) that
        ``taught`` holds for it, less those held against it (Rocchio, 1971). Their scatter around
        it is the whitening's, so that this is discriminant analysis by regression (Hastie, Buja
        and Tibshirani, 1995).
        """
        v = self._voices
        fullness = np.maximum(self._fullness, _LEAST_FULLNESS)[:, np.newaxis]
        totals = v.answer_weight * fullness * self._whitening.apply(self._answers)
        weight = v.answer_weight * fullness + self._counts[:, np.newaxis]
        if len(self._wordings):
            owners = self._of_wordings
            totals[owners.items] += np.add.reduceat(self._wordings, owners.first)
        if taught is not None:
            factors = np.where(taught.weights > 0.0, v.lessons, v.against)
            held = (taught.weights * factors).astype(np.float32)[:, np.newaxis]
            np.add.at(weight, taught.items, np.maximum(held, 0.0))
            for first in range(0, len(questions), _BLOCK):
                seen = self._seen(questions[first : first + _BLOCK].astype(np.float32))
                begin, end = np.searchsorted(taught.questions, (first, first + _BLOCK))
                rows = seen[taught.questions[begin:end] - first]
                np.add.at(totals, taught.items[begin:end], held[begin:end] * rows)
        prototypes = totals / weight
        gram = prototypes.T @ prototypes
        gram[np.diag_indices_from(gram)] += v.ridge
        return np.asarray(np.linalg.solve(gram, prototypes.T).T, dtype=np.float32)

    def nearness(self, question: Matrix, others: Matrix) -> Matrix:
        """How near raw query-side vectors ``others`` (n, dimension) are: shape (n,), 0-1."""
        cosines = self._seen(others) @ self._seen(question)
        reach = self.weights.reach
        return np.asarray(np.clip((cosines - reach) / (1.0 - reach), 0.0, 1.0) ** 2)

    def _named(self, ranking: Ranking, question: str, language: Language) -> Ranking:
        """With an item first that is asked for in its own words, where letters alone judge."""
        own = self._own.get((language, exact(question)))
        return ranking if own is None else pinned(ranking, self.items[self.by_id[own]])

    def voices(
        self, question: str, vector: Matrix, believed: Mapping[str, Belief], head: Matrix
    ) -> Matrix:
        """What each voice says of each item, shape (voices, items), in the order of ``VOICES``."""
        centred = unit(vector - self._query_mean)
        asked = self._whitening.apply(centred)
        answer = self._answers @ centred
        wording = self._of_wordings.best(self._wordings @ asked, answer)
        clause = self._of_clauses.best(self._clauses @ asked, answer)
        likeness = self.ngrams.likeness(self.ngrams.row(question))
        count = len(self._wordings)
        letters = self._of_wordings.best(likeness[:count], likeness[count:])
        support = np.zeros(len(self.items), dtype=np.float32)
        for item_id, belief in believed.items():
            if (place := self.by_id.get(item_id)) is not None:
                support[place] = belief.support
        told = head @ asked
        full_answer, answer_letters = answer * self._fullness, likeness[count:]
        return np.stack(
            [wording, answer, full_answer, letters, answer_letters, clause, told, support]
        )

    def weighable(self, said: Matrix) -> Matrix:
        """Voices as they are summed: of letters alone each is scaled, beliefs never are.

        How much letters have in common depends on how long a question is.
        """
        if not self._voices.scaled:
            return said
        centred = said - said.mean(axis=1, keepdims=True)
        spread = centred.std(axis=1, keepdims=True)
        scaled = centred / np.where(spread > 1e-6, spread, np.inf)
        scaled[_SUPPORT] = said[_SUPPORT]
        return np.asarray(scaled, dtype=np.float32)

    def outside(self, vector: Matrix) -> tuple[float, float]:
        """How near the nearest question that is none of ours is, and the nearest five are."""
        nearest = np.sort(self._background @ self._seen(vector))[-5:]
        return (float(nearest[-1]), float(nearest.mean())) if len(nearest) else (0.0, 0.0)

    def rank(
        self,
        question: str,
        vector: Matrix,
        language: Language,
        believed: Mapping[str, Belief] | None = None,
        head: Matrix | None = None,
    ) -> Ranking:
        """Items by how well they answer; ``believed`` is what raters say of items near it.

        ``head`` is one of ``fit_head``, in place of the one that knows of no rating.
        """
        believed = believed or {}
        said = self.voices(question, vector, believed, self.head if head is None else head)
        fused = self._voice_weights @ self.weighable(said) + self._offset[language]
        order: NDArray[np.int64] = np.argsort(-fused, kind="stable")[:TOP]
        best = int(order[0])
        second = float(fused[order[1]]) if len(order) > 1 else -np.inf
        # A small company's knowledge has few things that could be meant, its people have as many:
        # what is missing stands for itself, or the only item would be the answer to everything.
        missing = max(0, _FEW_ITEMS - len(self.items))
        rivals = float(np.exp(fused - fused[best]).sum())
        if missing:
            second = max(second, self._voices.rival)
            rivals += missing * float(np.exp(self._voices.rival - 1.0 - fused[best]))
        features = (
            -float(np.log(rivals)),
            *(float(voice[best]) for voice in said),
            float(fused[best]) - second,
            *self.outside(vector),
            float(self._fullness[best]),
            float(np.log1p(self._counts[best])),
            float(np.log1p(max(len(self.items), _FEW_ITEMS))),
        )
        ranked = [
            Ranked(item, float(fused[i]), believed.get(item.item_id, _NOBODY))
            for i in order.tolist()
            for item in [self.items[i]]
        ]
        return self._named(Ranking(ranked, features), question, language)


def pinned(ranking: Ranking, item: KnowledgeItem) -> Ranking:
    """``ranking`` with ``item`` first, for that is the answer to this very question.

    Whatever raters say of it: so none of them speaks for it here.
    """
    others = [ranked for ranked in ranking.ranked if ranked.item.item_id != item.item_id]
    found = [r.score for r in ranking.ranked if r.item.item_id == item.item_id]
    score = found[0] if found else ranking.ranked[0].score if ranking.ranked else 0.0
    best = Ranked(item, score, _NOBODY)
    return Ranking([best, *others][:TOP], ranking.features, is_pinned=True)


def _mean(vectors: Matrix, usual: Matrix | None, dimension: int) -> Matrix:
    if usual is not None:
        return usual
    return vectors.mean(axis=0) if len(vectors) else np.zeros(dimension, dtype=np.float32)


def fullness(answer: str) -> float:
    """How far an answer speaks for itself, 0-1: two words name no topic, a dozen do."""
    return min(1.0, max(0.0, (len(answer.split()) - 2) / 10))


def as_rows(vectors: Sequence[Matrix], dimension: int) -> NDArray[np.float32]:
    """Vectors stacked to a matrix, with a shape even when there are none."""
    if not vectors:
        return np.zeros((0, dimension), dtype=np.float32)
    return np.stack(vectors).astype(np.float32, copy=False)
