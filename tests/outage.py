"""A load of people on a running server, and what must be true of every answer they were given.

Each turn has a session of its own and each rating a feedback text of its own, so what lies in
PostgreSQL can be matched, one by one, with what was attempted and what was acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field

import httpx

from tests.postgres import Cluster

QUESTIONS = [f"Сколько стоит уборка подъезда номер {n}?" for n in range(200)]


@dataclass
class Request:
    """One call: when it was sent (s since the load began), how long it took, what came back.

    ``status`` is 0 when nothing came back. A 507 is a declared refusal, with ``Retry-After``; one
    without it counts as 500.
    """

    at: float
    seconds: float
    status: int


@dataclass
class Sample:
    """What health said at a moment."""

    at: float
    mode: str
    reason: str
    database: bool
    backlog: int


@dataclass
class Load:
    """Open-loop load: ``rate`` calls a second whatever the answers do, 40 % of them ratings.

    A share of ``cancelled`` callers hang up within 4 ms. With ``fresh`` every call comes over a
    connection of its own, so that several workers get their share.
    """

    address: str
    seed: int
    rate: float = 60.0
    ratings: float = 0.4
    cancelled: float = 0.0
    fresh: bool = False
    paused: bool = False
    questions: list[str] = field(default_factory=lambda: QUESTIONS)
    requests: list[Request] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    attempted: dict[str, str] = field(default_factory=dict)
    acknowledged: dict[uuid.UUID, tuple[str, str]] = field(default_factory=dict)
    rated: dict[uuid.UUID, list[tuple[str, int, bool]]] = field(default_factory=dict)
    """log_id → its ratings in the order they were sent: (mark, rating, acknowledged)."""
    refused: set[str] = field(default_factory=set)
    """Sessions and marks that were refused with a declared 507: nothing of them may be stored."""
    hung_up: int = 0
    errors: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Answers that made no sense."""
    findings: list[str] = field(default_factory=list)
    """What ``verify`` found lost, wrong or doubled, in words."""

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._free: list[uuid.UUID] = []
        self._number = 0
        self._tasks: set[asyncio.Task] = set()
        self._run = uuid.UUID(int=self._chance.getrandbits(128)).hex[:8]
        self._began = time.monotonic()
        self.client = self._client(30)

    def _client(self, timeout: float) -> httpx.AsyncClient:
        kept = 0 if self.fresh else 100
        limits = httpx.Limits(max_connections=400, max_keepalive_connections=kept)
        return httpx.AsyncClient(
            base_url=self.address, timeout=timeout, trust_env=False, verify=False, limits=limits
        )

    @property
    def now(self) -> float:
        return time.monotonic() - self._began

    # -- the load ------------------------------------------------------------------------------

    async def run(self, seconds: float) -> None:
        """Send for so many seconds; calls under way go on behind."""
        end, sent = time.monotonic() + seconds, 0
        start = time.monotonic()
        while time.monotonic() < end:
            if not self.paused:
                self._send()
            sent += 1
            await asyncio.sleep(max(0.0, start + sent / self.rate - time.monotonic()))

    async def warm(self, client: httpx.AsyncClient | None = None) -> None:
        """Ask every question once, so that no encoder is measured later."""
        client = client or self.client
        while not (await client.get("/api/health")).json()["services"]["embeddings"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        left = list(self.questions)

        async def ask() -> None:
            while left:
                question = left.pop()
                session = f"{self._run}-warm{len(self.attempted)}"
                self.attempted[session] = question
                body = {"message": question, "session_id": session}
                reply = (await client.post("/api/voice/process", json=body)).json()
                self.acknowledged[uuid.UUID(reply["log_id"])] = (session, reply["response"])

        await asyncio.gather(*(ask() for _ in range(4)))

    def _send(self) -> None:
        self._number += 1
        number = self._number
        if self._free and self._chance.random() < self.ratings:
            call = self._rate(number)
        else:
            call = self._ask(number)
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self._chance.random() < self.cancelled:
            asyncio.get_running_loop().call_later(self._chance.random() * 0.004, task.cancel)

    def _ended(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failures.append(repr(task.exception()))

    async def quiet(self) -> None:
        """Wait until every call under way has come back."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _call(self, path: str, body: dict) -> httpx.Response | None:
        at, started = self.now, time.monotonic()
        try:
            response = await self.client.post(path, json=body)
        except httpx.TransportError as error:
            self.requests.append(Request(at, time.monotonic() - started, 0))
            self.errors.append(type(error).__name__)
            return None
        except asyncio.CancelledError:
            self.hung_up += 1
            raise
        status = response.status_code
        if status == 507 and "retry-after" not in response.headers:
            status = 500
        self.requests.append(Request(at, time.monotonic() - started, status))
        if status != 200:
            self.errors.append(f"{response.status_code} {response.text[:200]}")
        return response if status in (200, 507) else None

    async def _ask(self, number: int) -> None:
        session = f"{self._run}-{number}"
        message = self._chance.choice(self.questions)
        self.attempted[session] = message
        response = await self._call(
            "/api/voice/process", {"message": message, "session_id": session}
        )
        if response is not None and response.status_code == 507:
            self.refused.add(session)
        elif response is not None:
            reply = response.json()
            log_id = uuid.UUID(reply["log_id"])
            assert log_id not in self.acknowledged
            self.acknowledged[log_id] = (session, reply["response"])
            self._free.append(log_id)

    async def _rate(self, number: int) -> None:
        # One at a time for each dialogue: then the last one acknowledged is the one that counts.
        place = self._chance.randrange(len(self._free))
        log_id, self._free[place] = self._free[place], self._free[-1]
        self._free.pop()
        mark, rating = f"{self._run}-r{number}", self._chance.randint(1, 5)
        history = self.rated.setdefault(log_id, [])
        history.append((mark, rating, False))
        response = await self._call(
            "/api/voice/feedback",
            {"log_id": str(log_id), "rating": rating, "feedback_text": mark},
        )
        if response is not None and response.status_code == 507:
            history.pop()
            self.refused.add(mark)
            self._free.append(log_id)
        elif response is not None:
            history[-1] = (mark, rating, True)
            self._free.append(log_id)
        # A rating of unknown fate leaves its dialogue alone: a later one could not be ordered.

    # -- watching ------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Sample health ten times a second until cancelled."""
        async with self._client(5) as client:
            while True:
                try:
                    body = (await client.get("/api/health")).json()
                except httpx.HTTPError:
                    await asyncio.sleep(0.1)
                    continue
                storage = body["storage"]
                self.samples.append(
                    Sample(
                        self.now,
                        storage["mode"],
                        storage["reason"],
                        body["services"]["database"],
                        storage["journal_backlog"],
                    )
                )
                await asyncio.sleep(0.1)

    async def until(self, mode: str, seconds: float = 60) -> float:
        """Wait until health says ``mode``; the moment."""
        deadline = time.monotonic() + seconds
        async with self._client(5) as client:
            while True:
                try:
                    body = (await client.get("/api/health")).json()
                    if body["storage"]["mode"] == mode:
                        return self.now
                except httpx.HTTPError:
                    pass
                assert time.monotonic() < deadline, f"never {mode}"
                await asyncio.sleep(0.02)

    async def settled(self, seconds: float = 60) -> None:
        """Wait until everybody asked keeps dialogues in PostgreSQL and has carried the rest there.

        Longer than from one heartbeat to the next: a write that missed its deadline waits for it.
        """
        deadline, in_a_row = time.monotonic() + seconds, 0
        async with self._client(5) as client:
            while in_a_row < 16:
                assert time.monotonic() < deadline, "it never settled"
                await asyncio.sleep(0.1)
                storage = (await client.get("/api/health")).json()["storage"]
                well = storage["mode"] == "postgres" and storage["journal_backlog"] == 0
                in_a_row = in_a_row + 1 if well else 0

    # -- what must be true ---------------------------------------------------------------------

    def latencies(self, since: float, to: float) -> list[float]:
        """Of the calls that were answered, sorted."""
        return sorted(r.seconds for r in self.requests if since <= r.at < to and r.status)

    def verify(
        self, cluster: Cluster, database: str, may: frozenset[int] = frozenset()
    ) -> dict[str, int]:
        """Match PostgreSQL with what was told; how many were lost, wrong, doubled, unknown.

        ``may`` are the statuses besides 200 that the fault allows: 0 where a process ends, 507
        where a disk is full. A call without an answer is no promise: what it wanted may be there
        or not, but only once, with its own words, and not before what was acknowledged later.
        """
        rows = cluster.execute(
            "SELECT id, session_id, user_message, ai_response, rating FROM voice_logs", database
        )
        stored = {row[0]: row for row in rows}
        sessions = Counter(row[1] for row in rows)
        lost: list[object] = [i for i in self.acknowledged if i not in stored]
        wrong: list[object] = [
            (session, response, stored[i])
            for i, (session, response) in self.acknowledged.items()
            if i in stored and (stored[i][1], stored[i][3]) != (session, response)
        ]
        wrong += [row for row in rows if self.attempted.get(row[1]) != row[2]]
        doubled: list[object] = [s for s, count in sessions.items() if count > 1]
        history = cluster.execute(
            "SELECT log_id, rating, feedback_text FROM voice_ratings", database
        )
        marks = Counter(row[2] for row in history)
        doubled += [mark for mark, count in marks.items() if count > 1]
        known = {mark: (i, r) for i, given in self.rated.items() for mark, r, _ in given}
        wrong += [row for row in history if known.get(row[2]) != (row[0], row[1])]
        wrong += sorted(self.refused & (sessions.keys() | marks.keys()))
        for log_id, given in self.rated.items():
            lost += [mark for mark, _, acknowledged in given if acknowledged and mark not in marks]
            there = [
                rating for mark, rating, acknowledged in given if acknowledged or mark in marks
            ]
            if log_id in stored and stored[log_id][4] != (there[-1] if there else None):
                wrong.append((stored[log_id], given))
        wrong += [row for row in rows if row[4] is not None and row[0] not in self.rated]
        wrong += cluster.execute("SELECT log_id FROM voice_conflicts", database)
        counted, recounted = self.totals(cluster, database), self.recount(cluster, database)
        if counted != recounted:
            wrong.append((counted, recounted))
        wrong += self.failures
        found = {"lost": lost, "wrong": wrong, "doubled": doubled}
        self.findings = [f"{word}: {each}" for word, all_ in found.items() for each in all_]
        seen = Counter(r.status for r in self.requests)
        return {
            "acknowledged": len(self.acknowledged)
            + sum(ok for given in self.rated.values() for _, _, ok in given),
            **{word: len(all_) for word, all_ in found.items()},
            "unknown": self.hung_up + seen[0] * (0 in may),
            "errors": sum(n for status, n in seen.items() if status not in may | {200}),
            "5xx": sum(n for status, n in seen.items() if status >= 500 and status not in may),
            "refused (507)": seen[507],
        }

    @staticmethod
    def totals(cluster: Cluster, database: str) -> dict[int, int]:
        """Dialogues by rating, from the summary."""
        return dict(
            cluster.execute(
                "SELECT rating, sum(dialogues)::int FROM voice_log_counts GROUP BY 1"
                " HAVING sum(dialogues) <> 0",
                database,
            )
        )

    @staticmethod
    def recount(cluster: Cluster, database: str) -> dict[int, int]:
        """The same, from the rows."""
        return dict(
            cluster.execute(
                "SELECT coalesce(rating, 0), count(*)::int FROM voice_logs GROUP BY 1", database
            )
        )


def quantile(values: list[float], share: float) -> float:
    """A quantile of sorted values; 0 when there are none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0
