"""Upgrades that fail, that come several at once, and databases that are not to be upgraded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.exc import DBAPIError

from audiobot.commands import _database_check, migrate
from audiobot.errors import SetupError
from audiobot.messages import sentence
from audiobot.settings import Settings
from audiobot.storage import upgrading
from audiobot.storage.dsn import parse_dsn
from audiobot.storage.postgres import PostgresStore
from audiobot.storage.switch import Switch
from audiobot.storage.upgrading import downgrade, look, upgrade
from tests.old_database import dump, make_old, shape
from tests.pgbouncer import PgBouncer
from tests.postgres import Cluster


@pytest.fixture(scope="module")
def old_template(cluster: Cluster) -> Iterator[str]:
    """An old database to copy."""
    with cluster.database() as name:
        make_old(cluster, name)
        yield name


@pytest.fixture
def old(cluster: Cluster, old_template: str) -> Iterator[str]:
    with cluster.database(template=old_template) as name:
        yield name


HINDRANCES = {
    "a view": ("CREATE VIEW report AS SELECT id, rating FROM voice_logs", "report"),
    "a view of the last table": (
        "CREATE VIEW late AS SELECT created_at FROM training_datasets",
        "late",
    ),
    "a trigger on a column": (
        "CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;"
        " CREATE TRIGGER watch BEFORE UPDATE OF rating ON voice_logs FOR EACH ROW"
        " EXECUTE FUNCTION noop()",
        "watch",
    ),
    "a policy": ("CREATE POLICY own ON voice_logs USING (session_id = 'me')", "own"),
    "a foreign key": (
        "CREATE TABLE tickets (log_id varchar REFERENCES voice_logs (id))",
        "tickets_log_id_fkey",
    ),
    "a foreign key to a number": (
        "CREATE TABLE uses (dataset int REFERENCES training_datasets (id))",
        "uses_dataset_fkey",
    ),
}


@pytest.mark.parametrize("what", HINDRANCES)
def test_g19_what_depends_on_the_tables_is_named_and_all_stays(cluster: Cluster, old: str, what):
    statement, name = HINDRANCES[what]
    with psycopg.connect(cluster.dsn(old), autocommit=True) as connection:
        connection.execute(statement)
    before = dump(cluster, old)
    with pytest.raises(SetupError) as refused:
        upgrade(parse_dsn(cluster.dsn(old)))
    assert refused.value.code == "database_in_the_way"
    said = sentence(refused.value.code, "en", **refused.value.details)
    assert name in said
    assert "Drop it, run audiobot migrate, then make it anew" in said
    assert dump(cluster, old) == before


async def test_g19_serve_tells_what_hinders_the_upgrade(cluster: Cluster, old: str):
    cluster.execute("CREATE VIEW report AS SELECT id FROM voice_logs", old)
    dsn = parse_dsn(cluster.dsn(old))
    store = PostgresStore(dsn)
    try:
        switch = Switch(Mock(), store, Mock(), Mock(), Mock(), Mock(), Mock())
        assert await switch._reach() == "hindered"
    finally:
        await store.close()
    for language in ("ru", "en"):
        assert "audiobot migrate" in sentence("cause_hindered", language)


def _until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def _middle(cluster: Cluster, database: str) -> int | None:
    """The backend of an upgrade that waits in its middle for a lock."""
    found = cluster.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        " AND query LIKE 'ALTER TABLE training_datasets%%'",
        params=[database],
    )
    return found[0][0] if found else None


@pytest.mark.parametrize("end", ["pg_terminate_backend", "pg_cancel_backend"])
def test_g19_an_upgrade_ended_in_the_middle_leaves_all_as_it_was(
    cluster: Cluster, old: str, end: str
):
    before = dump(cluster, old)
    # Somebody holds the last table: the first three are changed already when it stops.
    with ThreadPoolExecutor(1) as threads, psycopg.connect(cluster.dsn(old)) as holder:
        holder.execute("LOCK TABLE training_datasets IN ACCESS SHARE MODE")
        running = threads.submit(upgrade, parse_dsn(cluster.dsn(old)))
        _until(lambda: _middle(cluster, old))
        cluster.execute(f"SELECT {end}(%s)", params=[_middle(cluster, old)])
        with pytest.raises(DBAPIError):
            running.result(30)
    assert dump(cluster, old) == before
    assert upgrade(parse_dsn(cluster.dsn(old))) == ("initial_001", "joining_004")


def test_g19_a_server_killed_in_the_middle_leaves_all_as_it_was(old_template: str):
    with Cluster() as cluster, cluster.database() as old:
        make_old(cluster, old, 200)
        before = dump(cluster, old)
        with ThreadPoolExecutor(1) as threads:
            holder = psycopg.connect(cluster.dsn(old))
            holder.execute("LOCK TABLE training_datasets IN ACCESS SHARE MODE")
            running = threads.submit(upgrade, parse_dsn(cluster.dsn(old)))
            _until(lambda: _middle(cluster, old))
            cluster.kill()
            with pytest.raises(DBAPIError):
                running.result(30)
            holder.close()
        cluster.start()
        assert dump(cluster, old) == before
        assert upgrade(parse_dsn(cluster.dsn(old)))[1] == "joining_004"


def test_g19_an_old_audiobot_that_holds_a_table_is_not_waited_for_without_end(
    cluster: Cluster, old: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(upgrading, "_TABLE_PATIENCE", "SET LOCAL lock_timeout = '50ms'")
    before = dump(cluster, old)
    with psycopg.connect(cluster.dsn(old)) as holder:
        holder.execute("SELECT count(*) FROM model_metrics")
        with pytest.raises(DBAPIError, match="lock timeout"):
            upgrade(parse_dsn(cluster.dsn(old)))
    assert dump(cluster, old) == before


def test_g19_short_limits_of_the_database_do_not_end_an_upgrade(cluster: Cluster, old: str):
    for limit in ("statement_timeout = 20", "lock_timeout = 20"):
        cluster.execute(f"ALTER DATABASE {old} SET {limit}")
    cluster.execute(f"ALTER DATABASE {old} SET default_transaction_isolation = 'repeatable read'")
    assert_one_did_it(at_once(4, cluster.dsn(old)), "initial_001")


def test_g19_a_failed_downgrade_leaves_all_as_it_was(cluster: Cluster, old: str):
    dsn = parse_dsn(cluster.dsn(old))
    upgrade(dsn)
    cluster.execute("CREATE VIEW late AS SELECT created_at FROM training_datasets", old)
    before = dump(cluster, old)
    with pytest.raises(SetupError):
        downgrade(dsn, "initial_001")
    assert dump(cluster, old) == before


def at_once(many: int, *dsns: str) -> list[tuple[str | None, str | None]]:
    """What came of upgrades that began together."""
    together = threading.Barrier(many)

    def run(number: int) -> tuple[str | None, str | None]:
        together.wait(30)
        return upgrade(parse_dsn(dsns[number % len(dsns)]))

    with ThreadPoolExecutor(many) as threads:
        return list(threads.map(run, range(many), timeout=60))


def assert_one_did_it(results: list[tuple[str | None, str | None]], before: str | None) -> None:
    others = ("joining_004", "joining_004")
    assert sorted(results, key=str) == sorted(
        [(before, "joining_004"), *[others] * (len(results) - 1)], key=str
    )


@pytest.fixture(scope="module")
def pooler(cluster: Cluster) -> Iterator[PgBouncer]:
    with PgBouncer(cluster, pool_size=5) as running:
        yield running


@pytest.mark.parametrize("way", ["straight", "pooled", "mixed"])
def test_g19_several_at_once_upgrade_once(
    cluster: Cluster, database: str, empty_database: str, old: str, pooler: PgBouncer, way: str
):
    want = shape(cluster, database)
    for name, before in ((empty_database, None), (old, "initial_001")):
        straight, pooled = cluster.dsn(name), pooler.dsn(name)
        dsns = {"straight": [straight], "pooled": [pooled], "mixed": [straight, pooled]}[way]
        assert_one_did_it(at_once(4, *dsns), before)
        assert shape(cluster, name) == want
        if way != "straight":  # nothing of it is left in the server's session for the next client
            with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as connection:
                limits = connection.execute(
                    "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),"
                    " (SELECT count(*) FROM pg_class WHERE relname IN ('odd_ids', 'old_ids')),"
                    " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"
                ).fetchone()
            assert limits == ("0", "0", 0, 0)
    if way != "straight":
        with psycopg.connect(pooler.dsn("pgbouncer"), autocommit=True) as console:
            for name in (empty_database, old):
                console.execute(sql.SQL("KILL {}").format(sql.Identifier(name)))
        _until(lambda: not cluster.connections(empty_database) + cluster.connections(old))


# -- not to be upgraded ---------------------------------------------------------------------------


async def told(cluster: Cluster, database: str, **login: str) -> tuple[str, str]:
    """What ``audiobot migrate`` and the doctor say."""
    url = cluster.dsn(database, **login)
    with pytest.raises(SetupError) as refused:
        await migrate(Settings(DATABASE_URL=url), "en")
    said = sentence(refused.value.code, "en", **refused.value.details)
    sentence(refused.value.code, "ru", **refused.value.details)
    check = await _database_check(url, "en")
    assert check.verdict == "bad"
    for text in (said, check.text):
        assert cluster.password not in text
    return said, check.text


async def test_g19_a_role_that_may_not_create_tables_is_told_so(
    cluster: Cluster, empty_database: str
):
    cluster.execute(f"REVOKE CREATE ON SCHEMA public FROM {cluster.owner}, PUBLIC", empty_database)
    cluster.execute("ALTER SCHEMA public OWNER TO CURRENT_USER", empty_database)
    said, doctor = await told(cluster, empty_database)
    assert "permission denied for schema public" in said
    assert "GRANT CREATE ON SCHEMA" in said
    assert "CREATE" in doctor
    assert dump(cluster, empty_database)["rows"] == {}


async def test_g19_a_role_that_does_not_own_the_old_tables_is_told_so(cluster: Cluster, old: str):
    cluster.execute("ALTER TABLE voice_logs OWNER TO CURRENT_USER", old)
    cluster.execute(f"GRANT ALL ON voice_logs TO {cluster.owner}", old)
    before = dump(cluster, old)
    with pytest.raises(SetupError) as refused:
        upgrade(parse_dsn(cluster.dsn(old)))
    said = sentence(refused.value.code, "en", **refused.value.details)
    assert "must be owner of table voice_logs" in said
    assert dump(cluster, old) == before


STRANGERS = {
    "tables": ("CREATE TABLE invoices (id int)", "1 tables"),
    "a partitioned table": ("CREATE TABLE parts (id int) PARTITION BY RANGE (id)", "1 tables"),
    "another program's revision": (
        "CREATE TABLE alembic_version (version_num varchar(32));"
        " INSERT INTO alembic_version VALUES ('a1b2c3d4')",
        "revision a1b2c3d4",
    ),
    "two revisions": (
        "CREATE TABLE alembic_version (version_num varchar(32));"
        " INSERT INTO alembic_version VALUES ('teaching_003'), ('other')",
        "revision other, revision teaching_003",
    ),
    "tables and an empty alembic_version": (
        "CREATE TABLE alembic_version (version_num varchar(32)); CREATE TABLE voice_logs (id int)",
        "1 tables",
    ),
}


@pytest.mark.parametrize("what", STRANGERS)
async def test_g19_a_database_of_something_else_is_not_touched(
    cluster: Cluster, empty_database: str, what: str
):
    statement, found = STRANGERS[what]
    with psycopg.connect(cluster.dsn(empty_database), autocommit=True) as connection:
        connection.execute(statement)
    before = dump(cluster, empty_database)
    for text in await told(cluster, empty_database):
        assert "another program or to a later AudioBot" in text
        assert f"({found})" in text
    assert dump(cluster, empty_database) == before


def test_g19_tables_that_an_extension_brought_are_no_strangers(
    cluster: Cluster, empty_database: str
):
    cluster.execute("CREATE TABLE spatial_ref_sys (id int)", empty_database)
    cluster.execute("ALTER EXTENSION plpgsql ADD TABLE spatial_ref_sys", empty_database)
    dsn = parse_dsn(cluster.dsn(empty_database))
    assert look(dsn).revision is None
    assert upgrade(dsn) == (None, "joining_004")
    assert "plpgsql" in look(dsn).extensions


@pytest.mark.parametrize(("number", "told"), [("90624", 9), ("130023", 13)])
def test_g19_a_server_too_old_is_named_with_the_oldest_that_works(number: str, told: int):
    connection = Mock()
    connection.execute.return_value.scalar_one.return_value = number
    with pytest.raises(SetupError) as refused:
        upgrading.check_server(connection)
    said = sentence(refused.value.code, "en", **refused.value.details)
    assert said == (f"The PostgreSQL server is version {told}, too old: 14 or newer is needed.")
    connection.execute.return_value.scalar_one.side_effect = ["140000", "UTF8"]
    upgrading.check_server(connection)


async def test_g19_the_doctor_tells_of_vectors_without_a_dialogue(cluster: Cluster, old: str):
    upgrade(parse_dsn(cluster.dsn(old)))
    check = await _database_check(cluster.dsn(old), "en")
    assert check.verdict == "ok"
    assert "Vectors without a dialogue: 6." in check.text
