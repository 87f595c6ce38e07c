"""The part of the journal's index that is about teaching: corrections, suggestions, evaluations.

Numbers and positions only, as in the rest of it. ``settled`` lists the turns of the corrections in
force, so that the inbox is read by indexes alone.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple
from uuid import UUID

from audiobot.storage.journal import Position
from audiobot.storage.operations import Correct, Dismiss, Evaluate, RateConversation

SCHEMA: Final = """
CREATE TABLE correction (
    correction_id BLOB PRIMARY KEY, version INTEGER NOT NULL, op_id BLOB NOT NULL,
    withdrawn INTEGER NOT NULL, segment INTEGER NOT NULL, byte INTEGER NOT NULL,
    length INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE settled (log_id BLOB, correction_id BLOB, version INTEGER NOT NULL,
    PRIMARY KEY (log_id, correction_id)) WITHOUT ROWID;
CREATE INDEX settled_by ON settled (correction_id);
CREATE TABLE dismissal (
    subject BLOB PRIMARY KEY, version INTEGER NOT NULL, op_id BLOB NOT NULL,
    dismissed INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE suggestion (
    op_id BLOB PRIMARY KEY, log_id BLOB NOT NULL, version INTEGER NOT NULL,
    segment INTEGER NOT NULL, byte INTEGER NOT NULL, length INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX suggestion_newest ON suggestion (version);
CREATE TABLE evaluation (
    evaluation_id BLOB PRIMARY KEY, created INTEGER NOT NULL, segment INTEGER NOT NULL,
    byte INTEGER NOT NULL, length INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX evaluation_created ON evaluation (created);
CREATE INDEX dialogue_waiting ON dialogue (created, log_id)
    WHERE segment IS NOT NULL AND (handed OR rating <= 2);
"""

_UNSETTLED: Final = """
    AND NOT EXISTS (SELECT 1 FROM settled WHERE settled.log_id = dialogue.log_id)
    AND NOT EXISTS (SELECT 1 FROM dismissal WHERE subject = dialogue.log_id AND dismissed)
    ORDER BY created DESC, log_id DESC LIMIT ?
"""
# The first lines have the indexes' own words: so SQLite knows that they serve.
INBOX: Final = f"""
    INDEXED BY dialogue_waiting WHERE segment IS NOT NULL AND (handed OR rating <= 2){_UNSETTLED}"""
HANDED_OVER: Final = f"""
    INDEXED BY dialogue_handed WHERE segment IS NOT NULL AND handed{_UNSETTLED}"""

SUGGESTIONS: Final = """
    SELECT segment, byte, length FROM suggestion
    WHERE NOT EXISTS (SELECT 1 FROM settled WHERE settled.log_id = suggestion.log_id
        AND settled.version > suggestion.version)
    AND NOT EXISTS (SELECT 1 FROM dismissal WHERE subject = suggestion.op_id AND dismissed)
    ORDER BY version DESC LIMIT ?
"""

CORRECTIONS: Final = "SELECT segment, byte, length FROM correction"
DISMISSALS: Final = "SELECT subject, dismissed, version, op_id FROM dismissal"
EVALUATIONS: Final = (
    "SELECT segment, byte, length FROM evaluation ORDER BY created DESC, evaluation_id DESC LIMIT ?"
)
PLACE: Final = "SELECT segment, byte, length FROM correction WHERE correction_id = ?"


class Verdict(NamedTuple):
    """The newest word on whether a turn or a suggestion is dismissed."""

    subject: UUID
    dismissed: bool
    version: int
    op_id: UUID


def stored_version(connection: sqlite3.Connection, operation: Correct | Dismiss) -> int:
    """The highest version that is stored of what an operation is about."""
    if isinstance(operation, Correct):
        found = connection.execute(
            "SELECT version FROM correction WHERE correction_id = ?",
            (operation.correction.correction_id.bytes,),
        ).fetchone()
        return int(found[0]) if found else 0
    stored = 0
    for subject in operation.subjects:
        found = connection.execute(
            "SELECT version FROM dismissal WHERE subject = ?", (subject.bytes,)
        ).fetchone()
        stored = max(stored, found[0] if found else 0)
    return stored


def correct(connection: sqlite3.Connection, position: Position, operation: Correct) -> None:
    """Put a correction in place of an older one, and its turns in place of that one's."""
    correction = operation.correction
    correction_id = correction.correction_id.bytes
    taken = connection.execute(
        "INSERT INTO correction VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (correction_id) DO UPDATE"
        " SET version = excluded.version, op_id = excluded.op_id, withdrawn = excluded.withdrawn,"
        " segment = excluded.segment, byte = excluded.byte, length = excluded.length"
        " WHERE (excluded.version, excluded.op_id) > (correction.version, correction.op_id)",
        (
            correction_id,
            correction.version,
            operation.op_id.bytes,
            correction.withdrawn,
            *position,
        ),
    ).rowcount
    if not taken:
        return
    connection.execute("DELETE FROM settled WHERE correction_id = ?", (correction_id,))
    if not correction.withdrawn:
        connection.executemany(
            "INSERT OR IGNORE INTO settled VALUES (?, ?, ?)",
            [(log_id.bytes, correction_id, correction.version) for log_id in correction.log_ids],
        )


def dismiss(connection: sqlite3.Connection, operation: Dismiss) -> None:
    """Take an operator's word on each subject, unless a newer one is there."""
    connection.executemany(
        "INSERT INTO dismissal VALUES (?, ?, ?, ?) ON CONFLICT (subject) DO UPDATE SET"
        " version = excluded.version, op_id = excluded.op_id, dismissed = excluded.dismissed"
        " WHERE (excluded.version, excluded.op_id) > (dismissal.version, dismissal.op_id)",
        [
            (subject.bytes, operation.version, operation.op_id.bytes, operation.dismissed)
            for subject in operation.subjects
        ],
    )


def suggest(
    connection: sqlite3.Connection, position: Position, operation: RateConversation
) -> None:
    """Note where a customer's suggestion lies."""
    if operation.corrected_response is None or operation.by_operator:
        return
    connection.execute(
        "INSERT OR IGNORE INTO suggestion VALUES (?, ?, ?, ?, ?, ?)",
        (operation.op_id.bytes, operation.log_id.bytes, operation.version, *position),
    )


def evaluate(
    connection: sqlite3.Connection, position: Position, operation: Evaluate, at: int
) -> None:
    """Note where an evaluation lies."""
    evaluation_id = operation.metrics.evaluation_id.bytes
    connection.execute(
        "INSERT OR IGNORE INTO evaluation VALUES (?, ?, ?, ?, ?)", (evaluation_id, at, *position)
    )
