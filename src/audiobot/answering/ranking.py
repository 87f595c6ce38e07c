"""Ranking: how well each thing the company knows answers a question, and how sure that is.

Three voices speak for an item: the question against its question wordings (vectors), against its
answer (vectors), and character n-grams for typos and names. Each voice is scaled per query, so
that a voice that likes everything says nothing; then they are summed with the weights of
``weights.json``, which ``benchmarks/fit_answering.py`` fits. Well-rated dialogues join the first
and the third voice as further wordings of the item that was told.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from importlib import resources
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from audiobot.answering.recall import Near
from audiobot.domain import KnowledgeItem, Language
from audiobot.ports import Matrix

TOP: Final = 5
LEAST_OVERLAP: Final = 0.3
OWN_WORDS: Final = 0.9
"""Overlaps: n-grams alone tell nothing below the one, and what they reach the other with."""


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """The fitted numbers: the voices' weights, and the decision's logistic regression.

    ``decision`` holds the coefficients of :data:`FEATURES` and ``bias`` the constant;
    ``threshold`` is the least probability at which the bot answers rather than hands over.
    """

    question: float
    answer: float
    ngrams: float
    foreign: float
    temperature: float
    decision: dict[str, tuple[float, ...]]
    bias: dict[str, float]
    threshold: dict[str, float]


FEATURES: Final = (
    "log_probability",
    "wording",
    "answer",
    "ngrams",
    "margin",
    "score",
    "background_nearest",
    "background_five",
)
_ANSWERED_BY_KNOWLEDGE: Final = 0.8
_BEYOND_NOISE: Final = 1e-3
_ROWS_KEPT: Final = 1_000
_NO_VECTOR: Final = np.zeros(0, dtype=np.float32)
"""A ranking is remembered; the vectors it came from are not."""


def load_weights() -> Weights:
    """The weights shipped with this version."""
    data = (resources.files("audiobot") / "answering" / "weights.json").read_bytes()
    return msgspec.json.decode(data, type=Weights)


def load_background() -> list[str]:
    """Questions that no service company's knowledge answers: what 'none of these' is like."""
    text = (resources.files("audiobot") / "answering" / "background.txt").read_text("utf-8")
    return text.splitlines()


def _unit(matrix: Matrix) -> Matrix:
    length = np.linalg.norm(matrix, axis=-1, keepdims=True)
    return np.asarray(matrix / np.where(length > 1e-9, length, 1.0), dtype=np.float32)


def _scaled(voice: Matrix) -> Matrix:
    centred = voice - voice.sum() / len(voice)
    spread = float(centred @ centred / len(voice)) ** 0.5
    return np.asarray(centred / np.float32(spread or 1.0) if spread > 1e-6 else centred * 0)


class Ranked(NamedTuple):
    """One item in its place: fused score, and which exemplar dialogues spoke for it."""

    item: KnowledgeItem
    score: float
    dialogues: tuple[Near, ...]
    learned: bool
    """True when a dialogue, not the item's own wording, came nearest to the question."""


class Ranking(NamedTuple):
    """The best items, best first, and the features that the decision to answer rests on."""

    ranked: list[Ranked]
    features: tuple[float, ...]


class _Row(NamedTuple):
    """A text's n-grams as feature numbers and their weights, of length 1."""

    features: NDArray[np.int64]
    weights: Matrix

    def likeness(self, other: _Row) -> float:
        """The cosine of two texts."""
        mine = dict(zip(self.features.tolist(), self.weights.tolist(), strict=True))
        pairs = zip(other.features.tolist(), other.weights.tolist(), strict=True)
        return float(sum(mine.get(feature, 0.0) * weight for feature, weight in pairs))


class _Postings(NamedTuple):
    """For each n-gram the texts that hold it, with its weight in them: a CSR matrix's arrays."""

    starts: NDArray[np.int32]
    texts: NDArray[np.int32]
    weights: Matrix

    def likeness(self, row: _Row, texts: int) -> Matrix:
        """The cosine of ``row`` to each of ``texts`` texts: only its own n-grams are looked at."""
        first = self.starts[row.features]
        lengths = self.starts[row.features + 1] - first
        before = np.cumsum(lengths) - lengths
        places = np.repeat(first - before, lengths) + np.arange(lengths.sum())
        products = self.weights[places] * np.repeat(row.weights, lengths)
        return np.bincount(self.texts[places], products, minlength=texts).astype(np.float32)


class Ranker:
    """An immutable index over a set of items; a change of knowledge makes a new one.

    ``wordings`` are the query-side vectors of all items' questions in order, ``answers`` the
    passage-side vectors of title and answer, ``background`` the query-side vectors of questions
    outside any such knowledge; those that this knowledge does answer are left out.
    """

    def __init__(
        self,
        items: Sequence[KnowledgeItem],
        wordings: Matrix,
        answers: Matrix,
        background: Matrix,
        weights: Weights,
    ) -> None:
        self.items = list(items)
        self.by_id = {item.item_id: i for i, item in enumerate(self.items)}
        self._weights = weights
        texts = [q for item in self.items for q in item.questions]
        # Where each item's wordings begin among all wordings, and which items have any.
        counts = np.array([len(item.questions) for item in self.items])
        self._with_wordings = np.flatnonzero(counts)
        self._first_wording = (np.cumsum(counts) - counts)[self._with_wordings]
        languages = np.array([item.language for item in self.items])
        self._foreign: dict[Language, Matrix] = {
            language: (weights.foreign * (languages != language)).astype(np.float32)
            for language in ("ru", "en")
        }
        dimension = answers.shape[1]
        self._query_mean = wordings.mean(axis=0) if texts else np.zeros(dimension, np.float32)
        self._answer_mean = answers.mean(axis=0)
        self._wordings = _unit(wordings - self._query_mean) if texts else wordings
        self._answers = _unit(answers - self._answer_mean)
        outside = _unit(background - self._query_mean)
        if texts and len(outside):
            known = (outside @ self._wordings.T).max(axis=1) >= _ANSWERED_BY_KNOWLEDGE
            outside = outside[~known]
        self._background = outside
        # Imported here for the same reason as in NgramEncoder: a start must not wait for it.
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415

        self._tfidf = TfidfVectorizer(
            analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, dtype=np.float32
        )
        bodies = [f"{item.title} {item.answer}" for item in self.items]
        rows = self._tfidf.fit_transform([*texts, *bodies])
        self._wording_count = len(texts)
        # Feature by feature: a question has some sixty n-grams, the knowledge many thousands.
        by_feature = rows.T.tocsr()
        self._postings = _Postings(by_feature.indptr, by_feature.indices, by_feature.data)
        self._analyse = self._tfidf.build_analyzer()
        self._rows: OrderedDict[str, _Row] = OrderedDict()

    def _row(self, text: str) -> _Row:
        """A text's n-grams: what ``TfidfVectorizer.transform`` gives, at a sixth of its cost."""
        found = self._rows.get(text)
        if found is not None:
            return found
        vocabulary = self._tfidf.vocabulary_
        counts = Counter(vocabulary[g] for g in self._analyse(text) if g in vocabulary)
        features = np.fromiter(counts.keys(), dtype=np.int64, count=len(counts))
        weights = 1.0 + np.log(np.fromiter(counts.values(), dtype=np.float32, count=len(counts)))
        row = _Row(features, _unit(weights * self._tfidf.idf_[features]))
        self._rows[text] = row
        while len(self._rows) > _ROWS_KEPT:
            self._rows.popitem(last=False)
        return row

    def overlap(self, question: str, best: Ranked) -> float:
        """How much of ``question``, letter group by letter group, an item's wordings have: 0-1.

        Unlike the n-gram voice it counts what the knowledge has never seen: of "foo bar baz" that
        is nearly all. A well-rated dialogue's question is one more wording.
        """
        wordings = [*best.item.questions] or [f"{best.item.title} {best.item.answer}"]
        wordings += [near.exemplar.question for near in best.dialogues]
        asked = self._weighed(question)
        return max(_cosine(asked, self._weighed(wording)) for wording in wordings)

    def _weighed(self, text: str) -> dict[str, float]:
        """A text's n-grams with their weights; one that the knowledge lacks weighs the most."""
        vocabulary, idf = self._tfidf.vocabulary_, self._tfidf.idf_
        rarest = float(idf.max())
        return {
            gram: (1.0 + math.log(count))
            * (float(idf[vocabulary[gram]]) if gram in vocabulary else rarest)
            for gram, count in Counter(self._analyse(text)).items()
        }

    def _best_by_item(self, scores: Matrix, otherwise: Matrix) -> Matrix:
        """For each item its best wording's score; ``otherwise`` where it has no wordings."""
        best = otherwise.copy()
        if len(scores):
            best[self._with_wordings] = np.maximum.reduceat(scores, self._first_wording)
        return best

    def rank(
        self, question: str, vector: Matrix, language: Language, dialogues: Sequence[Near] = ()
    ) -> Ranking:
        """Items by how well they answer; ``dialogues`` are the nearest well-rated ones."""
        asked = _unit(vector - self._query_mean)
        answer = self._answers @ asked
        wording = self._best_by_item(self._wordings @ asked, answer)
        row = self._row(question)
        likeness = self._postings.likeness(row, self._wording_count + len(self.items))
        ngram = self._best_by_item(likeness[: self._wording_count], likeness[self._wording_count :])
        told = [
            (i, n) for n in dialogues if (i := self.by_id.get(n.exemplar.item_id or "")) is not None
        ]
        spoke: dict[int, list[Near]] = {}
        learned: set[int] = set()
        if told:
            nearness = _unit(np.stack([n.vector for _, n in told]) - self._query_mean) @ asked
            for (i, near), cosine in zip(told, nearness.tolist(), strict=True):
                spoke.setdefault(i, []).append(near)
                if cosine > wording[i] + _BEYOND_NOISE:
                    wording[i] = cosine
                    learned.add(i)
        for i in learned:
            ngram[i] = max(
                ngram[i], *(row.likeness(self._row(n.exemplar.question)) for n in spoke[i])
            )
        outside = np.sort(self._background @ asked)[-5:]
        if not len(outside):
            outside = np.zeros(1, dtype=np.float32)
        return self._fuse(wording, answer, ngram, outside, language, spoke, learned)

    def _fuse(
        self,
        wording: Matrix,
        answer: Matrix,
        ngram: Matrix,
        outside: Matrix,
        language: Language,
        spoke: dict[int, list[Near]],
        learned: set[int],
    ) -> Ranking:
        weights = self._weights
        fused = (
            weights.question * _scaled(wording)
            + weights.answer * _scaled(answer)
            + weights.ngrams * _scaled(ngram)
            - self._foreign[language]
        )
        order = np.argsort(-fused, kind="stable")[:TOP]
        shifted = (fused - fused[order[0]]) / weights.temperature
        best = int(order[0])
        second = float(fused[order[1]]) if len(order) > 1 else float(fused[best]) - 10.0
        features = (
            -float(np.log(np.exp(shifted).sum())),
            float(wording[best]),
            float(answer[best]),
            float(ngram[best]),
            float(fused[best]) - second,
            float(fused[best]),
            float(outside[-1]),
            float(outside.mean()),
        )
        ranked = [
            Ranked(
                self.items[i],
                float(fused[i]),
                tuple(near._replace(vector=_NO_VECTOR) for near in spoke.get(i, ())),
                i in learned,
            )
            for i in order.tolist()
        ]
        return Ranking(ranked, features)


def is_sure(
    ranker: Ranker, question: str, ranking: Ranking, weights: Weights, encoder: str
) -> bool:
    """True when the best item may be told rather than the question handed over.

    N-grams alone take likeness of letters for likeness of meaning, so with them an item must
    share real words with the question, and one asked for in its own words is always told.
    """
    kind = kind_of(encoder)
    if kind == "ngrams":
        overlap = ranker.overlap(question, ranking.ranked[0])
        if overlap >= OWN_WORDS or overlap < LEAST_OVERLAP:
            return overlap >= OWN_WORDS
    return probability(ranking.features, weights, encoder) >= weights.threshold[kind]


def _cosine(one: dict[str, float], other: dict[str, float]) -> float:
    product = sum(weight * other.get(gram, 0.0) for gram, weight in one.items())
    length = math.hypot(*one.values()) * math.hypot(*other.values())
    return product / length if length else 0.0


def probability(features: Sequence[float], weights: Weights, encoder: str) -> float:
    """Logistic regression over :data:`FEATURES`: how likely the best item is the right one."""
    kind = kind_of(encoder)
    logit = weights.bias[kind] + float(np.dot(features, weights.decision[kind]))
    return float(1.0 / (1.0 + np.exp(-logit)))


def kind_of(encoder: str) -> str:
    """Which set of decision weights belongs to an encoder's name."""
    return "ngrams" if encoder.startswith("char-ngrams") else "dense"


def as_rows(vectors: Sequence[Matrix], dimension: int) -> NDArray[np.float32]:
    """Vectors stacked to a matrix, with a shape even when there are none."""
    if not vectors:
        return np.zeros((0, dimension), dtype=np.float32)
    return np.stack(vectors).astype(np.float32, copy=False)
