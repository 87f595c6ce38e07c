"""StorageAdapter: the one store that the rest of the program sees, whatever stands behind it.

It checks every value at the edge, makes Operations of calls, and sends them to the store that is
in charge. In this version that is always the local one (mode ``memory``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from audiobot.domain import (
    MAX_CORRECTION,
    MAX_FEEDBACK,
    MAX_MESSAGE,
    MAX_RESPONSE,
    MAX_SESSION_ID,
    Conversation,
    Idempotency,
    KnowledgeItem,
    KnowledgeSource,
    RatingOutcome,
    Stats,
    StorageStatus,
    check_embedding,
    check_rating,
    check_text,
    utc_now,
)
from audiobot.errors import StorageFull, UnknownDialogue
from audiobot.ports import Reply
from audiobot.storage.directory import DataDirectory, DialogueIds
from audiobot.storage.local import Committed, LocalStore
from audiobot.storage.memory import MAX_BYTES, MAX_CONVERSATIONS, SafeInMemoryStorage
from audiobot.storage.operations import (
    AddConversation,
    RateConversation,
    ReplaceKnowledge,
    clock_version,
)

_MAX_RATER: Final = 64


class StorageAdapter:
    """The hybrid store; see :class:`audiobot.ports.Store` for what it promises.

    ``open`` blocks (it reads the journal) and belongs in a thread; ``start`` follows on the loop.
    """

    def __init__(
        self,
        directory: DataDirectory,
        ids: DialogueIds,
        *,
        max_conversations: int = MAX_CONVERSATIONS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.in_memory_storage = SafeInMemoryStorage(max_conversations, max_bytes)
        self._directory = directory
        self._ids = ids
        self._local = LocalStore(directory, self.in_memory_storage)
        self._since: datetime = utc_now()

    def open(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Bring the local store up from its journal."""
        self._local.open(progress)
        self._ephemeral = self._directory.ephemeral
        self._missing = sum(last - first + 1 for first, last in self._local.index.gaps())

    async def start(self) -> None:
        """Begin to accept."""
        self._since = utc_now()
        await self._local.start()

    async def close(self) -> None:
        """Finish what was handed in and close every file."""
        await self._local.close()

    @property
    def database_available(self) -> bool:
        """True while PostgreSQL takes the writes; false in memory mode."""
        return False

    # -- writing ---------------------------------------------------------------------------

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
        """Keep a dialogue; see the port."""
        check_text("message", user_msg, MAX_MESSAGE)
        check_text("response", ai_response, MAX_RESPONSE)
        check_text("session_id", session_id, MAX_SESSION_ID)
        told = reply or Reply(text=ai_response)
        if told.embedding is not None:
            check_embedding(told.embedding)
        conversation = Conversation(
            log_id=log_id or self._ids.issue(),
            session_id=session_id,
            user_message=user_msg,
            ai_response=ai_response,
            created_at=utc_now(),
            model_used=told.model_used,
            response_time=response_time,
            outcome=told.outcome,
            language=told.language,
            durability="journal",
            token_count=told.token_count,
            similar_found=told.similar_found,
            learning_improved=told.learning_improved,
            confidence=told.confidence,
            sources=told.sources,
            candidates=told.candidates,
            propensity=told.propensity,
            versions=told.versions,
            embedding=told.embedding,
        )
        operation = AddConversation(
            op_id=uuid4(), conversation=conversation, idempotency=idempotency
        )
        committed = await self._local.commit(operation)
        assert isinstance(committed.operation, AddConversation)
        return committed.operation.conversation

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
        """Rate a dialogue; see the port."""
        check_rating(rating)
        if feedback is not None:
            check_text("feedback_text", feedback, MAX_FEEDBACK)
        if corrected_response is not None:
            check_text("corrected_response", corrected_response, MAX_CORRECTION)
        if rater is not None:
            check_text("rater", rater, _MAX_RATER)
        await self._know(log_id)
        operation = RateConversation(
            op_id=uuid4(),
            log_id=log_id,
            rating=rating,
            version=clock_version(),
            rated_at=utc_now(),
            feedback_text=feedback,
            corrected_response=corrected_response,
            rater=rater,
            by_operator=by_operator,
            idempotency=idempotency,
        )
        return _rating_outcome(await self._local.commit(operation))

    async def _know(self, log_id: UUID) -> None:
        """Raise ``UnknownDialogue`` unless the id is kept here or proves itself."""
        if log_id in self.in_memory_storage or self._ids.genuine(log_id):
            return
        row = await self._local.row(log_id)
        if row is None or row.position is None:
            raise UnknownDialogue("unknown_dialogue")

    async def replace_knowledge(self, name: str, items: Sequence[KnowledgeItem]) -> bool:
        """Replace a source's items; see the port."""
        check_text("source", name, MAX_SESSION_ID, blank=False)
        for item in items:
            for text in (item.item_id, item.title, item.answer, *item.questions):
                check_text("knowledge", text, MAX_RESPONSE)
        source = KnowledgeSource(name=name, items=tuple(items), imported_at=utc_now())
        operation = ReplaceKnowledge(op_id=uuid4(), source=source, version=clock_version())
        return (await self._local.commit(operation)).fresh

    # -- reading ---------------------------------------------------------------------------

    async def find_reply(self, idempotency: Idempotency) -> Conversation | RatingOutcome | None:
        """What the same request came to before; see the port."""
        committed = await self._local.earlier(idempotency)
        if committed is None:
            return None
        if isinstance(committed.operation, AddConversation):
            return committed.operation.conversation
        return _rating_outcome(committed)

    async def get_conversation(self, log_id: UUID) -> Conversation | None:
        """One dialogue; see the port."""
        conversation = await self._local.get(log_id)
        if conversation is None and not self._ids.genuine(log_id):
            raise UnknownDialogue("unknown_dialogue")
        return conversation

    async def get_stats(self) -> Stats:
        """Totals; see the port."""
        return await self._local.stats()

    def get_rated_conversations(
        self, min_rating: int = 4, *, answered: bool = False
    ) -> AsyncIterator[Conversation]:
        """Rated dialogues, oldest first; see the port."""
        return self._local.rated(check_rating(min_rating), answered=answered)

    async def get_knowledge(self) -> list[KnowledgeSource]:
        """Every source; see the port."""
        return await self._local.knowledge()

    def status(self) -> StorageStatus:
        """Where dialogues lie right now; see the port."""
        refusal = self._local.refusal
        if refusal is None:
            reason = "memory"
        else:
            reason = "full" if isinstance(refusal, StorageFull) else "unwritable"
        return StorageStatus(
            mode="memory",
            reason=reason,
            since=self._since,
            durability="journal",
            database_available=False,
            accepting=refusal is None,
            journal_backlog=0,
            oldest_backlog_seconds=0.0,
            ephemeral=self._ephemeral,
            missing_records=self._missing + self._local.unreadable + self._local.suspect_segments,
            conflicts=self._local.conflicts,
            orphans=self._local.orphans,
        )


def _rating_outcome(committed: Committed) -> RatingOutcome:
    operation, row = committed.operation, committed.row
    assert isinstance(operation, RateConversation)
    known = row is not None and row.position is not None
    return RatingOutcome(
        log_id=operation.log_id,
        rating=operation.rating,
        status="stored" if known else "pending",
        version=operation.version,
        answered=row.answered if row is not None and known else True,
    )
