"""The power goes: only what was fsynced is left, and everything acknowledged is in it.

A kill -9 cannot show a missing fsync, because the kernel writes the pages all the same. So this
keeps its own account of what is durable: a file's bytes as of its last fsync, a directory's names
as of its last fsync. SQLite syncs past it, so here the index is always lost, as on the worst day.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from audiobot.errors import StorageUnavailable
from audiobot.storage.journal import Entry, Journal
from tests.conformance.local import opened, slot


class Disk:
    """What would be left of directories and files if the power went now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._names: dict[Path, dict[str, int]] = {}
        self._bytes: dict[int, bytes] = {}
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, self._after(getattr(os, name)))

    def _after(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def synced(fd: int) -> None:
            sync(fd)
            self._note(fd)

        return synced

    def _note(self, fd: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            self._names[place] = {p.name: p.stat().st_ino for p in place.iterdir()}
        else:
            self._bytes[os.fstat(fd).st_ino] = place.read_bytes()

    def after_power_loss(self, directory: Path, target: Path) -> Path:
        """``directory`` as the next boot finds it, made anew at ``target``."""
        target.mkdir(parents=True)
        for name, inode in self._names.get(directory, {}).items():
            if inode in self._bytes:
                (target / name).write_bytes(self._bytes[inode])
        return target


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def test_g01_whatever_was_acknowledged_outlives_the_power(tmp_path: Path, disk: Disk) -> None:
    async with opened(tmp_path / "d") as store:
        for i in range(12):
            told = await store.add_conversation(None, f"q{i}", "a", "s")
            await store.update_rating(told.log_id, 5)
            disk.after_power_loss(slot(tmp_path / "d"), slot(tmp_path / f"boot{i}"))
    for i in range(12):
        async with opened(tmp_path / f"boot{i}") as store:
            stats = await store.get_stats()
            assert (stats.total_interactions, stats.rating_sum) == (i + 1, 5 * (i + 1))
            assert store.status().missing_records == 0


def test_g01_a_new_segment_outlives_the_power_with_its_first_record(
    tmp_path: Path, disk: Disk
) -> None:
    journal = Journal(tmp_path / "j", segment_bytes=120)
    for i in range(1, 20):
        journal.stage(f"record {i}".encode())
        journal.commit()
        boot = Journal(disk.after_power_loss(tmp_path / "j", tmp_path / f"boot{i}"))
        kept = [r.payload for r in boot.read_from(1) if isinstance(r, Entry)]
        assert kept == [f"record {n}".encode() for n in range(1, i + 1)]
        assert boot.gaps == []
        boot.close()
    assert len(journal.segments()) > 3
    journal.close()


def test_g11_what_was_mended_outlives_the_power_with_what_was_set_aside(
    tmp_path: Path, disk: Disk
) -> None:
    journal = Journal(tmp_path / "j")
    for i in range(3):
        journal.stage(f"record {i}".encode())
    journal.commit()
    journal.close()
    log = tmp_path / "j" / "00000001.log"
    damaged = log.read_bytes().replace(b"record 1", b"recorD 1")
    log.write_bytes(damaged)
    mended = Journal(tmp_path / "j")
    boot = Journal(disk.after_power_loss(tmp_path / "j", tmp_path / "boot"))
    assert (boot.gaps, boot.damaged) == (mended.gaps, False)
    aside = disk.after_power_loss(tmp_path / "j" / "set-aside", tmp_path / "aside")
    assert [file.read_bytes() for file in aside.iterdir()] == [damaged]
    boot.close()
    mended.close()


async def test_g01_no_reply_before_the_fsync_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is held up: the caller waits; then, and only then, it is answered."""
    reached, go_on = threading.Event(), threading.Event()
    sync = os.fdatasync

    def held_up(fd: int) -> None:
        reached.set()
        assert go_on.wait(30)
        sync(fd)

    async with opened(tmp_path / "d") as store:
        with monkeypatch.context() as slow:
            slow.setattr(os, "fdatasync", held_up)
            caller = asyncio.create_task(store.add_conversation(None, "q", "a", "s"))
            assert await asyncio.to_thread(reached.wait, 30)
            assert not caller.done()
            assert (await store.get_stats()).total_interactions == 0
            go_on.set()
            kept = await caller
        assert await store.get_conversation(kept.log_id) == kept


async def test_g01_a_failed_fsync_is_no_acknowledgement_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with opened(tmp_path / "d") as store:
        await store.add_conversation(None, "before", "a", "s")
        with monkeypatch.context() as bad:
            bad.setattr(os, "fdatasync", broken)
            with pytest.raises(StorageUnavailable):
                await store.add_conversation(None, "refused", "a", "s")
            assert not store.status().accepting
        assert (await store.get_stats()).total_interactions == 1
        await store.add_conversation(None, "after", "a", "s")
        assert store.status().accepting
    logs = b"".join(file.read_bytes() for file in slot(tmp_path / "d").glob("*.log"))
    assert b"refused" not in logs
    async with opened(tmp_path / "d") as store:
        assert (await store.get_stats()).total_interactions == 2
        assert store.status().missing_records == 0
