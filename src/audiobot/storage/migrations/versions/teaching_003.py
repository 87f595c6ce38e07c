"""What operators teach: corrections, the turns that they settle, dismissals; evaluations."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "teaching_003"
down_revision = "hybrid_002"

_UP: Final = (
    "CREATE TABLE taught_operations (op_id uuid PRIMARY KEY)",
    """CREATE TABLE corrections (
        correction_id uuid PRIMARY KEY, version bigint NOT NULL, op_id uuid NOT NULL,
        answer text NOT NULL, wordings jsonb NOT NULL, language text NOT NULL,
        log_ids jsonb NOT NULL, withdrawn boolean NOT NULL, corrected_at timestamptz NOT NULL)""",
    "CREATE INDEX corrections_unworded ON corrections (correction_id) WHERE wordings = '[]'::jsonb",
    """CREATE TABLE settled_turns (
        log_id uuid NOT NULL, correction_id uuid NOT NULL, PRIMARY KEY (log_id, correction_id))""",
    "CREATE INDEX settled_turns_correction ON settled_turns (correction_id)",
    """CREATE TABLE dismissals (
        subject uuid PRIMARY KEY, version bigint NOT NULL, op_id uuid NOT NULL,
        dismissed boolean NOT NULL, dismissed_at timestamptz NOT NULL)""",
    "CREATE INDEX voice_logs_waiting ON voice_logs (created_at, id)"
    " WHERE outcome = 'handed_over' OR rating <= 2",
    # The first AudioBot took sessions of any length, and a B-tree takes 2,704 bytes; ours have 200
    # characters at most.
    "CREATE INDEX voice_logs_session ON voice_logs (session_id, created_at)"
    " WHERE octet_length(session_id) <= 800",
    "CREATE INDEX voice_ratings_suggested ON voice_ratings (version)"
    " WHERE corrected_response IS NOT NULL AND NOT by_operator",
    "ALTER TABLE model_metrics ADD held_out_accuracy float, ADD details jsonb",
    "CREATE INDEX model_metrics_created ON model_metrics (created_at, id)",
)
_DOWN: Final = (
    "DROP INDEX model_metrics_created",
    "ALTER TABLE model_metrics DROP details, DROP held_out_accuracy",
    "DROP INDEX voice_ratings_suggested, voice_logs_session, voice_logs_waiting",
    "DROP TABLE dismissals, settled_turns, corrections, taught_operations",
)


def upgrade() -> None:
    """Make the tables, and the indexes that the inbox is read by."""
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    """Back to a database that is not taught: what operators said is gone."""
    for statement in _DOWN:
        op.execute(statement)
