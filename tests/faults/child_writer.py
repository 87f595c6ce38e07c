"""Run by test_crash.py: write to a store without end, and say what was acknowledged.

    python -m tests.faults.child_writer DIRECTORY SEED [POINT]

Each acknowledged operation is a line on standard output, written after the store's call
returned: ``add ID SEED``, ``rate ID VERSION RATING``, ``correct NAME VERSION MARK``,
``dismiss ID``. Attempts are lines before the call: ``try-rate ID RATING``, ``try-correct NAME
MARK``. At POINT the process kills itself, inside the n-th commit.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from audiobot.domain import Embedding
from audiobot.ports import Reply
from audiobot.storage import index, journal
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, DialogueIds

IDS = DialogueIds([b"0" * 32])
COMMIT = 12


def embedding_of(seed: int) -> Embedding:
    numbers = np.random.default_rng(seed).normal(size=16).astype("<f4")
    return Embedding(numbers.tobytes(), 16, "test")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Make the process die at a named point of its twelfth commit (or first new segment)."""
    calls = 0

    def at(
        holder: Any, name: str, *, before: bool, nth: int = COMMIT, after_seconds: float = 0
    ) -> None:
        whole = getattr(holder, name)

        def dying(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if before and calls == nth:
                time.sleep(after_seconds)  # the callers are told meanwhile
                die()
            result = whole(*arguments, **named)
            if not before and calls == nth:
                die()
            return result

        setattr(holder, name, dying)

    match point:
        case "before the journal's write":
            at(journal.Journal, "_write", before=True)
        case "between the write and the fsync":
            at(os, "fdatasync", before=True)
        case "after the fsync, before the index's commit":
            at(journal.Journal, "commit", before=False)
        case "between the reply and the index's commit":
            at(index.Index, "commit", before=True, after_seconds=0.1)
        case "after the index's commit":
            at(index.Index, "commit", before=False)
        case "before a new segment is in place":
            at(journal, "replace_file", before=True, nth=2)
        case "after a new segment is in place":
            at(journal, "replace_file", before=False, nth=2)


async def work(directory: Path, seed: int) -> None:
    store = StorageAdapter(DataDirectory(directory), IDS, max_conversations=20)
    store.open()
    await store.start()
    chance = random.Random(seed)
    known: list[str] = []

    async def writer(number: int) -> None:
        for i in range(100_000):
            if known and chance.random() < 0.4:
                log_id, rating = chance.choice(known), chance.randint(1, 5)
                print(f"try-rate {log_id} {rating}", flush=True)
                outcome = await store.update_rating(IDS_BY_TEXT[log_id], rating)
                print(f"rate {log_id} {outcome.version} {rating}", flush=True)
                continue
            mark = seed * 1_000_000 + number * 100_000 + i
            if known and chance.random() < 0.1:
                await teach(mark)
                continue
            reply = Reply(text=f"answer {mark}", embedding=embedding_of(mark))
            kept = await store.add_conversation(
                None, f"question {mark}", reply.text, "s", reply=reply
            )
            IDS_BY_TEXT[str(kept.log_id)] = kept.log_id
            known.append(str(kept.log_id))
            print(f"add {kept.log_id} {mark}", flush=True)

    async def teach(mark: int) -> None:
        name, turn = UUID(int=chance.randrange(10)), chance.choice(known)
        print(f"try-correct {name} {mark}", flush=True)
        outcome = await store.correct(
            f"answer {mark}", [f"{mark}"], "ru", correction_id=name, log_ids=[IDS_BY_TEXT[turn]]
        )
        print(f"correct {name} {outcome.correction.version} {mark}", flush=True)
        await store.dismiss([IDS_BY_TEXT[turn]])
        print(f"dismiss {turn}", flush=True)

    await asyncio.gather(*(writer(n) for n in range(6)))


IDS_BY_TEXT: dict[str, Any] = {}

if __name__ == "__main__":
    if len(sys.argv) > 3:
        # Small segments, so that pages are turned while the world ends.
        journal.SEGMENT_BYTES = 4_000
        journal.Journal.__init__.__kwdefaults__["segment_bytes"] = 4_000
        arm(sys.argv[3])
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
