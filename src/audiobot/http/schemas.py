"""The wire: what requests must look like and what replies do, as contract.md fixes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from audiobot.domain import (
    MAX_CORRECTION,
    MAX_FEEDBACK,
    MAX_MESSAGE,
    MAX_SESSION_ID,
    MAX_TURNS,
    MAX_WORDINGS,
    Durability,
    Language,
    Outcome,
    SourceKind,
)


def _storable(value: object) -> object:
    if isinstance(value, str) and "\x00" in value:
        raise PydanticCustomError("text_has_nul", "NUL")
    return value


def _not_blank(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("text_blank", "blank")
    return value


Text = Annotated[str, BeforeValidator(_storable)]
SpokenText = Annotated[Text, BeforeValidator(_not_blank)]


class Request(BaseModel):
    """A body: types are what they say (no rating of "5" or true), extra fields are let be."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class ProcessRequest(Request):
    """A question."""

    message: SpokenText = Field(min_length=1, max_length=MAX_MESSAGE, pattern=r"\S")
    session_id: Text | None = Field(None, max_length=MAX_SESSION_ID)


class FeedbackRequest(Request):
    """A rating of an answer."""

    log_id: Text = Field(max_length=MAX_SESSION_ID, description="the answer's log_id, any case")
    rating: int = Field(ge=1, le=5)
    feedback_text: Text | None = Field(None, max_length=MAX_FEEDBACK)
    corrected_response: Text | None = Field(
        None,
        max_length=MAX_CORRECTION,
        description="an operator's answers this question from now on; anyone else's is kept"
        " beside the rating, for the operator",
    )


MAX_VERSION = 1 << 62
Wording = Annotated[SpokenText, Field(min_length=1, max_length=MAX_MESSAGE, pattern=r"\S")]
TurnId = Annotated[Text, Field(max_length=MAX_SESSION_ID)]


class CorrectionRequest(Request):
    """An operator's answer, with the questions that it answers."""

    answer: SpokenText = Field(min_length=1, max_length=MAX_CORRECTION, pattern=r"\S")
    wordings: list[Wording] = Field(min_length=1, max_length=MAX_WORDINGS)
    log_ids: list[TurnId] = Field([], max_length=MAX_TURNS, description="the turns it settles")
    correction_id: Text | None = Field(
        None, max_length=MAX_SESSION_ID, description="of the correction that this one replaces"
    )
    seen_version: int | None = Field(
        None, ge=0, le=MAX_VERSION, description="of what was there when the answer was written"
    )
    language: Language | None = Field(None, description="the questions' own when none is given")


class PreviewRequest(Request):
    """An answer that is still being written, with the questions that it shall answer."""

    answer: SpokenText = Field(min_length=1, max_length=MAX_CORRECTION, pattern=r"\S")
    wordings: list[Wording] = Field(min_length=1, max_length=MAX_WORDINGS)
    language: Language | None = Field(None, description="the questions' own when none is given")


class DismissRequest(Request):
    """Turns, by their log_id, or suggestions, by their op_id, that need no answer."""

    log_ids: list[TurnId] = Field(min_length=1, max_length=MAX_TURNS)
    dismissed: bool = Field(True, description="false takes it back")


class Reply(BaseModel):
    """A reply: written once, by us."""

    model_config = ConfigDict(frozen=True)


class SourceLine(Reply):
    """One line of the receipt; ``ids`` only to an operator."""

    kind: SourceKind
    title: str
    dialogues: int = 0
    raters: int = 0
    ids: list[str] | None = None


class ProcessReply(Reply):
    """What the person is told, to the letter, and where it lies safe."""

    response: str
    log_id: UUID
    session_id: str
    model_used: str
    response_time: float
    similar_found: int
    learning_improved: bool
    durability: Durability
    confidence: float | None
    outcome: Outcome
    sources: list[SourceLine]


class FeedbackReply(Reply):
    """What became of a rating."""

    success: bool
    message: str
    log_id: UUID
    will_be_used_for_training: bool
    status: Literal["stored", "pending"]


class StatsReply(Reply):
    """Totals over all dialogues."""

    total_interactions: int
    avg_rating: float
    positive_ratings: int
    negative_ratings: int
    rated_interactions: int
    improvement_rate: float
    last_learning_update: datetime | None
    complete: bool
    as_of: datetime


class ExportMessage(Reply):
    """One side of a dialogue."""

    role: Literal["user", "assistant"]
    content: str


class ExportMetadata(Reply):
    """Where a sample comes from."""

    rating: int
    timestamp: datetime
    session_id: str


class ExportSample(Reply):
    """One dialogue in OpenAI's chat form."""

    messages: list[ExportMessage]
    metadata: ExportMetadata


class ExportReply(Reply):
    """A data set in one piece; ask for application/x-ndjson to stream it."""

    total_exported: int
    min_rating_used: int
    data: list[ExportSample]
    export_timestamp: datetime
    complete: bool


class Question(Reply):
    """A question that was handed over to a person and has no answer yet."""

    log_id: UUID
    session_id: str
    user_message: str
    timestamp: datetime


class QuestionsReply(Reply):
    """What waits for an answer, newest first; ``complete`` is false when some is away."""

    questions: list[Question]
    complete: bool


class CorrectionItem(Reply):
    """An operator's answer as it is kept."""

    correction_id: UUID
    answer: str
    wordings: list[str]
    language: Language
    log_ids: list[UUID]
    corrected_at: datetime
    version: int
    withdrawn: bool


class CorrectionReply(Reply):
    """What became of a correction; ``replaced`` is what another operator had put there since."""

    correction: CorrectionItem
    replaced: CorrectionItem | None


class CorrectionsReply(Reply):
    """The corrections, oldest version first; ``complete`` is false when some may be away."""

    corrections: list[CorrectionItem]
    complete: bool


class InboxTurn(Reply):
    """A turn that waits for an operator: handed over, or rated 1-2."""

    log_id: UUID
    session_id: str
    user_message: str
    ai_response: str
    outcome: Outcome
    model_used: str
    confidence: float | None
    language: Language
    rating: int | None
    feedback_text: str | None
    timestamp: datetime


class InboxReply(Reply):
    """What waits, newest first; ``complete`` is false when some is away."""

    turns: list[InboxTurn]
    complete: bool


class QuestionGroupItem(Reply):
    """Waiting turns that ask one thing; ``question``, one of theirs, stands for all of them."""

    question: str
    language: Language
    turns: list[InboxTurn]


class InboxGroupsReply(Reply):
    """What waits, the group worth most first; ``complete`` is false when some is away."""

    groups: list[QuestionGroupItem]
    complete: bool


class PreviewedItem(Reply):
    """A past question: what it is told today (null: it is handed over), and what it would be."""

    log_id: UUID
    question: str
    before: str | None
    after: str | None


class PreviewReply(Reply):
    """What an answer would do to ``looked_at`` past questions; ``terse`` when it names no topic."""

    caught: list[PreviewedItem]
    looked_at: int
    terse: bool


class DismissReply(Reply):
    """How many turns or suggestions that were."""

    dismissed: int


class SuggestionItem(Reply):
    """A customer's better answer; ``quarantined`` when it holds a link, a number or foul words."""

    op_id: UUID
    log_id: UUID
    user_message: str
    ai_response: str
    text: str
    rating: int | None
    quarantined: bool
    timestamp: datetime


class SuggestionsReply(Reply):
    """Suggestions that wait, newest first; ``complete`` is false when some are away."""

    suggestions: list[SuggestionItem]
    complete: bool


class PraisedItem(Reply):
    """A language model's answer that people rated well, told in ``log_ids``, the newest first.

    It is dismissed by its ``praise_id``, as a suggestion is by its ``op_id``.
    """

    praise_id: UUID
    log_ids: list[UUID]
    user_message: str
    ai_response: str
    raters: int
    quarantined: bool
    timestamp: datetime


class PraisedReply(Reply):
    """Such answers that nobody approved; ``complete`` is false when some are away."""

    praised: list[PraisedItem]
    complete: bool


class SessionAnswer(Reply):
    """What an operator answered to one's own question after it was asked, with its log_id."""

    log_id: UUID
    question: str
    answer: str
    asked_at: datetime
    answered_at: datetime


class SessionAnswersReply(Reply):
    """An operator's answers to a session's questions, newest question first."""

    answers: list[SessionAnswer]


class SimilarConversation(Reply):
    """A past dialogue near the one asked about."""

    log_id: UUID
    user_message: str
    ai_response: str
    rating: int | None
    timestamp: datetime
    similarity: float


class SimilarReply(Reply):
    """Past dialogues near one, nearest first; ``complete`` is false when some were not searched."""

    original_message: str | None
    found_similar: int
    similar_conversations: list[SimilarConversation]
    complete: bool


class ServicesHealth(Reply):
    """What is usable now."""

    database: bool
    storage: bool
    embeddings: bool
    llm: bool
    speech_to_text: bool
    text_to_speech: bool


class StorageHealth(Reply):
    """Where dialogues lie; ``summary`` says it in one sentence."""

    mode: str
    reason: str
    since: datetime
    durability: Durability
    journal_backlog: int
    oldest_backlog_seconds: float
    survives_machine_loss: bool
    ephemeral: bool
    missing_records: int
    conflicts: int
    orphans: int
    summary: str


class LearningHealth(Reply):
    """How much there is to learn from."""

    total_conversations: int
    embeddings_cached: int
    rated_conversations: int
    max_storage_limit: int


class SystemHealth(Reply):
    """The machine's load, sampled in the background."""

    cpu_percent: float
    memory_percent: float
    disk_percent: float


class HealthReply(Reply):
    """How the program is; always 200 while the process lives."""

    status: Literal["healthy", "degraded"]
    version: str
    timestamp: datetime
    uptime_seconds: float
    response_time_ms: float
    services: ServicesHealth
    storage: StorageHealth
    learning_data: LearningHealth
    critical_checks: dict[str, bool]
    system_metrics: SystemHealth


class ReadyReply(Reply):
    """Whether something durable can be accepted."""

    ready: bool
    mode: str


class RootReply(Reply):
    """What this is."""

    name: str
    version: str
    description: str
    features: list[str]
    stats: dict[str, Any]


class BadRowReply(Reply):
    """A row of an imported file that was left out, and why."""

    line: int
    code: str
    detail: str


class ImportReply(Reply):
    """What became of an imported file."""

    source: str
    items: int
    changed: bool
    bad_rows: list[BadRowReply]


class ErrorReply(Reply):
    """Every error: one sentence in the language asked for, and its code."""

    detail: str
    code: str
