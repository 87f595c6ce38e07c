"""The schema: models and migrations agree, each query has its index, the summary never drifts."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, NullPool, TextClause, create_engine, text

from audiobot.storage import statements as sql
from audiobot.storage import statements_teaching as teaching
from audiobot.storage.dsn import parse_dsn
from audiobot.storage.postgres import PostgresStore
from audiobot.storage.schema import REVISION, metadata
from audiobot.storage.session import Session
from audiobot.storage.upgrading import upgrade
from tests.conftest import migrate
from tests.old_database import make_old, shape
from tests.postgres import Cluster, template_of

MANY = 100_000


def engine(cluster: Cluster, database: str) -> Engine:
    url = cluster.dsn(database).replace("postgresql://", "postgresql+psycopg://")
    return create_engine(url, poolclass=NullPool)


# -- models and migrations -------------------------------------------------------------------------


def drift(cluster: Cluster, database: str) -> list[Any]:
    with engine(cluster, database).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return compare_metadata(context, metadata)


def test_todays_revision_is_the_newest_migration(cluster: Cluster, database: str):
    assert cluster.execute("SELECT version_num FROM alembic_version", database) == [(REVISION,)]


def test_g19_autogenerate_finds_no_drift(cluster: Cluster, database: str, empty_database: str):
    assert drift(cluster, database) == []
    make_old(cluster, empty_database, 100)
    upgrade(parse_dsn(cluster.dsn(empty_database)))
    assert drift(cluster, empty_database) == []


def test_autogenerate_would_find_drift(cluster: Cluster, database: str):
    for change in (
        "ALTER TABLE voice_logs ALTER token_count TYPE bigint",
        "ALTER TABLE voice_logs ALTER language SET DEFAULT 'en'",
        "ALTER TABLE voice_logs ADD surplus int",
        "DROP INDEX voice_embeddings_log",
    ):
        before = len(drift(cluster, database))
        cluster.execute(change, database)
        assert len(drift(cluster, database)) == before + 1


def test_g19_the_catalogue_is_the_same_from_models_and_migrations_old_and_fresh(
    cluster: Cluster, database: str, empty_database: str
):
    migrated = shape(cluster, database)
    with cluster.database() as other:
        make_old(cluster, other, 100)
        upgrade(parse_dsn(cluster.dsn(other)))
        assert shape(cluster, other) == migrated
    with engine(cluster, empty_database).begin() as connection:
        metadata.create_all(connection)
    modelled = shape(cluster, empty_database)
    for part in ("columns", "constraints", "indexes", "sequences"):
        ours = [row for row in migrated[part] if "alembic_version" not in str(row)]
        assert ours == modelled[part], part


# -- the queries' indexes --------------------------------------------------------------------------

FILL = (
    # One dialogue in ten has no rating; of the others nearly all are rated 1, as in a bad year.
    f"""
    INSERT INTO voice_logs (id, session_id, user_message, ai_response, created_at, outcome,
        response_time, content_hash, rating, rating_version, rating_op, updated_at)
    SELECT gen_random_uuid(), 's', 'question ' || i, 'answer ' || i,
        timestamptz '2026-01-01' + i * interval '1 minute',
        CASE WHEN i % 100 = 0 THEN 'handed_over' ELSE 'answered' END, 0.5, '\\x00',
        rating, CASE WHEN rating IS NOT NULL THEN i END,
        CASE WHEN rating IS NOT NULL THEN gen_random_uuid() END, now()
    FROM generate_series(1, {MANY}) AS i, LATERAL (SELECT CASE
        WHEN i % 10 = 0 THEN NULL WHEN i % 500 = 1 THEN 5 WHEN i % 500 = 2 THEN 4
        WHEN i % 500 < 5 THEN 2 ELSE 1 END AS rating) AS rated
    """,
    "INSERT INTO voice_embeddings (log_id, vector, dimension, embedding_model, created_at)"
    " SELECT id, decode(repeat('00', 64), 'hex'), 16, 'm', created_at FROM voice_logs",
    "INSERT INTO voice_ratings (op_id, log_id, rating, version, rated_at, joined)"
    " SELECT rating_op, id, rating, rating_version, created_at, true FROM voice_logs"
    " WHERE rating IS NOT NULL",
    "INSERT INTO voice_ratings (op_id, log_id, rating, version, rated_at, joined)"
    " SELECT gen_random_uuid(), gen_random_uuid(), 5, 1, now(), false"
    " FROM generate_series(1, 20)",
    # One turn in fifty is settled, one in fifty dismissed; one rating in fifty bears a suggestion.
    "INSERT INTO corrections SELECT gen_random_uuid(), i, gen_random_uuid(), 'answer', '[\"q\"]',"
    " 'ru', '[]', false, now() FROM generate_series(1, 2000) AS i",
    "INSERT INTO settled_turns SELECT id, correction_id FROM ("
    " SELECT id, row_number() OVER (ORDER BY created_at) AS i FROM voice_logs) AS logs"
    " JOIN corrections ON version = i / 50 WHERE i % 50 = 0",
    # And as many are about turns and suggestions that lie elsewhere.
    "INSERT INTO settled_turns SELECT gen_random_uuid(), correction_id FROM corrections,"
    f" generate_series(1, {MANY // 2_000})",
    "INSERT INTO dismissals SELECT gen_random_uuid(), 1, gen_random_uuid(), true, now()"
    f" FROM generate_series(1, {MANY})",
    "INSERT INTO dismissals SELECT id, 1, gen_random_uuid(), true, now() FROM ("
    " SELECT id, row_number() OVER (ORDER BY created_at) AS i FROM voice_logs) AS logs"
    " WHERE i % 50 = 1",
    "UPDATE voice_ratings SET corrected_response = 'better' WHERE version % 50 = 2",
    "UPDATE voice_logs SET session_id = 'session ' || rating_version / 10"
    " WHERE rating_version > 50000",
    "INSERT INTO idempotency_keys (key, request, op_id, log_id, at)"
    f" SELECT sha256(i::text::bytea), 'r', gen_random_uuid(), gen_random_uuid(),"
    f" now() - i * interval '0.9 second' FROM generate_series(1, {MANY}) AS i",
    "VACUUM ANALYZE",
)


@pytest.fixture(scope="module")
def large(cluster: Cluster) -> Iterator[str]:
    """A database with 100,000 dialogues."""
    name = cluster.create_database(template=template_of(cluster, migrate))
    for statement in FILL:
        cluster.execute(statement, name)
    yield name
    cluster.drop_database(name)


@pytest.fixture(scope="module", params=["as found", "analyzed"])
def young(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with 2,000 dialogues, each rated some times; with and without its statistics."""
    name = cluster.create_database(template=template_of(cluster, migrate))
    for table in ("voice_logs", "voice_ratings", "idempotency_keys"):
        cluster.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)", name)
    cluster.execute(
        "INSERT INTO voice_logs (id, user_message, ai_response)"
        " SELECT gen_random_uuid(), 'q', 'a' FROM generate_series(1, 2000)",
        name,
    )
    for version in range(1, 6):
        cluster.execute(
            "WITH given AS (INSERT INTO voice_ratings (op_id, log_id, rating, version, joined,"
            f" rated_at) SELECT gen_random_uuid(), id, 5, {version}, true, now() FROM voice_logs"
            " RETURNING *) UPDATE voice_logs SET rating = given.rating,"
            " rating_version = given.version, rating_op = given.op_id"
            " FROM given WHERE voice_logs.id = log_id",
            name,
        )
    cluster.execute(
        "INSERT INTO idempotency_keys (key, request, op_id, log_id, at)"
        " SELECT uuid_send(gen_random_uuid()), '', gen_random_uuid(), gen_random_uuid(), now()"
        " FROM generate_series(1, 2000)",
        name,
    )
    if request.param == "analyzed":
        cluster.execute("ANALYZE", name)
    yield name
    cluster.drop_database(name)


ID = uuid.UUID(int=7)
RATED = {"min_rating": 4, "answered": True, "after_at": "0001-01-01", "after_id": uuid.UUID(int=0),
         "page": 256}  # fmt: skip
DEEP = RATED | {"after_at": "2026-03-01"}
NONE_LEFT = RATED | {"min_rating": 3, "after_at": "2026-03-11 10:41"}
_ADD = json.dumps(
    [
        {
            "op_id": str(uuid.uuid4()), "id": str(uuid.uuid4()), "session_id": "s",
            "user_message": "q", "ai_response": "a", "created_at": "2026-07-01T00:00:00Z",
            "outcome": "answered", "language": "ru", "durability": "postgres",
            "similar_found": 0, "learning_improved": False, "receipt": {}, "content_hash": "AA==",
            "vector_bytes": 4, "dimension": 1, "embedding_model": "m",
        }
        for _ in range(50)
    ]
)  # fmt: skip
_RATE = json.dumps(
    [
        {
            "place": i, "op_id": str(uuid.uuid4()), "log_id": str(uuid.uuid4()), "rating": 5,
            "version": 1, "rated_at": "2026-07-01T00:00:00Z", "by_operator": False,
        }
        for i in range(50)
    ]
)  # fmt: skip
_IDS = json.dumps([str(uuid.uuid4()) for _ in range(50)])
WAITING = {"most": 200, "verdicts": "[]", "overruled": "[]", "settled": "[]"}
AHEAD = WAITING | {
    "verdicts": json.dumps(
        [{"subject": str(uuid.uuid4()), "dismissed": True, "version": 1, "op_id": str(ID)}] * 50
    ),
    "overruled": _IDS,
    "settled": json.dumps([{"log_id": str(uuid.uuid4()), "version": 1}] * 50),
}
_CORRECT = json.dumps(
    [
        {
            "op_id": str(uuid.uuid4()), "correction_id": str(uuid.uuid4()), "version": 1,
            "answer": "a", "wordings": ["q"], "language": "ru", "log_ids": [str(uuid.uuid4())],
            "withdrawn": False, "corrected_at": "2026-07-01T00:00:00Z",
        }
        for _ in range(5)
    ]
)  # fmt: skip
_DISMISS = json.dumps(
    [
        {
            "op_id": str(uuid.uuid4()), "subjects": json.loads(_IDS), "version": 1,
            "dismissed": True, "dismissed_at": "2026-07-01T00:00:00Z",
        }
    ]
)  # fmt: skip
QUERIES: dict[str, tuple[TextClause, dict[str, Any]]] = {
    "get": (sql.GET, {"id": ID}),
    "rated": (sql.RATED, RATED),
    "rated, deep": (sql.RATED, DEEP),
    "rated, none left": (sql.RATED, NONE_LEFT),
    "rated, every one": (sql.RATED, RATED | {"min_rating": 1}),
    "rated, handed over too": (sql.RATED, RATED | {"answered": False}),
    "newest rated": (sql.NEWEST_RATED, {"min_rating": 4, "answered": True, "newest": 100}),
    "newest rated, far": (sql.NEWEST_RATED, {"min_rating": 1, "answered": True, "newest": 50_000}),
    "stats": (sql.STATS, {"since": "2026-03-01 12:30:31+00"}),
    "stats and present": (
        sql.STATS_AND_PRESENT,
        {
            "since": "2026-03-01 12:30:31+00",
            "perhaps": json.dumps([{"op_id": str(ID), "log_id": str(ID)}] * 5),
        },
    ),
    "present": (sql.PRESENT, {"perhaps": json.dumps([{"op_id": str(ID), "log_id": str(ID)}] * 5)}),
    "handed over": (teaching.HANDED_OVER, WAITING),
    "handed over, with a journal ahead": (teaching.HANDED_OVER, AHEAD),
    "known": (sql.KNOWN, {"keys": json.dumps(["AAAA"] * 50)}),
    "remember": (
        sql.REMEMBER,
        {"rows": json.dumps([{"key": "AAAA", "request": "AAAA", "op_id": str(ID),
                              "log_id": str(ID), "at": "2026-07-01T00:00:00Z"}])},
    ),
    "add": (sql.ADD, {"rows": _ADD, "vectors": bytes(4 * 50)}),
    "conflicts": (sql.CONFLICTS, {"rows": _ADD}),
    "rate": (sql.RATE, {"rows": _RATE, "live": True, "careful": False}),
    "rate, careful": (sql.RATE, {"rows": _RATE, "live": False, "careful": True}),
    "reconcile": (sql.RECONCILE, {"ids": _IDS}),
    "operation": (sql.OPERATION, {"op_id": ID}),
    "findings": (sql.FINDINGS, {}),
    "forget keys": (sql.FORGET_KEYS, {}),
    "adopted, none": (sql.ADOPTED, {}),
    "inbox": (teaching.INBOX, WAITING),
    "inbox, with a journal ahead": (teaching.INBOX, AHEAD),
    "suggestions": (teaching.SUGGESTIONS, WAITING),
    "suggestions, with a journal ahead": (teaching.SUGGESTIONS, AHEAD),
    "verdicts": (teaching.VERDICTS, {"ids": _IDS}),
    "of a session": (teaching.OF_SESSION, {"session": "session 6000", "most": 200}),
    "answers": (teaching.ANSWERS, {"session": "session 6000", "most": 200}),
    "answers, of a crowd": (teaching.ANSWERS, {"session": "s", "most": 200}),
    "correct": (teaching.CORRECT, {"rows": _CORRECT, "live": True}),
    "evaluations": (teaching.EVALUATIONS, {"most": 50}),
    "dismiss": (teaching.DISMISS, {"rows": _DISMISS, "live": True}),
}  # fmt: skip
WATCHED = {
    "voice_logs", "voice_ratings", "voice_embeddings", "idempotency_keys", "settled_turns",
    "dismissals",
}  # fmt: skip


def plan(connection: psycopg.Connection | Any, query: str, *options: str) -> dict[str, Any]:
    statement, values = QUERIES[query]
    explain = f"EXPLAIN (FORMAT JSON{''.join(f', {o}' for o in options)}) {statement.text}"
    return connection.execute(text(explain), values).scalar_one()[0]


def nodes(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield found
    for part in found.get("Plans", ()):
        yield from nodes(part)


def scanned(found: dict[str, Any]) -> list[str]:
    """Tables read from end to end."""
    every = nodes(found["Plan"])
    whole = [n.get("Relation Name") for n in every if "Seq Scan" in n["Node Type"]]
    return [name for name in whole if name in WATCHED]


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_uses_an_index(cluster: Cluster, large: str, query: str):
    with engine(cluster, large).connect() as connection:
        found = plan(connection, query)
    assert scanned(found) == [], json.dumps(found, indent=1)


@pytest.mark.parametrize("query", ["add", "known", "rate", "rate, careful", "reconcile"])
def test_a_batch_meets_its_rows_by_an_index_in_a_young_table(
    cluster: Cluster, young: str, query: str
):
    with engine(cluster, young).connect() as connection:
        found = plan(connection, query)
    assert scanned(found) == [], json.dumps(found, indent=1)


@pytest.mark.parametrize(
    ("query", "most"),
    [
        ("get", 20), ("rated", 3_600), ("rated, deep", 3_600), ("rated, none left", 50),
        ("rated, every one", 3_600), ("newest rated", 50), ("newest rated, far", 1_500),
        ("handed over", 7_000),  # every one of the thousand is settled and looked at
        ("adopted, none", 10),
        ("inbox", 4_000), ("inbox, with a journal ahead", 4_000), ("suggestions", 3_000),
        ("suggestions, with a journal ahead", 3_000), ("of a session", 200), ("answers", 200),
        ("answers, of a crowd", 2_500),
    ],
)  # fmt: skip
def test_each_read_touches_few_pages(cluster: Cluster, large: str, query: str, most: int):
    """Also where nearly all dialogues are rated low, and far into the list."""
    with engine(cluster, large).connect() as connection:
        found = plan(connection, query, "ANALYZE", "BUFFERS")["Plan"]
    touched = found["Shared Hit Blocks"] + found["Shared Read Blocks"]
    assert touched <= most, json.dumps(found, indent=1)


def test_adopted_is_told_by_an_index_when_all_are(cluster: Cluster, large: str):
    with engine(cluster, large).connect() as connection:
        connection.execute(text("UPDATE voice_logs SET legacy = '{}' WHERE outcome <> 'x'"))
        connection.execute(text("ANALYZE voice_logs"))
        assert scanned(plan(connection, "adopted, none")) == []
        assert connection.execute(sql.ADOPTED).scalar_one() is True
        connection.rollback()
        assert connection.execute(sql.ADOPTED).scalar_one() is False


# -- the summary -----------------------------------------------------------------------------------

RECOUNT = """
    SELECT date_trunc('minute', created_at, 'UTC'), coalesce(rating, 0), count(*)
    FROM voice_logs GROUP BY 1, 2
"""
COUNTS = """
    SELECT minute, rating, sum(dialogues) FROM voice_log_counts
    GROUP BY 1, 2 HAVING sum(dialogues) <> 0
"""
FOLDED = sql._FOLDED


def assert_no_drift(cluster: Cluster, database: str) -> None:
    """Folded minutes are one; all else is as the rows have it, in one snapshot."""
    both = [
        f"SELECT {FOLDED}, rating, sum(many) FROM ({query}) AS every (minute, rating, many)"
        " GROUP BY 1, 2 HAVING sum(many) <> 0"
        for query in (RECOUNT, COUNTS)
    ]
    differences = cluster.execute(
        "WITH recounted (minute, rating, many) AS ({}), kept (minute, rating, many) AS ({})"
        " SELECT minute, rating, recounted.many, kept.many"
        " FROM recounted FULL JOIN kept USING (minute, rating)"
        " WHERE recounted.many IS DISTINCT FROM kept.many".format(*both),
        database,
    )
    assert differences == []


def some_change(chance: random.Random) -> tuple[str, int]:
    """A statement at random, and how many dialogues it is about."""
    many = chance.choice([1, 1, 1, 1, 5, 40])
    at = "now() - random() * interval '3 days'"
    rating = f"CASE WHEN random() < 0.4 THEN {chance.randrange(1, 6)} END"
    rated = (
        "rating = r, rating_version = CASE WHEN r IS NOT NULL THEN 1 END,"
        " rating_op = CASE WHEN r IS NOT NULL THEN gen_random_uuid() END"
    )
    some = f"(SELECT id FROM voice_logs OFFSET {chance.randrange(300)} LIMIT {many})"
    draw = chance.random()
    if draw < 0.45:
        return (
            "INSERT INTO voice_logs (id, user_message, ai_response, created_at, rating,"
            f" rating_version, rating_op) SELECT gen_random_uuid(), 'q', 'a', {at}, r,"
            " CASE WHEN r IS NOT NULL THEN 1 END,"
            " CASE WHEN r IS NOT NULL THEN gen_random_uuid() END"
            f" FROM generate_series(1, {many}) AS i, LATERAL (SELECT {rating} AS r, i) AS x"
            " ON CONFLICT DO NOTHING",
            many,
        )
    if draw < 0.75:
        return (
            f"UPDATE voice_logs SET {rated} FROM (SELECT {rating} AS r) AS x WHERE id IN {some}",
            many,
        )
    if draw < 0.83:
        return f"UPDATE voice_logs SET created_at = {at} WHERE id IN {some}", many
    if draw < 0.88:
        return f"UPDATE voice_logs SET language = 'en' WHERE id IN {some}", many
    if draw < 0.998:
        return f"DELETE FROM voice_logs WHERE id IN {some}", many
    return "TRUNCATE voice_logs", 1


def change_for_a_while(dsn: str, seed: int, operations: int) -> int:
    """Random changes in transactions of random length, some of them rolled back."""
    chance, done = random.Random(seed), 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        while done < operations:
            try:
                with connection.transaction(force_rollback=chance.random() < 0.1):
                    for _ in range(chance.choice([1, 1, 1, 4])):
                        statement, many = some_change(chance)
                        connection.execute(statement)
                        done += many
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                continue
    return done


async def test_g09_the_summary_equals_a_recount_after_random_operations(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("audiobot.storage.postgres._FOLD_ABOVE", 20)
    dsn = cluster.dsn(database)
    store = PostgresStore(parse_dsn(dsn))
    running = [
        asyncio.create_task(asyncio.to_thread(change_for_a_while, dsn, seed, 2_500))
        for seed in range(4)
    ]
    folds = 0
    try:
        while not all(task.done() for task in running):
            await store.keep_house()
            folds += 1
            assert_no_drift(cluster, database)
            stats, _ = await store.stats()  # one snapshot: neither side is torn
            assert stats.total_interactions >= 0
            await asyncio.sleep(0.01)
        assert sum([await task for task in running]) >= 10_000
        assert folds > 10
        assert_no_drift(cluster, database)
        await store.keep_house()
        assert_no_drift(cluster, database)
        recount = "SELECT count(*), count(rating), coalesce(sum(rating), 0) FROM voice_logs"
        stats, _ = await store.stats()
        (want,) = cluster.execute(recount, database)
        assert (stats.total_interactions, stats.rated_interactions, stats.rating_sum) == want
    finally:
        await asyncio.wait(running)
        await store.close()


def test_g09_a_truncate_that_meets_a_fold_counts_nothing(cluster: Cluster, database: str):
    insert = (
        "INSERT INTO voice_logs (id, user_message, ai_response)"
        " VALUES (gen_random_uuid(), 'q', 'a')"
    )
    for _ in range(5):
        cluster.execute(insert, database)
    dsn = cluster.dsn(database)
    with engine(cluster, database).connect() as folding, psycopg.connect(dsn) as truncating:
        folding.execute(sql.FOLD, {"space": 1, "most": 0, "at_once": 1_000_000})
        pid = truncating.info.backend_pid
        running = asyncio.new_event_loop()
        try:
            task = running.run_in_executor(None, truncating.execute, "TRUNCATE voice_logs")
            waits = f"SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {pid}"
            while cluster.execute(waits, database) != [(True,)]:
                pass
            folding.commit()
            running.run_until_complete(task)
        finally:
            running.close()
        truncating.commit()
    assert cluster.execute("SELECT * FROM voice_log_counts", database) == []


async def test_g09_the_fold_leaves_one_row_for_each_minute(cluster: Cluster, database: str):
    cluster.execute(
        "INSERT INTO voice_logs (id, user_message, ai_response, created_at)"
        " SELECT gen_random_uuid(), 'q', 'a', now() - interval '3 days'"
        " FROM generate_series(1, 50)",
        database,
    )
    for _ in range(3):
        cluster.execute("UPDATE voice_logs SET created_at = created_at + '1 day'", database)
    with engine(cluster, database).begin() as connection:
        connection.execute(sql.FOLD, {"space": 1, "most": 0, "at_once": 1_000_000})
    assert cluster.execute("SELECT count(*), sum(dialogues) FROM voice_log_counts", database) == [
        (1, 50)
    ]


@pytest.mark.parametrize(("given", "in_force"), [("off", "on"), ("remote_apply", "remote_apply")])
async def test_g01_a_commit_is_on_disk_whatever_the_database_is_set_to(
    cluster: Cluster, database: str, given: str, in_force: str
):
    cluster.execute(f"ALTER DATABASE {database} SET synchronous_commit = {given}")
    store = PostgresStore(parse_dsn(cluster.dsn(database)))

    async def ask(session: Session) -> str:
        [(value,)] = await session.execute(text("SHOW synchronous_commit"))
        return value

    assert await store._within(5, ask) == in_force
    [[(value,)]] = await store._at_once(5, (text("SHOW synchronous_commit"), {}))
    assert value == in_force
    await store.close()
