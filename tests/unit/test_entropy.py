"""Random bytes: enough of them, no two alike, another process has others."""

from __future__ import annotations

import os

from audiobot.entropy import random_bits, random_bytes, random_name


def test_what_is_drawn_is_as_long_as_asked_and_never_the_same():
    drawn = [random_bytes(16) for _ in range(5_000)]  # more than is fetched at once
    assert {len(each) for each in drawn} == {16}
    assert len(set(drawn)) == len(drawn)
    assert len(random_bytes(10_000)) == 10_000


def test_bits_fill_their_range_and_no_more():
    drawn = [random_bits(34) for _ in range(2_000)]
    assert max(drawn) < 1 << 34
    together = 0
    for each in drawn:
        together |= each
    assert together == (1 << 34) - 1


def test_a_name_is_fit_for_a_url():
    assert len(random_name(12)) == 16
    assert all(c.isalnum() or c in "-_" for c in random_name(99))


def test_a_forked_process_draws_others():
    random_bytes(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, random_bytes(16))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 16) != random_bytes(16)
