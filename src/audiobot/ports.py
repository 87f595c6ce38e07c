"""The seams of AudioBot: every Protocol, its contract in prose. Adapters are named only in main.

Each sentence below is a promise that the conformance suite tests on every implementation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from audiobot.domain import (
    AnswerPreview,
    Candidate,
    Conversation,
    Correction,
    CorrectionOutcome,
    Durability,
    Embedding,
    Idempotency,
    KnowledgeItem,
    KnowledgeSource,
    Language,
    ModelMetrics,
    OperatorAnswer,
    Outcome,
    QuestionGroup,
    RatingOutcome,
    Source,
    Stats,
    StorageStatus,
    Suggestion,
)

Matrix = NDArray[np.float32]
"""float32 numbers; shape (rows, dimension), or (dimension,) for a single vector."""
Halves = NDArray[np.float16]
"""A matrix in half of the bytes, where it is only kept."""


class Store(Protocol):
    """Where dialogues live. The same in every mode; callers never ask which one is active.

    Writing
        When ``add_conversation`` or ``update_rating`` returns, what it wrote is durable
        (committed in PostgreSQL or fsynced in the journal). Cancelling a caller neither undoes
        nor tears a write. Every write is a repeatable operation.

    Errors
        ``InvalidValue`` for what no store would take, before anything is written;
        ``IdempotencyMismatch`` for a used key with another request; ``StorageFull`` or
        ``StorageUnavailable`` (both retryable) when nothing durable can be accepted. What was
        acknowledged stays, whatever is raised later.
    """

    @property
    def database_available(self) -> bool:
        """True while PostgreSQL takes the writes."""
        ...

    async def add_conversation(
        self,
        log_id: UUID | None,
        user_msg: str,
        ai_response: str,
        session_id: str,
        *,
        reply: Reply | None = None,
        response_time: float = 0.0,
        idempotency: Idempotency | None = None,
    ) -> Conversation:
        """Keep a dialogue; with ``log_id`` None a new id is issued.

        Insert-once: if the id is taken, or ``idempotency`` was used by the same request, the
        dialogue that came first is returned and nothing is written.
        """
        ...

    async def update_rating(
        self,
        log_id: UUID,
        rating: int,
        feedback: str | None = None,
        *,
        corrected_response: str | None = None,
        rater: str | None = None,
        by_operator: bool = False,
        idempotency: Idempotency | None = None,
    ) -> RatingOutcome:
        """Rate a dialogue; the newest acknowledged rating counts, every rating is kept.

        ``pending`` when the id is genuine but its dialogue is not in reach; raises
        ``UnknownDialogue`` when AudioBot never issued the id.
        """
        ...

    async def find_reply(self, idempotency: Idempotency) -> Conversation | RatingOutcome | None:
        """What the same request under the same key came to in the last 24 hours, if it did."""
        ...

    async def get_conversation(self, log_id: UUID) -> Conversation | None:
        """The dialogue with its current rating; None for a genuine id that is not in reach.

        Raises ``UnknownDialogue`` for an id AudioBot never issued.
        """
        ...

    def at_hand(self, log_id: UUID) -> Conversation | None:
        """The dialogue if this process holds it; never waits.

        Its words are what they are; its rating is the newest that this process took, another
        process may have taken a later one.
        """
        ...

    def newest_at_hand(self, most: int) -> list[Conversation]:
        """The newest dialogues that this process holds, newest first; never waits."""
        ...

    async def get_stats(self) -> Stats:
        """Totals over every dialogue kept, equal to a recount at this moment."""
        ...

    def get_rated_conversations(
        self, min_rating: int = 4, *, answered: bool = False, newest: int | None = None
    ) -> AsyncIterator[Conversation]:
        """Dialogues rated at least ``min_rating``, oldest first, in bounded memory.

        With ``answered``, only those whose person got an answer; with ``newest``, only the newest
        so many. While ``status().complete`` is false only those in reach are listed; a list that
        breaks off raises ``StorageUnavailable``.
        """
        ...

    async def get_handed_over(self, most: int) -> list[Conversation]:
        """The newest dialogues that were handed over to a person and wait, newest first.

        Left out is what the inbox leaves out; those rated low are not among them.
        """
        ...

    async def replace_knowledge(self, name: str, items: Sequence[KnowledgeItem]) -> bool:
        """Keep ``items`` in place of all that source ``name`` held; False when nothing changed."""
        ...

    async def get_knowledge(self) -> list[KnowledgeSource]:
        """Every source that holds items, by name."""
        ...

    async def correct(
        self,
        answer: str,
        wordings: Sequence[str],
        language: Language,
        *,
        log_ids: Sequence[UUID] = (),
        correction_id: UUID | None = None,
        withdrawn: bool = False,
        seen_version: int | None = None,
    ) -> CorrectionOutcome:
        """Keep an operator's answer, in place of what stood under ``correction_id`` before.

        Without an id it is a new one. Of two at once the later counts; ``replaced`` is the one
        that its author had not seen: who names no ``seen_version`` saw none. Without
        ``wordings`` it answers the questions of ``log_ids``, as soon as these are in reach.
        """
        ...

    async def withdraw(
        self, correction_id: UUID, *, withdrawn: bool = True, seen_version: int | None = None
    ) -> CorrectionOutcome:
        """Let a correction count no more; or again, with ``withdrawn`` false.

        Raises ``UnknownCorrection`` for an id that no correction in reach bears.
        """
        ...

    async def get_corrections(self, *, withdrawn: bool = False) -> list[Correction]:
        """The corrections in force, with ``withdrawn`` the others too; oldest version first.

        Where two have a wording in common the later one counts. One whose questions are not in
        reach yet is left out. Raises ``StorageUnavailable`` when the reading broke off, as do
        the calls for the inbox, for suggestions and for answers.
        """
        ...

    async def dismiss(self, log_ids: Sequence[UUID], dismissed: bool = True) -> int:
        """Take turns out of the inbox, or back into it; how many that are.

        A suggestion is dismissed by the ``op_id`` of its rating.
        """
        ...

    async def get_inbox(self, most: int) -> list[Conversation]:
        """Turns that were handed over or are rated 1-2, newest first.

        Left out are those that a correction in force settles and those that are dismissed. While
        ``status().complete`` is false only those in reach are listed.
        """
        ...

    async def get_suggestions(self, most: int) -> list[Suggestion]:
        """What customers would have answered, newest first, until an operator has seen to it.

        One is gone when it is dismissed, and when its turn is settled by a later correction.
        """
        ...

    async def get_dismissed(self, subjects: Sequence[UUID]) -> set[UUID]:
        """Those among ``subjects`` that an operator took out of sight, as far as is in reach."""
        ...

    async def get_last_of_session(self, session_id: str) -> Conversation | None:
        """A session's newest dialogue, whichever process kept it; None when none is in reach.

        Raises ``StorageUnavailable`` when PostgreSQL breaks off.
        """
        ...

    async def get_answers(self, session_id: str, most: int) -> list[OperatorAnswer]:
        """Of a session's newest questions those that a correction settled since, newest first."""
        ...

    async def add_evaluation(self, metrics: ModelMetrics) -> None:
        """Keep what an evaluation found; the first one under its id stays.

        Of those said to be of the current model the newest alone is told to be.
        """
        ...

    async def get_evaluations(self, most: int) -> list[ModelMetrics]:
        """The newest evaluations, newest first; in an outage those in reach."""
        ...

    async def changes(self, since: ChangeMark | None) -> Changes:
        """What other processes changed after ``since``; some is told twice, none is missed.

        With None nothing is told but the mark to begin from; nor is anything while the home that
        processes share is away.
        """
        ...

    def status(self) -> StorageStatus:
        """Where dialogues lie right now and whether more are accepted; never blocks."""
        ...


class ChangeMark(msgspec.Struct, frozen=True):
    """How far a listener has heard: opaque to it."""

    at: datetime | None = None
    seen: frozenset[tuple[UUID, datetime | None]] = frozenset()
    knowledge: str = ""
    corrections: str = ""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Dialogues that were rated, and whether knowledge or corrections changed, since a mark.

    ``reload``: the shared home was away at the mark, all that it holds may be new.
    """

    mark: ChangeMark
    rated: tuple[UUID, ...] = ()
    knowledge: bool = False
    corrections: bool = False
    reload: bool = False


class Encoder(Protocol):
    """Turns texts into unit vectors. Called from one worker thread at a time; may be slow."""

    @property
    def name(self) -> str:
        """The model's name with its version: vectors of two names are never compared."""
        ...

    @property
    def dimension(self) -> int:
        """How many float32 numbers a vector has."""
        ...

    def query(self, texts: Sequence[str]) -> Matrix:
        """Vectors of questions, shape (len(texts), dimension), each of length 1."""
        ...

    def passage(self, texts: Sequence[str]) -> Matrix:
        """Vectors of texts that answer, shape (len(texts), dimension), each of length 1."""
        ...


class Reply(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What the bot says to one question, and everything that speaks for it."""

    text: str
    outcome: Outcome = "answered"
    model_used: str = "retrieval"
    language: Language = "ru"
    confidence: float | None = None
    sources: tuple[Source, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    propensity: float | None = None
    similar_found: int = 0
    learning_improved: bool = False
    token_count: int | None = None
    versions: dict[str, str] = {}
    embedding: Embedding | None = None


class Similar(msgspec.Struct, frozen=True, gc=False):
    """A past dialogue near a question, and how near: cosine, 1.0 for the same words."""

    conversation: Conversation
    similarity: float


class Answerer(Protocol):
    """Answers one question from what the company knows, or says that it does not know."""

    async def answer(self, question: str, language: Language) -> Reply:
        """The reply; never raises for a question that passed the edge."""
        ...

    async def similar(self, conversation: Conversation, limit: int) -> list[Similar]:
        """Rated dialogues nearest to ``conversation``, itself excluded, nearest first."""
        ...

    async def learn(self, log_ids: Sequence[UUID], *, here: bool = False) -> None:
        """Take notice that dialogues were rated: they count from the next question on.

        ``here``: by this process, so what it has at hand is the newest. Raises ``Unavailable``
        when some of them could not be read; the others count all the same.
        """
        ...

    async def refresh(self) -> None:
        """Take up the knowledge and the corrections as the store now holds them."""
        ...

    async def take_corrections(self) -> None:
        """Take up the corrections alone: a second suffices, however large the knowledge is.

        Exact words count at once. Calls may overlap: what waits is taken up together.
        """
        ...

    async def group(self, turns: Sequence[Conversation]) -> list[QuestionGroup]:
        """``turns`` by what they ask, each in one group: the group worth most first.

        A group is worth as much as it has turns, one that was rated low counting for two. Turns
        of a group keep their order. While nothing can be compared yet each is a group.
        """
        ...

    async def preview(
        self,
        answer: str,
        wordings: Sequence[str],
        language: Language,
        turns: Sequence[Conversation],
    ) -> AnswerPreview:
        """What a correction would do to ``turns`` and to rated dialogues near it; keeps nothing."""
        ...


class Passage(msgspec.Struct, frozen=True):
    """What a language model is given to answer from."""

    title: str
    text: str


class Completion(msgspec.Struct, frozen=True):
    """What a language model said; ``token_count`` is its own count of the tokens it made."""

    text: str
    model: str
    token_count: int | None


class LanguageModel(Protocol):
    """Words an answer from passages. Raises ``LanguageModelError`` in time, whatever happens."""

    @property
    def usable(self) -> bool:
        """False while the model is known to be out of reach."""
        ...

    async def complete(
        self, question: str, passages: Sequence[Passage], language: Language
    ) -> Completion | None:
        """An answer that rests on ``passages``, or None when the model finds none in them."""
        ...


class BadRow(msgspec.Struct, frozen=True):
    """A row of a file that was left out: at which line (from 1), and why, by code."""

    line: int
    code: str
    details: dict[str, object]


class Imported(msgspec.Struct, frozen=True):
    """What became of a file: its good items, whether they changed anything, its bad rows."""

    source: str
    items: int
    changed: bool
    bad_rows: list[BadRow]


class KnowledgeImporter(Protocol):
    """Takes files of knowledge into the store; what they say counts at once."""

    async def import_file(self, name: str, data: bytes) -> Imported:
        """Replace what source ``name`` held by the good rows of ``data``.

        A file whose rows are all bad replaces nothing; one that has no row at all clears its
        source. Raises ``InvalidValue`` when its name's
        ending is none of .md, .csv, .jsonl.
        """
        ...


Stage = Literal["embed", "search", "model", "store"]
"""The parts of a turn that are timed."""
Worded = Literal["answered", "nothing", "failed", "skipped"]
"""What came of asking a language model; ``skipped``: its circuit was open."""
Refusal = Literal[
    "bad_request", "head_too_large", "request_timeout", "too_many_connections", "shutting_down"
]
"""Why a request is refused before the application sees it."""


class Meter(Protocol):
    """Hears what goes on behind the ports: numbers, and words from fixed lists.

    Every call returns at once and never raises. Nothing that a person said is told here. Calls
    come from the event loop, in the context of the request that they belong to if there is one.
    """

    def stage(self, name: Stage) -> AbstractContextManager[object]:
        """A block around one part of a turn, however it ends."""
        ...

    def committed(self, home: Durability, operations: int, seconds: float) -> None:
        """A home made so many operations durable in one commit."""
        ...

    def not_committed(self, home: Durability, reason: str, op_id: UUID) -> None:
        """A home did not take an operation.

        PostgreSQL's goes on to the journal, the journal's is refused to its caller.
        """
        ...

    def abandoned(self, seconds: float) -> None:
        """Work on PostgreSQL was given up after so long and left to itself."""
        ...

    def replayed(self, operations: int) -> None:
        """PostgreSQL took so many operations from the journal."""
        ...

    def adopted(self, operations: int) -> None:
        """A dead worker's journal was carried over."""
        ...

    def encoded(self, texts: int) -> None:
        """The encoder took so many questions in one batch."""
        ...

    def worded(self, result: Worded) -> None:
        """A language model was asked."""
        ...


class NoMeter:
    """A :class:`Meter` that hears nothing."""

    def stage(self, name: Stage) -> AbstractContextManager[object]:  # noqa: ARG002  # it hears nothing
        """See the port."""
        return nullcontext()

    def committed(self, home: Durability, operations: int, seconds: float) -> None:
        """See the port."""

    def not_committed(self, home: Durability, reason: str, op_id: UUID) -> None:
        """See the port."""

    def abandoned(self, seconds: float) -> None:
        """See the port."""

    def replayed(self, operations: int) -> None:
        """See the port."""

    def adopted(self, operations: int) -> None:
        """See the port."""

    def encoded(self, texts: int) -> None:
        """See the port."""

    def worded(self, result: Worded) -> None:
        """See the port."""


NO_METER: Meter = NoMeter()
