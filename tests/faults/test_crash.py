"""kill -9 at random and at named points: acknowledged ⊆ stored ⊆ attempted, each exactly once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from uuid import UUID

import pytest

from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory
from tests.conformance.test_local_store import journaled
from tests.faults.child_writer import IDS, embedding_of


class Ledger:
    """What a child said before it died, over many lives."""

    def __init__(self) -> None:
        self.added: dict[UUID, int] = {}
        self.rated: dict[UUID, tuple[int, int]] = {}
        self.attempted: dict[UUID, set[int]] = {}
        self.corrected: dict[UUID, tuple[int, int]] = {}
        self.tried: dict[UUID, set[int]] = {}
        self.dismissed: set[UUID] = set()

    def read(self, text: str) -> None:
        # Every word of a line tells, so a line cut off by the kill does not count.
        for line in text.splitlines(keepends=True):
            if not line.endswith("\n"):
                continue
            match line.split():
                case ["add", log_id, mark]:
                    self.added[UUID(log_id)] = int(mark)
                case ["rate", log_id, version, rating]:
                    newest = self.rated.get(UUID(log_id), (0, 0))
                    self.rated[UUID(log_id)] = max(newest, (int(version), int(rating)))
                case ["correct", name, version, mark]:
                    newest = self.corrected.get(UUID(name), (0, 0))
                    self.corrected[UUID(name)] = max(newest, (int(version), int(mark)))
                case ["try-correct", name, mark]:
                    self.tried.setdefault(UUID(name), set()).add(int(mark))
                case ["dismiss", log_id]:
                    self.dismissed.add(UUID(log_id))
                case ["try-rate", log_id, rating]:
                    self.attempted.setdefault(UUID(log_id), set()).add(int(rating))


def live_and_die(place: Path, ledger: Ledger, seed: int, point: str | None, after: float) -> None:
    """One life of the child: killed after a while, or by itself at ``point``."""
    command = [sys.executable, "-m", "tests.faults.child_writer", str(place / "data"), str(seed)]
    heard = place / f"heard-{seed}"
    with heard.open("wb") as output:
        child = subprocess.Popen([*command, *([point] if point else [])], stdout=output)
        if point is None:
            deadline = time.monotonic() + 30
            while heard.stat().st_size == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(after)
            child.kill()
        assert child.wait(60) == -signal.SIGKILL
    ledger.read(heard.read_text())


async def check(place: Path, ledger: Ledger) -> None:
    """The invariants, on the store reopened and on the journal read past it."""
    directory = DataDirectory(place / "data")
    store = StorageAdapter(directory, IDS)
    store.open()
    await store.start()
    try:
        for log_id, mark in ledger.added.items():
            found = await store.get_conversation(log_id)
            assert found is not None, "an acknowledged dialogue is lost"
            assert found.user_message == f"question {mark}"
            assert found.embedding == embedding_of(mark)
        operations = journaled(place)
        adds = Counter(o.conversation.log_id for o in operations if hasattr(o, "conversation"))
        assert set(adds.values()) <= {1}
        current: dict[UUID, tuple[int, int]] = {}
        for o in operations:
            if hasattr(o, "version"):
                current[o.log_id] = max(current.get(o.log_id, (0, 0)), (o.version, o.rating))
                assert o.rating in ledger.attempted[o.log_id], "a rating nobody gave"
        for log_id, (version, rating) in ledger.rated.items():
            assert current[log_id] >= (version, rating), "an acknowledged rating is lost"
            found = await store.get_conversation(log_id)
            assert found is not None
            assert found.rating == current[log_id][1]
        stats = await store.get_stats()
        assert stats.total_interactions == len(adds)
        assert stats.rated_interactions == len(current)
        assert stats.rating_sum == sum(rating for _, rating in current.values())
        assert len({o.op_id for o in operations}) == len(operations)
        taught = {c.correction_id: c for c in await store.get_corrections()}
        for name, (version, mark) in ledger.corrected.items():
            kept = taught[name]
            assert kept.version >= version, "an acknowledged correction is lost"
            if kept.version == version:
                assert kept.answer == f"answer {mark}"
            assert int(kept.answer.split()[1]) in ledger.tried[name], "nobody said that"
        settled = {log_id for c in taught.values() for log_id in c.log_ids}
        waiting = {turn.log_id for turn in await store.get_inbox(100_000)}
        low = {log_id for log_id, (_, rating) in current.items() if rating <= 2}
        assert waiting <= low - settled - ledger.dismissed
        assert low - settled - waiting <= {s.subject for s in await store._local.dismissals()}
        assert store.status().missing_records == 0
    finally:
        await store.close()
        directory.release()


async def test_g01_twenty_kills_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    ledger, chance = Ledger(), random.Random(20)
    for life in range(20):
        live_and_die(tmp_path, ledger, life, None, chance.uniform(0.0, 0.25))
        if life % 5 == 4:
            await check(tmp_path, ledger)
    assert len(ledger.added) > 500
    assert len(ledger.rated) > 100
    assert len(ledger.corrected) == 10
    assert len(ledger.dismissed) > 20


@pytest.mark.parametrize(
    "point",
    [
        "before the journal's write",
        "between the write and the fsync",
        "after the fsync, before the index's commit",
        "between the reply and the index's commit",
        "after the index's commit",
        "before a new segment is in place",
        "after a new segment is in place",
    ],
)
async def test_g11_a_death_at_a_named_point_loses_and_doubles_nothing(
    tmp_path: Path, point: str
) -> None:
    ledger = Ledger()
    for life in range(3):
        live_and_die(tmp_path, ledger, life, point, 0)
        await check(tmp_path, ledger)
    assert ledger.added


async def test_g11_a_lost_index_is_built_anew_from_the_journal(tmp_path: Path) -> None:
    ledger = Ledger()
    live_and_die(tmp_path, ledger, 1, None, 0.1)
    for path in (tmp_path / "data" / "journal" / "0").glob("index.sqlite*"):
        path.unlink()
    await check(tmp_path, ledger)


async def test_g11_a_damaged_index_is_built_anew_from_the_journal(tmp_path: Path) -> None:
    ledger = Ledger()
    live_and_die(tmp_path, ledger, 1, None, 0.1)
    slot = tmp_path / "data" / "journal" / "0"
    for path in slot.glob("index.sqlite-*"):
        path.unlink()
    (slot / "index.sqlite").write_bytes(b"SQLite format 3\0" + b"\xa5" * 50_000)
    await check(tmp_path, ledger)


async def test_g11_damage_costs_the_record_and_the_rest_goes_on(tmp_path: Path) -> None:
    ledger = Ledger()
    live_and_die(tmp_path, ledger, 1, None, 0.2)
    log = tmp_path / "data" / "journal" / "0" / "00000001.log"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 0xFF
    log.write_bytes(data)
    directory = DataDirectory(tmp_path / "data")
    store = StorageAdapter(directory, IDS)
    store.open()
    await store.start()
    assert store.status().missing_records == 1
    adds = {o.conversation.log_id for o in journaled(tmp_path) if hasattr(o, "conversation")}
    assert (await store.get_stats()).total_interactions == len(adds)
    assert len(set(ledger.added) - adds) <= 1
    # A rating of the dialogue that damage took is still no stranger's.
    for log_id in set(ledger.added) - adds:
        assert (await store.update_rating(log_id, 5)).status == "pending"
    await store.add_conversation(None, "and on", "we go", "s")
    await store.close()
    directory.release()
