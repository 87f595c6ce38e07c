"""A database as the first public AudioBot left it, and all that lies in one, as plain rows."""

from __future__ import annotations

import random
import struct
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from tests.postgres import Cluster

DDL = (
    # To the letter as in the design; not taken from the migration, which is what is tested.
    """CREATE TABLE voice_logs(id varchar primary key, session_id varchar,
    user_message text not null, ai_response text not null, rating int, feedback_text text,
    model_used varchar, response_time float, token_count int, created_at timestamp,
    updated_at timestamp)""",
    """CREATE TABLE voice_embeddings(id serial primary key,
    log_id varchar not null references voice_logs(id), vector bytea not null,
    embedding_model varchar, created_at timestamp)""",
    """CREATE TABLE model_metrics(id serial primary key, model_version varchar not null,
    avg_rating float, total_interactions int, positive_ratings int, negative_ratings int,
    user_satisfaction float, evaluation_period_start timestamp, evaluation_period_end timestamp,
    is_current_model bool, requires_retraining bool, created_at timestamp)""",
    """CREATE TABLE training_datasets(id serial primary key, name varchar not null,
    description text, min_rating_threshold int, total_samples int, filtered_samples int,
    file_path varchar, status varchar, training_logs text, model_weights_path varchar,
    created_at timestamp, training_started_at timestamp, training_completed_at timestamp)""",
    "CREATE TABLE alembic_version(version_num varchar(32) not null,"
    " constraint alembic_version_pkc primary key (version_num))",  # as Alembic makes it
    "INSERT INTO alembic_version VALUES ('initial_001')",
)
TABLES = ("voice_logs", "voice_embeddings", "model_metrics", "training_datasets")
WORDS = (
    "Сколько стоит уборка?", "Это дорого 😡🧹", "مرحبا بالعالم", "שלום עולם", "naïve café",
    "e\u0301 is not é", "👩‍👩‍👧‍👦 🇷🇺", "'; DROP TABLE voice_logs; --", '{"a": "%s :name"}',
    "\u202egnp.exe", "\u0001\u001f\ufffe", "  spaces  ", "", "\n\t\r\n", "x" * 20_000,
)  # fmt: skip
LONG = random.Random(2).randbytes(8_000).hex()
"""A token that does not get shorter by compression: too much for a B-tree."""
TIMES = (
    "infinity", "-infinity", "0044-03-15 12:00:00 BC", "0001-01-01 00:00:00",
    "0001-01-02 00:00:00", "9999-12-30 23:59:59.999999", "9999-12-31 00:00:00",
    "12000-01-01 00:00:00", "1969-12-31 23:59:59", "2024-03-31 02:30:00", "2024-02-29 23:59:59.5",
)  # fmt: skip


class Row(NamedTuple):
    """A dialogue as the first AudioBot had it; times are PostgreSQL's texts."""

    id: str
    session_id: str | None
    user_message: str
    ai_response: str
    rating: int | None
    feedback_text: str | None
    model_used: str | None
    response_time: float | None
    token_count: int | None
    created_at: str | None
    updated_at: str | None


def odd_ids() -> list[str]:
    """Ids that are no UUID in its own spelling, most of them with a trap in it."""
    alone, twin = str(uuid.UUID(int=0xA1 << 64)), str(uuid.UUID(int=0xA2 << 64))
    thrice = str(uuid.UUID(int=0xA3 << 64))
    plain = uuid.UUID(int=0xA4 << 64)
    return [
        "", " ", "log-1", "1", "Лог № 7", "😀", "'", "%s", "a" * 60_000, "NULL", "true",
        alone.upper(),
        twin, twin.upper(),
        thrice.upper(), thrice.upper().replace("A", "a"),
        f"{{{plain}}}", plain.hex, f" {plain}", f"{plain}\n", str(plain), f"urn:uuid:{plain}",
    ]  # fmt: skip


def _moment(chance: random.Random) -> str | None:
    draw = chance.random()
    if draw < 0.1:
        return None
    if draw < 0.2:
        return chance.choice(TIMES)
    at = datetime(2023, 1, 1, tzinfo=UTC) + timedelta(microseconds=chance.randrange(10**14))
    return at.replace(tzinfo=None).isoformat(" ")


def dialogues(many: int = 1_200, seed: int = 20260727) -> list[Row]:
    """The same dialogues every time."""
    chance = random.Random(seed)
    ids = odd_ids()
    while len(ids) < many:
        draw = chance.random()
        genuine = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        ids.append(genuine if draw < 0.7 else genuine.upper() if draw < 0.8 else f"log {draw}")

    def perhaps(value: Any) -> Any:
        return value if chance.random() < 0.8 else None

    return [
        Row(
            id=log_id,
            session_id=perhaps(chance.choice([*WORDS, LONG])),
            user_message=chance.choice(WORDS),
            ai_response=chance.choice(WORDS),
            rating=chance.choice([None, None, 1, 2, 3, 4, 5, 5, 0, 6, -1, 2**31 - 1, -(2**31)]),
            feedback_text=perhaps(chance.choice(WORDS)),
            model_used=perhaps("gpt-4o-mini"),
            response_time=perhaps(
                chance.choice([0.0, 1.25, -1.0, float("nan"), float("inf"), -float("inf"), 1e308])
            ),
            token_count=perhaps(chance.randrange(-5, 5_000)),
            created_at=_moment(chance),
            updated_at=_moment(chance),
        )
        for log_id in ids
    ]


def vectors(logs: list[Row], seed: int = 7) -> list[tuple[str, bytes, str | None, str | None]]:
    """Vectors of most dialogues, of some twice, of odd lengths, and of dialogues that are gone."""
    chance = random.Random(seed)
    gone = [
        "gone", "gone", str(uuid.UUID(int=0xB1 << 64)), str(uuid.UUID(int=0xB2 << 64)).upper(),
        random.Random(1).randbytes(8_000).hex(),
        str(uuid.UUID(int=0xA4 << 64)).upper(),  # its small-lettered twin is a dialogue
    ]  # fmt: skip
    owners = [row.id for row in logs if chance.random() < 0.8]
    owners += chance.sample(owners, len(owners) // 10) + gone
    chance.shuffle(owners)
    return [
        (
            log_id,
            chance.randbytes(chance.choice([0, 1, 3, 5, 1_535]))
            if chance.random() < 0.05
            else struct.pack("<8f", *(chance.uniform(-1, 1) for _ in range(8))),
            chance.choice(["all-MiniLM-L6-v2", None]),
            _moment(chance),
        )
        for log_id in owners
    ]


def make_old(cluster: Cluster, database: str, many: int = 1_200) -> list[Row]:
    """Make the old database in an empty one, as its owner; the dialogues in it."""
    logs, chance = dialogues(many), random.Random(3)
    with psycopg.connect(cluster.dsn(database)) as connection:
        for statement in DDL:
            connection.execute(statement)
        connection.execute(
            "ALTER TABLE voice_embeddings DROP CONSTRAINT voice_embeddings_log_id_fkey"
        )
        cursor = connection.cursor()
        cursor.executemany(
            "INSERT INTO voice_logs VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", logs
        )
        cursor.executemany(
            "INSERT INTO voice_embeddings (log_id, vector, embedding_model, created_at)"
            " VALUES (%s, %s, %s, %s)",
            vectors(logs),
        )
        cursor.executemany(
            "INSERT INTO model_metrics (model_version, avg_rating, total_interactions,"
            " positive_ratings, negative_ratings, user_satisfaction, evaluation_period_start,"
            " evaluation_period_end, is_current_model, requires_retraining, created_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    chance.choice(WORDS), chance.choice([None, 4.5, float("nan")]), i, None, i, 0.5,
                    _moment(chance), _moment(chance), chance.choice([None, True, False]), None,
                    _moment(chance),
                )
                for i in range(50)
            ],
        )  # fmt: skip
        cursor.executemany(
            "INSERT INTO training_datasets (name, description, min_rating_threshold,"
            " total_samples, filtered_samples, file_path, status, training_logs,"
            " model_weights_path, created_at, training_started_at, training_completed_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (
                    chance.choice(WORDS), chance.choice(WORDS), i, None, i, "/data/a.jsonl",
                    "ready", None, None, _moment(chance), _moment(chance), _moment(chance),
                )
                for i in range(50)
            ],
        )  # fmt: skip
        connection.execute("DELETE FROM model_metrics WHERE id % 7 = 0")  # gaps in the numbers
    return logs


def old_rows(cluster: Cluster, database: str) -> dict[str, list[tuple]]:
    """Every row of the old tables, all values as text, without order."""
    found = {}
    for table in TABLES:
        rows = cluster.execute(
            sql.SQL("SELECT row_to_json(every)::text FROM {} AS every").format(
                sql.Identifier(table)
            ),
            database,
        )
        found[table] = sorted(rows)
    return found


SHAPE = {
    "columns": """
        SELECT relname, attname, format_type(atttypid, atttypmod), attnotnull,
            pg_get_expr(adbin, adrelid)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0
            AND NOT attisdropped""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'""",
    "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "sequences": """
        SELECT relname, pg_get_serial_sequence(refobjid::regclass::text, attname)
        FROM pg_class LEFT JOIN pg_depend ON objid = pg_class.oid AND deptype = 'a'
        LEFT JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
        WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace""",
    "functions": """
        SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace""",
    "triggers": """
        SELECT tgrelid::regclass::text, pg_get_triggerdef(oid), tgenabled FROM pg_trigger
        WHERE NOT tgisinternal""",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
}


def shape(cluster: Cluster, database: str) -> dict[str, list[tuple]]:
    """What the catalogue says of everything that was made in a database, without order."""
    return {
        name: sorted(cluster.execute(statement, database), key=repr)
        for name, statement in SHAPE.items()
    }


def dump(cluster: Cluster, database: str) -> dict[str, Any]:
    """The shape, and every row of every table."""
    tables = cluster.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r'"
        " AND relnamespace = 'public'::regnamespace ORDER BY 1",
        database,
    )
    rows = {
        table: sorted(
            cluster.execute(
                sql.SQL("SELECT row_to_json(every)::text FROM {} AS every").format(
                    sql.Identifier(table)
                ),
                database,
            )
        )
        for (table,) in tables
    }
    return {"shape": shape(cluster, database), "rows": rows}
