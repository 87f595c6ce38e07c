"""The database of the first public AudioBot, as it was: text ids, naive times.

New installations pass through here too, so the way up from the old database is walked every day.
"""

from __future__ import annotations

from alembic import op

revision = "initial_001"
down_revision = None

_TABLES = (
    """CREATE TABLE voice_logs (
        id varchar PRIMARY KEY, session_id varchar, user_message text NOT NULL,
        ai_response text NOT NULL, rating int, feedback_text text, model_used varchar,
        response_time float, token_count int, created_at timestamp, updated_at timestamp)""",
    """CREATE TABLE voice_embeddings (
        id serial PRIMARY KEY, log_id varchar NOT NULL REFERENCES voice_logs (id),
        vector bytea NOT NULL, embedding_model varchar, created_at timestamp)""",
    """CREATE TABLE model_metrics (
        id serial PRIMARY KEY, model_version varchar NOT NULL, avg_rating float,
        total_interactions int, positive_ratings int, negative_ratings int,
        user_satisfaction float, evaluation_period_start timestamp,
        evaluation_period_end timestamp, is_current_model bool, requires_retraining bool,
        created_at timestamp)""",
    """CREATE TABLE training_datasets (
        id serial PRIMARY KEY, name varchar NOT NULL, description text,
        min_rating_threshold int, total_samples int, filtered_samples int, file_path varchar,
        status varchar, training_logs text, model_weights_path varchar, created_at timestamp,
        training_started_at timestamp, training_completed_at timestamp)""",
)


def upgrade() -> None:
    """Make the four tables."""
    for table in _TABLES:
        op.execute(table)


def downgrade() -> None:
    """Leave an empty database."""
    for name in ("training_datasets", "model_metrics", "voice_embeddings", "voice_logs"):
        op.execute(f"DROP TABLE {name}")
