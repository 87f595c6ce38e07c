"""Bringing a database to today's schema: once, whoever starts first, whole or not at all.

All revisions run in one transaction that begins with an advisory lock of that transaction, so
the lock works through a pooler and a failure in the middle leaves the old database as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from audiobot.errors import SetupError
from audiobot.storage.dsn import Dsn
from audiobot.storage.schema import OLDEST_SERVER

_LOCK: Final = 0x61756469_6F626F74
"""The advisory lock's number: "audiobot"."""
_TABLES: Final = """
    SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace
    AND relkind IN ('r', 'p') AND relname <> 'alembic_version'
    AND NOT EXISTS (SELECT FROM pg_depend WHERE deptype = 'e'
        AND classid = 'pg_class'::regclass AND objid = pg_class.oid)
"""
"""How many tables are there that no extension brought."""
_MISSING: Final = """
    SELECT wanted || ' ' || relname FROM pg_class,
        unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS wanted
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
    AND (relname LIKE 'voice_%' OR relname IN
        ('idempotency_keys', 'knowledge_sources', 'replay_cursors', 'id_keys',
         'storage_heartbeat', 'taught_operations', 'corrections', 'settled_turns',
         'dismissals', 'model_metrics'))
    AND NOT has_table_privilege(pg_class.oid, wanted) ORDER BY 1
"""
"""Rights that live writes need and the role has not."""
_ORPHANS: Final = """
    SELECT count(*) FROM voice_embeddings
    WHERE NOT EXISTS (SELECT FROM voice_logs WHERE voice_logs.id = log_id)
"""
_PATIENCE: Final = """
    SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN
    ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout',
     'transaction_timeout')
"""
"""However short the database's own limits are, a large table takes its time, and so does waiting
for whoever is at it."""
_TABLE_PATIENCE: Final = "SET LOCAL lock_timeout = '30s'"
"""For the tables' locks: an old AudioBot that still runs shall be named, not waited for."""
_IN_THE_WAY: Final = {"0A000", "2BP01", "42804"}
"""SQLSTATEs of an ALTER or DROP that a view, trigger, policy or foreign key hinders."""
_NO_RIGHTS: Final = "42501"


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def upgrade(dsn: Dsn, revision: str = "head") -> tuple[str | None, str | None]:
    """Bring the database up to ``revision``; returns the revisions before and after.

    Blocks, for as long as the tables are large. Raises ``SetupError`` for a server that is too
    old, for a database that is not in UTF-8, not AudioBot's or of a later AudioBot, for rights
    that the role lacks, and for what depends on the old tables; whatever else PostgreSQL refuses
    comes as the driver's error. After any error the database is as it was.
    """
    return _run(dsn, revision, command.upgrade)


def downgrade(dsn: Dsn, revision: str) -> tuple[str | None, str | None]:
    """Take the database back to ``revision``; what has no place there is gone."""
    return _run(dsn, revision, command.downgrade)


def _run(
    dsn: Dsn, revision: str, run: Callable[[Config, str], None]
) -> tuple[str | None, str | None]:
    with _engine(dsn).begin() as connection:
        check_server(connection)
        connection.execute(text(_PATIENCE))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = check_database(connection)
        connection.execute(text(_TABLE_PATIENCE))
        try:
            run(_config(connection), revision)
        except DBAPIError as error:
            if named := _named(error, dsn):
                raise named from error
            raise
        return before, MigrationContext.configure(connection).get_current_revision()


def _named(error: DBAPIError, dsn: Dsn) -> SetupError | None:
    """The sentence for a refusal that its reader can do something about."""
    if not isinstance(error.orig, psycopg.Error):
        return None
    said = error.orig.diag
    words = "; ".join(part for part in (said.message_primary, said.message_detail) if part)
    if said.sqlstate == _NO_RIGHTS:
        return SetupError("database_no_rights", server=dsn.shown, cause=words)
    if said.sqlstate in _IN_THE_WAY:
        return SetupError("database_in_the_way", cause=words)
    return None


def _engine(dsn: Dsn) -> Engine:
    return create_engine(
        "postgresql+psycopg://",
        # Whoever waited for the lock must see what was done meanwhile.
        isolation_level="READ COMMITTED",
        poolclass=NullPool,
        connect_args={**dsn.parameters, "prepare_threshold": None},
        hide_parameters=True,
    )


class Report(NamedTuple):
    """What a database is like: for the doctor.

    ``missing`` are rights that the role lacks, ``orphans`` vectors whose dialogue is not there.
    """

    version: str
    revision: str | None
    latency_ms: float
    extensions: tuple[str, ...]
    missing: tuple[str, ...]
    orphans: int


def look(dsn: Dsn) -> Report:
    """Connect and look around; raises as ``upgrade`` does. Blocks."""
    with _engine(dsn).connect() as connection:
        check_server(connection)
        started = time.perf_counter()
        version = str(connection.execute(text("SHOW server_version")).scalar_one())
        latency = (time.perf_counter() - started) * 1_000
        revision = check_database(connection)
        names = connection.execute(text("SELECT extname FROM pg_extension ORDER BY 1"))
        extensions = tuple(str(name) for name in names.scalars())
        if revision is None:
            may = text("SELECT has_schema_privilege(current_schema(), 'CREATE')")
            missing = () if connection.execute(may).scalar_one() else ("CREATE",)
        else:
            missing = tuple(connection.execute(text(_MISSING)).scalars())
        countable = revision is not None and not missing
        orphans = int(connection.execute(text(_ORPHANS)).scalar_one()) if countable else 0
        return Report(version, revision, latency, extensions, missing, orphans)


def check_server(connection: Connection) -> None:
    """Raise ``SetupError`` for a server that is too old, or a database that lacks letters."""
    number = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    if number // 10_000 < OLDEST_SERVER:
        raise SetupError("database_too_old", version=number // 10_000, oldest=OLDEST_SERVER)
    encoding = str(connection.execute(text("SHOW server_encoding")).scalar_one())
    if encoding != "UTF8":
        raise SetupError("database_encoding", found=encoding)


def check_database(connection: Connection) -> str | None:
    """The revision the database is at, None for an empty one; ``SetupError`` if not ours."""
    heads = MigrationContext.configure(connection).get_current_heads()
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if len(heads) > 1 or not known.issuperset(heads):
        found = ", ".join(f"revision {revision}" for revision in sorted(heads))
        raise SetupError("database_of_another", found=found)
    if not heads and (strangers := connection.execute(text(_TABLES)).scalar_one()):
        raise SetupError("database_of_another", found=f"{strangers} tables")
    return heads[0] if heads else None
