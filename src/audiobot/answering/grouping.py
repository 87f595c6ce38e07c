"""Questions that ask one thing, put together by their vectors: what an operator answers at once.

Agglomerative clustering with average linkage (Sokal & Michener, 1958), from SciPy. The raw
vectors of an encoder all point one way, and apart from that first of all by how something is said
(short, formal, misspelt). So likeness is the cosine after their mean is taken off, and the two main
directions with it (all-but-the-top: Mu & Viswanath, 2018, arXiv:1702.01417).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from audiobot.answering.whitening import unit
from audiobot.ports import Matrix

ALIKE: Final = 0.35
"""Mean likeness from which two groups are one. Chosen on the tuning part of the evaluation set and
for few wrong pairs: one question too many in a group is told another question's answer."""
_DIRECTIONS: Final = 2
_ENOUGH: Final = 100
"""Rows from which the main directions are those of speech, not of the questions at hand."""
_LEAST: Final = 1e-6


def group_by_meaning(vectors: Matrix, background: Matrix | None = None) -> list[list[int]]:
    """The rows of ``vectors`` (unit length) in groups; a group is where its first member is.

    ``background`` are vectors of questions of all kinds: with them few questions, or questions
    that are all alike, are compared as well as many. Rows that are the same always are in one
    group.
    """
    firsts, place = _distinct(vectors)
    labels = _cluster(_compared(vectors[firsts], background))
    groups: dict[int, list[int]] = {}
    for row in range(len(vectors)):
        groups.setdefault(labels[place[row]], []).append(row)
    return list(groups.values())


def _distinct(vectors: Matrix) -> tuple[list[int], list[int]]:
    """The first row of each kind, and for each row which kind it is of."""
    kinds: dict[bytes, int] = {}
    firsts: list[int] = []
    place: list[int] = []
    for row, vector in enumerate(vectors):
        kind = kinds.setdefault(vector.tobytes(), len(firsts))
        if kind == len(firsts):
            firsts.append(row)
        place.append(kind)
    return firsts, place


def _compared(vectors: Matrix, background: Matrix | None) -> Matrix:
    """The rows without what all questions have in common, each of length 1."""
    if len(vectors) < 2:
        return vectors
    every = vectors if background is None else np.concatenate([vectors, background])
    centre = every.mean(axis=0)
    rows = vectors - centre
    if len(every) >= _ENOUGH:
        spread = every - centre
        main = np.linalg.eigh(spread.T @ spread).eigenvectors[:, -_DIRECTIONS:]
        rows = rows - rows @ main @ main.T
    return unit(rows, _LEAST)


def _cluster(rows: Matrix) -> list[int]:
    """A label for each row; equal labels are one group."""
    if len(rows) < 2:
        return [0] * len(rows)
    # Imported here: a third of a second, which no start must wait for.
    from scipy.cluster.hierarchy import fcluster, linkage  # noqa: PLC0415
    from scipy.spatial.distance import squareform  # noqa: PLC0415

    apart = np.clip(1.0 - rows @ rows.T, 0.0, 2.0)
    tree = linkage(squareform(apart, checks=False), "average")
    return [int(label) for label in fcluster(tree, 1.0 - ALIKE, "distance")]
