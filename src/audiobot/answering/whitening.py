"""Whitening: questions seen so that what differs within one intent weighs little.

Within-class covariance normalisation (Hatch, Kajarekar and Stolcke, 2006): vectors are centred
and multiplied by the inverse square root of how questions of one intent differ from each other.
The matrix is fitted by ``benchmarks/fit_answering.py`` on development data and shipped; an
encoder that it was not fitted for goes without.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audiobot.ports import Matrix


class Whitening(NamedTuple):
    """The usual question and answer of an encoder, (dimension,) each, and the matrix, square.

    Without a ``matrix`` vectors are only centred, on the knowledge's own means.
    """

    query_mean: Matrix | None
    passage_mean: Matrix | None
    matrix: Matrix | None

    def apply(self, centred: Matrix) -> Matrix:
        """Unit rows of centred unit rows, shape (rows, dimension) or (dimension,)."""
        return unit(centred @ self.matrix) if self.matrix is not None else centred


NO_WHITENING = Whitening(None, None, None)


def unit(matrix: Matrix, least: float = 1e-9) -> Matrix:
    """Rows of length 1; one no longer than ``least`` is taken for zeros and stays as it is."""
    length = np.linalg.norm(matrix, axis=-1, keepdims=True)
    return np.asarray(matrix / np.where(length > least, length, 1.0), dtype=np.float32)


def whitening_file() -> Path:
    """The shipped matrix."""
    return Path(str(resources.files("audiobot") / "answering" / "whitening.npz"))


def load_whitening(encoder: str) -> Whitening:
    """The whitening that was fitted for ``encoder``, or none."""
    with whitening_file().open("rb") as opened, np.load(opened, allow_pickle=False) as data:
        if str(data["encoder"]) != encoder:
            return NO_WHITENING
        return Whitening(*(data[name].astype(np.float32) for name in Whitening._fields))


def save_whitening(encoder: str, whitening: Whitening) -> None:
    """Ship a matrix, as float16: a third decimal is not lost."""
    np.savez_compressed(
        whitening_file(),
        encoder=np.array(encoder),
        query_mean=np.asarray(whitening.query_mean, np.float16),
        passage_mean=np.asarray(whitening.passage_mean, np.float16),
        matrix=np.asarray(whitening.matrix, np.float16),
    )
