"""The disk fills up under any of the writes of a commit: what was acknowledged stays, all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiobot.domain import Conversation
from audiobot.errors import Unavailable
from audiobot.storage import directory, local
from audiobot.storage.adapter import StorageAdapter
from tests.conformance.local import opened
from tests.faults.disks import fill, small_disk

PAGES_LEFT = range(0, 60, 2)
"""How much room is left for journal and index, in pages of 4 KiB: each commit ends elsewhere."""


@pytest.fixture
def no_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another program takes the reserve between the look and the write."""
    monkeypatch.setattr(local, "LEAST_FREE_BYTES", 0)
    monkeypatch.setattr(directory, "LEAST_FREE_BYTES", 0)


async def write_until_refused(store: StorageAdapter) -> list[Conversation]:
    """Dialogues acknowledged before the first refusal."""
    kept: list[Conversation] = []
    for i in range(400):
        try:
            told = await store.add_conversation(None, f"q{i}", "a" * 700, "s")
            kept.append(told)
            await store.update_rating(told.log_id, 4)
        except Unavailable:
            return kept
    raise AssertionError("the disk was never full")


async def check(store: StorageAdapter, kept: list[Conversation]) -> None:
    for told in kept:
        found = await store.get_conversation(told.log_id)
        assert found is not None, "an acknowledged dialogue is lost"
        assert found.user_message == told.user_message
    stats = await store.get_stats()
    assert stats.total_interactions == len(kept) or not stats.complete


@pytest.mark.usefixtures("no_reserve")
@pytest.mark.parametrize("pages", PAGES_LEFT)
async def test_g12_whichever_write_meets_the_full_disk_nothing_acknowledged_is_lost(
    tmp_path: Path, pages: int
) -> None:
    with small_disk(tmp_path / "disk", 3) as disk:
        async with opened(disk / "d", max_conversations=5) as store:
            warm = await store.add_conversation(None, "warm", "a", "s")
            await store.get_stats()  # the index has it, and writes nothing more
            ballast = fill(disk, leave=4_096 * pages)
            kept = [warm, *await write_until_refused(store)]
            ballast.unlink()
            kept.append(await store.add_conversation(None, "room again", "a", "s"))
            await store.update_rating(kept[-1].log_id, 5)
            await check(store, kept)
            assert (await store.get_stats()).complete
            before = await store.get_stats()
        async with opened(disk / "d", max_conversations=5) as store:
            await check(store, kept)
            after = await store.get_stats()
            assert store.status().missing_records == 0
            assert (after.total_interactions, after.rating_sum) == (len(kept), before.rating_sum)


@pytest.mark.usefixtures("no_reserve")
async def test_g20_what_was_acknowledged_is_read_at_once_though_the_index_met_the_full_disk(
    tmp_path: Path,
) -> None:
    """Memory holds rated dialogues only, so the newest is nowhere but in the journal."""
    for pages in PAGES_LEFT:
        with small_disk(tmp_path / f"disk-{pages}", 3) as disk:
            async with opened(disk / "d", max_conversations=1) as store:
                ballast = fill(disk, leave=4_096 * pages)
                kept = await write_until_refused(store)
                for told in kept[-2:]:
                    found = await store.get_conversation(told.log_id)
                    assert found is not None, f"not to be read with {pages} pages left"
                ballast.unlink()


@pytest.mark.usefixtures("no_reserve")
async def test_g14_closing_on_a_full_disk_is_clean_and_loses_nothing(tmp_path: Path) -> None:
    """The journal and its index are left as they are: no error, and the next start knows all."""
    for pages in PAGES_LEFT:
        with small_disk(tmp_path / f"disk-{pages}", 3) as disk:
            async with opened(disk / "d") as store:
                ballast = fill(disk, leave=4_096 * pages)
                kept = await write_until_refused(store)
            ballast.unlink()
            async with opened(disk / "d") as store:
                assert (await store.get_stats()).complete
                await check(store, kept)
                assert store.status().missing_records == 0
