"""The journal's index: for every dialogue ever journaled, where it lies and how it is rated now.

A small SQLite file beside the journal that holds numbers and positions, never a word of anyone.
It is derived: ``applied`` says up to which sequence number it is true, the rest is caught up
from the journal at the next opening, and a lost or broken index is built anew. A clean close seals
it with a hash of its bytes; a seal that does not fit means that the medium changed something. It is
what keeps memory bounded: an evicted dialogue stays rateable, counted and exportable through it.

Statistics come from a summary that the triggers below keep inside the row's own transaction, so
they equal a recount at every moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

from audiobot.domain import (
    Conversation,
    Idempotency,
    KnowledgeSource,
    Stats,
    content_hash,
    stats_of_counts,
    utc_now,
)
from audiobot.errors import IdempotencyMismatch
from audiobot.storage import index_teaching as teaching
from audiobot.storage.frames import Gap
from audiobot.storage.journal import Position, replace_file
from audiobot.storage.operations import (
    DAY,
    AddConversation,
    Correct,
    Dismiss,
    Evaluate,
    Operation,
    RateConversation,
    ReplaceKnowledge,
    items_hash,
)

SCHEMA_VERSION: Final = 3
_DAY_US: Final = 24 * 3_600_000_000
"""How long an Idempotency-Key is kept, in microseconds."""
_PRUNE_EVERY_US: Final = 60_000_000

_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('applied', 0), ('conflicts', 0), ('pruned', 0), ('replayed', 0);

-- One row for each dialogue; segment is NULL while only its rating has arrived.
CREATE TABLE dialogue (
    log_id BLOB PRIMARY KEY,
    segment INTEGER, byte INTEGER, length INTEGER,
    content BLOB,
    created INTEGER,              -- microseconds since the epoch
    answered INTEGER NOT NULL DEFAULT 0,
    handed INTEGER NOT NULL DEFAULT 0,
    session BLOB,                 -- a hash: whose question it was, without saying who that is
    rating INTEGER,
    version INTEGER, op_id BLOB,  -- of the rating that counts
    rating_segment INTEGER, rating_byte INTEGER, rating_length INTEGER
) WITHOUT ROWID;
CREATE INDEX dialogue_created ON dialogue (created, rating) WHERE segment IS NOT NULL;
CREATE INDEX dialogue_rated ON dialogue (created, log_id, rating, answered)
    WHERE rating IS NOT NULL AND segment IS NOT NULL;
CREATE INDEX dialogue_handed ON dialogue (created) WHERE segment IS NOT NULL AND handed;
CREATE INDEX dialogue_session ON dialogue (session, created) WHERE segment IS NOT NULL;
CREATE INDEX dialogue_orphan ON dialogue (log_id) WHERE segment IS NULL;

CREATE TABLE summary (rating INTEGER PRIMARY KEY, dialogues INTEGER NOT NULL);
INSERT INTO summary VALUES (0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0);
CREATE TRIGGER dialogue_counted AFTER INSERT ON dialogue WHEN new.segment IS NOT NULL BEGIN
    UPDATE summary SET dialogues = dialogues + 1 WHERE rating = coalesce(new.rating, 0);
END;
CREATE TRIGGER dialogue_recounted AFTER UPDATE OF rating, segment ON dialogue BEGIN
    UPDATE summary SET dialogues = dialogues - 1
        WHERE rating = coalesce(old.rating, 0) AND old.segment IS NOT NULL;
    UPDATE summary SET dialogues = dialogues + 1
        WHERE rating = coalesce(new.rating, 0) AND new.segment IS NOT NULL;
END;

CREATE TABLE operation (key BLOB PRIMARY KEY, request BLOB NOT NULL, log_id BLOB NOT NULL,
    segment INTEGER NOT NULL, byte INTEGER NOT NULL, length INTEGER NOT NULL,
    at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX operation_at ON operation (at);

CREATE TABLE knowledge (source TEXT PRIMARY KEY, version INTEGER NOT NULL, op_id BLOB NOT NULL,
    content BLOB NOT NULL, segment INTEGER NOT NULL, byte INTEGER NOT NULL,
    length INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE gap (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
"""


def microseconds(moment: datetime) -> int:
    """Whole microseconds since the epoch."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def session_hash(session_id: str) -> bytes:
    """Which session a dialogue is of, in eight bytes."""
    return hashlib.blake2b(session_id.encode(), digest_size=8).digest()


class Row(NamedTuple):
    """What the index knows of one dialogue: where its words lie, and the rating that counts."""

    log_id: UUID
    position: Position | None
    answered: bool
    rating: int | None
    version: int
    rating_position: Position | None


class Known(NamedTuple):
    """An operation that came before under the same Idempotency-Key."""

    log_id: UUID
    position: Position


_META: Final = "SELECT value FROM meta WHERE name = ?"
_ROW: Final = (
    "SELECT log_id, segment, byte, length, answered, rating, version, rating_segment,"
    " rating_byte, rating_length FROM dialogue "
)


def _row(values: tuple[object, ...]) -> Row:
    log_id, segment, byte, length, answered, rating, version, r_segment, r_byte, r_length = values
    assert isinstance(log_id, bytes)
    return Row(
        UUID(bytes=log_id),
        None if segment is None else Position(segment, byte, length),  # type: ignore[arg-type]
        bool(answered),
        rating,  # type: ignore[arg-type]  # SQLite's columns carry no static type
        version or 0,  # type: ignore[arg-type]
        None if r_segment is None else Position(r_segment, r_byte, r_length),  # type: ignore[arg-type]
    )


def _connect(path: Path, *, write: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # A megabyte of pages: the system keeps the rest of the file, once for both connections.
        connection.execute("PRAGMA cache_size = -1024")
        if write:
            # The journal is the truth: losing the newest commits costs a catch-up, no dialogue.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
        else:
            # Only the writer checkpoints: SQLite before 3.51.3 can corrupt a WAL that two reset.
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _sound(connection: sqlite3.Connection) -> bool:
    """True when SQLite finds nothing wrong and the schema is this version's."""
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        (applied,) = connection.execute(_META, ("applied",)).fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError, TypeError):
        return False  # a message of SQLite's may quote a damaged schema
    return version == SCHEMA_VERSION and verdict == "ok" and isinstance(applied, int)


class Index:
    """One writing connection for the commit thread, one reading connection for everyone else.

    What writes belongs to the thread that commits; what reads may be called from any thread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seal = path.with_name(path.name + ".seal")
        self._applied = 0
        self._write = self._open()
        self._read = _connect(path, write=False)
        self._read_lock = threading.Lock()
        self._settled = threading.Event()
        self._settled.set()

    def _open(self) -> sqlite3.Connection:
        self.sealed = self._seal_fits()
        if self.sealed is False:
            return self._create()
        with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
            connection = _connect(self.path, write=True)
            if _sound(connection):
                return connection
            connection.close()
        return self._create()

    def _seal_fits(self) -> bool | None:
        """False when the bytes are not those that were sealed; a seal serves for one opening.

        None without a seal: the last process was killed, SQLite's own log makes the file whole.
        """
        try:
            sealed = self._seal.read_bytes()
        except FileNotFoundError:
            return None
        self._seal.unlink()
        return self.path.exists() and sealed == _file_hash(self.path)

    def _create(self) -> sqlite3.Connection:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        connection = _connect(self.path, write=True)
        connection.executescript(
            f"BEGIN; {_SCHEMA} {teaching.SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
        self.path.chmod(0o600)
        return connection

    def rebuild(self) -> None:
        """Start over, empty: the caller applies the whole journal next."""
        with self._read_lock:  # nobody reads from what is being closed
            for connection in (self._read, self._write):
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
            self._write = self._create()
            self._read = _connect(self.path, write=False)

    def note(self, name: str, value: int) -> None:
        """Set one of the numbers the index keeps of itself."""
        with self.transaction():
            self._write.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))

    def close(self) -> None:
        """Close both connections and seal the file; the next opening continues from here."""
        self._read.close()
        # On a full disk it stays unsealed, and is only trusted a little less.
        with contextlib.suppress(OSError, sqlite3.Error):
            busy, _, _ = self._write.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._write.close()
            if not busy:
                replace_file(self._seal, _file_hash(self.path))
        self._write.close()

    # -- the commit thread's side ----------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is applied inside becomes true together, or not at all."""
        self.begin()
        try:
            yield
            self.prepare()
            self.commit()
        except BaseException:
            self.roll_back()
            raise

    def begin(self) -> None:
        """Begin a transaction: nobody else sees yet what is applied."""
        self._write.execute("BEGIN IMMEDIATE")
        self._applied = 0

    def prepare(self) -> None:
        """Note up to where it is applied: all that is left to do is to commit."""
        if self._applied:
            self._write.execute(
                "UPDATE meta SET value = ? WHERE name = 'applied'", (self._applied,)
            )

    def hold_readers(self) -> None:
        """What was applied is being told: whoever reads from now on waits for its end."""
        self._settled.clear()

    def commit(self) -> None:
        """Make true what was applied since ``begin``."""
        self._write.execute("COMMIT")
        self._settled.set()

    def roll_back(self) -> None:
        """Forget what was applied since ``begin``, if anything was begun."""
        with contextlib.suppress(sqlite3.Error):  # on a disk that failed: the next begin says so
            if self._write.in_transaction:
                self._write.execute("ROLLBACK")
        self._settled.set()

    def stamp(self, operation: Operation, row: Row | None) -> int:
        """The version that a live write of ``operation`` takes: above what is stored.

        ``row`` is what is known of the dialogue that is rated.
        """
        match operation:
            case RateConversation(version=given):
                stored = row.version if row is not None else 0
            case ReplaceKnowledge(version=given):
                found = self._write.execute(
                    "SELECT version FROM knowledge WHERE source = ?", (operation.source.name,)
                ).fetchone()
                stored = found[0] if found is not None else 0
            case Correct(correction=correction):
                given = correction.version
                stored = teaching.stored_version(self._write, operation)
            case Dismiss(version=given):
                stored = teaching.stored_version(self._write, operation)
            case AddConversation() | Evaluate():
                return 0
        return max(given, stored + 1)

    def known(self, idempotency: Idempotency | None) -> Known | None:
        """The operation that bears this key already; ``IdempotencyMismatch`` if it differs."""
        return _known(self._write, idempotency)

    def row(self, log_id: UUID) -> Row | None:
        """What is known of a dialogue, the open transaction included."""
        found = self._write.execute(_ROW + "WHERE log_id = ?", (log_id.bytes,)).fetchone()
        return _row(found) if found else None

    def apply(self, sequence: int, position: Position, operation: Operation) -> None:
        """The one way in: used by live commits, by catching up and by building anew."""
        match operation:
            case AddConversation():
                self._add(position, operation)
            case RateConversation():
                self._rate(position, operation)
            case ReplaceKnowledge():
                self._replace(position, operation)
            case Correct():
                teaching.correct(self._write, position, operation)
            case Dismiss():
                teaching.dismiss(self._write, operation)
            case Evaluate(metrics=metrics):
                at = microseconds(metrics.created_at)
                teaching.evaluate(self._write, position, operation, at)
        self._applied = sequence

    def apply_gap(self, gap: Gap) -> None:
        """Remember a range of records that damage took."""
        self._write.execute("INSERT OR IGNORE INTO gap VALUES (?, ?)", (gap.first, gap.last))
        self._applied = max(self._applied, gap.last)

    def _add(self, position: Position, operation: AddConversation) -> None:
        told = operation.conversation
        content = content_hash(told)
        changed = self._write.execute(
            "INSERT INTO dialogue (log_id, segment, byte, length, content, created, answered,"
            " handed, session) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (log_id) DO UPDATE SET"
            " segment = excluded.segment, byte = excluded.byte, length = excluded.length,"
            " content = excluded.content, created = excluded.created,"
            " answered = excluded.answered, handed = excluded.handed, session = excluded.session"
            " WHERE dialogue.segment IS NULL",
            (
                told.log_id.bytes,
                *position,
                content,
                microseconds(told.created_at),
                told.outcome == "answered",
                told.outcome == "handed_over",
                session_hash(told.session_id),
            ),
        ).rowcount
        if not changed:
            self._write.execute(
                "UPDATE meta SET value = value + 1 WHERE name = 'conflicts' AND EXISTS"
                " (SELECT 1 FROM dialogue WHERE log_id = ? AND content <> ?)",
                (told.log_id.bytes, content),
            )
        self._remember(operation.idempotency, told.log_id, position, microseconds(told.created_at))

    def _rate(self, position: Position, operation: RateConversation) -> None:
        self._write.execute(
            "INSERT INTO dialogue (log_id, rating, version, op_id, rating_segment, rating_byte,"
            " rating_length) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (log_id) DO UPDATE SET"
            " rating = excluded.rating, version = excluded.version, op_id = excluded.op_id,"
            " rating_segment = excluded.rating_segment, rating_byte = excluded.rating_byte,"
            " rating_length = excluded.rating_length WHERE dialogue.version IS NULL"
            " OR (excluded.version, excluded.op_id) > (dialogue.version, dialogue.op_id)",
            (
                operation.log_id.bytes,
                operation.rating,
                operation.version,
                operation.op_id.bytes,
                *position,
            ),
        )
        teaching.suggest(self._write, position, operation)
        at = microseconds(operation.rated_at)
        self._remember(operation.idempotency, operation.log_id, position, at)

    def count_conflict(self) -> None:
        """Another dialogue came under an id that is taken: the first one stays, this is told."""
        self._write.execute("UPDATE meta SET value = value + 1 WHERE name = 'conflicts'")

    def same_content(self, conversation: Conversation) -> bool:
        """True when the dialogue kept under this id is this one, to the byte."""
        (kept,) = self._write.execute(
            "SELECT content FROM dialogue WHERE log_id = ?", (conversation.log_id.bytes,)
        ).fetchone()
        return bool(kept == content_hash(conversation))

    def same_knowledge(self, source: KnowledgeSource) -> bool:
        """True when the source is kept already with just these items."""
        found = self._write.execute(
            "SELECT content FROM knowledge WHERE source = ?", (source.name,)
        ).fetchone()
        return not source.items if found is None else bool(found[0] == items_hash(source))

    def _replace(self, position: Position, operation: ReplaceKnowledge) -> None:
        self._write.execute(
            "INSERT INTO knowledge VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source) DO UPDATE"
            " SET version = excluded.version, op_id = excluded.op_id, content = excluded.content,"
            " segment = excluded.segment, byte = excluded.byte, length = excluded.length"
            " WHERE (excluded.version, excluded.op_id) > (knowledge.version, knowledge.op_id)",
            (
                operation.source.name,
                operation.version,
                operation.op_id.bytes,
                items_hash(operation.source),
                *position,
            ),
        )

    def _remember(
        self, idempotency: Idempotency | None, log_id: UUID, position: Position, at: int
    ) -> None:
        if idempotency is None:
            return
        self._write.execute(
            "INSERT INTO operation VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
            " request = excluded.request, log_id = excluded.log_id, segment = excluded.segment,"
            " byte = excluded.byte, length = excluded.length, at = excluded.at"
            " WHERE operation.at < excluded.at - ?",
            (idempotency.key, idempotency.request, log_id.bytes, *position, at, _DAY_US),
        )
        horizon = at - _DAY_US
        (pruned,) = self._write.execute("SELECT value FROM meta WHERE name = 'pruned'").fetchone()
        if at - pruned >= _PRUNE_EVERY_US:
            self._write.execute("DELETE FROM operation WHERE at < ?", (horizon,))
            self._write.execute("UPDATE meta SET value = ? WHERE name = 'pruned'", (at,))

    # -- everyone's side -------------------------------------------------------------------

    def _all(self, sql: str, values: Iterable[object] = ()) -> list[tuple[object, ...]]:
        self._settled.wait()
        with self._read_lock:
            return self._read.execute(sql, tuple(values)).fetchall()

    def meta(self, name: str) -> int:
        """A number the index keeps of itself: ``applied``, ``replayed``, ``conflicts``."""
        ((value,),) = self._all(_META, (name,))
        assert isinstance(value, int)
        return value

    def find(self, log_id: UUID) -> Row | None:
        """What is committed of a dialogue."""
        found = self._all(_ROW + "WHERE log_id = ?", (log_id.bytes,))
        return _row(found[0]) if found else None

    def find_known(self, idempotency: Idempotency) -> Known | None:
        """The committed operation under this key; ``IdempotencyMismatch`` if it differs."""
        self._settled.wait()
        with self._read_lock:
            return _known(self._read, idempotency)

    def rated(
        self, min_rating: int, after: tuple[int, bytes] | None, limit: int, *, answered: bool
    ) -> list[tuple[tuple[int, bytes], Row]]:
        """A page of rated dialogues, oldest first; ``after`` is the last page's last key."""
        created, log_id = after or (-1, b"")
        rows = self._all(
            _ROW.replace(" FROM", ", created FROM")
            + "WHERE rating IS NOT NULL AND segment IS NOT NULL AND rating >= ?"
            " AND answered >= ? AND (created, log_id) > (?, ?) ORDER BY created, log_id LIMIT ?",
            (min_rating, int(answered), created, log_id, limit),
        )
        return [((r[-1], r[0]), _row(r[:-1])) for r in rows]  # type: ignore[misc]

    def before_newest(
        self, min_rating: int, newest: int, *, answered: bool
    ) -> tuple[int, bytes] | None:
        """The key of the rated dialogue just before the ``newest`` ones, if there are more."""
        rows = self._all(
            "SELECT created, log_id FROM dialogue WHERE rating IS NOT NULL AND segment IS NOT NULL"
            " AND rating >= ? AND answered >= ? ORDER BY created DESC, log_id DESC"
            " LIMIT 1 OFFSET ?",
            (min_rating, int(answered), newest),
        )
        return (rows[0][0], rows[0][1]) if rows else None  # type: ignore[return-value]

    def of_session(self, session_id: str, most: int) -> list[Row]:
        """The newest dialogues of a session, newest first."""
        rows = self._all(
            _ROW + "WHERE segment IS NOT NULL AND session = ? ORDER BY created DESC LIMIT ?",
            (session_hash(session_id), most),
        )
        return [_row(r) for r in rows]

    def inbox(self, most: int, *, low: bool) -> list[Row]:
        """Turns that wait for an operator, newest first; with ``low`` those rated so too."""
        waiting = teaching.INBOX if low else teaching.HANDED_OVER
        return [_row(r) for r in self._all(_ROW + waiting, (most,))]

    def rated_low_elsewhere(self, most: int) -> list[UUID]:
        """Dialogues that are rated low here and lie elsewhere, latest rating first."""
        rows = self._all(
            "SELECT log_id FROM dialogue WHERE segment IS NULL AND rating <= 2"
            " ORDER BY version DESC LIMIT ?",
            (most,),
        )
        return [UUID(bytes=r[0]) for r in rows]  # type: ignore[arg-type]

    def rated_elsewhere(self, least: int, after: UUID | None, most: int) -> list[UUID]:
        """A page of dialogues rated ``least`` or better here that lie elsewhere, by id."""
        rows = self._all(
            "SELECT log_id FROM dialogue WHERE segment IS NULL AND rating >= ? AND log_id > ?"
            " ORDER BY log_id LIMIT ?",
            (least, after.bytes if after else b"", most),
        )
        return [UUID(bytes=r[0]) for r in rows]  # type: ignore[arg-type]

    def suggestions(self, most: int) -> list[Position]:
        """Where suggestions lie that wait for an operator, newest first."""
        return _places(self._all(teaching.SUGGESTIONS, (most,)))

    def corrections(self) -> list[Position]:
        """Where each correction lies as it is now, in force or not."""
        return _places(self._all(teaching.CORRECTIONS))

    def correction(self, correction_id: UUID) -> Position | None:
        """Where a correction lies, the open transaction included."""
        found = self._write.execute(teaching.PLACE, (correction_id.bytes,)).fetchone()
        return Position(*found) if found else None

    def evaluations(self, most: int) -> list[Position]:
        """Where the newest evaluations lie, newest first."""
        return _places(self._all(teaching.EVALUATIONS, (most,)))

    def dismissals(self) -> list[teaching.Verdict]:
        """The newest word on everything that was dismissed or taken back."""
        return [
            teaching.Verdict(UUID(bytes=subject), bool(dismissed), version, UUID(bytes=op_id))  # type: ignore[arg-type]
            for subject, dismissed, version, op_id in self._all(teaching.DISMISSALS)
        ]

    def newest(self, limit: int) -> list[Row]:
        """The newest dialogues that have their words, oldest of them first."""
        rows = self._all(_ROW + "WHERE segment IS NOT NULL ORDER BY created DESC LIMIT ?", (limit,))
        return [_row(r) for r in reversed(rows)]

    def knowledge(self) -> list[tuple[str, Position]]:
        """Where each imported source lies, by name."""
        rows = self._all("SELECT source, segment, byte, length FROM knowledge ORDER BY source")
        return [(r[0], Position(r[1], r[2], r[3])) for r in rows]  # type: ignore[arg-type, misc]

    def stats(self, now: datetime) -> Stats:
        """Totals from the summary; the last day's from the rows themselves."""
        since = microseconds(now - DAY)
        self._settled.wait()
        with self._read_lock:
            # One statement, one snapshot: a commit between two would tear the numbers.
            counts = dict(
                self._read.execute(
                    "SELECT rating, dialogues FROM summary UNION ALL"
                    " SELECT 6, count(*) FROM dialogue WHERE segment IS NOT NULL AND created >= ?"
                    " UNION ALL SELECT 7, count(*) FROM dialogue"
                    " WHERE segment IS NOT NULL AND created >= ? AND rating >= 4",
                    (since, since),
                ).fetchall()
            )
        return stats_of_counts(counts, recent=counts[6], recent_positive=counts[7], as_of=now)

    def orphans(self) -> int:
        """Ratings whose dialogue has not arrived."""
        ((count,),) = self._all("SELECT count(*) FROM dialogue WHERE segment IS NULL")
        assert isinstance(count, int)
        return count

    def gaps(self) -> list[tuple[int, int]]:
        """Ranges of journal records that damage took, first and last number."""
        return [(r[0], r[1]) for r in self._all("SELECT first, last FROM gap ORDER BY first")]  # type: ignore[misc]


def _places(rows: list[tuple[object, ...]]) -> list[Position]:
    return [Position(*row) for row in rows]  # type: ignore[arg-type]  # likewise


def _file_hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _known(connection: sqlite3.Connection, idempotency: Idempotency | None) -> Known | None:
    if idempotency is None:
        return None
    found = connection.execute(
        "SELECT request, log_id, segment, byte, length FROM operation WHERE key = ? AND at >= ?",
        (idempotency.key, microseconds(utc_now()) - _DAY_US),
    ).fetchone()
    if found is None:
        return None
    request, log_id, *place = found
    if request != idempotency.request:
        raise IdempotencyMismatch("idempotency_mismatch")
    return Known(UUID(bytes=log_id), Position(*place))
