"""Likeness of letters: what an index finds, and that one made from another finds the same."""

from __future__ import annotations

import numpy as np
import pytest

from audiobot.answering.ngrams import NgramIndex

pytestmark = pytest.mark.unit
TEXTS = [f"как часто моют {what}" for what in "окна лифт пол двери стены ящики перила".split()]


def test_the_text_that_shares_most_letters_is_likest() -> None:
    index = NgramIndex(TEXTS)
    for place, text in enumerate(TEXTS):
        likeness = index.likeness(index.row(text))
        assert likeness.argmax() == place
        assert likeness[place] == pytest.approx(1, abs=1e-5)
    assert index.likeness(index.row("")).max() == 0


def test_two_rows_are_as_alike_as_postings_say() -> None:
    index = NgramIndex(TEXTS)
    row = index.row("моют ли лифт")
    likeness = index.likeness(row)
    for place, text in enumerate(TEXTS):
        assert row.likeness(index.row(text)) == pytest.approx(float(likeness[place]), abs=1e-5)


def test_an_index_over_mostly_known_texts_finds_what_a_new_one_finds() -> None:
    before = NgramIndex(TEXTS)
    texts = [TEXTS[3], "а двор?", *TEXTS[:3], *TEXTS[4:]]
    after = NgramIndex(texts, before)
    assert after.letters is before.letters
    row = after.row("как часто моют перила")
    found = after.likeness(row)
    assert found.argmax() == texts.index("как часто моют перила")
    old = before.likeness(before.row("как часто моют перила"))
    assert np.allclose(found[0], old[3], atol=1e-6)
    again = NgramIndex(texts, after)
    assert np.allclose(again.likeness(row), found, atol=1e-6)


def test_an_index_over_other_texts_is_made_anew() -> None:
    before = NgramIndex(TEXTS)
    assert NgramIndex(TEXTS[:3], before).letters is not before.letters
    assert NgramIndex([*TEXTS[:4], "а", "бб", "в г"], before).letters is not before.letters
