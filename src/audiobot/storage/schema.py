"""The tables in PostgreSQL, as the code means them; the migrations make them, a test compares.

Names of tables and columns are part of the contract. Words lie in ``voice_logs`` and
``voice_ratings``; every rating ever given is a row of the latter, the one that counts is repeated
on its dialogue. ``voice_log_counts`` is the summary behind the statistics: triggers on
``voice_logs`` append signed rows to it inside the row's own transaction, so nothing contends and
nothing drifts; housekeeping folds them together.

``legacy_id`` and ``legacy`` hold what a row had in the first AudioBot's database and has no other
place here; a dialogue from there has a ``legacy``, be it empty.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    desc,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

REVISION: Final = "joining_004"
"""The newest migration, which this version of AudioBot works with."""
OLDEST_SERVER: Final = 14
"""The oldest major version of PostgreSQL that this is made for; older ones are out of support."""

metadata: Final = MetaData()

_NEW_ID: Final = text("gen_random_uuid()")
_NOW: Final = text("now()")


def _moment(name: str, *, nullable: bool = True, default: bool = False) -> Column[object]:
    server_default = _NOW if default else None
    return Column(name, DateTime(timezone=True), nullable=nullable, server_default=server_default)


voice_logs: Final = Table(
    "voice_logs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("session_id", Text),
    Column("user_message", Text, nullable=False),
    Column("ai_response", Text, nullable=False),
    Column("rating", SmallInteger),
    Column("feedback_text", Text),
    Column("model_used", Text),
    Column("response_time", Double),
    Column("token_count", Integer),
    _moment("created_at", nullable=False, default=True),
    _moment("updated_at"),
    Column("outcome", Text, nullable=False, server_default="answered"),
    Column("language", Text, nullable=False, server_default="ru"),
    Column("durability", Text, nullable=False, server_default="postgres"),
    Column("similar_found", Integer, nullable=False, server_default="0"),
    Column("learning_improved", Boolean, nullable=False, server_default=text("false")),
    Column("confidence", Double),
    Column("receipt", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("content_hash", LargeBinary),
    Column("rating_version", BigInteger),
    Column("rating_op", Uuid),
    Column("legacy_id", Text),
    Column("legacy", JSONB),
    CheckConstraint("rating BETWEEN 1 AND 5", name="voice_logs_rating_range"),
    CheckConstraint(
        "outcome IN ('answered', 'asked', 'handed_over')", name="voice_logs_outcome_known"
    ),
    CheckConstraint(
        "(rating IS NULL) = (rating_version IS NULL)"
        " AND (rating_version IS NULL) = (rating_op IS NULL)",
        name="voice_logs_rating_whole",
    ),
    Index("voice_logs_created", "created_at", "id"),
    Index(
        "voice_logs_rated",
        "rating",
        "created_at",
        "id",
        postgresql_include=["outcome"],
        postgresql_where=text("rating IS NOT NULL"),
    ),
    Index(
        "voice_logs_handed_over",
        "created_at",
        "id",
        postgresql_where=text("outcome = 'handed_over'"),
    ),
    Index(
        "voice_logs_waiting",
        "created_at",
        "id",
        postgresql_where=text("outcome = 'handed_over' OR rating <= 2"),
    ),
    Index(
        "voice_logs_session",
        "session_id",
        "created_at",
        postgresql_where=text("octet_length(session_id) <= 800"),
    ),
    Index("voice_logs_adopted", "id", postgresql_where=text("legacy IS NOT NULL")),
    Index(
        "voice_logs_legacy",
        "legacy_id",
        unique=True,
        postgresql_where=text("legacy_id IS NOT NULL"),
    ),
)

voice_embeddings: Final = Table(
    "voice_embeddings",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_NEW_ID),
    Column("log_id", Uuid, nullable=False),
    Column("vector", LargeBinary, nullable=False),
    Column("dimension", Integer),
    Column("embedding_model", Text),
    _moment("created_at", nullable=False, default=True),
    Column("legacy_id", BigInteger),
    Column("legacy", JSONB),
    CheckConstraint("octet_length(vector) = 4 * dimension", name="voice_embeddings_whole"),
    Index("voice_embeddings_log", "log_id"),
)

voice_ratings: Final = Table(
    "voice_ratings",
    metadata,
    Column("op_id", Uuid, primary_key=True),
    Column("log_id", Uuid, nullable=False),
    Column("rating", SmallInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    _moment("rated_at", nullable=False),
    Column("feedback_text", Text),
    Column("corrected_response", Text),
    Column("rater", Text),
    Column("by_operator", Boolean, nullable=False, server_default=text("false")),
    Column("joined", Boolean, nullable=False),
    Column(
        "received_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("clock_timestamp()"),
    ),
    _moment("joined_at"),
    CheckConstraint("rating BETWEEN 1 AND 5", name="voice_ratings_rating_range"),
    Index("voice_ratings_newest", "log_id", desc("version"), desc("op_id")),
    Index("voice_ratings_received", "received_at"),
    Index("voice_ratings_joined", "joined_at", postgresql_where=text("joined_at IS NOT NULL")),
    Index("voice_ratings_orphan", "log_id", postgresql_where=text("NOT joined")),
    Index(
        "voice_ratings_suggested",
        "version",
        postgresql_where=text("corrected_response IS NOT NULL AND NOT by_operator"),
    ),
)

voice_conflicts: Final = Table(
    "voice_conflicts",
    metadata,
    Column("op_id", Uuid, primary_key=True),
    Column("log_id", Uuid, nullable=False),
    _moment("found_at", nullable=False, default=True),
)

voice_log_counts: Final = Table(
    "voice_log_counts",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    _moment("minute", nullable=False),
    Column("rating", SmallInteger, nullable=False),
    Column("dialogues", BigInteger, nullable=False),
)

idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("request", LargeBinary, nullable=False),
    Column("op_id", Uuid, nullable=False),
    Column("log_id", Uuid, nullable=False),
    _moment("at", nullable=False),
    Index("idempotency_keys_at", "at"),
)

knowledge_sources: Final = Table(
    "knowledge_sources",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("op_id", Uuid, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("items", JSONB, nullable=False),
    _moment("imported_at", nullable=False),
)

taught_operations: Final = Table(
    "taught_operations", metadata, Column("op_id", Uuid, primary_key=True)
)
"""Every correction and dismissal ever taken in: a late or repeated one is known by its id."""

corrections: Final = Table(
    "corrections",
    metadata,
    Column("correction_id", Uuid, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("op_id", Uuid, nullable=False),
    Column("answer", Text, nullable=False),
    Column("wordings", JSONB, nullable=False),
    Column("language", Text, nullable=False),
    Column("log_ids", JSONB, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    _moment("corrected_at", nullable=False),
    Index(
        "corrections_unworded",
        "correction_id",
        postgresql_where=text("wordings = '[]'::jsonb"),
    ),
)

settled_turns: Final = Table(
    "settled_turns",
    metadata,
    Column("log_id", Uuid, primary_key=True),
    Column("correction_id", Uuid, primary_key=True),
    Index("settled_turns_correction", "correction_id"),
)
"""The turns of the corrections in force, kept with them."""

dismissals: Final = Table(
    "dismissals",
    metadata,
    Column("subject", Uuid, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("op_id", Uuid, nullable=False),
    Column("dismissed", Boolean, nullable=False),
    _moment("dismissed_at", nullable=False),
)

replay_cursors: Final = Table(
    "replay_cursors",
    metadata,
    Column("journal", Uuid, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    _moment("moved_at", nullable=False, default=True),
)

id_keys: Final = Table(
    "id_keys",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    _moment("added_at", nullable=False, default=True),
)

storage_heartbeat: Final = Table(
    "storage_heartbeat",
    metadata,
    Column("replica", Uuid, primary_key=True),
    _moment("beat_at", nullable=False, default=True),
)

model_metrics: Final = Table(
    "model_metrics",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_NEW_ID),
    Column("model_version", Text, nullable=False),
    Column("avg_rating", Double),
    Column("total_interactions", Integer),
    Column("positive_ratings", Integer),
    Column("negative_ratings", Integer),
    Column("user_satisfaction", Double),
    _moment("evaluation_period_start"),
    _moment("evaluation_period_end"),
    Column("is_current_model", Boolean),
    Column("requires_retraining", Boolean),
    _moment("created_at", nullable=False, default=True),
    Column("legacy_id", BigInteger),
    Column("legacy", JSONB),
    Column("held_out_accuracy", Double),
    Column("details", JSONB),
    Index("model_metrics_created", "created_at", "id"),
)

training_datasets: Final = Table(
    "training_datasets",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=_NEW_ID),
    Column("name", Text, nullable=False),
    Column("description", Text),
    Column("min_rating_threshold", Integer),
    Column("total_samples", Integer),
    Column("filtered_samples", Integer),
    Column("file_path", Text),
    Column("status", Text),
    Column("training_logs", Text),
    Column("model_weights_path", Text),
    _moment("created_at", nullable=False, default=True),
    _moment("training_started_at"),
    _moment("training_completed_at"),
    Column("legacy_id", BigInteger),
    Column("legacy", JSONB),
)
