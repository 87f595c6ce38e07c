"""The SQL of what operators teach: corrections, dismissals, the inbox, suggestions.

A batch holds the advisory locks of the corrections that it is about before it sends one of these,
so no two transactions change the turns of one correction at once; evaluations share one lock.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from audiobot.storage.statements import DIALOGUE

_FRESH: Final = """fresh AS (
        INSERT INTO taught_operations (op_id) SELECT op_id FROM given ORDER BY op_id
        ON CONFLICT (op_id) DO NOTHING RETURNING op_id
    )"""

CORRECT: Final = text(
    f"""
    WITH given AS MATERIALIZED (
        SELECT * FROM json_to_recordset(cast(:rows AS json)) AS row (
            op_id uuid, correction_id uuid, version bigint, answer text, wordings jsonb,
            language text, log_ids jsonb, withdrawn bool, corrected_at timestamptz)
    ), {_FRESH}, held AS MATERIALIZED (
        SELECT * FROM corrections
        WHERE correction_id IN (SELECT correction_id FROM given JOIN fresh USING (op_id))
        ORDER BY correction_id FOR UPDATE
    ), taken AS (
        INSERT INTO corrections AS kept (correction_id, version, op_id, answer, wordings,
            language, log_ids, withdrawn, corrected_at)
        SELECT correction_id, CASE WHEN :live
            THEN greatest(given.version, coalesce(held.version, 0) + 1) ELSE given.version END,
            given.op_id, given.answer, given.wordings, given.language, given.log_ids,
            given.withdrawn, given.corrected_at
        FROM given JOIN fresh USING (op_id) LEFT JOIN held USING (correction_id)
        ORDER BY correction_id
        ON CONFLICT (correction_id) DO UPDATE SET
            version = excluded.version, op_id = excluded.op_id, answer = excluded.answer,
            wordings = excluded.wordings, language = excluded.language,
            log_ids = excluded.log_ids, withdrawn = excluded.withdrawn,
            corrected_at = excluded.corrected_at
            WHERE (excluded.version, excluded.op_id) > (kept.version, kept.op_id)
        RETURNING correction_id, version, op_id, log_ids, withdrawn
    ), gone AS (
        DELETE FROM settled_turns AS old
        WHERE correction_id = ANY (ARRAY (SELECT correction_id FROM taken))
            AND NOT EXISTS (SELECT FROM taken WHERE taken.correction_id = old.correction_id
                AND NOT withdrawn AND jsonb_exists(log_ids, cast(old.log_id AS text)))
    ), come AS (
        INSERT INTO settled_turns (log_id, correction_id)
        SELECT cast(value AS uuid), correction_id
        FROM taken, jsonb_array_elements_text(log_ids) AS each (value)
        WHERE NOT withdrawn ORDER BY 1, 2
        ON CONFLICT DO NOTHING
    )
    SELECT taken.op_id, taken.version, held.correction_id IS NOT NULL AS replaces,
        correction_id, held.version AS old_version, answer, wordings, language, held.log_ids,
        held.withdrawn, corrected_at
    FROM taken LEFT JOIN held USING (correction_id)
    """
)
"""What was taken, each with what it replaces; a repeated one is not among them."""

DISMISS: Final = text(
    f"""
    WITH given AS MATERIALIZED (
        SELECT * FROM json_to_recordset(cast(:rows AS json)) AS row (
            op_id uuid, subjects jsonb, version bigint, dismissed bool, dismissed_at timestamptz)
    ), {_FRESH}
    INSERT INTO dismissals AS kept (subject, version, op_id, dismissed, dismissed_at)
    SELECT cast(value AS uuid), version, op_id, dismissed, dismissed_at
    FROM given JOIN fresh USING (op_id), jsonb_array_elements_text(subjects) AS each (value)
    ORDER BY 1
    ON CONFLICT (subject) DO UPDATE SET
        version = CASE WHEN :live THEN greatest(excluded.version, kept.version + 1)
            ELSE excluded.version END,
        op_id = excluded.op_id, dismissed = excluded.dismissed,
        dismissed_at = excluded.dismissed_at
        WHERE :live OR (excluded.version, excluded.op_id) > (kept.version, kept.op_id)
    RETURNING op_id, version
    """
)

CORRECTIONS: Final = text(
    "SELECT correction_id, answer, wordings, language, corrected_at, version, log_ids, withdrawn"
    " FROM corrections ORDER BY version, correction_id"
)

_DISMISSED: Final = """coalesce((
        SELECT dismissed FROM (
            SELECT version, op_id, dismissed FROM dismissals WHERE dismissals.subject = {subject}
            UNION ALL
            SELECT version, op_id, dismissed FROM ahead WHERE ahead.subject = {subject}
        ) AS words ORDER BY version DESC, op_id DESC LIMIT 1), false)"""
_AHEAD: Final = """WITH ahead AS MATERIALIZED (
        SELECT * FROM json_to_recordset(cast(:verdicts AS json)) AS row (
            subject uuid, dismissed bool, version bigint, op_id uuid)
    ), overruled AS MATERIALIZED (
        SELECT cast(value AS uuid) AS correction_id
        FROM json_array_elements_text(cast(:overruled AS json)) AS each (value)
    ), here AS MATERIALIZED (
        SELECT * FROM json_to_recordset(cast(:settled AS json)) AS row (
            log_id uuid, version bigint)
    )"""
"""What a journal holds that this database does not have yet: words on what is dismissed,
corrections that are another by now, turns that are settled there."""

_WAITING: Final = f"""{_AHEAD}
    {DIALOGUE}
    JOIN (
        SELECT id AS log_id FROM voice_logs
        WHERE {{these}}
            AND NOT EXISTS (SELECT FROM settled_turns WHERE settled_turns.log_id = voice_logs.id
                AND correction_id NOT IN (SELECT correction_id FROM overruled))
            AND id NOT IN (SELECT log_id FROM here)
            AND NOT {_DISMISSED.format(subject="voice_logs.id")}
        ORDER BY created_at DESC, id DESC LIMIT :most
    ) AS waiting ON id = waiting.log_id
    ORDER BY logs.created_at DESC, id DESC
    """
INBOX: Final = text(_WAITING.format(these="(outcome = 'handed_over' OR rating <= 2)"))
HANDED_OVER: Final = text(_WAITING.format(these="outcome = 'handed_over'"))

SUGGESTIONS: Final = text(
    f"""{_AHEAD}
    SELECT op_id, log_id, rating, version, rated_at, feedback_text, corrected_response, rater
    FROM voice_ratings AS given
    WHERE corrected_response IS NOT NULL AND NOT by_operator
        AND NOT EXISTS (SELECT FROM settled_turns JOIN corrections USING (correction_id)
            WHERE settled_turns.log_id = given.log_id AND corrections.version > given.version
            AND correction_id NOT IN (SELECT correction_id FROM overruled))
        AND coalesce((SELECT max(version) FROM here WHERE here.log_id = given.log_id), 0)
            <= given.version
        AND NOT {_DISMISSED.format(subject="given.op_id")}
    ORDER BY version DESC LIMIT :most
    """
)

VERDICTS: Final = text(
    "SELECT subject, dismissed, version, op_id FROM dismissals WHERE subject IN"
    " (SELECT cast(value AS uuid) FROM json_array_elements_text(cast(:ids AS json))"
    " AS each (value))"
)

OF_SESSION: Final = text(
    f"""{DIALOGUE}
    JOIN (
        SELECT id AS log_id FROM voice_logs
        WHERE session_id = :session AND octet_length(session_id) <= 800
        ORDER BY created_at DESC LIMIT :most
    ) AS asked ON id = asked.log_id
    ORDER BY logs.created_at DESC, id DESC
    """
)

ANSWERS: Final = text(
    """
    SELECT DISTINCT ON (created_at, id) id, user_message, answer, created_at, corrected_at
    FROM (
        SELECT id, user_message, created_at FROM voice_logs
        WHERE session_id = :session AND octet_length(session_id) <= 800
        ORDER BY created_at DESC LIMIT :most
    ) AS asked
    JOIN settled_turns ON log_id = id JOIN corrections USING (correction_id)
    WHERE corrected_at > created_at
    ORDER BY created_at DESC, id DESC, version DESC
    """
)
"""Of a session's newest questions those that a correction settles; of two the later one."""

EVALUATE: Final = text(
    """
    INSERT INTO model_metrics (id, model_version, avg_rating, total_interactions,
        positive_ratings, negative_ratings, user_satisfaction, evaluation_period_start,
        evaluation_period_end, is_current_model, requires_retraining, created_at,
        held_out_accuracy, details)
    SELECT evaluation_id, model_version, avg_rating, total_interactions, positive_ratings,
        negative_ratings, user_satisfaction, evaluation_period_start, evaluation_period_end,
        is_current_model, requires_retraining, created_at, held_out_accuracy, details
    FROM json_to_recordset(cast(:rows AS json)) AS row (
        evaluation_id uuid, model_version text, avg_rating float8, total_interactions int,
        positive_ratings int, negative_ratings int, user_satisfaction float8,
        evaluation_period_start timestamptz, evaluation_period_end timestamptz,
        is_current_model bool, requires_retraining bool, created_at timestamptz,
        held_out_accuracy float8, details jsonb)
    ORDER BY 1
    ON CONFLICT (id) DO NOTHING
    RETURNING id
    """
)

CURRENT: Final = text(
    """
    UPDATE model_metrics SET is_current_model = false WHERE is_current_model AND id <> (
        SELECT id FROM model_metrics WHERE is_current_model
        ORDER BY created_at DESC, id DESC LIMIT 1)
    """
)
"""Only the newest is current, in whatever order they came; sent after ``EVALUATE``."""

EVALUATIONS: Final = text(
    """
    SELECT id AS evaluation_id, model_version, avg_rating, total_interactions, positive_ratings,
        negative_ratings, user_satisfaction, held_out_accuracy, evaluation_period_start,
        evaluation_period_end, is_current_model, requires_retraining, created_at, details
    FROM model_metrics ORDER BY created_at DESC, id DESC LIMIT :most
    """
)
