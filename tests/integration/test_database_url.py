"""A DATABASE_URL that leads nowhere: AudioBot serves all the same, and says why it is alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import pytest
from psycopg import sql

from audiobot.messages import sentence
from tests.conftest import wait_until_left
from tests.postgres import Cluster
from tests.proxy import free_port
from tests.servers import Server, run, serving

SECRET = "sesame-77-Ёж"
QUOTED = "sesame-77-%D0%81%D0%B6"
ROLE = "audiobot_without_rights"
Url = Callable[[Cluster, str], str]


def elsewhere(cluster: Cluster, database: str) -> str:
    return f"postgresql://u:{QUOTED}@127.0.0.1:{free_port()}/{database}"


def with_password(cluster: Cluster, database: str) -> str:
    return cluster.dsn(database, password=SECRET)


def missing(cluster: Cluster, database: str) -> str:
    return cluster.dsn("no_such_database")


def without_rights(cluster: Cluster, database: str) -> str:
    cluster.execute(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(ROLE), SECRET)
    )
    return cluster.dsn(database, user=ROLE, password=SECRET)


def without_admission(cluster: Cluster, database: str) -> str:
    cluster.execute(
        sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database))
    )
    return without_rights(cluster, database)


def of_something_else(cluster: Cluster, database: str) -> str:
    cluster.execute("CREATE TABLE invoices (id int)", database)
    return cluster.dsn(database)


def of_a_later_version(cluster: Cluster, database: str) -> str:
    cluster.execute(
        "CREATE TABLE alembic_version AS SELECT 'from_tomorrow' AS version_num", database
    )
    cluster.execute("GRANT SELECT ON alembic_version TO PUBLIC", database)
    return cluster.dsn(database)


class Case(NamedTuple):
    """``doctor`` is what the doctor says where it knows more than the cause."""

    reason: str
    url: Url
    doctor: str | None = None


ANOTHERS = "The database belongs to another program"
CASES = {
    "another scheme": Case("url", lambda c, d: f"mysql://u:{QUOTED}@127.0.0.1/{d}"),
    "no host": Case("url", lambda c, d: f"postgresql://u:{QUOTED}@:5432/{d}"),
    "no number": Case("url", lambda c, d: f"postgresql://u:{QUOTED}@127.0.0.1:port/{d}"),
    "just words": Case("url", lambda c, d: f"the database of the company {SECRET}"),
    "unknown host": Case("dns", lambda c, d: f"postgresql://u:{QUOTED}@nowhere.invalid/{d}"),
    "nobody listens": Case("refused", elsewhere),
    "wrong password": Case("password", with_password),
    "no such database": Case("database_missing", missing),
    "no rights": Case("schema", without_rights, "The role lacks rights: CREATE."),
    "not admitted": Case("schema", without_admission),
    "another program's": Case("foreign", of_something_else, ANOTHERS),
    "a later version's": Case("foreign", of_a_later_version, ANOTHERS),
}


# The journal does not know why it was needed: a few stand for all.
CARRIED = {"just words", "wrong password", "another program's"}


@pytest.fixture
def no_role(cluster: Cluster) -> Iterator[None]:
    yield
    cluster.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(ROLE)))


def wait_for_reason(server: Server, reason: str, seconds: float = 20) -> dict:
    deadline = time.monotonic() + seconds
    while (storage := server.health()["storage"])["reason"] != reason:
        assert time.monotonic() < deadline, (storage, server.log)
        time.sleep(0.02)
    return storage


def assert_not_told(url: str, *texts: str) -> None:
    password = urlsplit(url).password or SECRET
    for text in texts:
        for secret in {password, SECRET, QUOTED, "sesame", json.dumps(SECRET)[1:-1]}:
            assert secret not in text, secret


@pytest.mark.parametrize("name", CASES)
def test_a_url_that_leads_nowhere_leaves_audiobot_serving_from_its_journal_and_saying_why(
    cluster: Cluster, empty_database: str, database: str, tmp_path: Path, no_role: None, name: str
) -> None:
    reason, make, finer = CASES[name]
    url = make(cluster, empty_database)
    data = tmp_path / "data"
    cause = sentence(f"cause_{reason}", "en")
    with serving(data, DATABASE_URL=url) as server:
        first = server.ask("привет")
        assert first["durability"] == "journal"
        assert server.rate(first["log_id"], 5).status_code == 200
        storage = wait_for_reason(server, reason)
        assert storage["mode"] == "fallback"
        assert sentence(f"cause_{reason}", "ru") in storage["summary"]
        assert storage["journal_backlog"] == 2
        body = server.health()
        assert (body["services"]["database"], body["services"]["storage"]) == (False, True)
        assert server.client.get("/api/ready").json() == {"ready": True, "mode": "fallback"}
        stats = server.stats()
        assert (stats["total_interactions"], stats["rated_interactions"]) == (1, 1)
        assert stats["complete"] is False
        export = server.client.get("/api/learning/export").json()
        assert (export["total_exported"], export["complete"]) == (1, False)
        doctor = run(data, "doctor", DATABASE_URL=url)
    assert doctor.returncode == 1
    told = [line for line in doctor.stdout.splitlines() if "PostgreSQL:" in line]
    assert [line.split()[0] for line in told] == ["bad"], doctor.stdout
    assert (finer or cause) in told[0]
    # The log has one line of it, not one for every attempt.
    lines = [line for line in server.log.splitlines() if "dialogues" in line]
    assert len(lines) == 1, lines
    assert cause in lines[0] or "cannot be read" in lines[0]
    assert "Traceback" not in server.log + doctor.stderr
    assert_not_told(url, server.log, doctor.stdout, doctor.stderr)

    if name not in CARRIED:
        return
    with serving(data, DATABASE_URL=cluster.dsn(database)) as server:
        server.wait_for_mode("postgres")
        assert cluster.execute("SELECT id::text, rating FROM voice_logs", database) == [
            (first["log_id"], 5)
        ]
        assert server.stats()["complete"] is True
    wait_until_left(cluster, database)


def test_commands_name_the_cause_too(cluster: Cluster, tmp_path: Path) -> None:
    url = with_password(cluster, "postgres")
    done = run(tmp_path / "data", "migrate", DATABASE_URL=url)
    assert done.returncode == 2
    assert sentence("cause_password", "en") in done.stderr
    assert_not_told(url, done.stdout, done.stderr)
    done = run(tmp_path / "data", "migrate", DATABASE_URL=f"mysql://u:{SECRET}@localhost/d")
    assert done.returncode == 2
    assert "mysql:// is not PostgreSQL" in done.stderr
    assert_not_told(url, done.stdout, done.stderr)
    done = run(tmp_path / "data", "export", DATABASE_URL=url)
    assert done.returncode == 0
    assert sentence("export_partial", "en") in done.stderr
    done = run(tmp_path / "data", "questions", DATABASE_URL=url)
    assert (done.returncode, done.stdout) == (0, "")
    assert sentence("questions_partial", "en") in done.stderr
    assert_not_told(url, done.stdout, done.stderr)


def test_unknown_parameters_are_only_warned_of(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    parts = urlsplit(cluster.dsn(database))
    query = "&".join(filter(None, [parts.query, "pgbouncer=true&connection_limit=5&colour=red"]))
    url = urlunsplit(parts._replace(query=query))
    with serving(tmp_path / "data", DATABASE_URL=url) as server:
        server.wait_for_mode("postgres")
        assert server.ask("привет")["durability"] == "postgres"
    warned = [json.loads(line) for line in server.log.splitlines() if "left out" in line]
    assert {line["name"] for line in warned} == {"pgbouncer", "connection_limit", "colour"}
    assert {line["level"] for line in warned} == {"warning"}
    assert_not_told(url, server.log)
    wait_until_left(cluster, database)


def test_g01_health_says_postgres_within_ten_seconds_of_a_start_on_an_empty_database(
    cluster: Cluster, empty_database: str, tmp_path: Path
) -> None:
    with serving(tmp_path / "data", DATABASE_URL=cluster.dsn(empty_database)) as server:
        server.wait_for_mode("postgres", 10)
        body = server.health()
        assert body["services"]["database"] is True
        assert (body["storage"]["durability"], body["storage"]["journal_backlog"]) == (
            "postgres", 0,
        )  # fmt: skip
    wait_until_left(cluster, empty_database)
