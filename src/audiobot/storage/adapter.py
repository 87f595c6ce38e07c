"""StorageAdapter: the one store that the rest of the program sees, whatever stands behind it.

It checks every value at the edge, makes Operations of calls, and sends each to the home that is
in charge: PostgreSQL while it is well, the journal otherwise. A call that PostgreSQL fails goes on
to the journal with the same operation, so no caller ever hears of it. Reads overlay both.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

import msgspec

from audiobot.domain import (
    MAX_CORRECTION,
    MAX_FEEDBACK,
    MAX_MESSAGE,
    MAX_RESPONSE,
    MAX_SESSION_ID,
    MAX_TURNS,
    MAX_WORDINGS,
    Conversation,
    Correction,
    CorrectionOutcome,
    Durability,
    Idempotency,
    KnowledgeItem,
    KnowledgeSource,
    Language,
    ModelMetrics,
    OperatorAnswer,
    RatingOutcome,
    Stats,
    StorageStatus,
    Suggestion,
    check_embedding,
    check_metrics,
    check_rating,
    check_text,
    utc_now,
)
from audiobot.errors import (
    AudioBotError,
    IdempotencyMismatch,
    InvalidValue,
    StorageFull,
    StorageUnavailable,
    UnknownCorrection,
    UnknownDialogue,
)
from audiobot.ports import NO_METER, ChangeMark, Changes, Meter, Reply
from audiobot.storage.directory import DataDirectory, DialogueIds, KeySet
from audiobot.storage.homes import READ_SECONDS, WRITE_SECONDS, Homes
from audiobot.storage.local import LocalStore
from audiobot.storage.memory import MAX_BYTES, MAX_CONVERSATIONS, SafeInMemoryStorage
from audiobot.storage.modes import ModeState, Switched
from audiobot.storage.operations import (
    DAY,
    AddConversation,
    Committed,
    Correct,
    Dismiss,
    Evaluate,
    Operation,
    OperationIds,
    RateConversation,
    ReplaceKnowledge,
    clock_version,
    key_of,
    moment_of,
    with_rating,
)
from audiobot.storage.rated import RatedDialogues, with_rating_of
from audiobot.storage.snapshot import PostgresSnapshot, newest_of
from audiobot.storage.tally import Tally, effect_of
from audiobot.storage.teaching import Teaching
from audiobot.storage.trouble import DatabaseTrouble, DataRefused

if TYPE_CHECKING:
    from audiobot.storage.dsn import Dsn
    from audiobot.storage.postgres import PostgresStore
    from audiobot.storage.switch import Switch

_MAX_RATER: Final = 64
_MAX_NAME: Final = 200
_RECENT_KEYS: Final = 10_000
_MOST_PENDING: Final = 20_000
"""Ratings that wait to be learned with their dialogue; more are learned by the next start."""
_DRAIN_SECONDS: Final = 5.0


def _nothing() -> Stats:
    return Stats(
        total_interactions=0,
        rated_interactions=0,
        rating_sum=0,
        positive_ratings=0,
        negative_ratings=0,
        recent=0,
        recent_positive=0,
        complete=True,
        as_of=utc_now(),
    )


class StorageAdapter:
    """The hybrid store; see :class:`audiobot.ports.Store` for what it promises.

    Without ``dsn`` it stays in mode ``memory``; when one was meant and could not be read
    (``misread``), in mode ``fallback``. ``open`` blocks (it reads the journal) and belongs in a
    thread; ``start`` follows on the loop. ``tell`` hears of every change of mode and of the
    journal's backlog then, ``meter`` of what costs time or fails.
    """

    def __init__(
        self,
        directory: DataDirectory,
        ids: DialogueIds,
        *,
        dsn: Dsn | None = None,
        misread: bool = False,
        keys: KeySet | None = None,
        max_conversations: int = MAX_CONVERSATIONS,
        max_bytes: int = MAX_BYTES,
        slot: int = 0,
        write_seconds: float = WRITE_SECONDS,
        read_seconds: float = READ_SECONDS,
        tell: Callable[[Switched, int], None] = lambda switched, backlog: None,
        meter: Meter = NO_METER,
    ) -> None:
        self.in_memory_storage = SafeInMemoryStorage(max_conversations, max_bytes)
        self._directory = directory
        self._ids = ids
        self._meter = meter
        self._local = LocalStore(
            directory,
            self.in_memory_storage,
            self._journaled,
            slot=slot,
            alone=dsn is None,
            meter=meter,
        )
        self._tally = Tally(_nothing())
        self._tell = tell
        self._hybrid = dsn is not None or misread
        self._state = (
            ModeState("fallback", "url" if misread else "starting", self._switched)
            if self._hybrid
            else ModeState("memory", "memory", self._switched)
        )
        self._postgres: PostgresStore | None = None
        self._switch: Switch | None = None
        self._dsn = dsn
        self._seconds = write_seconds, read_seconds
        self._homes = Homes(
            local=self._local,
            hybrid=self._hybrid,
            home=lambda: self._home,
            overlaid=lambda: self._overlaid,
            met=self._met,
            at_hand=self.at_hand,
            find=self.get_conversation,
        )
        self._teaching = Teaching(self._homes)
        self._op_ids = OperationIds()
        self._snapshot = PostgresSnapshot(
            directory, ids, keys, self._homes, self._tally, self._teaching, meter
        )
        self._pending: set[UUID] = set()
        self._recent_keys: OrderedDict[bytes, tuple[bytes, Committed]] = OrderedDict()
        self._alone_with: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()

    # -- life ------------------------------------------------------------------------------

    def open(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Bring the local store up from its journal."""
        self._local.open(progress)
        self._ephemeral = self._directory.ephemeral
        self._missing = sum(last - first + 1 for first, last in self._local.index.gaps())
        self._snapshot.open()

    async def start(self) -> None:
        """Begin to accept, and to look for PostgreSQL."""
        await self._local.start()
        if self._dsn is None:
            return
        # Imported here: whoever has no PostgreSQL does not wait for its drivers at every start.
        from audiobot.storage.postgres import PostgresStore  # noqa: PLC0415
        from audiobot.storage.switch import Switch  # noqa: PLC0415

        write, read = self._seconds
        self._postgres = PostgresStore(
            self._dsn, self._stored, write_seconds=write, read_seconds=read, meter=self._meter
        )
        self._postgres.start()
        self._switch = Switch(
            self._state,
            self._postgres,
            self._local,
            self._tally,
            partial(self._snapshot.meet, self._postgres),
            partial(self._snapshot.renew, self._postgres),
            partial(self._snapshot.keep_house, self._postgres),
            self._meter,
        )
        self._switch.start()

    async def settle(self, seconds: float) -> None:
        """Wait, so long at most, until the first attempt to reach PostgreSQL has ended."""
        if self._switch is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._switch.tried.wait(), seconds)

    async def close(self) -> None:
        """Finish what was handed in, carry over what can be, close every file."""
        if self._switch is not None and self._postgres is not None:
            await self._switch.close(_DRAIN_SECONDS)
            if self._state.to_postgres:
                with contextlib.suppress(DatabaseTrouble):
                    await self._snapshot.renew(self._postgres)
            await self._postgres.close()
        self._state.happen("closing", "closing")
        await self._local.close()

    @property
    def database_available(self) -> bool:
        """True while PostgreSQL takes the writes."""
        return self._state.to_postgres and self._switch is not None and self._switch.database_ok

    @property
    def _home(self) -> PostgresStore | None:
        """PostgreSQL while it is in charge."""
        return self._postgres if self._state.to_postgres else None

    def _met(self, trouble: DatabaseTrouble) -> None:
        assert self._switch is not None
        self._switch.met(trouble)

    def _switched(self, switched: Switched) -> None:
        self._tell(switched, self._local.backlog if self._hybrid else 0)

    # -- following -------------------------------------------------------------------------

    def _stored(self, committed: Committed) -> None:
        """PostgreSQL has taken a fresh operation of ours."""
        operation = committed.operation
        effect = effect_of(committed, self.in_memory_storage, from_postgres=True)
        self._tally.wrote(operation, effect, journaled=False)
        if isinstance(operation, AddConversation) and committed.rating is not None:
            # Its rating came before it, maybe to another process: what is known of it is held.
            rated = msgspec.structs.replace(operation.conversation, rating=committed.rating)
            self.in_memory_storage.hold(rated)
        else:
            self.in_memory_storage.apply(operation)
        if isinstance(operation, ReplaceKnowledge):
            self._snapshot.replaced(operation.source)
        if isinstance(operation, Correct):
            self._teaching.learned([operation.correction])
        self._remember_key(committed)

    def _remember_key(self, committed: Committed) -> None:
        """In an outage PostgreSQL cannot say which keys were used; this process can."""
        key = key_of(committed.operation)
        if key is not None:
            self._recent_keys[key.key] = (key.request, committed)
            while len(self._recent_keys) > _RECENT_KEYS:
                self._recent_keys.popitem(last=False)

    def _journaled(self, committed: Committed) -> None:
        """The journal has taken a fresh operation; memory follows after this."""
        if not self._hybrid:
            return
        effect = effect_of(committed, self.in_memory_storage)
        operation = committed.operation
        self._tally.wrote(operation, effect, journaled=True)
        if isinstance(operation, ReplaceKnowledge):
            self._snapshot.replaced(operation.source)
        if isinstance(operation, Correct):
            self._teaching.learned([operation.correction])
        if isinstance(operation, RateConversation) and not committed.known:
            self._pending.add(operation.log_id)
            while len(self._pending) > _MOST_PENDING:
                self._pending.pop()
        self._remember_key(committed)  # the journal forgets it when it is carried
        if self._switch is not None:
            self._switch.journaled()

    # -- writing ---------------------------------------------------------------------------

    async def _commit(self, operation: Operation) -> Committed:
        """Make an operation durable, or tell what came of the same request before.

        Of two with one key the second waits for the first: homes may change between them.
        """
        key = key_of(operation)
        if key is None or not self._hybrid:
            return await self._commit_once(operation)
        async with self._alone_with.setdefault(key.key, asyncio.Lock()):
            return self._recent_under(key) or await self._commit_once(operation)

    async def _commit_once(self, operation: Operation) -> Committed:
        """Make it durable in the home in charge; in the journal when that one fails."""
        home, switch = self._home, self._switch
        if home is not None and switch is not None:
            started = time.monotonic()
            try:
                committed = await home.commit(_kept_in(operation, "postgres"))
            except DataRefused as refused:
                raise InvalidValue("value_refused", field="value") from refused
            except DatabaseTrouble as trouble:
                self._tally.doubt(operation)
                self._meter.not_committed("postgres", trouble.reason, operation.op_id)
                switch.met(trouble)
            else:
                switch.succeeded(time.monotonic() - started)
                return self._known_here(committed)
        try:
            committed = await self._local.commit(_kept_in(operation, "journal"))
        except AudioBotError as refusal:
            if isinstance(refusal, StorageFull | StorageUnavailable):
                reason = "full" if isinstance(refusal, StorageFull) else "unwritable"
                self._meter.not_committed("journal", reason, operation.op_id)
            self._tally.let_go(operation)
            raise
        if not committed.fresh:
            self._tally.let_go(operation)
        return committed

    def _known_here(self, committed: Committed) -> Committed:
        """A dialogue that PostgreSQL does not know yet may be in our journal."""
        operation = committed.operation
        if committed.known or not isinstance(operation, RateConversation):
            return committed
        held = self.in_memory_storage.get(operation.log_id)
        if held is None:
            return committed
        return committed._replace(known=True, answered=held.outcome == "answered")

    def _recent_under(self, key: Idempotency) -> Committed | None:
        """What this process committed under the same Idempotency-Key in the last 24 hours."""
        request, committed = self._recent_keys.get(key.key, (key.request, None))
        if committed is None or moment_of(committed.operation) < utc_now() - DAY:
            return None
        if request != key.request:
            raise IdempotencyMismatch("idempotency_mismatch")
        return self._known_here(committed)

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
        check_text("model", told.model_used, _MAX_NAME)
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
            op_id=self._op_ids.new(),
            conversation=conversation,
            explicit=log_id is not None,
            idempotency=idempotency,
        )
        committed = await self._commit(operation)
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
            corrected_response = corrected_response if corrected_response.strip() else None
        if rater is not None:
            check_text("rater", rater, _MAX_RATER)
        await self._know(log_id)
        operation = RateConversation(
            op_id=self._op_ids.new(),
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
        return _rating_outcome(await self._commit(operation))

    async def _know(self, log_id: UUID) -> None:
        """Raise ``UnknownDialogue`` unless the id is kept here or proves itself."""
        if log_id in self.in_memory_storage or self._ids.genuine(log_id):
            return
        row = await self._local.row(log_id)
        if row is not None and row.position is not None:
            return
        found, _, asked = await self._ask(log_id)
        if found is None:
            self._check_may_exist(asked)

    def _check_may_exist(self, asked: bool) -> None:
        """Raise ``UnknownDialogue`` for an id that is not here and does not prove itself."""
        if asked or not self._snapshot.any_id:
            raise UnknownDialogue("unknown_dialogue")

    async def _ask(self, log_id: UUID) -> tuple[Conversation | None, int, bool]:
        """A dialogue as PostgreSQL has it, its rating's rank, and whether it could be asked."""
        for _ in range(2):
            home = self._home
            if home is None:
                break
            try:
                return *await home.get(log_id), True
            except DatabaseTrouble as trouble:
                self._met(trouble)
                if trouble.reason != "lost":
                    break  # a connection that was cut says nothing of the next one
        return None, 0, not self._hybrid

    async def replace_knowledge(self, name: str, items: Sequence[KnowledgeItem]) -> bool:
        """Replace a source's items; see the port."""
        check_text("source", name, MAX_SESSION_ID, blank=False)
        for item in items:
            for text in (item.item_id, item.title, item.answer, *item.questions):
                check_text("knowledge", text, MAX_RESPONSE)
        source = KnowledgeSource(name=name, items=tuple(items), imported_at=utc_now())
        operation = ReplaceKnowledge(
            op_id=self._op_ids.new(), source=source, version=clock_version()
        )
        # In an outage it is journaled whatever we believe; the answer is what we believe.
        known: tuple[KnowledgeItem, ...] | None = None
        if self._postgres is not None and self._home is None:
            known = next((s.items for s in await self.get_knowledge() if s.name == name), ())
        return (await self._commit(operation)).fresh and known != source.items

    # -- teaching --------------------------------------------------------------------------

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
        """Keep an operator's answer; see the port."""
        check_text("answer", answer, MAX_CORRECTION, blank=False)
        if not wordings and not log_ids:
            raise InvalidValue("field_missing", field="wordings")
        if len(wordings) > MAX_WORDINGS or len(log_ids) > MAX_TURNS:
            field = "wordings" if len(wordings) > MAX_WORDINGS else "log_ids"
            limit = MAX_WORDINGS if field == "wordings" else MAX_TURNS
            raise InvalidValue("list_too_long", field=field, limit=limit)
        for wording in wordings:
            check_text("wordings", wording, MAX_MESSAGE, blank=False)
        correction = Correction(
            correction_id=correction_id or uuid4(),
            answer=answer,
            wordings=tuple(dict.fromkeys(wordings)),
            language=language,
            corrected_at=utc_now(),
            version=max(clock_version(), (seen_version or 0) + 1),
            log_ids=tuple(dict.fromkeys(log_ids)),
            withdrawn=withdrawn,
        )
        return await self._correct(correction, seen_version)

    async def _correct(self, correction: Correction, seen: int | None) -> CorrectionOutcome:
        # In an outage PostgreSQL cannot raise the version above its own: what is known of it is.
        before = self._teaching.remembered.get(correction.correction_id)
        if before is not None and before.version >= correction.version:
            correction = msgspec.structs.replace(correction, version=before.version + 1)
        operation = Correct(op_id=self._op_ids.new(), correction=correction)
        committed = await self._commit(operation)
        assert isinstance(committed.operation, Correct)
        found = [c for c in (before, committed.replaced) if c is not None]
        last = max(found, key=lambda c: c.version, default=None)
        kept = committed.operation.correction
        told = last is not None and _unseen(last, kept, seen)
        return CorrectionOutcome(correction=kept, replaced=last if told else None)

    async def withdraw(
        self, correction_id: UUID, *, withdrawn: bool = True, seen_version: int | None = None
    ) -> CorrectionOutcome:
        """Let a correction count no more, or again; see the port."""
        known = await self._teaching.known(correction_id)
        if known is None:
            raise UnknownCorrection("unknown_correction")
        if known.withdrawn == withdrawn:
            return CorrectionOutcome(correction=known)
        seen = known.version if seen_version is None else seen_version
        outcome = await self._correct(_withdrawn(known, known.version, withdrawn), seen)
        newer, version = outcome.replaced, outcome.correction.version
        if newer is None or newer.version <= known.version:
            return outcome
        # Corrected in that very moment: those words are kept, and counted or not as this says.
        again = await self._correct(_withdrawn(newer, version, withdrawn), version)
        return CorrectionOutcome(correction=again.correction, replaced=newer)

    async def dismiss(self, log_ids: Sequence[UUID], dismissed: bool = True) -> int:
        """Take turns or suggestions out of an operator's sight; see the port."""
        subjects = tuple(dict.fromkeys(log_ids))
        if len(subjects) > MAX_TURNS:
            raise InvalidValue("list_too_long", field="log_ids", limit=MAX_TURNS)
        if not subjects:
            return 0
        operation = Dismiss(
            op_id=self._op_ids.new(),
            subjects=subjects,
            version=clock_version(),
            dismissed_at=utc_now(),
            dismissed=dismissed,
        )
        await self._commit(operation)
        return len(subjects)

    async def add_evaluation(self, metrics: ModelMetrics) -> None:
        """Keep what an evaluation found; see the port."""
        operation = Evaluate(op_id=self._op_ids.new(), metrics=check_metrics(metrics))
        await self._commit(operation)

    async def get_evaluations(self, most: int) -> list[ModelMetrics]:
        """The newest evaluations; see the port."""
        return await self._teaching.evaluations(most)

    async def get_corrections(self, *, withdrawn: bool = False) -> list[Correction]:
        """The corrections in force; see the port."""
        return await self._teaching.corrections(withdrawn=withdrawn)

    async def get_inbox(self, most: int) -> list[Conversation]:
        """Turns that wait for an operator; see the port."""
        return await self._teaching.inbox(most)

    async def get_suggestions(self, most: int) -> list[Suggestion]:
        """Customers' better answers; see the port."""
        return await self._teaching.suggestions(most)

    async def get_dismissed(self, subjects: Sequence[UUID]) -> set[UUID]:
        """Those out of an operator's sight; see the port."""
        return await self._teaching.dismissed(subjects)

    async def get_last_of_session(self, session_id: str) -> Conversation | None:
        """A session's newest dialogue; see the port."""
        check_text("session_id", session_id, MAX_SESSION_ID)
        found = await self._local.of_session(session_id, 1) if self._overlaid else []
        found += await self._homes.in_home(lambda home: home.of_session(session_id, 1))
        return max(found, key=lambda told: told.created_at, default=None)

    async def get_answers(self, session_id: str, most: int) -> list[OperatorAnswer]:
        """What operators answered to a session; see the port."""
        check_text("session_id", session_id, MAX_SESSION_ID)
        return await self._teaching.answers(session_id, most)

    # -- reading ---------------------------------------------------------------------------

    async def find_reply(self, idempotency: Idempotency) -> Conversation | RatingOutcome | None:
        """What the same request came to before; see the port."""
        committed = self._recent_under(idempotency)
        home = self._home
        if committed is None and home is not None:
            try:
                committed = await home.earlier(idempotency)
            except DatabaseTrouble as trouble:
                self._met(trouble)
        committed = committed or await self._local.earlier(idempotency)
        if committed is None:
            return None
        if isinstance(committed.operation, AddConversation):
            return committed.operation.conversation
        return _rating_outcome(committed)

    def at_hand(self, log_id: UUID) -> Conversation | None:
        """One dialogue that is held; see the port."""
        return self.in_memory_storage.get(log_id)

    def newest_at_hand(self, most: int) -> list[Conversation]:
        """Those that are held; see the port."""
        return self.in_memory_storage.newest(most)

    async def get_conversation(self, log_id: UUID) -> Conversation | None:
        """One dialogue; see the port."""
        if self._home is None and (held := self.in_memory_storage.get(log_id)) is not None:
            return held
        local: Conversation | None = None
        ahead: RateConversation | None = None
        if self._overlaid:
            # Before PostgreSQL is asked: what is carried meanwhile is found in one of the two.
            local = await self._local.get(log_id)
            ahead = (await self._local.newest_ratings([log_id])).get(log_id)
        found, rank, asked = await self._ask(log_id)
        if found is None:
            found = local if asked or local is not None else await self._local.get(log_id)
            if (
                found is None
                and not self._ids.genuine(log_id)
                and (asked or not self._snapshot.any_id)
            ):
                raise UnknownDialogue("unknown_dialogue")
            if found is None and not asked and self._switch is not None:
                self._switch.sure = False  # a heartbeat may have been well since it was asked
            return found
        held = self.in_memory_storage.get(log_id)
        if ahead is not None and ahead.rank > rank:
            rank = ahead.rank
            found = with_rating(found, ahead)
        if held is not None and self.in_memory_storage.rank(log_id) > rank:
            found = with_rating_of(found, held)
        return found

    @property
    def _overlaid(self) -> bool:
        """True while the journal may hold what PostgreSQL does not."""
        return self._home is None or self._local.backlog > 0

    @property
    def _alone(self) -> bool:
        """True while PostgreSQL's totals hold nothing that the tally would not know later."""
        return not (self._overlaid or self._tally.stale or self._tally.doubtful)

    async def get_stats(self) -> Stats:
        """Totals; see the port."""
        if not self._hybrid:
            return await self._local.stats()
        home = self._home
        if home is not None:
            try:
                if self._alone:
                    stats, _ = await home.stats()
                    if self._alone:
                        return stats
                async with self._tally.lock, home.paused():
                    # What is told now is the least that the next outage may tell.
                    await self._snapshot.count(home)
                    return self._tally.told(complete=True)
            except DatabaseTrouble as trouble:
                self._met(trouble)
        return self._tally.told()

    async def get_rated_conversations(
        self, min_rating: int = 4, *, answered: bool = False, newest: int | None = None
    ) -> AsyncIterator[Conversation]:
        """Rated dialogues, oldest first; see the port."""
        check_rating(min_rating)
        rated = RatedDialogues(
            self._homes, self.in_memory_storage, min_rating, answered=answered, newest=newest
        )
        async for found in rated:
            yield found

    async def get_handed_over(self, most: int) -> list[Conversation]:
        """The newest questions that have no answer yet; see the port."""
        return await self._teaching.inbox(most, low=False)

    async def changes(self, since: ChangeMark | None) -> Changes:
        """What other processes changed; see the port."""
        mark = since or ChangeMark()
        home = self._home
        if home is None:
            return Changes(mark=mark)
        try:
            mark, rated, knowledge, corrections = await home.changes(mark, self._op_ids)
        except DatabaseTrouble as trouble:
            self._met(trouble)
            return Changes(mark=mark)
        if self._local.backlog == 0:  # what was rated here out of reach has met its dialogue
            rated |= self._pending
            self._pending.clear()
        reload = since is not None and since.at is None
        return Changes(
            mark=mark,
            rated=tuple(rated),
            knowledge=knowledge,
            corrections=corrections,
            reload=reload,
        )

    async def get_knowledge(self) -> list[KnowledgeSource]:
        """Every source; see the port."""
        if not self._hybrid:
            return await self._local.knowledge()
        home = self._home
        if home is not None:
            try:
                self._snapshot.knows(await home.knowledge())
            except DatabaseTrouble as trouble:
                self._met(trouble)
        sources = self._snapshot.knowledge
        if self._overlaid:
            sources = newest_of([*sources, *await self._local.knowledge(empty=True)])
        return sorted((s for s in sources if s.items), key=lambda s: s.name)

    def status(self) -> StorageStatus:
        """Where dialogues lie right now; see the port."""
        refusal = self._local.refusal
        reason = self._state.reason
        if refusal is not None and not self._state.to_postgres:
            reason = "full" if isinstance(refusal, StorageFull) else "unwritable"
        backlog = self._local.backlog if self._hybrid else 0
        postgres = self._postgres
        return StorageStatus(
            mode=self._state.mode,
            reason=reason,
            since=self._state.since,
            durability="postgres" if self._state.to_postgres else "journal",
            database_available=self.database_available,
            accepting=refusal is None or self.database_available,
            journal_backlog=backlog,
            oldest_backlog_seconds=self._local.oldest_seconds if backlog else 0.0,
            ephemeral=self._ephemeral,
            missing_records=self._missing
            + self._local.unreadable
            + self._local.suspect_segments
            + self._snapshot.lost,
            conflicts=self._local.conflicts + self._snapshot.conflicts,
            orphans=self._snapshot.orphans if self._hybrid else self._local.orphans,
            complete=not self._hybrid
            or (self._state.to_postgres and self._switch is not None and self._switch.sure),
            refused=self._snapshot.refused,
            doubtful=len(self._tally.doubtful),
            waiting={
                "journal": self._local.waiting,
                "postgres": postgres.waiting if postgres else 0,
            },
            pool_checked_out=postgres.checked_out if postgres else 0,
            held=len(self.in_memory_storage.conversations),
            evicted=self.in_memory_storage.evictions,
        )


def _unseen(before: Correction, now: Correction, seen: int | None) -> bool:
    """True when an operator who saw ``seen`` does not know what was in place of ``now``.

    Who saw none need not be told of one that counted no more, nobody of what says the same.
    """
    same = msgspec.structs.replace(before, version=now.version, corrected_at=now.corrected_at)
    if same == now:
        return False
    return not before.withdrawn if seen is None else before.version > seen


def _withdrawn(correction: Correction, after: int, withdrawn: bool) -> Correction:
    """The same words from now on counting, or not, in a version above ``after``."""
    return msgspec.structs.replace(
        correction,
        withdrawn=withdrawn,
        corrected_at=utc_now(),
        version=max(clock_version(), after + 1),
    )


def _kept_in(operation: Operation, durability: Durability) -> Operation:
    """The operation as the home that takes it will tell it."""
    if not isinstance(operation, AddConversation):
        return operation
    kept = msgspec.structs.replace(operation.conversation, durability=durability)
    return msgspec.structs.replace(operation, conversation=kept)


def _rating_outcome(committed: Committed) -> RatingOutcome:
    operation = committed.operation
    assert isinstance(operation, RateConversation)
    return RatingOutcome(
        log_id=operation.log_id,
        rating=operation.rating,
        status="stored" if committed.known else "pending",
        version=operation.version,
        answered=committed.answered,
    )
