"""What benchmarks/outages.py does to PostgreSQL, the network, the disk and the server itself.

A fault begins beside the load and ends beside it; one that goes on and on does so until the stage
is ``over``. One that was not really caused raises: its row would say nothing.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import psycopg
from psycopg import sql
from sqlalchemy import create_engine
from tests.faults.disks import fill, small_disk
from tests.outage import Load
from tests.pgbouncer import PgBouncer
from tests.postgres import Cluster
from tests.proxy import Proxy
from tests.servers import Server, start

from audiobot.storage.directory import LEAST_FREE_BYTES
from audiobot.storage.schema import REVISION, metadata

SEED = 20_261_124
DISK_MEGABYTES = 40
NO_ANSWER, REFUSED = frozenset({0}), frozenset({507})

Step = Callable[["Stage"], Awaitable[object]]


async def nothing(stage: Stage) -> None:
    """Whatever it was is over by itself."""


@dataclass(frozen=True)
class Fault:
    """One row: what is done while people talk, for how long, and how it is undone.

    ``may`` are the statuses besides 200 that it allows: 0 (no answer) where a process ends, 507
    where a disk is full.
    """

    name: str
    begin: Step
    end: Step = nothing
    long: float = 10
    short: float = 3
    may: frozenset[int] = frozenset()
    workers: int = 1
    pooled: bool = False
    small_disk: bool = False


class Stage:
    """A server on a database, and a load; a fault has its hands on all of it."""

    def __init__(
        self, fault: Fault, seconds: float, questions: list[str], things: ExitStack
    ) -> None:
        self.seconds = seconds
        self.over = asyncio.Event()
        self.struck = 0.0
        self.serves_after: float | None = None
        self._things = things
        folder = Path(things.enter_context(tempfile.TemporaryDirectory()))
        self.data = folder / "data"
        if fault.small_disk:
            things.enter_context(small_disk(self.data, DISK_MEGABYTES))
        self.cluster = things.enter_context(Cluster())
        self.database = self.cluster.create_database()
        to: Cluster | PgBouncer = self.cluster
        if fault.pooled:
            to = things.enter_context(PgBouncer(self.cluster, retry=1))
        self.proxy = things.enter_context(Proxy(to.host, to.port))
        self._workers = fault.workers
        self._servers: list[Server] = []
        things.callback(self._clear_away)
        self._start(0)
        self.load = Load(self.server.address, SEED, fresh=fault.workers > 1, questions=questions)

    # -- the server ------------------------------------------------------------------------

    @property
    def server(self) -> Server:
        """The one that runs, or ran last."""
        return self._servers[-1]

    @property
    def log(self) -> str:
        """What all of them wrote."""
        return "".join(server.log for server in self._servers)

    def _start(self, port: int) -> None:
        dsn = self.cluster.dsn(self.database, host=self.proxy.host, port=self.proxy.port)
        workers = ("--workers", str(self._workers)) if self._workers > 1 else ()
        self._servers.append(start(self.data, *workers, port=port, DATABASE_URL=dsn))

    def start_again(self) -> None:
        """Another server where the last one was."""
        began = time.monotonic()
        self.server.client.close()
        self._start(int(self.server.address.rsplit(":", 1)[1]))
        self.serves_after = time.monotonic() - began

    def stop_server(self) -> None:
        """SIGTERM; it must end well."""
        code = self.server.stop(30)
        assert code == 0, f"the server ended with {code}\n{self.server.log[-4000:]}"

    def _clear_away(self) -> None:
        for server in self._servers:
            server.client.close()
            if server.process.poll() is None:
                server.kill()

    def slots(self) -> dict[str, psutil.Process]:
        """Which worker holds which journal slot, seen from outside."""
        held = {}
        for worker in psutil.Process(self.server.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                for file in worker.open_files():
                    if Path(file.path).parent.parent.name == "journal":
                        held[Path(file.path).parent.name] = worker
        return held

    async def warm(self) -> None:
        """Every worker has its own memory of questions: each is asked over a kept connection."""
        if self._workers == 1:
            return await self.load.warm()
        known: set[int] = set()
        while len(known) < self._workers:
            limits = httpx.Limits(max_connections=1)
            async with httpx.AsyncClient(
                base_url=self.server.address, limits=limits, trust_env=False, timeout=30
            ) as client:
                greeted = await client.get("/api/health")
                port = greeted.extensions["network_stream"].get_extra_info("client_addr")[1]
                server = await asyncio.to_thread(self._who_serves, port)
                if server not in known:
                    known.add(server)
                    await self.load.warm(client)
        return None

    def _who_serves(self, port: int) -> int:
        """The process at the other end of a connection from this port."""
        parent = psutil.Process(self.server.process.pid)
        for process in (parent, *parent.children()):
            ends = process.net_connections("tcp")
            if any(end.raddr and end.raddr.port == port for end in ends):
                return process.pid
        raise AssertionError(f"nobody serves the connection from port {port}")

    def must_hold_records(self, *slots: str) -> None:
        """Calls went to every worker, so each has journaled."""
        for slot in slots:
            files = (self.data / "journal" / slot).glob("*.log")
            assert any(path.stat().st_size > 100 for path in files), f"slot {slot} is empty"

    # -- PostgreSQL ------------------------------------------------------------------------

    def sql(self, statement: str, *names: str, params: object = None) -> list[tuple]:
        """One statement in the program's own database, as the administrator."""
        whole = sql.SQL(statement).format(*map(sql.Identifier, names))
        return self.cluster.execute(whole, self.database, params)

    def administer(self, statement: str, *names: str) -> None:
        """The same from another database."""
        self.cluster.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def terminate(self, database: str | None = None) -> None:
        """End every session on the database."""
        self.cluster.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND pid <> pg_backend_pid()",
            params=[database or self.database],
        )

    def session(self, options: str = "") -> psycopg.Connection:
        """The administrator's, closed at the end if not before."""
        dsn = self.cluster.dsn(self.database, user=self.cluster.admin)
        other = psycopg.connect(dsn, options=options, connect_timeout=10)
        self._things.callback(other.close)
        return other

    def at_once(self, *statements: str) -> psycopg.Connection:
        """One transaction that locks what people use, still open; again if it met a deadlock."""
        other = self.session()
        while True:
            try:
                for statement in statements:
                    other.execute(statement.encode())
                return other
            except psycopg.errors.DeadlockDetected:
                other.rollback()

    # -- time ------------------------------------------------------------------------------

    async def part(self, share: float) -> None:
        """Let a share of the fault's time pass."""
        await asyncio.sleep(share * self.seconds)

    async def again_and_again(self, work: Callable[[], object], pause: float) -> None:
        """Until it is over."""
        while not self.over.is_set():
            await asyncio.to_thread(work)
            await asyncio.sleep(pause)


def on(work: Callable[[Stage], object]) -> Step:
    """A step that blocks, beside the load."""
    return lambda stage: asyncio.to_thread(work, stage)


# -- what an administrator does --------------------------------------------------------------------

TABLES = ", ".join(metadata.tables)
WITHOUT_DIALOGUES = ("idempotency_keys", "replay_cursors", "voice_conflicts")
OLDEST_TABLES = {"model_metrics", "training_datasets", "voice_embeddings", "voice_logs"}
NEWER_TABLES = sorted(metadata.tables.keys() - OLDEST_TABLES)
"""What the first revision did not have."""


def read_only(stage: Stage) -> None:
    """As a primary that became a standby: every session is told at once."""
    stage.cluster.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    stage.cluster.execute("SELECT pg_reload_conf()")


def writable(stage: Stage) -> None:
    """Undo it."""
    writing = stage.session("-c default_transaction_read_only=off")
    writing.autocommit = True
    writing.execute("ALTER SYSTEM RESET default_transaction_read_only")
    writing.execute("SELECT pg_reload_conf()")


def make_tables_again(stage: Stage) -> None:
    """Empty, as the owner."""
    dsn = stage.cluster.dsn(stage.database).replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(dsn)
    metadata.create_all(engine, [metadata.tables[name] for name in WITHOUT_DIALOGUES])
    engine.dispose()


def a_revision_behind(stage: Stage) -> None:
    """The number of the first one, and nothing that it did not have."""
    stage.at_once(
        "CREATE SCHEMA aside",
        *(f"ALTER TABLE {name} SET SCHEMA aside" for name in NEWER_TABLES),
        "UPDATE alembic_version SET version_num = 'initial_001'",
    ).commit()


def the_revision_again(stage: Stage) -> None:
    """All of it comes back."""
    stage.at_once(
        *(f"ALTER TABLE aside.{name} SET SCHEMA public" for name in NEWER_TABLES),
        "DROP SCHEMA aside",
        f"UPDATE alembic_version SET version_num = '{REVISION}'",
    ).commit()


def no_connections(stage: Stage) -> None:
    """Nobody new, and nobody who is there."""
    stage.administer("ALTER DATABASE {} CONNECTION LIMIT 0", stage.database)
    stage.terminate()


def rotate_password(stage: Stage) -> None:
    """The program is not told."""
    set_password(stage, "rotated")
    stage.terminate()


def set_password(stage: Stage, password: str) -> None:
    """For the role that the program logs in as."""
    role = sql.Identifier(stage.cluster.owner)
    statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(password))
    stage.cluster.execute(statement)


def rename_database(stage: Stage, before: str, after: str) -> None:
    """Nobody may be connected to it then."""
    stage.administer("ALTER DATABASE {} ALLOW_CONNECTIONS false", before)
    while stage.cluster.connections(before):
        stage.terminate(before)
    stage.administer("ALTER DATABASE {} RENAME TO {}", before, after)
    stage.administer("ALTER DATABASE {} ALLOW_CONNECTIONS true", after)


async def lock_everything(stage: Stage) -> None:
    """Another session holds all tables for as long as it lasts."""
    other = await asyncio.to_thread(stage.at_once, f"LOCK TABLE {TABLES} IN ACCESS EXCLUSIVE MODE")
    await stage.over.wait()
    await asyncio.to_thread(other.rollback)


async def terminate_on_and_on(stage: Stage) -> None:
    """Every backend, twice a second."""
    await stage.again_and_again(stage.terminate, 0.5)


async def kill_backends_on_and_on(stage: Stage) -> None:
    """By SIGKILL: PostgreSQL restarts itself each time."""

    def kill() -> None:
        stage.cluster.kill_backends(stage.database)
        stage.cluster.wait_until_ready()

    await stage.again_and_again(kill, 1)


# -- the network -----------------------------------------------------------------------------------


def reset_all(stage: Stage) -> None:
    """What is open, and whatever is opened."""
    stage.proxy.reset_new()
    stage.proxy.cut()


async def drop_replies_to_commit(stage: Stage) -> None:
    """One after the other: what was committed is not known to be."""
    while not stage.over.is_set():
        dropped = stage.proxy.replies_dropped
        stage.proxy.drop_next_commit_reply()
        await asyncio.sleep(0.2)
        while stage.proxy.replies_dropped == dropped and not stage.over.is_set():  # noqa: ASYNC110  # the proxy tells nobody
            await asyncio.sleep(0.02)  # the proxy tells nobody
    stage.proxy.drop_no_reply()
    assert stage.proxy.replies_dropped > 0


async def flap(stage: Stage) -> None:
    """Down for a second, up for a second."""
    while not stage.over.is_set():
        stage.proxy.refuse()
        await asyncio.sleep(1)
        stage.proxy.pass_through()
        await asyncio.sleep(1)


# -- people and the disk ---------------------------------------------------------------------------


async def people_hang_up(stage: Stage) -> None:
    """A fifth of them, within 4 ms, while PostgreSQL cannot be reached."""
    stage.load.cancelled = 0.2
    await asyncio.to_thread(stage.proxy.refuse)


async def nobody_hangs_up(stage: Stage) -> None:
    """And PostgreSQL is there."""
    assert stage.load.hung_up > 0
    stage.load.cancelled = 0
    await asyncio.to_thread(stage.proxy.pass_through)


async def fill_the_disk(stage: Stage) -> None:
    """When a third of the outage is over."""
    await asyncio.to_thread(stage.proxy.refuse)
    await stage.part(1 / 3)
    await asyncio.to_thread(fill, stage.data, LEAST_FREE_BYTES // 2)


async def heal_with_a_full_disk(stage: Stage) -> None:
    """The disk stays full: what is in the journal is carried nevertheless."""
    assert stage.load.refused
    await asyncio.to_thread(stage.proxy.pass_through)


# -- the server itself -----------------------------------------------------------------------------


async def kill_the_app(stage: Stage) -> None:
    """In the middle of the outage, and start it again."""
    await asyncio.to_thread(stage.cluster.kill)
    await stage.part(1 / 2)
    await asyncio.to_thread(stage.server.kill)
    await asyncio.to_thread(stage.start_again)


async def stop_the_app(stage: Stage) -> None:
    """By SIGTERM in the middle of the outage, and start it again."""
    await asyncio.to_thread(stage.cluster.kill)
    await stage.part(1 / 2)
    await asyncio.to_thread(stage.stop_server)
    await asyncio.to_thread(stage.start_again)


async def start_without(stage: Stage) -> None:
    """In an empty directory: nothing is known of PostgreSQL but its address.

    Nobody calls until it serves: that it did not before is no fault.
    """
    stage.load.paused = True
    await stage.load.quiet()
    await asyncio.to_thread(stage.stop_server)
    await asyncio.to_thread(stage.cluster.stop, "immediate")
    stage.data = stage.data.with_name("another")
    await asyncio.to_thread(stage.start_again)
    stage.load.paused = False
    stage.struck = stage.load.now
    await stage.part(1)


def kill_the_app_in_the_replay(stage: Stage) -> None:
    """When a part of the journal has been carried, over a network that makes it last."""
    journaled = stage.server.health()["storage"]["journal_backlog"]
    stage.proxy.delay(0.02)
    stage.cluster.start()
    carried = 0
    while not carried:
        carried = stage.sql("SELECT coalesce(max(sequence), 0) FROM replay_cursors")[0][0]
    stage.server.kill()
    carried = stage.sql("SELECT max(sequence) FROM replay_cursors")[0][0]
    assert 0 < carried < journaled, f"{carried} of {journaled} were carried when it was killed"
    stage.proxy.pass_through()
    stage.start_again()


async def kill_postgresql_under_two(stage: Stage) -> None:
    """Both workers fall back."""
    await asyncio.to_thread(stage.cluster.kill)
    await stage.over.wait()
    stage.must_hold_records("0", "1")


async def kill_a_worker(stage: Stage) -> None:
    """In the middle of the outage, with records in its journal; another must take its slot."""
    await asyncio.to_thread(stage.cluster.kill)
    await stage.part(1 / 2)
    stage.must_hold_records("0", "1")
    victim = stage.slots()["1"]
    victim.kill()
    await asyncio.sleep(0.5)
    deadline = time.monotonic() + 30
    while (await asyncio.to_thread(stage.slots)).get("1", victim) == victim:
        assert time.monotonic() < deadline, "nobody took the slot"
        await asyncio.sleep(0.1)


FAULTS = [
    Fault("PostgreSQL stopped as in a crash", on(lambda s: s.cluster.stop("immediate")),
          on(lambda s: s.cluster.start()), long=15),
    Fault("PostgreSQL killed", on(lambda s: s.cluster.kill()),
          on(lambda s: s.cluster.start()), long=15),
    Fault("frozen (SIGSTOP), then thawed", on(lambda s: s.cluster.freeze()),
          on(lambda s: s.cluster.thaw()), long=45, short=5),
    Fault("every backend terminated, twice a second", terminate_on_and_on),
    Fault("every backend killed (`kill -9`), each second", kill_backends_on_and_on),
    Fault("made read-only", on(read_only), on(writable)),
    Fault("the schema renamed",
          on(lambda s: s.sql("ALTER SCHEMA public RENAME TO away")),
          on(lambda s: s.sql("ALTER SCHEMA away RENAME TO public"))),
    Fault("tables dropped, made again empty",
          on(lambda s: s.at_once(f"DROP TABLE {', '.join(WITHOUT_DIALOGUES)}").commit()),
          on(make_tables_again)),
    Fault("a revision behind", on(a_revision_behind), on(the_revision_again)),
    Fault("all rights revoked",
          on(lambda s: s.sql("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {}", s.cluster.owner)),
          on(lambda s: s.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO {}", s.cluster.owner))),
    Fault("connection limit 0", on(no_connections),
          on(lambda s: s.administer("ALTER DATABASE {} CONNECTION LIMIT -1", s.database))),
    Fault("every table locked by somebody", lock_everything, short=5),
    Fault("password rotated, then put back", on(rotate_password),
          on(lambda s: set_password(s, s.cluster.password))),
    Fault("the database renamed, then back", on(lambda s: rename_database(s, s.database, "away")),
          on(lambda s: rename_database(s, "away", s.database))),
    Fault("stopped behind PgBouncer", on(lambda s: s.cluster.stop("immediate")),
          on(lambda s: s.cluster.start()), pooled=True, short=5),
    Fault("the network cut, nothing listens", on(lambda s: s.proxy.refuse()),
          on(lambda s: s.proxy.pass_through())),
    Fault("the network swallows everything", on(lambda s: s.proxy.stall()),
          on(lambda s: s.proxy.pass_through()), short=5),
    Fault("the network resets every connection", on(reset_all),
          on(lambda s: s.proxy.pass_through())),
    Fault("the network slow, 0.45 s a packet", on(lambda s: s.proxy.delay(0.45)),
          on(lambda s: s.proxy.pass_through()), short=5),
    Fault("the reply to COMMIT dropped, again and again", drop_replies_to_commit),
    Fault("up and down, a second each", flap, short=4),
    Fault("a fifth of the callers hang up in an outage", people_hang_up, nobody_hangs_up),
    Fault("the disk full in an outage", fill_the_disk, heal_with_a_full_disk,
          may=REFUSED, small_disk=True),
    Fault("the app killed in an outage", kill_the_app,
          on(lambda s: s.cluster.start()), may=NO_ANSWER),
    Fault("the app stopped (SIGTERM) in an outage", stop_the_app,
          on(lambda s: s.cluster.start()), may=NO_ANSWER),
    Fault("the app killed in the replay", on(lambda s: s.cluster.kill()),
          on(kill_the_app_in_the_replay), short=6, may=NO_ANSWER),
    Fault("started while PostgreSQL is down", start_without, on(lambda s: s.cluster.start())),
    Fault("two workers, PostgreSQL killed", kill_postgresql_under_two,
          on(lambda s: s.cluster.start()), workers=2),
    Fault("two workers, one killed in an outage", kill_a_worker,
          on(lambda s: s.cluster.start()), may=NO_ANSWER, workers=2),
]  # fmt: skip
