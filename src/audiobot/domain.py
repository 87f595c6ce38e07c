"""The records that every part of AudioBot speaks in: frozen, and checked before they are kept.

Times are timezone-aware UTC ``datetime``; durations are seconds; vectors are float32.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID

import msgspec

from audiobot.errors import InvalidValue

MAX_MESSAGE = 2_000
MAX_SESSION_ID = 200
MAX_FEEDBACK = 2_000
MAX_CORRECTION = 4_000
MAX_RESPONSE = 8_000
"""Limits in characters; ``MAX_RESPONSE`` bounds what AudioBot itself says."""
MAX_WORDINGS = 50
"""Questions that one correction may answer."""
MAX_TURNS = 1_000
"""Turns that one correction may settle, or one call dismiss."""
_WORDS = re.compile(r"[^\W\d_]+")
_CYRILLIC = re.compile("[а-яёА-ЯЁ]")
_OWN_WORDS = frozenset({"retrieval", "correction"})
_OURS = _OWN_WORDS | {"small_talk", ""}
MAX_DETAILS = 1_000_000
"""What an evaluation may tell beside its numbers."""

Language = Literal["ru", "en"]
Outcome = Literal["answered", "asked", "handed_over"]
Durability = Literal["journal", "postgres"]
RatingStatus = Literal["stored", "pending"]
StorageMode = Literal["memory", "postgres", "fallback", "recovering", "draining"]
SourceKind = Literal["knowledge", "document", "dialogues", "correction"]


def utc_now() -> datetime:
    """The present moment, timezone-aware, in UTC."""
    return datetime.now(UTC)


class Embedding(msgspec.Struct, frozen=True, gc=False):
    """A vector as bytes: float32 little-endian, ``dimension`` numbers, made by ``model``."""

    vector: bytes
    dimension: int
    model: str


class Source(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One line of the receipt: what an answer rests on.

    ``ids`` (of dialogues or knowledge items) are shown to operators only: a ``log_id``
    lets its holder rate that dialogue.
    """

    kind: SourceKind
    title: str
    ids: tuple[str, ...] = ()
    dialogues: int = 0
    raters: int = 0


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One answer that was weighed in a turn: which knowledge item, and its fused score."""

    item_id: str
    score: float


class Conversation(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One dialogue: what was asked, what the person was told (to the letter), how it was rated.

    Everything above ``rating`` is written once; ``content_hash`` covers its words.
    """

    log_id: UUID
    session_id: str
    user_message: str
    ai_response: str
    created_at: datetime
    model_used: str = "retrieval"
    response_time: float = 0.0
    outcome: Outcome = "answered"
    language: Language = "ru"
    durability: Durability = "journal"
    token_count: int | None = None
    similar_found: int = 0
    learning_improved: bool = False
    confidence: float | None = None
    sources: tuple[Source, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    propensity: float | None = None
    versions: dict[str, str] = {}
    embedding: Embedding | None = None

    rating: int | None = None
    rater: str | None = None
    feedback_text: str | None = None
    updated_at: datetime | None = None

    @property
    def item_id(self) -> str | None:
        """The knowledge item that was told, if the answer was one."""
        return self.candidates[0].item_id if self.candidates and self.learnable else None

    @property
    def learnable(self) -> bool:
        """True when the words told are the company's own, not generated and not a hand-over."""
        return self.outcome == "answered" and self.model_used in _OWN_WORDS

    @property
    def generated(self) -> bool:
        """True when a language model worded the answer: nobody stands behind those words yet."""
        return self.outcome == "answered" and self.model_used not in _OURS


def content_hash(conversation: Conversation) -> bytes:
    """SHA-256 over the words of a dialogue (32 bytes); told again, it is the same."""
    said = (conversation.session_id, conversation.user_message, conversation.ai_response)
    return hashlib.sha256(msgspec.msgpack.encode(said)).digest()


class Idempotency(msgspec.Struct, frozen=True, gc=False):
    """A caller's ``Idempotency-Key``: digests (16 bytes each) of the key and of the request."""

    key: bytes
    request: bytes


class RatingOutcome(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What became of a rating: ``stored`` on its dialogue, or ``pending`` until that is known."""

    log_id: UUID
    rating: int
    status: RatingStatus
    version: int
    answered: bool
    """False for a dialogue that was handed over: it never becomes training data."""


class KnowledgeItem(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One thing the company knows: an answer with the questions it answers, or a passage.

    ``item_id`` is derived from the content's identity, so importing twice changes nothing.
    """

    item_id: str
    title: str
    answer: str
    questions: tuple[str, ...] = ()
    language: Language = "ru"


class KnowledgeSource(msgspec.Struct, frozen=True, kw_only=True):
    """All items that came from one imported file; importing the file again replaces them."""

    name: str
    items: tuple[KnowledgeItem, ...]
    imported_at: datetime


class Correction(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An operator's answer to a question, in other wordings too: it outranks all that is built in.

    ``wordings`` are the questions that it answers, as people and the operator put them;
    ``log_ids`` the turns that it settles. One that is ``withdrawn`` counts no more; its answer is
    kept, so that withdrawing can be undone. ``version`` orders what two operators say.
    """

    correction_id: UUID
    answer: str
    wordings: tuple[str, ...]
    language: Language
    corrected_at: datetime
    version: int
    log_ids: tuple[UUID, ...] = ()
    withdrawn: bool = False


class CorrectionOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A correction as it is kept, and the one in its place that its author had not seen."""

    correction: Correction
    replaced: Correction | None = None


class Suggestion(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's better answer to a dialogue: nothing but an operator makes it the bot's words.

    ``op_id`` is its rating's. It is ``quarantined`` when it holds what a stranger should not
    bring under an operator's eyes unmarked: a link, an address, a phone number, foul language.
    """

    op_id: UUID
    conversation: Conversation
    text: str
    suggested_at: datetime
    quarantined: bool = False


class Praised(msgspec.Struct, frozen=True, kw_only=True):
    """What a language model said and people rated well: an operator may make it the bot's words.

    ``turns`` are those in which it was told to this question, newest first; ``raters`` says by how
    many people. It is dismissed by its ``praise_id``. ``quarantined`` as in a suggestion.
    """

    praise_id: UUID
    turns: tuple[Conversation, ...]
    raters: int
    quarantined: bool

    @property
    def newest(self) -> Conversation:
        """The turn that stands for all."""
        return self.turns[0]


class OperatorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator answered to somebody's question after it was asked."""

    log_id: UUID
    question: str
    answer: str
    asked_at: datetime
    answered_at: datetime


class QuestionGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Waiting turns that ask one thing; ``question``, one of theirs, stands for all of them."""

    question: str
    language: Language
    turns: tuple[Conversation, ...]


class PreviewedTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A past question: what it is told today (None: it is handed over), and what it would be."""

    log_id: UUID
    question: str
    before: str | None
    after: str | None


class AnswerPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator's answer would do, were it kept.

    ``caught`` are the past questions that it would answer and does not yet; where ``before`` is a
    text, that answer would change. ``terse`` when the answer does not name what it is about: its
    words then help to find it for nobody who asks differently.
    """

    caught: tuple[PreviewedTurn, ...]
    looked_at: int
    terse: bool


class ModelMetrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one evaluation of one version of the learner found: a row of ``model_metrics``.

    ``details`` is what else there is to tell, as JSON has it.
    """

    evaluation_id: UUID
    model_version: str
    created_at: datetime
    avg_rating: float | None = None
    total_interactions: int = 0
    positive_ratings: int = 0
    negative_ratings: int = 0
    user_satisfaction: float | None = None
    held_out_accuracy: float | None = None
    evaluation_period_start: datetime | None = None
    evaluation_period_end: datetime | None = None
    is_current_model: bool = False
    requires_retraining: bool = False
    details: dict[str, Any] = {}


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Totals over all dialogues at ``as_of``; ``complete`` is false when a part is out of reach.

    ``recent`` and ``recent_positive`` count the dialogues of the last 24 hours and those of
    them rated 4-5.
    """

    total_interactions: int
    rated_interactions: int
    rating_sum: int
    positive_ratings: int
    negative_ratings: int
    recent: int
    recent_positive: int
    complete: bool
    as_of: datetime

    @property
    def avg_rating(self) -> float:
        """Mean rating, 0.0 while nothing is rated."""
        return self.rating_sum / self.rated_interactions if self.rated_interactions else 0.0

    @property
    def improvement_rate(self) -> float:
        """Share of the last 24 hours' dialogues that were rated 4-5, 0.0 when there are none."""
        return self.recent_positive / self.recent if self.recent else 0.0


def stats_of_counts(
    counts: Mapping[int, int], *, recent: int, recent_positive: int, as_of: datetime
) -> Stats:
    """Totals from how many dialogues have each rating, 0 for none; 0-5 are all there."""
    rated = sum(counts[r] for r in range(1, 6))
    return Stats(
        total_interactions=rated + counts[0],
        rated_interactions=rated,
        rating_sum=sum(r * counts[r] for r in range(1, 6)),
        positive_ratings=counts[4] + counts[5],
        negative_ratings=counts[1] + counts[2],
        recent=recent,
        recent_positive=recent_positive,
        complete=True,
        as_of=as_of,
    )


class StorageStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where dialogues lie at this moment, for health, doctor and the console."""

    mode: StorageMode
    reason: str
    since: datetime
    durability: Durability
    database_available: bool
    accepting: bool
    journal_backlog: int
    oldest_backlog_seconds: float
    ephemeral: bool
    missing_records: int
    conflicts: int
    orphans: int
    complete: bool = True
    """False while dialogues are out of reach: exports and searches are partial."""
    refused: int = 0
    """Operations that PostgreSQL will never take: kept in files beside the journals."""
    doubtful: int = 0
    """Operations in the journal that PostgreSQL may have too: its answer never came."""
    waiting: dict[Durability, int] = {}
    """Operations that wait for the next commit of each home."""
    pool_checked_out: int = 0
    held: int = 0
    """Dialogues in memory; ``evicted`` so many have left it since the start."""
    evicted: int = 0


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters."""
    return _WORDS.findall(text)


def same_wording(wording: str) -> str:
    """A wording without what does not make it another: its case and its spaces."""
    return " ".join(wording.casefold().split())


def spoken_language(text: str) -> Language | None:
    """Russian or English by the letters of most words; None without a word."""
    words = words_of(text)
    cyrillic = sum(_CYRILLIC.search(word) is not None for word in words)
    if not words:
        return None
    return "ru" if 2 * cyrillic >= len(words) else "en"


def check_text(name: str, value: str, limit: int, *, blank: bool = True) -> str:
    """Return ``value`` if every store can keep it, else raise ``InvalidValue`` naming the field.

    Refused: over ``limit`` characters, NUL (PostgreSQL text has none), lone surrogates (no
    UTF-8 form), and blank text unless ``blank``.
    """
    if len(value) > limit:
        raise InvalidValue("text_too_long", field=name, limit=limit)
    if "\x00" in value:
        raise InvalidValue("text_has_nul", field=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValue("text_has_surrogate", field=name) from None
    if not blank and not value.strip():
        raise InvalidValue("text_blank", field=name)
    return value


def check_metrics(metrics: ModelMetrics) -> ModelMetrics:
    """Return ``metrics`` as every store can keep them: numbers finite, details as JSON has them."""
    numbers = (metrics.avg_rating, metrics.user_satisfaction, metrics.held_out_accuracy)
    counts = (metrics.total_interactions, metrics.positive_ratings, metrics.negative_ratings)
    if not all(number is None or math.isfinite(number) for number in numbers):
        raise InvalidValue("value_refused", field="metrics")
    if not all(0 <= count < 1 << 31 for count in counts):
        raise InvalidValue("value_refused", field="metrics")
    try:
        details = json.dumps(metrics.details, allow_nan=False, ensure_ascii=False)
        plain = json.loads(details)
        msgspec.msgpack.encode(plain)
    except (TypeError, ValueError, OverflowError):
        raise InvalidValue("value_refused", field="details") from None
    check_text("details", details.replace("\\u0000", "\x00"), MAX_DETAILS)
    check_text("model_version", metrics.model_version, MAX_SESSION_ID, blank=False)
    return msgspec.structs.replace(metrics, details=plain)


def check_rating(value: int) -> int:
    """Return ``value`` if it is a whole number from 1 to 5, else raise ``InvalidValue``."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 5:
        raise InvalidValue("rating_range", field="rating")
    return value


@lru_cache(256)
def _finite(vector: bytes) -> bool:
    """True when all its float32 numbers are: those add up to a finite double.

    Dialogues of one question share a vector, and bytes keep their hash.
    """
    return math.isfinite(sum(struct.unpack(f"<{len(vector) // 4}f", vector)))


def check_embedding(embedding: Embedding) -> Embedding:
    """Return ``embedding`` if its bytes are ``dimension`` finite float32 numbers."""
    if not embedding.vector or len(embedding.vector) != 4 * embedding.dimension:
        raise InvalidValue("embedding_shape", field="embedding")
    if not _finite(embedding.vector):
        raise InvalidValue("embedding_not_finite", field="embedding")
    return embedding
