"""A store over PostgreSQL behind a proxy, everything that may happen to it, and a model of it.

The model is dicts of what was attempted and what was acknowledged; it knows nothing of modes but
what may be asked of a store that cannot reach PostgreSQL. A kill is a copy of the directory at
that moment; the store that was killed is abandoned with its connections cut.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from psycopg import sql

from audiobot.domain import Embedding, Idempotency, KnowledgeItem, Stats
from audiobot.errors import StorageUnavailable
from audiobot.ports import Reply
from audiobot.storage import adapter, switch
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, DialogueIds, KeySet
from audiobot.storage.dsn import parse_dsn
from tests.conformance.hybrid import wait_for_mode
from tests.postgres import Cluster
from tests.proxy import Proxy

IDS = DialogueIds([b"0" * 32])
FAULTS = ("pass_through", "refuse", "cut", "stall", "slow", "drop_next_commit_reply")
SCALED = {"BEAT_SECONDS": 0.1, "FIRST_BACKOFF": 0.05, "MOST_BACKOFF": 0.2, "HOUSE_SECONDS": 0.3}
WRITE_SECONDS, READ_SECONDS = 0.4, 0.6


@contextmanager
def scaled_down() -> Iterator[None]:
    """Heartbeats, waits and the grace of a closing store in tenths of what they are."""
    with mock.patch.multiple(switch, **SCALED), mock.patch.object(adapter, "_DRAIN_SECONDS", 0.5):
        yield


class World:
    """One store, from its first start to its end; see the module."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        self.cluster, self.database = cluster, database
        self._empty_tables()
        self.proxy = Proxy(cluster.host, cluster.port)
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp(prefix="audiobot-world-"))
        self.lives = self.starts = self.marks = 0
        self.attempted: dict[str, tuple[str, bytes | None]] = {}  # session → text, vector
        self.told: dict[uuid.UUID, str] = {}  # acknowledged: id → session
        self.unknown: set[str] = set()  # sessions and marks whose call gave no answer
        self.rating_attempts: dict[str, tuple[uuid.UUID, int]] = {}  # mark → dialogue, rating
        self.rated_marks: set[str] = set()  # acknowledged
        self.may_be: dict[uuid.UUID, set[int | None]] = {}  # dialogue → its rating, one of these
        self.orphans: list[uuid.UUID] = []
        self.keys: dict[bytes, uuid.UUID] = {}
        self.knowledge: dict[str, list[str]] = {}
        self.corrections: dict[uuid.UUID, tuple[str, tuple[uuid.UUID, ...], bool]] = {}
        self.dismissed: set[uuid.UUID] = set()
        self.here: set[object] = set()  # what this process itself wrote, and must read
        self.out_of_reach: set[uuid.UUID] = set()  # rated where nobody knew the rating before
        self.unsure: object = None  # the snapshot since which not all that was told is known
        self._open(self.root / "0")
        self.runner.run(wait_for_mode(self.store, "postgres"))

    def _empty_tables(self) -> None:
        tables = self.cluster.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            " AND tablename <> 'alembic_version'",
            self.database,
        )
        names = sql.SQL(", ").join(sql.Identifier(name) for (name,) in tables)
        self.cluster.execute(sql.SQL("TRUNCATE {}").format(names), self.database)

    # -- life ------------------------------------------------------------------------------

    def _open(self, path: Path) -> None:
        self.directory = DataDirectory(path)
        self.store = StorageAdapter(
            self.directory,
            IDS,
            dsn=parse_dsn(self.cluster.dsn(self.database, port=self.proxy.port)),
            keys=KeySet(path / "keys.json", "0" * 32),
            write_seconds=WRITE_SECONDS,
            read_seconds=READ_SECONDS,
        )
        self.store.open()
        self.runner.run(self.store.start())
        self.starts += 1
        self.here, self.keys = set(), {}
        self.unsure = self.store._tally.snapshot

    def restart(self) -> None:
        """An orderly end, and a start."""
        self.runner.run(self.store.close())
        self.directory.release()
        self._open(self.directory.path)

    def kill(self) -> None:
        """Nothing is finished, nothing is said; a start on what lies on the disk."""
        self.lives += 1
        after = self.root / str(self.lives)
        # What the journal's thread was given it does: a disk image is taken between two writes.
        reached = threading.Event()
        self.store._local._commit_thread._give(self.runner.get_loop(), reached.set)
        assert reached.wait(30)
        shutil.copytree(self.directory.path, after)
        self.proxy.cut()
        self.runner.run(self._abandon())
        self.directory.release()
        self._open(after)

    async def _abandon(self) -> None:
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        await self.store._postgres._engine.dispose()
        await self.store._local.close()

    def close(self) -> None:
        """End everything."""
        self.runner.run(self.store.close())
        self.directory.release()
        self.runner.close()
        self.proxy.close()
        shutil.rmtree(self.root)
        assert self.cluster.connections(self.database) == 0

    # -- faults ----------------------------------------------------------------------------

    def fault(self, name: str) -> None:
        if name == "slow":
            self.proxy.delay(0.03)
        else:
            getattr(self.proxy, name)()

    def let_time_pass(self, seconds: float) -> None:
        """Heartbeats, probes and replay happen."""
        self.runner.run(asyncio.sleep(seconds))
        self._notice()

    def wait_until_carried(self, seconds: float = 30) -> None:
        async def carried() -> None:
            async with asyncio.timeout(seconds):
                while not self._carried:  # noqa: ASYNC110  # the store tells nobody
                    await asyncio.sleep(0.005)

        self.runner.run(carried())
        self._notice()

    @property
    def _carried(self) -> bool:
        status = self.store.status()
        return status.mode == "postgres" and not status.journal_backlog

    def _notice(self) -> None:
        if self._carried:
            self.out_of_reach = set()

    # -- calls -----------------------------------------------------------------------------

    def _mark(self) -> str:
        self.marks += 1
        return f"mark-{self.marks}"

    async def _add(self, text: str, log_id: uuid.UUID | None = None, key: bytes | None = None):
        session = self._mark()
        vector = np.random.default_rng(self.marks).normal(size=4).astype("<f4").tobytes()
        embedding = Embedding(vector, 4, "test") if self.marks % 2 else None
        self.attempted[session] = text, embedding.vector if embedding else None
        self.unknown.add(session)
        idempotency = Idempotency(key, b"r" * 16) if key else None
        found = await self.store.find_reply(idempotency) if idempotency else None
        kept = found or await self.store.add_conversation(
            log_id,
            text,
            text[::-1],
            session,
            reply=Reply(text=text[::-1], embedding=embedding),
            idempotency=idempotency,
        )
        self.unknown.discard(session)
        if kept.session_id != session:  # the first one under its key
            del self.attempted[session]
            assert key is not None
            assert self.keys[key] == kept.log_id
            return kept.log_id
        if key is not None:
            assert key not in self.keys, "a used key made another dialogue"
            self.keys[key] = kept.log_id
        self.told[kept.log_id] = session
        self.may_be.setdefault(kept.log_id, {None})
        self.here.add(kept.log_id)
        return kept.log_id

    async def _rate(self, log_id: uuid.UUID, rating: int) -> None:
        mark = self._mark()
        self.rating_attempts[mark] = log_id, rating
        self.unknown.add(mark)
        if log_id not in self.store.in_memory_storage:
            self.unsure = self.store._tally.snapshot  # nobody here knows how it was rated before
        before = self.may_be.setdefault(log_id, {None})
        self.may_be[log_id] = {*before, rating}
        outcome = await self.store.update_rating(log_id, rating, mark)
        self.unknown.discard(mark)
        self.rated_marks.add(mark)
        self.may_be[log_id] = {rating}
        self.here.add((log_id, "rated"))
        if log_id in self.told and outcome.status == "pending":
            self.out_of_reach.add(log_id)

    def _call(self, coroutine):
        async def bounded():
            async with asyncio.timeout(10):
                return await coroutine

        result = self.runner.run(bounded())
        self._notice()
        return result

    def add(self, text: str) -> uuid.UUID:
        return self._call(self._add(text))

    def add_under_key(self, text: str, key: bytes) -> uuid.UUID:
        return self._call(self._add(text, key=bytes([self.starts]) + key))

    def rate(self, log_id: uuid.UUID, rating: int) -> None:
        self._call(self._rate(log_id, rating))

    def rate_orphan(self, rating: int) -> uuid.UUID:
        log_id = IDS.issue()
        self._call(self._rate(log_id, rating))
        self.orphans.append(log_id)
        return log_id

    def orphan_arrives(self, place: int, text: str) -> uuid.UUID | None:
        if not self.orphans:
            return None
        log_id = self.orphans.pop(place % len(self.orphans))
        return self._call(self._add(text, log_id=log_id))

    def replace_knowledge(self, name: str, titles: list[str]) -> None:
        items = [KnowledgeItem(item_id=t, title=t, answer=t) for t in titles]
        self._call(self.store.replace_knowledge(name, items))
        self.knowledge[name] = titles
        self.here.add(name)

    def correct(self, name: uuid.UUID, text: str, log_ids: list, withdrawn: bool) -> None:
        call = self.store.correct(
            text, [text], "ru", log_ids=log_ids, correction_id=name, withdrawn=withdrawn
        )
        self._call(call)
        self.corrections[name] = text, tuple(log_ids), withdrawn
        self.here.add(name)

    def dismiss(self, log_ids: list[uuid.UUID], dismissed: bool) -> None:
        self._call(self.store.dismiss(log_ids, dismissed))
        self.dismissed -= set(log_ids)
        self.dismissed |= set(log_ids) if dismissed else set()

    def burst(self, adds: int, ratings: list[tuple[uuid.UUID, int]], steps: int, end: str) -> None:
        """Many calls at once; after ``steps`` turns of the loop they are left, cut off, killed."""

        async def begin() -> list[asyncio.Task]:
            calls = [self._add(f"burst {n}") for n in range(adds)]
            calls += [self._rate(log_id, rating) for log_id, rating in dict(ratings).items()]
            tasks = [asyncio.create_task(call) for call in calls]
            for _ in range(steps):
                await asyncio.sleep(0.001)
            if end == "cancel":
                for task in tasks[::2]:
                    task.cancel()
            if end != "kill":
                async with asyncio.timeout(10):
                    await asyncio.wait(tasks)
            return tasks

        tasks = self.runner.run(begin())
        if end == "kill":
            self.kill()
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                raise task.exception()
        self._notice()

    # -- reads -----------------------------------------------------------------------------

    def read(self, log_id: uuid.UUID) -> None:
        whole = self.store.status().complete
        found = self._call(self.store.get_conversation(log_id))
        whole = whole and self.store.status().complete
        if found is None:
            assert not whole
            assert log_id not in self.here
            return
        text, vector = self.attempted[self.told[log_id]]
        assert (found.user_message, found.ai_response) == (text, text[::-1])
        assert (found.embedding.vector if found.embedding else None) == vector
        if whole or (log_id, "rated") in self.here:
            assert found.rating in self.may_be[log_id], (found.rating, self.may_be[log_id])

    def read_totals(self) -> None:
        stats = self._call(self.store.get_stats())
        if self.unknown or self.out_of_reach:
            return
        if not stats.complete and self.store._tally.snapshot is self.unsure:
            return
        rated = [r for i in self.told for r in self.may_be[i] if r is not None]
        assert _numbers(stats) == _totals(Counter(rated), len(self.told)), self.store.status()

    def list_rated(self, least: int) -> None:
        async def listed():
            return [c async for c in self.store.get_rated_conversations(least)]

        whole = self.store.status().complete
        try:
            found = self._call(listed())
        except StorageUnavailable:
            return  # said, not hidden: a list that would have ended too early
        whole = whole and self.store.status().complete
        ids = [c.log_id for c in found]
        assert len(ids) == len(set(ids))
        for each in found:
            assert each.rating >= least
            assert each.user_message == self.attempted[each.session_id][0]
            if (each.log_id, "rated") in self.here:
                assert each.rating in self.may_be[each.log_id]
        if whole and not self.unknown:
            assert set(ids) == {i for i in self.told if (max_of(self.may_be[i]) >= least)}

    def read_knowledge(self) -> None:
        whole = self.store.status().complete
        kept = self._call(self.store.get_knowledge())
        whole = whole and self.store.status().complete
        found = {s.name: [i.title for i in s.items] for s in kept}
        for name, titles in self.knowledge.items():
            if whole or name in self.here:
                assert found.get(name, []) == titles, self.store.status()

    def read_corrections(self) -> None:
        whole = self.store.status().complete
        try:
            kept = self._call(self.store.get_corrections(withdrawn=True))
        except StorageUnavailable:
            return
        whole = whole and self.store.status().complete
        found = {c.correction_id: (c.answer, c.log_ids, c.withdrawn) for c in kept}
        assert len(found) == len(kept)
        for name, expected in self.corrections.items():
            if whole or name in self.here:
                assert found.get(name) == expected, self.store.status()

    def read_inbox(self) -> None:
        whole = self.store.status().complete
        try:
            found = {c.log_id for c in self._call(self.store.get_inbox(1_000))}
        except StorageUnavailable:
            return
        whole = whole and self.store.status().complete
        if whole and not self.unknown:
            assert found == self._waiting(), self.store.status()

    def _waiting(self) -> set[uuid.UUID]:
        """What must be in the inbox, where nothing is in doubt."""
        low = {i for i in self.told if max_of(self.may_be[i]) in (1, 2)}
        in_force = [ids for _, ids, withdrawn in self.corrections.values() if not withdrawn]
        return low - self.dismissed - {i for ids in in_force for i in ids}

    # -- the end ---------------------------------------------------------------------------

    def verify(self) -> None:
        """PostgreSQL is there again: what lies in it is what was told, no more and no less."""
        self.proxy.pass_through()
        # An armed fault waits for a commit: let it be met, then no other is on its way.
        self.wait_until_carried()
        self.let_time_pass(0.3)
        self.wait_until_carried()
        rows = self._sql("SELECT id, session_id, user_message, ai_response, rating FROM voice_logs")
        sessions = Counter(row[1] for row in rows)
        assert max(sessions.values(), default=1) == 1
        stored = {row[0]: row for row in rows}
        assert self.told.items() <= {row[0]: row[1] for row in rows}.items()
        assert set(sessions) - set(self.told.values()) <= self.unknown
        for _, session, message, response, _ in rows:
            assert (message, response) == (self.attempted[session][0], message[::-1])
        vectors = dict(self._sql("SELECT log_id, vector FROM voice_embeddings"))
        assert len(vectors) == len(self._sql("SELECT 1 FROM voice_embeddings"))
        for log_id, session in self.told.items():
            assert vectors.get(log_id) == self.attempted[session][1]
        history = self._sql("SELECT feedback_text, log_id, rating FROM voice_ratings")
        marks = Counter(row[0] for row in history)
        assert max(marks.values(), default=1) == 1
        assert self.rated_marks <= set(marks)
        assert set(marks) - self.rated_marks <= self.unknown
        for mark, log_id, rating in history:
            assert self.rating_attempts[mark] == (log_id, rating)
        for log_id, may_be in self.may_be.items():
            if log_id in stored:
                assert stored[log_id][4] in may_be, (log_id, stored[log_id][4], may_be)
        recount = Counter(row[4] or 0 for row in rows)
        summed = self._sql("SELECT rating, sum(dialogues) FROM voice_log_counts GROUP BY 1")
        assert Counter({r: int(n) for r, n in summed if n}) == recount
        rated = Counter({r: n for r, n in recount.items() if r})
        assert _numbers(self._call(self.store.get_stats())) == _totals(rated, len(rows))
        self.runner.run(self.store._snapshot.keep_house(self.store._postgres))
        assert _numbers(self.store._tally.told()) == _totals(rated, len(rows))
        self.read_knowledge()
        kept = dict(self._sql("SELECT name, items FROM knowledge_sources"))
        titles = {name: [item["title"] for item in _items(items)] for name, items in kept.items()}
        for name, expected in self.knowledge.items():
            assert titles.get(name, []) == expected
        taught = self._sql("SELECT correction_id, answer, log_ids, withdrawn FROM corrections")
        assert {
            name: (answer, tuple(uuid.UUID(i) for i in _items(ids)), withdrawn)
            for name, answer, ids, withdrawn in taught
        } == self.corrections
        settled = self._sql("SELECT log_id, correction_id FROM settled_turns")
        assert set(settled) == {
            (i, name)
            for name, (_, ids, withdrawn) in self.corrections.items()
            if not withdrawn
            for i in ids
        }
        dismissed = self._sql("SELECT subject FROM dismissals WHERE dismissed")
        assert {i for (i,) in dismissed} == self.dismissed
        self.read_corrections()
        self.read_inbox()
        for log_id in self.told:
            self.read(log_id)
        assert self._sql("SELECT count(*) FROM voice_conflicts") == [(0,)]

    def _sql(self, statement: str) -> list[tuple]:
        return self.cluster.execute(statement, self.database)


def max_of(ratings: set[int | None]) -> int:
    return max(r or 0 for r in ratings)


def _items(value: object) -> list[dict]:
    return json.loads(value) if isinstance(value, str) else value


def _numbers(stats: Stats) -> tuple[int, ...]:
    return (
        stats.total_interactions,
        stats.rated_interactions,
        stats.rating_sum,
        stats.positive_ratings,
        stats.negative_ratings,
        stats.recent,
    )


def _totals(rated: Counter[int], total: int) -> tuple[int, ...]:
    return (
        total,
        rated.total(),
        sum(r * n for r, n in rated.items()),
        rated[4] + rated[5],
        rated[1] + rated[2],
        total,
    )
