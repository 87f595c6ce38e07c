"""The SQL that dialogues, ratings and knowledge go through: batches in, one statement each.

A batch comes as one JSON array, which PostgreSQL turns into rows: one parameter whatever the
number of rows, no array per column, and pooler-safe. The vectors follow each other in one value
beside it; shorter bytes travel in it, as base64.

Rules that keep concurrent batches from waiting in a circle: within a statement rows are locked
in the order of their ids, and statements come in the order keys, dialogues, ratings, knowledge.

Ratings and keys meet their rows by ``= ANY (ARRAY(…))``, which PostgreSQL takes for ten keys and
answers by an index. For a join with what the JSON holds it guesses a hundred rows, and reads a
young table from end to end, with all that its updates left behind.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Table, text

from audiobot.storage.schema import (
    corrections,
    dismissals,
    idempotency_keys,
    knowledge_sources,
    model_metrics,
    replay_cursors,
    settled_turns,
    taught_operations,
    voice_conflicts,
    voice_embeddings,
    voice_logs,
    voice_ratings,
)

LOCK: Final = text(
    "SELECT pg_advisory_xact_lock(:space, number) FROM (SELECT cast(value AS int) AS number"
    " FROM json_array_elements_text(cast(:numbers AS json)) AS each (value) ORDER BY 1) AS sorted"
)
"""Hold the ids that a careful batch is about, so that a rating and its dialogue, arriving in two
transactions at once, cannot miss each other."""

_OPERATION: Final = "json_to_recordset(cast(:rows AS json)) AS row"

REMEMBER: Final = text(
    f"""
    INSERT INTO idempotency_keys AS kept (key, request, op_id, log_id, at)
    SELECT decode(key, 'base64'), decode(request, 'base64'), op_id, log_id, at
    FROM {_OPERATION} (key text, request text, op_id uuid, log_id uuid, at timestamptz)
    ORDER BY 1
    ON CONFLICT (key) DO UPDATE SET
        request = excluded.request, op_id = excluded.op_id,
        log_id = excluded.log_id, at = excluded.at
        WHERE kept.at < excluded.at - interval '24 hours'
    RETURNING op_id
    """
)

KNOWN: Final = text(
    "SELECT key, request, op_id, log_id, at FROM idempotency_keys"
    " WHERE key = ANY (ARRAY(SELECT decode(value, 'base64')"
    " FROM json_array_elements_text(cast(:keys AS json)) AS each (value)))"
)

ADD: Final = text(
    """
    WITH given AS MATERIALIZED (
        SELECT *, substring(cast(:vectors AS bytea) FROM cast(1 - vector_bytes
            + sum(vector_bytes) OVER (ORDER BY ordinality) AS int) FOR vector_bytes) AS vector
        FROM ROWS FROM (json_to_recordset(cast(:rows AS json)) AS (
            op_id uuid, id uuid, session_id text, user_message text, ai_response text,
            model_used text, response_time float8, token_count int, created_at timestamptz,
            outcome text, language text, durability text, similar_found int,
            learning_improved bool, confidence float8, receipt jsonb, content_hash text,
            dimension int, embedding_model text, vector_bytes int)) WITH ORDINALITY
    ), come AS (
        INSERT INTO voice_logs (
            id, session_id, user_message, ai_response, model_used, response_time, token_count,
            created_at, outcome, language, durability, similar_found, learning_improved,
            confidence, receipt, content_hash,
            rating, feedback_text, updated_at, rating_version, rating_op)
        SELECT
            id, session_id, user_message, ai_response, model_used, response_time, token_count,
            created_at, outcome, language, durability, similar_found, learning_improved,
            confidence, receipt, decode(content_hash, 'base64'),
            early.rating, early.feedback_text, early.rated_at, early.version, early.op_id
        FROM given LEFT JOIN LATERAL (
            SELECT rating, feedback_text, rated_at, version, op_id FROM voice_ratings
            WHERE log_id = given.id ORDER BY log_id, version DESC, op_id DESC LIMIT 1
        ) AS early ON true
        ORDER BY id
        ON CONFLICT (id) DO NOTHING
        RETURNING id, rating
    ), vectors AS (
        INSERT INTO voice_embeddings
            (id, log_id, vector, dimension, embedding_model, created_at)
        SELECT op_id, id, vector, dimension, embedding_model, created_at
        FROM given JOIN come USING (id) WHERE vector IS NOT NULL
        ON CONFLICT (id) DO NOTHING
    ), joins AS (
        UPDATE voice_ratings SET joined = true, joined_at = clock_timestamp() FROM come
        WHERE come.rating IS NOT NULL AND log_id = come.id AND NOT joined
    )
    SELECT given.id, come.id IS NOT NULL AS came, come.rating
    FROM given LEFT JOIN come USING (id) WHERE come.id IS NULL OR come.rating IS NOT NULL
    """
)
"""What is told is the exception: a dialogue that was there, or one that came after its rating."""

CONFLICTS: Final = text(
    f"""
    INSERT INTO voice_conflicts (op_id, log_id)
    SELECT op_id, id FROM {_OPERATION} (op_id uuid, id uuid, content_hash text)
    JOIN voice_logs AS kept USING (id)
    WHERE kept.content_hash <> decode(row.content_hash, 'base64')
    ON CONFLICT (op_id) DO NOTHING
    """
)

_COUNT_NEWEST: Final = """counted AS (
        UPDATE voice_logs SET
            rating = newest.rating, feedback_text = newest.feedback_text,
            updated_at = newest.rated_at, rating_version = newest.version,
            rating_op = newest.op_id
        FROM newest WHERE id = newest.log_id AND id = ANY (ARRAY(SELECT log_id FROM newest))
            AND (rating_version IS NULL
            OR (newest.version, newest.op_id) > (rating_version, rating_op))
    )"""
"""The newest rating of each dialogue becomes the one that counts, unless a newer one does."""

RATE: Final = text(
    f"""
    WITH given AS MATERIALIZED (
        SELECT * FROM {_OPERATION} (
            place int, op_id uuid, log_id uuid, rating smallint, version bigint,
            rated_at timestamptz, feedback_text text, corrected_response text, rater text,
            by_operator bool)
    ), held AS MATERIALIZED (
        SELECT id, voice_logs.rating AS before, rating_version, outcome FROM voice_logs
        WHERE id = ANY (ARRAY(SELECT log_id FROM given)) ORDER BY id FOR UPDATE
    ), stamped AS MATERIALIZED (
        SELECT given.*, held.outcome, coalesce(
            lag(rating) OVER (PARTITION BY log_id ORDER BY place), before) AS before,
            CASE WHEN :live THEN greatest(version, coalesce(rating_version, 0)
                + row_number() OVER (PARTITION BY log_id ORDER BY place))
            ELSE version END AS stamp
        FROM given LEFT JOIN held ON held.id = log_id
    ), kept AS (
        INSERT INTO voice_ratings (op_id, log_id, rating, version, rated_at, feedback_text,
            corrected_response, rater, by_operator, joined)
        SELECT op_id, log_id, rating, stamp, rated_at, feedback_text, corrected_response, rater,
            by_operator, outcome IS NOT NULL
        FROM stamped WHERE :careful OR outcome IS NOT NULL ORDER BY op_id
        ON CONFLICT (op_id) DO NOTHING
        RETURNING op_id, log_id, rating, version, rated_at, feedback_text
    ), newest AS (
        SELECT DISTINCT ON (log_id) * FROM kept ORDER BY log_id, version DESC, op_id DESC
    ), {_COUNT_NEWEST}
    SELECT place, coalesce(kept.version, stamp) AS version, outcome,
        kept.op_id IS NOT NULL AS fresh, before
    FROM stamped LEFT JOIN kept USING (op_id)
    """
)

RECONCILE: Final = text(
    f"""
    WITH newest AS MATERIALIZED (
        SELECT DISTINCT ON (log_id) * FROM voice_ratings WHERE log_id = ANY (ARRAY(
            SELECT cast(value AS uuid)
            FROM json_array_elements_text(cast(:ids AS json)) AS each (value)))
        ORDER BY log_id, version DESC, op_id DESC
    ), {_COUNT_NEWEST}
    UPDATE voice_ratings SET joined = true, joined_at = clock_timestamp()
    FROM newest JOIN voice_logs ON id = newest.log_id
        AND id = ANY (ARRAY(SELECT log_id FROM newest))
    WHERE voice_ratings.log_id = newest.log_id AND NOT voice_ratings.joined
    """
)
"""What a careful batch does last: the history decides, whatever arrived in which order."""

REPLACE: Final = text(
    """
    INSERT INTO knowledge_sources AS kept (name, version, op_id, content, items, imported_at)
    SELECT :name, :version, :op_id, :content, cast(:items AS jsonb), :imported_at
    WHERE NOT :live OR cast(:items AS jsonb) <> '[]'::jsonb
        OR EXISTS (SELECT FROM knowledge_sources WHERE name = :name)
    ON CONFLICT (name) DO UPDATE SET
        version = CASE WHEN :live THEN greatest(excluded.version, kept.version + 1)
            ELSE excluded.version END,
        op_id = excluded.op_id, content = excluded.content, items = excluded.items,
        imported_at = excluded.imported_at
        WHERE :live AND kept.content <> excluded.content OR NOT :live
            AND (excluded.version, excluded.op_id) > (kept.version, kept.op_id)
    RETURNING version
    """
)

MOVE_CURSOR: Final = text(
    "INSERT INTO replay_cursors AS kept (journal, sequence) VALUES (:journal, :sequence)"
    " ON CONFLICT (journal) DO UPDATE SET sequence = greatest(kept.sequence, excluded.sequence),"
    " moved_at = now()"
)


def _untouched(table: Table) -> str:
    """An INSERT that needs every right and every column of a table, and inserts nothing."""
    columns = ", ".join(column.name for column in table.columns)
    return f"INSERT INTO {table.name} ({columns}) SELECT {columns} FROM {table.name} WHERE false"


BEAT: Final = text(
    "WITH "
    + ", ".join(
        f"try_{number} AS ({statement})"
        for number, statement in enumerate(
            [
                *map(_untouched, (voice_logs, voice_embeddings, voice_ratings)),
                *map(_untouched, (idempotency_keys, voice_conflicts, knowledge_sources)),
                *map(_untouched, (replay_cursors, taught_operations, corrections)),
                *map(_untouched, (settled_turns, dismissals, model_metrics)),
                "UPDATE voice_logs SET rating = rating, feedback_text = feedback_text,"
                " updated_at = updated_at, rating_version = rating_version,"
                " rating_op = rating_op WHERE false",
                "UPDATE voice_ratings SET joined = joined, joined_at = joined_at WHERE false",
                "UPDATE replay_cursors SET sequence = sequence, moved_at = moved_at WHERE false",
                "UPDATE corrections SET version = version WHERE false",
                "DELETE FROM settled_turns WHERE false",
                "UPDATE dismissals SET version = version WHERE false",
                "UPDATE model_metrics SET is_current_model = is_current_model WHERE false",
                "SELECT 1 FROM voice_log_counts WHERE false",
            ]
        )
    )
    + " INSERT INTO storage_heartbeat (replica) VALUES (:replica)"
    " ON CONFLICT (replica) DO UPDATE SET beat_at = now()"
)
"""The probe writes, and touches all that live writes and the replay touch: a server that only
reads, a table that was dropped, altered or locked, a right that was revoked, each shows here
within a second."""

HAS_REVISION: Final = text("SELECT to_regclass('alembic_version') IS NOT NULL")
REVISION: Final = text("SELECT version_num FROM alembic_version")

EXCHANGE_KEYS: Final = text(
    "WITH given AS (INSERT INTO id_keys (key) SELECT decode(value, 'base64')"
    " FROM json_array_elements_text(cast(:keys AS json)) AS each (value)"
    " ON CONFLICT (key) DO NOTHING RETURNING key, added_at)"
    " SELECT key FROM (SELECT key, added_at FROM id_keys UNION SELECT key, added_at FROM given)"
    " AS every ORDER BY added_at, key"
)

ADOPTED: Final = text(
    "SELECT (SELECT id FROM voice_logs WHERE legacy IS NOT NULL ORDER BY id LIMIT 1) IS NOT NULL"
)
"""Ordered, so that it is answered by an index, be there none or nothing but such dialogues."""

CURSOR: Final = text("SELECT sequence FROM replay_cursors WHERE journal = :journal")

# -- reading ---------------------------------------------------------------------------------------

DIALOGUE: Final = """
    SELECT id, rating_version, rating_op, session_id, user_message, ai_response, logs.rating,
        logs.feedback_text, model_used, response_time, token_count, logs.created_at, updated_at,
        given.rater, outcome, language, durability, similar_found, learning_improved, confidence,
        receipt, vectors.vector, vectors.dimension, vectors.embedding_model
    FROM voice_logs AS logs
    LEFT JOIN voice_ratings AS given ON given.op_id = logs.rating_op
    LEFT JOIN LATERAL (
        SELECT vector, dimension, embedding_model FROM voice_embeddings
        WHERE log_id = logs.id AND dimension > 0
        ORDER BY created_at DESC, legacy_id DESC, id LIMIT 1
    ) AS vectors ON true
"""

GET: Final = text(DIALOGUE + "WHERE id = :id")


def _rated_at_least(order: str, most: str, also: str = "") -> str:
    """One branch for each rating, each ordered by the index and no longer than it must be.

    PostgreSQL merges them, and never looks at those rated lower, be they ever so many.
    """
    return " UNION ALL ".join(
        f"(SELECT created_at, id FROM voice_logs WHERE rating = {rating}"
        f" AND {rating} >= cast(:min_rating AS int)"
        f" AND (outcome = 'answered' OR NOT :answered){also} ORDER BY {order} LIMIT {most})"
        for rating in range(1, 6)
    )


_FORWARDS: Final = _rated_at_least(
    "created_at, id", ":page", " AND (created_at, id) > (:after_at, :after_id)"
)
_BACKWARDS: Final = _rated_at_least("created_at DESC, id DESC", "cast(:newest AS bigint) + 1")

RATED: Final = text(
    DIALOGUE
    + f"""
    JOIN (
        SELECT created_at, id AS log_id FROM ({_FORWARDS}) AS every
        ORDER BY created_at, id LIMIT :page
    ) AS page ON id = page.log_id
    ORDER BY page.created_at, id
    """
)

NEWEST_RATED: Final = text(
    f"""
    SELECT created_at, id FROM ({_BACKWARDS}) AS every
    ORDER BY created_at DESC, id DESC OFFSET :newest LIMIT 1
    """
)
"""The dialogue just before the newest ones: a list of those begins after it."""

STATS: Final = text(
    """
    SELECT cast(rating AS text), sum(dialogues),
        coalesce(sum(dialogues) FILTER (WHERE minute > :since), 0)
    FROM voice_log_counts GROUP BY rating
    UNION ALL
    SELECT cast(coalesce(rating, 0) AS text), 0, count(*) FROM voice_logs
    WHERE created_at >= :since AND created_at < date_trunc('minute', :since) + interval '1 minute'
    GROUP BY 1
    """
)
"""Totals, and those of the time after ``since``: whole minutes from the summary, the rest of the
minute that it falls in from the rows."""

PRESENT: Final = text(
    """
    SELECT op_id_text, -1 AS dialogues, -1 AS recent
    FROM json_to_recordset(cast(:perhaps AS json)) AS row (op_id uuid, log_id uuid),
        cast(op_id AS text) AS op_id_text
    WHERE EXISTS (SELECT FROM voice_ratings WHERE voice_ratings.op_id = row.op_id)
        OR log_id IS NOT NULL AND EXISTS (SELECT FROM voice_logs WHERE id = log_id)
    """
)
"""Which of some operations are there, in the shape of the totals."""

STATS_AND_PRESENT: Final = text(f"{STATS.text} UNION ALL {PRESENT.text}")
"""Both in one snapshot."""

SOURCES: Final = text(
    'SELECT name, items, imported_at FROM knowledge_sources ORDER BY name COLLATE "C"'
)

CHANGES: Final = text(
    """
    SELECT now() AS now, coalesce((SELECT string_agg(name || ' ' || version, ',' ORDER BY name)
        FROM knowledge_sources), '') AS knowledge, (
            SELECT concat_ws(' ', count(*), sum(version), sum(hashtext(cast(op_id AS text))))
            FROM corrections) || ' ' || (
            SELECT count(*) FROM corrections JOIN settled_turns USING (correction_id)
                JOIN voice_logs ON id = settled_turns.log_id
            WHERE wordings = '[]'::jsonb) AS corrections,
        op_id, log_id, heard.joined_at
    FROM (VALUES (1)) AS once (one) LEFT JOIN (
        SELECT op_id, log_id, NULL AS joined_at FROM voice_ratings
        WHERE received_at > cast(:since AS timestamptz) - cast(:overlap AS interval)
            AND op_id NOT BETWEEN :first AND :last
        UNION ALL
        SELECT op_id, log_id, joined_at FROM voice_ratings
        WHERE joined_at > cast(:since AS timestamptz) - cast(:overlap AS interval)
    ) AS heard ON true
    """
)
"""What others wrote since: one row at least, for the clock and for the versions of knowledge and of
corrections. Those of the latter that have no wording but that of their turn are others once the
turn is there; a rating that came before its dialogue, whosever it is, is heard when they met."""

FINDINGS: Final = text(
    "SELECT (SELECT count(*) FROM voice_conflicts) AS conflicts,"
    " (SELECT count(DISTINCT log_id) FROM voice_ratings WHERE NOT joined) AS orphans"
)

OPERATION: Final = text(
    "SELECT given.rating, version, outcome FROM voice_ratings AS given"
    " LEFT JOIN voice_logs ON id = log_id WHERE op_id = :op_id"
)

# -- housekeeping ----------------------------------------------------------------------------------

_FOLDED: Final = (
    "CASE WHEN minute < date_trunc('minute', now()) - interval '25 hours' THEN 'epoch'"
    " ELSE minute END"
)
"""Where a minute's counts end up: all that is older than a day is one."""

FOLD: Final = text(
    f"""
    WITH alone AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(:space, -1) AS mine),
    needed AS MATERIALIZED (
        SELECT count(*) - count(DISTINCT ({_FOLDED}, rating)) > :most AS needed
        FROM voice_log_counts
    ), gone AS (
        DELETE FROM voice_log_counts WHERE id IN (
            SELECT id FROM voice_log_counts
            WHERE (SELECT mine FROM alone) AND (SELECT needed FROM needed)
            ORDER BY id LIMIT :at_once)
        RETURNING minute, rating, dialogues
    )
    INSERT INTO voice_log_counts (minute, rating, dialogues)
    SELECT {_FOLDED}, rating, sum(dialogues) FROM gone GROUP BY 1, 2
    HAVING sum(dialogues) <> 0
    """
)
"""Put the summary's rows together when many could be one; every snapshot sees the same sums."""

FORGET_KEYS: Final = text("DELETE FROM idempotency_keys WHERE at < now() - interval '24 hours'")
