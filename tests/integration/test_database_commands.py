"""The doctor on PostgreSQL, and ``audiobot migrate``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from audiobot.messages import sentence
from audiobot.storage.dsn import parse_dsn
from audiobot.storage.schema import REVISION
from audiobot.storage.upgrading import downgrade
from tests.postgres import Cluster
from tests.servers import run, serving


def postgres_line(data: Path, url: str, exit_code: int) -> str:
    """What the doctor says of PostgreSQL, with its verdict."""
    done = run(data, "doctor", DATABASE_URL=url)
    assert done.returncode == exit_code, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "PostgreSQL:" in line]
    return line.strip()


def test_the_doctor_tells_version_place_latency_and_extensions(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    ((version,),) = cluster.execute("SHOW server_version")
    line = postgres_line(tmp_path / "data", cluster.dsn(database), 0)
    assert line.startswith(f"ok  PostgreSQL: {version}, {cluster.host}:{cluster.port}/{database}")
    assert re.search(r", \d+\.\d ms, plpgsql$", line)


def test_the_doctor_without_the_servers_database_url_does_not_call_that_fine(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with serving(data, DATABASE_URL=cluster.dsn(database)) as server:
        server.wait_for_mode("postgres")
        line = postgres_line(data, "", 0)
    assert line == f"note  PostgreSQL: {sentence('doctor_database_elsewhere', 'en')}"
    with serving(tmp_path / "alone"):
        line = postgres_line(tmp_path / "alone", "", 0)
    assert line == f"note  PostgreSQL: {sentence('doctor_no_database', 'en')}"


@pytest.mark.parametrize(
    ("right", "table"),
    [("INSERT", "voice_ratings"), ("UPDATE", "voice_logs"), ("DELETE", "idempotency_keys")],
)
def test_the_doctor_names_the_right_that_is_missing(
    cluster: Cluster, database: str, tmp_path: Path, right: str, table: str
) -> None:
    cluster.execute(f'REVOKE {right} ON {table} FROM "{cluster.owner}"', database)
    line = postgres_line(tmp_path / "data", cluster.dsn(database), 1)
    assert line.startswith("bad")
    assert f"The role lacks rights: {right} {table}. Give them with GRANT." in line


def test_the_doctor_says_when_the_schema_is_to_be_upgraded(
    cluster: Cluster, empty_database: str, tmp_path: Path
) -> None:
    line = postgres_line(tmp_path / "data", cluster.dsn(empty_database), 0)
    assert line.startswith("note")
    assert "audiobot migrate" in line
    assert cluster.execute(
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", empty_database
    ) == [(0,)]


def test_migrate_makes_the_schema_once_and_then_finds_it_there(
    cluster: Cluster, empty_database: str, tmp_path: Path
) -> None:
    url = cluster.dsn(empty_database)
    done = run(tmp_path / "data", "migrate", DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (0, f"The database was upgraded: — → {REVISION}.\n")
    done = run(tmp_path / "data", "migrate", DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (0, f"The database is up to date ({REVISION}).\n")
    assert not (tmp_path / "data").exists()


def test_migrate_brings_an_older_schema_up(cluster: Cluster, database: str, tmp_path: Path) -> None:
    before, after = downgrade(parse_dsn(cluster.dsn(database)), "-1")
    assert before == REVISION != after
    done = run(tmp_path / "data", "migrate", DATABASE_URL=cluster.dsn(database))
    assert done.returncode == 0, done.stderr
    assert f"{after} → {REVISION}" in done.stdout


def test_migrate_without_a_database_says_what_to_set(tmp_path: Path) -> None:
    done = run(tmp_path / "data", "migrate")
    assert (done.returncode, done.stdout) == (2, "")
    assert "DATABASE_URL" in done.stderr


def test_migrate_leaves_another_programs_database_as_it_is(
    cluster: Cluster, empty_database: str, tmp_path: Path
) -> None:
    cluster.execute("CREATE TABLE invoices (id int)", empty_database)
    done = run(tmp_path / "data", "migrate", DATABASE_URL=cluster.dsn(empty_database))
    assert done.returncode == 2
    assert "another program" in done.stderr
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    assert cluster.execute(tables, empty_database) == [("invoices",)]
