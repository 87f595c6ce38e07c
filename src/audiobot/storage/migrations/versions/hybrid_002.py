"""UUID keys, times with zones, the rating history, the summary, what replay needs.

Upgrades the first AudioBot's tables in place: every row and every value is kept. What the new
shape has no room for (ids that are no UUID, ratings outside 1-5, times that no calendar has) lies
in ``legacy_id`` and ``legacy``, from where a downgrade puts it back; a missing or impossible time
becomes the epoch, so that it counts as old.

Rows change by ``ALTER … TYPE … USING``: each table is written once, and no trigger that somebody
has put on it (such as one that stamps ``updated_at``) takes part.
"""

from __future__ import annotations

import json
import uuid
from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "hybrid_002"
down_revision = "initial_001"

LEGACY: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://vasdom.example/audiobot/legacy-log-id")
"""Namespace of the UUIDv5 (RFC 9562) that an id takes when it was no UUID."""

_CANONICAL: Final = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_PAGE: Final = 5_000
_NEXT_ODD_IDS: Final = sa.text(
    "SELECT place, old FROM odd_ids WHERE place > :after ORDER BY place LIMIT :page"
)
_NAME_ODD_IDS: Final = sa.text(
    "UPDATE odd_ids SET new = named.new"
    " FROM json_to_recordset(cast(:rows AS json)) AS named (place bigint, new uuid)"
    " WHERE odd_ids.place = named.place"
)

_SERIAL_TABLES: Final = ("voice_embeddings", "model_metrics", "training_datasets")
_TIMES: Final = {
    "voice_embeddings": ("created_at",),
    "model_metrics": ("created_at", "evaluation_period_start", "evaluation_period_end"),
    "training_datasets": ("created_at", "training_started_at", "training_completed_at"),
}
_TEXTS: Final = {
    "voice_logs": ("session_id", "model_used"),
    "voice_embeddings": ("embedding_model",),
    "model_metrics": ("model_version",),
    "training_datasets": ("name", "file_path", "status", "model_weights_path"),
}


def upgrade() -> None:
    """Old tables into new ones, then all that is new."""
    _drop_foreign_key()
    _map_ids()
    _upgrade_logs()
    _upgrade_serial_tables()
    for statement in _NEW_TABLES:
        op.execute(statement)
    _adopt_ratings()
    for statement in _SUMMARY:
        op.execute(statement)
    op.execute(COUNT_ANEW)
    if op.get_bind().execute(sa.text("SELECT 1 FROM voice_logs LIMIT 1")).first():
        # What the planner knew of the columns went with their types.
        op.execute("ANALYZE voice_logs, voice_embeddings, voice_ratings")
    op.execute(
        "DROP FUNCTION pg_temp.new_log_id; DROP FUNCTION pg_temp.old_orphan;"
        " DROP TABLE pg_temp.odd_ids"
    )


def _drop_foreign_key() -> None:
    """Orphaned vectors are kept: nothing may insist that their dialogue is there."""
    names = op.get_bind().execute(
        sa.text(
            "SELECT conname FROM pg_constraint WHERE contype = 'f'"
            " AND conrelid = 'voice_embeddings'::regclass"
        )
    )
    for (name,) in names.fetchall():
        op.execute(f'ALTER TABLE voice_embeddings DROP CONSTRAINT "{name}"')


def _map_ids() -> None:
    """A table of the ids that change, and a function that knows the others too."""
    bind = op.get_bind()
    # Its index is no B-tree: an orphan's id may be longer than that can hold.
    op.execute(
        "CREATE TEMP TABLE odd_ids (place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
        " old text NOT NULL, orphan bool NOT NULL, new uuid)"
    )
    op.execute(
        "INSERT INTO odd_ids (old, orphan) SELECT id, bool_and(orphan) FROM ("
        "SELECT id, false FROM voice_logs UNION ALL SELECT log_id, true FROM voice_embeddings"
        f") AS every (id, orphan) WHERE id !~ '{_CANONICAL}' GROUP BY id"
    )
    # Now, not later: an index made after rows changed is of no use to the same transaction.
    op.execute("CREATE INDEX ON odd_ids USING hash (old); ANALYZE odd_ids")
    after = 0
    while page := bind.execute(_NEXT_ODD_IDS, {"after": after, "page": _PAGE}).all():
        named = [{"place": place, "new": str(uuid.uuid5(LEGACY, old))} for place, old in page]
        bind.execute(_NAME_ODD_IDS, {"rows": json.dumps(named)})
        after = page[-1][0]
    # Capitals only: the same UUID, unless its small-lettered twin is another dialogue's.
    op.execute(
        "UPDATE odd_ids SET new = small::uuid FROM (SELECT lower(old) AS small FROM odd_ids"
        f" WHERE lower(old) ~ '{_CANONICAL}' GROUP BY 1 HAVING count(*) = 1) AS single"
        " WHERE lower(old) = small"
        " AND NOT EXISTS (SELECT FROM voice_logs WHERE id = small)"
        " AND NOT EXISTS (SELECT FROM voice_embeddings WHERE log_id = small)"
    )
    op.execute(
        "UPDATE odd_ids SET new = gen_random_uuid()"
        " WHERE EXISTS (SELECT FROM voice_logs WHERE id = new::text)"
    )
    op.execute(
        "CREATE FUNCTION pg_temp.new_log_id(old text) RETURNS uuid LANGUAGE plpgsql STABLE AS $$"
        f" BEGIN IF old ~ '{_CANONICAL}' THEN RETURN old::uuid; END IF;"
        " RETURN (SELECT new FROM odd_ids WHERE odd_ids.old = new_log_id.old); END $$"
    )
    op.execute(
        "CREATE FUNCTION pg_temp.old_orphan(old text) RETURNS text LANGUAGE plpgsql STABLE AS $$"
        " BEGIN RETURN (SELECT odd_ids.old FROM odd_ids"
        " WHERE odd_ids.old = old_orphan.old AND orphan); END $$"
    )


def _zoned(column: str) -> str:
    """The SQL of a naive UTC time as one with its zone; null where no calendar has it.

    A day's margin at both ends: Python must be able to tell it in every zone.
    """
    return (
        f"CASE WHEN {column} >= '0001-01-02' AND {column} < '9999-12-31'"
        f" THEN {column} AT TIME ZONE 'UTC' END"
    )


def _kept(condition: str, name: str) -> str:
    """The SQL of an object with the old value of a column, when ``condition`` holds."""
    return f"CASE WHEN {condition} THEN jsonb_build_object('{name}', {name}) ELSE '{{}}' END"


def _odd_time(column: str) -> str:
    return _kept(f"{column} IS NOT NULL AND ({_zoned(column)}) IS NULL", column)


def _odd_created() -> str:
    return _kept(f"({_zoned('created_at')}) IS NULL", "created_at")


def _alter(table: str, **changes: str) -> None:
    """Write a table anew; each column's ``type USING …`` sees the old row."""
    parts = ", ".join(f"ALTER {column} TYPE {change}" for column, change in changes.items())
    op.execute(f"ALTER TABLE {table} {parts}")


def _upgrade_logs() -> None:
    op.execute(
        "ALTER TABLE voice_logs ADD outcome text NOT NULL DEFAULT 'answered',"
        " ADD language text NOT NULL DEFAULT 'ru',"
        " ADD durability text NOT NULL DEFAULT 'postgres',"
        " ADD similar_found int NOT NULL DEFAULT 0,"
        " ADD learning_improved bool NOT NULL DEFAULT false,"
        " ADD confidence float, ADD receipt jsonb NOT NULL DEFAULT '{}',"
        " ADD content_hash bytea, ADD rating_version bigint, ADD rating_op uuid,"
        " ADD legacy_id text, ADD legacy jsonb"
    )
    rated = "rating BETWEEN 1 AND 5"
    created = f"coalesce({_zoned('created_at')}, {_zoned('updated_at')}, 'epoch')"
    rated_at = f"coalesce({_zoned('updated_at')}, {_zoned('created_at')}, 'epoch')"
    _alter(
        "voice_logs",
        id="uuid USING pg_temp.new_log_id(id)",
        session_id="text",
        model_used="text",
        rating=f"smallint USING CASE WHEN {rated} THEN rating END",
        created_at=f"timestamptz USING {created}",
        updated_at=f"timestamptz USING {_zoned('updated_at')}",
        # No rating from tomorrow: one that waits in a journal must win over it.
        rating_version=f"bigint USING CASE WHEN {rated} THEN"
        f" extract(epoch FROM least({rated_at}, now())) * 1000000 END",
        rating_op=f"uuid USING CASE WHEN {rated} THEN gen_random_uuid() END",
        legacy_id=f"text USING CASE WHEN id !~ '{_CANONICAL}' THEN id END",
        # Never null for what came from there: such an id carries no check of its own.
        legacy=f"jsonb USING {_kept('rating NOT BETWEEN 1 AND 5', 'rating')}"
        f" || {_odd_created()} || {_odd_time('updated_at')}",
    )
    op.execute(
        "ALTER TABLE voice_logs ALTER created_at SET NOT NULL, ALTER created_at SET DEFAULT now()"
    )


def _upgrade_serial_tables() -> None:
    for table in _SERIAL_TABLES:
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
        op.execute(f"ALTER TABLE {table} ALTER id DROP DEFAULT, ALTER id DROP NOT NULL")
        op.execute(f"DROP SEQUENCE IF EXISTS {table}_id_seq")
        op.execute(f"ALTER TABLE {table} RENAME id TO legacy_id")
        vectors = table == "voice_embeddings"
        op.execute(
            f"ALTER TABLE {table} ADD id uuid,{' ADD dimension int,' if vectors else ''}"
            " ADD legacy jsonb"
        )
        odd = [_odd_created(), *(_odd_time(n) for n in _TIMES[table] if n != "created_at")]
        changes = dict.fromkeys(_TEXTS[table], "text")
        changes |= {name: f"timestamptz USING {_zoned(name)}" for name in _TIMES[table]}
        changes["id"] = "uuid USING gen_random_uuid()"
        changes["legacy_id"] = "bigint"
        changes["created_at"] = f"timestamptz USING coalesce({_zoned('created_at')}, 'epoch')"
        if vectors:
            changes["log_id"] = "uuid USING pg_temp.new_log_id(log_id)"
            changes["dimension"] = (
                "int USING CASE WHEN octet_length(vector) % 4 = 0 THEN octet_length(vector) / 4 END"
            )
            # The id of a dialogue that is there is kept with the dialogue.
            odd.append(_kept("pg_temp.old_orphan(log_id) IS NOT NULL", "log_id"))
        changes["legacy"] = f"jsonb USING nullif({' || '.join(odd)}, '{{}}')"
        _alter(table, **changes)
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT {table}_pkey PRIMARY KEY (id),"
            " ALTER id SET DEFAULT gen_random_uuid(),"
            " ALTER created_at SET NOT NULL, ALTER created_at SET DEFAULT now()"
        )


_NEW_TABLES: Final = (
    "ALTER TABLE voice_embeddings ADD CONSTRAINT voice_embeddings_whole"
    " CHECK (octet_length(vector) = 4 * dimension)",
    "CREATE INDEX voice_embeddings_log ON voice_embeddings (log_id)",
    """CREATE TABLE voice_ratings (
        op_id uuid PRIMARY KEY, log_id uuid NOT NULL,
        rating smallint NOT NULL CONSTRAINT voice_ratings_rating_range
            CHECK (rating BETWEEN 1 AND 5),
        version bigint NOT NULL, rated_at timestamptz NOT NULL, feedback_text text,
        corrected_response text, rater text, by_operator bool NOT NULL DEFAULT false,
        joined bool NOT NULL, received_at timestamptz NOT NULL DEFAULT clock_timestamp())""",
    "CREATE TABLE voice_conflicts (op_id uuid PRIMARY KEY, log_id uuid NOT NULL,"
    " found_at timestamptz NOT NULL DEFAULT now())",
    "CREATE TABLE voice_log_counts (id bigserial PRIMARY KEY, minute timestamptz NOT NULL,"
    " rating smallint NOT NULL, dialogues bigint NOT NULL)",
    """CREATE TABLE idempotency_keys (
        key bytea PRIMARY KEY, request bytea NOT NULL, op_id uuid NOT NULL,
        log_id uuid NOT NULL, at timestamptz NOT NULL)""",
    "CREATE INDEX idempotency_keys_at ON idempotency_keys (at)",
    """CREATE TABLE knowledge_sources (
        name text PRIMARY KEY, version bigint NOT NULL, op_id uuid NOT NULL,
        content bytea NOT NULL, items jsonb NOT NULL, imported_at timestamptz NOT NULL)""",
    "CREATE TABLE replay_cursors (journal uuid PRIMARY KEY, sequence bigint NOT NULL,"
    " moved_at timestamptz NOT NULL DEFAULT now())",
    "CREATE TABLE id_keys (key bytea PRIMARY KEY, added_at timestamptz NOT NULL DEFAULT now())",
    "CREATE TABLE storage_heartbeat (replica uuid PRIMARY KEY,"
    " beat_at timestamptz NOT NULL DEFAULT now())",
)


def _adopt_ratings() -> None:
    """The old ratings become the first lines of their history; then the checks and indexes."""
    op.execute(
        "INSERT INTO voice_ratings (op_id, log_id, rating, version, rated_at, feedback_text,"
        " joined) SELECT rating_op, id, rating, rating_version, coalesce(updated_at, created_at),"
        " feedback_text, true FROM voice_logs WHERE rating IS NOT NULL"
    )
    op.execute(
        "ALTER TABLE voice_logs"
        " ADD CONSTRAINT voice_logs_rating_range CHECK (rating BETWEEN 1 AND 5),"
        " ADD CONSTRAINT voice_logs_outcome_known"
        " CHECK (outcome IN ('answered', 'asked', 'handed_over')),"
        " ADD CONSTRAINT voice_logs_rating_whole CHECK ("
        "(rating IS NULL) = (rating_version IS NULL)"
        " AND (rating_version IS NULL) = (rating_op IS NULL))"
    )
    op.execute(
        "CREATE UNIQUE INDEX voice_logs_legacy ON voice_logs (legacy_id)"
        " WHERE legacy_id IS NOT NULL"
    )
    for index in (
        "voice_logs_created ON voice_logs (created_at, id)",
        "voice_logs_rated ON voice_logs (rating, created_at, id) INCLUDE (outcome)"
        " WHERE rating IS NOT NULL",
        "voice_logs_adopted ON voice_logs (id) WHERE legacy IS NOT NULL",
        "voice_logs_handed_over ON voice_logs (created_at, id) WHERE outcome = 'handed_over'",
        "voice_ratings_received ON voice_ratings (received_at)",
        "voice_ratings_newest ON voice_ratings (log_id, version DESC, op_id DESC)",
        "voice_ratings_orphan ON voice_ratings (log_id) WHERE NOT joined",
    ):
        op.execute(f"CREATE INDEX {index}")


_COUNTED: Final = "date_trunc('minute', created_at, 'UTC'), coalesce(rating, 0)"

_SUMMARY: Final = (
    f"""CREATE FUNCTION voice_logs_count() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO voice_log_counts (minute, rating, dialogues)
                SELECT {_COUNTED}, count(*) FROM come GROUP BY 1, 2;
        ELSIF TG_OP = 'DELETE' THEN
            INSERT INTO voice_log_counts (minute, rating, dialogues)
                SELECT {_COUNTED}, -count(*) FROM gone GROUP BY 1, 2;
        ELSE
            INSERT INTO voice_log_counts (minute, rating, dialogues)
                SELECT minute, rating, sum(change) FROM (
                    SELECT {_COUNTED}, -1 FROM gone UNION ALL SELECT {_COUNTED}, 1 FROM come
                ) AS both_sides (minute, rating, change)
                GROUP BY minute, rating HAVING sum(change) <> 0;
        END IF;
        RETURN NULL; END $$""",
    # The lock: rows that are being folded at this moment would come back.
    "CREATE FUNCTION voice_logs_count_none() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN LOCK TABLE voice_log_counts IN EXCLUSIVE MODE;"
    " DELETE FROM voice_log_counts; RETURN NULL; END $$",
    "CREATE TRIGGER voice_logs_inserted AFTER INSERT ON voice_logs REFERENCING NEW TABLE AS come"
    " FOR EACH STATEMENT EXECUTE FUNCTION voice_logs_count()",
    "CREATE TRIGGER voice_logs_updated AFTER UPDATE ON voice_logs REFERENCING"
    " OLD TABLE AS gone NEW TABLE AS come FOR EACH STATEMENT EXECUTE FUNCTION voice_logs_count()",
    "CREATE TRIGGER voice_logs_deleted AFTER DELETE ON voice_logs REFERENCING OLD TABLE AS gone"
    " FOR EACH STATEMENT EXECUTE FUNCTION voice_logs_count()",
    "CREATE TRIGGER voice_logs_truncated AFTER TRUNCATE ON voice_logs"
    " FOR EACH STATEMENT EXECUTE FUNCTION voice_logs_count_none()",
)

COUNT_ANEW: Final = (
    "INSERT INTO voice_log_counts (minute, rating, dialogues)"
    " SELECT CASE WHEN created_at < now() - interval '26 hours' THEN 'epoch'"
    " ELSE date_trunc('minute', created_at, 'UTC') END, coalesce(rating, 0), count(*)"
    " FROM voice_logs GROUP BY 1, 2"
)


def downgrade() -> None:
    """Back to the first AudioBot's shape: what it had no column for is gone."""
    for table in (
        "storage_heartbeat",
        "id_keys",
        "replay_cursors",
        "knowledge_sources",
        "idempotency_keys",
        "voice_log_counts",
        "voice_conflicts",
        "voice_ratings",
    ):
        op.execute(f"DROP TABLE {table}")
    for name in ("inserted", "updated", "deleted", "truncated"):
        op.execute(f"DROP TRIGGER voice_logs_{name} ON voice_logs")
    op.execute("DROP FUNCTION voice_logs_count; DROP FUNCTION voice_logs_count_none")
    op.execute(
        "ALTER TABLE voice_logs DROP CONSTRAINT voice_logs_rating_range,"
        " DROP CONSTRAINT voice_logs_outcome_known, DROP CONSTRAINT voice_logs_rating_whole"
    )
    op.execute(
        "DROP INDEX voice_logs_created, voice_logs_rated, voice_embeddings_log,"
        " voice_logs_handed_over"
    )
    op.execute(
        "CREATE TEMP TABLE old_ids AS SELECT id AS new, legacy_id AS old FROM voice_logs"
        " WHERE legacy_id IS NOT NULL"
    )
    op.execute("CREATE INDEX ON old_ids (new); ANALYZE old_ids")
    op.execute(
        "CREATE FUNCTION pg_temp.old_log_id(id uuid) RETURNS text LANGUAGE plpgsql STABLE AS"
        " $$ BEGIN RETURN coalesce((SELECT old FROM old_ids WHERE new = id), id::text); END $$"
    )
    op.execute(
        "ALTER TABLE voice_logs ALTER created_at DROP DEFAULT, ALTER created_at DROP NOT NULL"
    )
    _alter(
        "voice_logs",
        id="varchar USING coalesce(legacy_id, id::text)",
        rating="int USING coalesce(rating, (legacy->>'rating')::int)",
        session_id="varchar",
        model_used="varchar",
        created_at=_naive("created_at"),
        updated_at=_naive("updated_at"),
    )
    for name in (
        "outcome", "language", "durability", "similar_found", "learning_improved", "confidence",
        "receipt", "content_hash", "rating_version", "rating_op", "legacy_id", "legacy",
    ):  # fmt: skip
        op.execute(f"ALTER TABLE voice_logs DROP {name}")
    op.execute("ALTER TABLE voice_embeddings DROP CONSTRAINT voice_embeddings_whole")
    for table in _SERIAL_TABLES:
        _downgrade_serial_table(table)
    op.execute("ALTER TABLE voice_embeddings DROP dimension")
    op.execute(
        "ALTER TABLE voice_embeddings ADD CONSTRAINT voice_embeddings_log_id_fkey"
        " FOREIGN KEY (log_id) REFERENCES voice_logs (id) NOT VALID"
    )
    orphan = (
        "SELECT 1 FROM voice_embeddings WHERE NOT EXISTS"
        " (SELECT FROM voice_logs WHERE voice_logs.id = log_id) LIMIT 1"
    )
    if op.get_bind().execute(sa.text(orphan)).first() is None:
        op.execute("ALTER TABLE voice_embeddings VALIDATE CONSTRAINT voice_embeddings_log_id_fkey")
    op.execute("DROP FUNCTION pg_temp.old_log_id; DROP TABLE pg_temp.old_ids")


def _naive(column: str) -> str:
    """The old type of a time: what the old database had, unless it was set since."""
    missing = "" if column == "created_at" else f" AND {column} IS NULL"
    return (
        f"timestamp USING CASE WHEN legacy ? '{column}'{missing}"
        f" THEN (legacy->>'{column}')::timestamp ELSE {column} AT TIME ZONE 'UTC' END"
    )


def _downgrade_serial_table(table: str) -> None:
    op.execute(f"ALTER TABLE {table} DROP id")
    op.execute(f"ALTER TABLE {table} RENAME legacy_id TO id")
    op.execute(f"CREATE SEQUENCE {table}_id_seq AS int OWNED BY {table}.id")
    op.execute(f"SELECT setval('{table}_id_seq', coalesce(max(id), 0) + 1, false) FROM {table}")
    op.execute(f"UPDATE {table} SET id = nextval('{table}_id_seq') WHERE id IS NULL")
    op.execute(f"ALTER TABLE {table} ALTER created_at DROP DEFAULT, ALTER created_at DROP NOT NULL")
    changes = dict.fromkeys(_TEXTS[table], "varchar")
    changes |= {name: _naive(name) for name in _TIMES[table]}
    if table == "voice_embeddings":
        changes["log_id"] = "varchar USING coalesce(legacy->>'log_id', pg_temp.old_log_id(log_id))"
    _alter(table, id="int", **changes)
    op.execute(
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_pkey PRIMARY KEY (id),"
        f" ALTER id SET DEFAULT nextval('{table}_id_seq'), DROP legacy"
    )
