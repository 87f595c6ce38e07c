"""kill -9 at every step of mending a damaged journal: the next start knows what was lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from audiobot.domain import Conversation
from audiobot.storage.journal import Journal
from tests.conformance.local import opened, slot

LOST = ("question-01", "question-07")
"""Words of the two dialogues whose records get damaged, in two segments."""


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Journal.__init__.__kwdefaults__, "segment_bytes", 900)


async def write_twelve(path: Path, *, closed: bool) -> dict[UUID, Conversation]:
    """Twelve rated dialogues at ``path``; unless ``closed``, as a kill would leave them."""
    alive = path.with_name("alive")
    async with opened(alive) as store:
        kept = [
            await store.add_conversation(None, f"question-{i:02}", "answer " * 9, "s")
            for i in range(12)
        ]
        for told in kept:
            await store.update_rating(told.log_id, 4)
        if not closed:
            await store.get_stats()  # the index knows them all
            shutil.copytree(alive, path)
    if closed:
        shutil.copytree(alive, path)
    return {told.log_id: told for told in kept}


def damage(path: Path, words: str) -> None:
    """Flip one bit of ``words`` in the segment that holds them."""
    for log in slot(path).glob("*.log"):
        data = bytearray(log.read_bytes())
        found = data.find(words.encode())
        if found >= 0:
            data[found] ^= 1
            log.write_bytes(data)
            return
    raise AssertionError(f"{words} lies nowhere")


def die_at_every_step(damaged: Path, lives: Path) -> list[Path]:
    """The directory as each death left it, and last as the life left it that came through."""
    command = [sys.executable, "-m", "tests.faults.child_mender", str(damaged), str(lives)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ended = [line.split() for line in done.stdout.splitlines()]
    assert ended[-1][1] == "0", "no life came through to the end"
    assert len(ended) > 10, "too few steps: the child no longer wraps what mends"
    return [lives / number for number, _ in ended]


async def check(place: Path, kept: dict[UUID, Conversation], missing: int) -> None:
    """Everything but ``missing`` records is told; what is missing is named, once."""
    async with opened(place, max_conversations=1) as store:
        assert store.status().missing_records == missing, place
        found = [await store.get_conversation(log_id) for log_id in kept]
        for told in found:
            assert told is None or told.user_message == kept[told.log_id].user_message
        there = [told for told in found if told is not None]
        stats = await store.get_stats()
        rated = [told for told in there if told.rating is not None]
        assert stats.total_interactions == len(there), place
        assert stats.rated_interactions == len(rated), place
        assert len(kept) - len(there) + len(there) - len(rated) <= missing
        listed = [c.log_id async for c in store.get_rated_conversations(1)]
        assert sorted(listed) == sorted(c.log_id for c in rated), place
        assert store.status().missing_records == missing, place


@pytest.mark.usefixtures("small_segments")
async def test_g11_a_death_at_any_step_of_mending_leaves_nothing_unsaid(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    kept = await write_twelve(damaged, closed=True)
    for words in LOST:
        damage(damaged, words)
    for place in die_at_every_step(damaged, tmp_path / "lives"):
        await check(place, kept, missing=2)
        aside = [file.read_bytes() for file in (slot(place) / "set-aside").iterdir()]
        whole = {file.read_bytes() for file in slot(damaged).glob("*.log")}
        assert whole & set(aside), "the damaged segment is not kept as it was found"


@pytest.mark.usefixtures("small_segments")
async def test_g11_a_death_while_a_lost_tail_is_mended_forgets_no_promise(tmp_path: Path) -> None:
    """Only the index knows of the tail: the mark is half a second behind, as after a kill."""
    damaged = tmp_path / "damaged"
    kept = await write_twelve(damaged, closed=False)
    last = max(slot(damaged).glob("*.log"))
    lost = last.read_bytes().count(b"\xf5AB\xff")
    assert lost > 1
    os.truncate(last, 30)
    for place in die_at_every_step(damaged, tmp_path / "lives"):
        await check(place, kept, missing=lost)
