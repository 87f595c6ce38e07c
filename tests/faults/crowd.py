"""People who talk to a store in this process while a test does things to PostgreSQL.

What each was told is checked at once (nobody hears of an error, everyone reads what was just
written, totals never fall), and at the end all of it is matched with what lies in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import traceback
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from audiobot.domain import Embedding, Stats, utc_now
from audiobot.errors import StorageFull
from audiobot.ports import Reply
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.modes import Switched
from tests.conformance import hybrid
from tests.postgres import Cluster

PATIENCE = 25.0
"""How long anything may take to come about: never a measure of speed."""


async def eventually(
    condition: Callable[[], object], what: str = "it", now: Callable[[], object] = lambda: ""
) -> None:
    """Wait until ``condition`` holds; ``now`` says how things stand when it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in time: {now()}"
        await asyncio.sleep(0.01)


def embedding_of(seed: int) -> Embedding:
    numbers = np.random.default_rng(seed).normal(size=16).astype("<f4")
    return Embedding(numbers.tobytes(), 16, "test")


@dataclass
class Rating:
    """One rating as it was sent; ``status`` says how it was taken, None while nobody knows."""

    mark: str
    rating: int
    status: str | None = None


@dataclass
class Crowd:
    """``callers`` people, each asking or rating again as soon as the last answer is there."""

    store: StorageAdapter
    seed: int = 1
    callers: int = 4
    cancelled: float = 0.0
    older: list[uuid.UUID] = field(default_factory=list)
    """Dialogues that only PostgreSQL has: they are rated too."""
    older_rated: int = 0
    """How many of the older ones were rated before."""

    attempted: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)
    told: dict[uuid.UUID, str] = field(default_factory=dict)
    ratings: dict[uuid.UUID, list[Rating]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    refused: int = 0
    """Calls refused with a declared 507: allowed where a disk is full."""

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._free: list[uuid.UUID] = list(self.older)
        self._run = f"{self._chance.getrandbits(32):08x}"
        self._tasks: list[asyncio.Task] = []
        self._calls: set[asyncio.Task] = set()
        self._stopping = False
        self._rated_own: set[uuid.UUID] = set()
        self._number = 0
        self._highest = (0, 0)

    @property
    def acknowledged(self) -> int:
        return len(self.told) + sum(r.status is not None for h in self.ratings.values() for r in h)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._call_again()) for _ in range(self.callers)]
        self._tasks.append(asyncio.create_task(self._count_again()))

    async def more(self, calls: int = 12) -> None:
        """Wait until so many more calls were acknowledged."""
        before = self.acknowledged
        await eventually(
            lambda: self.failures or self.acknowledged >= before + calls, "an acknowledgement"
        )
        assert not self.failures, self.failures[:5]

    async def stop(self) -> None:
        """Let every call under way come back."""
        self._stopping = True
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            task.result()
        if self._calls:
            await asyncio.wait(self._calls)
        assert not self.failures, self.failures[:5]

    # -- calls ---------------------------------------------------------------------------------

    async def _call_again(self) -> None:
        while not self._stopping and not self.failures:
            rating = self._chance.random() < 0.4 and self._free
            call = self._rate(self._take()) if rating else self._turn()
            task = asyncio.create_task(self._watched(call))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            if self._chance.random() < self.cancelled:
                await asyncio.wait({task}, timeout=self._chance.random() * 0.02)
                task.cancel()
            await asyncio.wait({task})
            await asyncio.sleep(self._chance.random() * 0.01)

    async def _watched(self, call) -> None:
        try:
            await call
        except StorageFull as full:
            self.refused += 1
            if full.retry_after <= 0:
                self.failures.append("refused without a word when to come again")
            await asyncio.sleep(0.02)
        except Exception as error:  # whatever it is, nobody may hear of it
            where = traceback.format_exception(error)[-2:]
            self.failures.append(f"{where} in {self.store.status()}")

    def _mark(self, kind: str) -> tuple[int, str]:
        self._number += 1
        return self._number, f"{self._run}-{kind}{self._number}"

    async def _turn(self) -> None:
        number, session = self._mark("s")
        embedding = embedding_of(number + self.seed * 1_000_003)
        said = (f"вопрос {session}", f"ответ {session}", embedding.vector)
        self.attempted[session] = said
        reply = Reply(text=said[1], embedding=embedding)
        kept = await self.store.add_conversation(None, said[0], said[1], session, reply=reply)
        assert kept.log_id not in self.told
        self.told[kept.log_id] = session
        found = await self.store.get_conversation(kept.log_id)
        assert found is not None, f"its own dialogue is not there: {self.store.status()}"
        assert (found.session_id, found.user_message, found.ai_response) == (session, *said[:2])
        assert found.embedding == embedding
        self._free.append(kept.log_id)

    def _take(self) -> uuid.UUID:
        # One at a time for each dialogue: then the last one acknowledged is the one that counts.
        return self._free.pop(self._chance.randrange(len(self._free)))

    async def _rate(self, log_id: uuid.UUID) -> None:
        await self.rate(log_id)
        self._free.append(log_id)
        # A rating of unknown fate leaves its dialogue alone: a later one could not be ordered.

    async def rate(self, log_id: uuid.UUID) -> Rating:
        """Rate a dialogue, and see the rating if the dialogue can be seen."""
        _, mark = self._mark("r")
        given = Rating(mark, self._chance.randint(1, 5))
        self.ratings.setdefault(log_id, []).append(given)
        outcome = await self.store.update_rating(log_id, given.rating, mark)
        given.status = outcome.status
        assert (outcome.log_id, outcome.rating) == (log_id, given.rating)
        if log_id in self.told:
            self._rated_own.add(log_id)
        found = await self.store.get_conversation(log_id)
        if found is None:
            assert log_id not in self.told, f"its own dialogue is gone: {self.store.status()}"
        else:
            seen = (found.rating, found.feedback_text)
            assert seen == (given.rating, mark), f"{seen} for {given}: {self.store.status()}"
        return given

    async def _count_again(self) -> None:
        """Totals: never fewer than acknowledged, never more than attempted, whatever the mode."""
        while not self._stopping and not self.failures:
            await self.count()
            await asyncio.sleep(0.02)

    async def count(self) -> Stats | None:
        """Ask for the totals once, and hold them to what is known."""
        mode, least = self.store.status().mode, len(self.told) + len(self.older)
        least_rated = len(self._rated_own) + self.older_rated
        try:
            stats = await self.store.get_stats()
        except Exception as error:  # likewise
            self.failures.append(f"get_stats: {type(error).__name__} {error}")
            return None
        most = len(self.attempted) + len(self.older)
        most_rated = len(self.ratings.keys() | set(self.older))
        total, rated = stats.total_interactions, stats.rated_interactions
        if not least <= total <= most or not least_rated <= rated <= most_rated:
            self.failures.append(
                f"totals {total} of {least}-{most}, rated {rated} of {least_rated}-{most_rated}:"
                f" {stats}, {self.store.status()}, was {mode}"
            )
        if total < self._highest[0] or rated < self._highest[1]:
            self.failures.append(
                f"totals fell from {self._highest} to {stats}, {self.store.status()}, was {mode}"
            )
        # What was counted before anybody was told of it may still have to find its way: a commit
        # without a reply is in PostgreSQL, then nowhere in reach, then in the journal.
        untold = len(self.attempted) - len(self.told)
        unrated = sum(r.status is None for given in self.ratings.values() for r in given)
        self._highest = (
            max(total - untold, self._highest[0]),
            max(rated - unrated, self._highest[1]),
        )
        if mode == self.store.status().mode and mode in ("postgres", "fallback"):
            expected = mode == "postgres"
            # A call that began in one mode may end in the next one's answer, and back again.
            if stats.complete != expected and not self._switched_lately():
                self.failures.append(f"complete={stats.complete} in {mode}")
        return stats

    def _switched_lately(self) -> bool:
        return (utc_now() - self.store.status().since).total_seconds() < 5

    # -- what must be true ---------------------------------------------------------------------

    async def verify(self, cluster: Cluster, database: str) -> None:
        """Everything acknowledged is in PostgreSQL, once, and nothing that was not attempted."""
        await asyncio.to_thread(self._verify, cluster, database)
        recount = cluster.execute(
            "SELECT count(*), count(rating), coalesce(sum(rating), 0),"
            " count(*) FILTER (WHERE rating >= 4), count(*) FILTER (WHERE rating <= 2)"
            " FROM voice_logs",
            database,
        )[0]
        if self.store.status().mode == "postgres":
            stats = await self.store.get_stats()
            assert recount == (
                stats.total_interactions,
                stats.rated_interactions,
                stats.rating_sum,
                stats.positive_ratings,
                stats.negative_ratings,
            )
            assert stats.complete

    def _verify(self, cluster: Cluster, database: str) -> None:
        rows = cluster.execute(
            "SELECT id, session_id, user_message, ai_response, rating FROM voice_logs", database
        )
        stored = {row[0]: row for row in rows}
        own = [row for row in rows if row[0] not in self.older]
        sessions = Counter(row[1] for row in own)
        assert max(sessions.values(), default=1) == 1, "a dialogue is there twice"
        assert self.told.keys() <= stored.keys(), "acknowledged dialogues are lost"
        assert sessions.keys() <= self.attempted.keys(), "what was never attempted is there"
        for log_id, session, message, response, _ in own:
            assert (message, response) == self.attempted[session][:2]
            assert self.told.get(log_id, session) == session
        vectors = cluster.execute("SELECT log_id, vector FROM voice_embeddings", database)
        assert len(vectors) == len({log_id for log_id, _ in vectors})
        kept = {log_id: bytes(vector) for log_id, vector in vectors}
        for log_id, session, *_ in own:
            assert kept[log_id] == self.attempted[session][2], "a vector is not what it was"

        history = cluster.execute(
            "SELECT log_id, rating, feedback_text, version, op_id, joined FROM voice_ratings"
            " ORDER BY version, op_id",
            database,
        )
        marks = Counter(row[2] for row in history if row[2])
        assert max(marks.values(), default=1) == 1, "a rating is there twice"
        known = {r.mark: (i, r.rating) for i, given in self.ratings.items() for r in given}
        newest: dict[uuid.UUID, int] = {}
        for log_id, rating, mark, _, _, joined in history:
            newest[log_id] = rating
            assert joined, "a rating never found its dialogue"
            if log_id in self.ratings and mark in known:
                assert known[mark] == (log_id, rating)
        for log_id, given in self.ratings.items():
            taken = [r for r in given if r.status is not None]
            assert all(r.mark in marks for r in taken), "acknowledged ratings are lost"
            current = stored[log_id][4] if log_id in stored else None
            assert current == newest.get(log_id), "the current rating is not the newest"
            allowed = {taken[-1].rating} if taken else {current}
            if given[-1].status is None:
                allowed.add(given[-1].rating)
            assert current in allowed, f"{current} of {given}"
        counted = cluster.execute(
            "SELECT rating, sum(dialogues)::int FROM voice_log_counts GROUP BY 1"
            " HAVING sum(dialogues) <> 0",
            database,
        )
        again = cluster.execute(
            "SELECT coalesce(rating, 0), count(*)::int FROM voice_logs GROUP BY 1", database
        )
        assert dict(counted) == dict(again), "the summary is not the recount"
        assert cluster.execute("SELECT count(*) FROM voice_conflicts", database) == [(0,)]


@dataclass
class Place:
    """A store over PostgreSQL in this process, and where it is."""

    path: Path
    dsn: str
    cluster: Cluster
    database: str
    store: StorageAdapter
    switches: list[Switched]
    crowd: Crowd

    def reasons(self) -> list[str]:
        """Why the store went to its journal, each time it did."""
        return [switched.reason for switched in self.switches if switched.after == "fallback"]

    async def falls_back(self, *reasons: str) -> None:
        """Wait until the journal is in charge, for one of these reasons; go on for a while."""
        await eventually(
            lambda: (
                self.store.status().mode == "fallback" and self.store.status().reason in reasons
            ),
            f"fallback because of {reasons}",
            self.store.status,
        )
        assert not self.store.database_available
        # Three of those that only PostgreSQL has: taken, though nobody here knows them.
        for log_id in self.crowd.older[:3]:
            if log_id in self.crowd._free:
                self.crowd._free.remove(log_id)
                given = await self.crowd.rate(log_id)
                self.crowd._free.append(log_id)
                assert given.status == "pending"
        await self.crowd.more()

    async def recovers(self) -> None:
        """Wait until PostgreSQL has all of it and is in charge; go on for a while."""
        await hybrid.wait_for_mode(self.store, "postgres", PATIENCE)
        await self.crowd.more()


async def older_dialogues(path: Path, dsn: str, count: int = 6) -> list[uuid.UUID]:
    """Dialogues that another process put into PostgreSQL, the first of them rated."""
    async with hybrid.hybrid(path, dsn) as store:
        kept = [await store.add_conversation(None, f"q{n}", "a", f"old{n}") for n in range(count)]
        await store.update_rating(kept[0].log_id, 3)
    return [conversation.log_id for conversation in kept]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def place(
    path: Path,
    cluster: Cluster,
    database: str,
    *,
    dsn: str | None = None,
    mode: str = "postgres",
    older: bool = True,
    pooled: bool = False,
    **crowd: object,
) -> AsyncIterator[Place]:
    """A store with a crowd that talks to it; afterwards all invariants, and nothing leaked."""
    direct = cluster.dsn(database)
    known = await older_dialogues(path / "before", direct) if older else []
    # The machinery that stays: the loop's executor, whatever a first connection imports.
    await asyncio.to_thread(lambda: None)
    tasks, files = asyncio.all_tasks(), open_files()
    switches: list[Switched] = []
    store = await hybrid.open_hybrid(
        path / "data",
        dsn or direct,
        mode=mode,
        tell=lambda switched, backlog: switches.append(switched),  # type: ignore[arg-type]
    )
    people = Crowd(store, older=known, older_rated=min(1, len(known)), **crowd)  # type: ignore[arg-type]
    here = Place(path, dsn or direct, cluster, database, store, switches, people)
    try:
        people.start()
        await people.more()
        yield here
        await people.stop()
        await hybrid.wait_for_mode(store, "postgres", PATIENCE)
        await people.count()
        assert not people.failures, people.failures
        await people.verify(cluster, database)
        assert store.status().journal_backlog == 0
        assert store.status().missing_records == 0
        assert store._postgres is not None
        await eventually(
            lambda: store._postgres.checked_out == 0,  # type: ignore[union-attr]
            "every connection given back",
        )
    finally:
        people._stopping = True
        if people._tasks:
            await asyncio.wait(people._tasks)
        await hybrid.close_hybrid(store)
    if cluster.running and not pooled:  # a pooler keeps its own open
        await eventually(lambda: cluster.connections(database) == 0, "every connection closed")
    await eventually(lambda: asyncio.all_tasks() <= tasks, "the end of every task")
    await eventually(lambda: open_files() <= files, "every file closed")
