"""One machine's store: journal, index and memory, with one commit thread in front.

Concurrent writes share a commit without a timer: while one commit is on its way to the disk the
next batch gathers, and it leaves when the disk is free. A batch is one index transaction around
one journal fsync; the reply waits for the fsync, so a 2xx always means safe, and whoever reads the
index waits until it has caught up with what was told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from audiobot.domain import (
    Conversation,
    Correction,
    Idempotency,
    KnowledgeSource,
    ModelMetrics,
    Stats,
    utc_now,
)
from audiobot.errors import (
    AudioBotError,
    InvalidValue,
    SetupError,
    StorageFull,
    StorageUnavailable,
    Unavailable,
)
from audiobot.one_thread import OneThread
from audiobot.ports import NO_METER, Meter
from audiobot.storage.batching import GroupCommit
from audiobot.storage.directory import LEAST_FREE_BYTES, DataDirectory, lock_slot
from audiobot.storage.frames import MAX_PAYLOAD, Gap
from audiobot.storage.index import Index, Row
from audiobot.storage.index_teaching import Verdict
from audiobot.storage.journal import DamagedRecord, Entry, Journal, Position
from audiobot.storage.memory import SafeInMemoryStorage
from audiobot.storage.operations import (
    AddConversation,
    Committed,
    Correct,
    Evaluate,
    Operation,
    RateConversation,
    ReplaceKnowledge,
    decode,
    encode,
    key_of,
    moment_of,
    rank_of,
    stamped,
    with_rating,
)
from audiobot.storage.replay import operation_in

_T = TypeVar("_T")

_CATCH_UP_BATCH: Final = 2_000
_REBUILD_BYTES: Final = 64 << 20
_PAGE: Final = 256
_SLOT_SECONDS: Final = 10.0
"""How long a slot is waited for: someone may be carrying its dead owner's records over."""
_TICK_SECONDS: Final = 0.5
_KEPT_SECONDS: Final = 0.4
"""Shorter than the tick, so that none is missed for a millisecond."""
_VERIFY_PAUSE_SECONDS: Final = 0.2
_AT_A_TIME: Final = 400


def _committed(operation: Operation, fresh: bool, row: Row | None) -> Committed:
    known = row is not None and row.position is not None
    return Committed(operation, fresh, known, row.answered if row is not None and known else True)


def _overlaid(
    found: Conversation | None, log_id: UUID, ahead: list[Operation]
) -> Conversation | None:
    """A dialogue as it is once the index has caught up with ``ahead``."""
    for operation in ahead:
        match operation:
            case AddConversation(conversation=added) if added.log_id == log_id:
                found = found or added
            case RateConversation() if operation.log_id == log_id and found is not None:
                found = with_rating(found, operation)
    return found


class LocalStore:
    """The durable store of one process in one journal slot.

    ``follow`` hears of every fresh commit before memory does. ``alone`` says that nothing is
    kept anywhere else, so that knowledge which changes nothing here changes nothing at all.

    ``open`` verifies the journal, mends what is damaged, brings the index up to it and fills
    memory; it blocks and belongs in a thread. ``start`` and everything after run on the loop.
    """

    def __init__(
        self,
        directory: DataDirectory,
        memory: SafeInMemoryStorage,
        follow: Callable[[Committed], None] = lambda committed: None,
        *,
        slot: int = 0,
        alone: bool = True,
        meter: Meter = NO_METER,
    ) -> None:
        self._directory = directory
        self._alone = alone
        self._tell = follow
        self.slot = slot
        self.memory = memory
        self._unreadable: set[Position] = set()
        self._lost: dict[int, int] = {}
        self._lock: int | None = None
        self.refusal: Unavailable | None = None
        self.conflicts = 0
        self.orphans = 0
        self._ahead: list[Operation] = []
        self._settling: list[Operation] | None = None
        self._kept_house_at = 0.0
        self.suspect_segments = 0
        self.replayed = 0
        self._forgotten = 0
        self._reading = threading.Lock()
        self._carrying: Iterator[Entry | Gap] | None = None
        self._read_up_to = 0
        self._oldest_at: float | None = None
        self._commits = GroupCommit(
            self._commit_batch,
            self._follow,
            idle=_TICK_SECONDS,
            home="journal",
            meter=meter,
        )
        self._verifier: asyncio.Task[None] | None = None
        self._commit_thread = OneThread("journal-commit")
        self._read_threads = ThreadPoolExecutor(2, "journal-read")

    @property
    def unreadable(self) -> int:
        """Records that could not be read back since the start, here or on their way."""
        lost = [*self._lost.items()]  # a reader adds to them
        return len(self._unreadable) + sum(last - first + 1 for first, last in lost)

    @property
    def waiting(self) -> int:
        """Operations that wait for the next commit."""
        return self._commits.waiting

    # -- life ------------------------------------------------------------------------------

    def open(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Verify, mend, catch up and fill memory; ``progress`` hears of records applied."""
        slot = self._directory.path / "journal" / str(self.slot)
        try:
            slot.mkdir(parents=True, exist_ok=True)
            self._lock = lock_slot(slot, seconds=_SLOT_SECONDS)
            if self._lock is None:
                raise SetupError("slot_in_use", path=slot)
            self.index = Index(slot / "index.sqlite")
            self.journal = Journal(slot, promised=self.index.meta("applied"))
            if not self.index.sealed and self.journal.size() <= _REBUILD_BYTES:
                # Nothing vouches for what a kill left behind, byte by byte; the journal's
                # checksums do, and reading that much takes a second or two.
                self.index.rebuild()
            try:
                self._bring_up(progress)
            except (sqlite3.Error, ValueError, TypeError):
                # What SQLite's check let pass: the journal is the truth, not this.
                self.index.rebuild()
                self._bring_up(progress)
        except StorageFull:
            raise SetupError(
                "data_dir_full", path=self._directory.path, need=LEAST_FREE_BYTES >> 20
            ) from None
        except (OSError, sqlite3.Error) as error:
            raise SetupError(
                "data_dir_unwritable", path=self._directory.path, cause=str(error)
            ) from error

    def _bring_up(self, progress: Callable[[int], None]) -> None:
        """Make index and memory what the journal says."""
        if self.journal.damaged or self.index.meta("applied") > self.journal.last_sequence:
            self.index.rebuild()  # it points into what is gone
        self._catch_up(progress)
        self._told = set(self.index.gaps())
        self.replayed = max(self.index.meta("replayed"), self.journal.trimmed)
        self._forgotten = self.journal.trimmed
        for row in self.index.newest(self.memory.max_conversations):
            conversation = self._assemble(row)
            if conversation is not None:
                self.memory.hold(conversation, rank_of(row.version))

    def _catch_up(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Apply to the index whatever the journal holds beyond it."""
        done = 0
        batch: list[Entry | Gap] = []
        for record in self.journal.read_from(self.index.meta("applied") + 1):
            batch.append(record)
            if len(batch) >= _CATCH_UP_BATCH:
                self._apply_records(batch)
                done += len(batch)
                batch.clear()
                progress(done)
        self._apply_records(batch)
        self._ahead = []

    def _apply_records(self, records: list[Entry | Gap]) -> None:
        if not records:
            return
        with self.index.transaction():
            for record in records:
                if isinstance(record, Gap):
                    self.index.apply_gap(record)
                    continue
                try:
                    operation = decode(record.payload)
                except msgspec.MsgspecError:
                    # A later version's record: it stays in the journal and is told as missing.
                    number = record.sequence
                    self.index.apply_gap(Gap(number, number, record.position.segment))
                else:
                    self.index.apply(record.sequence, record.position, operation)

    async def start(self) -> None:
        """Begin to commit, and to look through the older segments in the background."""
        self._commits.start()
        self._verifier = asyncio.create_task(self._verify_older(), name="journal-verify")

    async def _verify_older(self) -> None:
        for number in [*self.journal.unverified]:
            verify = partial(self.journal.verify_segment, number)
            with contextlib.suppress(FileNotFoundError):  # carried and removed meanwhile
                if not await self._reader(verify):
                    self.suspect_segments += 1
            await asyncio.sleep(_VERIFY_PAUSE_SECONDS)

    async def close(self) -> None:
        """Commit what waits, leave the high-water mark true, close every file."""
        await self._commits.close()
        if self._verifier is not None:
            self._verifier.cancel()
            await asyncio.wait([self._verifier])
        await self._commit_thread.run(self._close_files)
        self._commit_thread.close()
        self._read_threads.shutdown(wait=True)

    # -- carrying the journal elsewhere ------------------------------------------------------

    @property
    def backlog(self) -> int:
        """How many records have not been carried to PostgreSQL."""
        return self.journal.last_sequence - self.replayed

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest record that was not carried has waited."""
        return time.time() - self._oldest_at if self._oldest_at is not None else 0.0

    def operations(self, after: int = 0) -> Iterator[tuple[int, Operation]]:
        """Every operation in the journal with a number above ``after``, oldest first; blocks."""
        for record in self.journal.read_from(after + 1):
            if isinstance(record, Entry):
                with contextlib.suppress(msgspec.MsgspecError):
                    operation = decode(record.payload)
                    if self._oldest_at is None and record.sequence > self.replayed:
                        self._oldest_at = moment_of(operation).timestamp()
                    yield record.sequence, operation

    async def unreplayed(self, most: int) -> tuple[list[Operation], int]:
        """The next operations to carry, oldest first, and the number of the last of them.

        What the medium lost is passed over and counted; what a later version wrote is set aside.
        """
        return await self._reader(partial(self._unreplayed, most))

    def _unreplayed(self, most: int) -> tuple[list[Operation], int]:
        last = self.replayed
        # Taken out: who was told to stop may still be reading, and what fails begins anew.
        records, self._carrying = self._carrying, None
        if records is None or self._read_up_to != last:
            records = self.journal.read_from(last + 1)
        operations: list[Operation] = []
        for record in records:
            if isinstance(record, Gap):
                last = record.last
                if record[:2] not in self._told:
                    self._lost[record.first] = last
            else:
                operations += operation_in(self.journal, record)
                last = record.sequence
            if len(operations) >= most:
                self._carrying, self._read_up_to = records, last
                break
        return operations, last

    async def reset_cursor(self, sequence: int) -> AsyncIterator[list[tuple[int, Operation]]]:
        """PostgreSQL says up to where it has this journal: from there on it is carried again.

        Gives, a few at a time and with its numbers, what it may have although nobody here was
        told: the reply to a replay was lost, or the note of it. It is no more than that, for of two
        copies of a directory each has its own records under the numbers after: what was not carried
        from here is carried.
        """
        perhaps = self._between(self.replayed, sequence)
        self.replayed = max(self.journal.trimmed, min(sequence, self.replayed))
        while operations := await self._reader(lambda: [*islice(perhaps, _AT_A_TIME)]):
            yield operations

    def _between(self, after: int, last: int) -> Iterator[tuple[int, Operation]]:
        for record in self.journal.read_from(after + 1) if last > after else ():
            if isinstance(record, Entry):
                if record.sequence > last:
                    break
                with contextlib.suppress(msgspec.MsgspecError):
                    yield record.sequence, decode(record.payload)

    async def carried(self, sequence: int) -> None:
        """Everything up to ``sequence`` is safe in PostgreSQL; when that is all, let go of it."""
        await self._commit_thread.run(partial(self._carried, sequence))

    def _carried(self, sequence: int) -> None:
        self.replayed = max(self.replayed, sequence)
        with contextlib.suppress(Unavailable, OSError, sqlite3.Error):
            # Lost, it costs a replay that changes nothing.
            self.index.note("replayed", self.replayed)

    async def forget_carried(self) -> bool:
        """Remove the records if every one was carried; returns whether that is so."""
        return await self._commit_thread.run(self._forget_carried)

    def _forget_carried(self) -> bool:
        with self._reading:  # who has looked up a place in the journal reads it first
            return self._trim()

    def _trim(self) -> bool:
        last = self.journal.last_sequence
        if self.replayed != last or self._ahead:
            return False
        self._oldest_at = None
        if last == self._forgotten:
            return True
        with contextlib.suppress(Unavailable, OSError, sqlite3.Error):
            conflicts = self.index.meta("conflicts")
            self.journal.trim()
            self.index.rebuild()
            for name, value in (("applied", last), ("replayed", last), ("conflicts", conflicts)):
                self.index.note(name, value)
            self._forgotten = last
        return True

    def _close_files(self) -> None:
        self.journal.close()
        self.index.close()
        if self._lock is not None:
            os.close(self._lock)

    async def _reader(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._read_threads, work)

    async def _load(self, work: Callable[[], _T]) -> _T:
        """Look something up; nothing is removed from the journal meanwhile."""

        def undisturbed() -> _T:
            with self._reading:
                return work()

        return await self._reader(undisturbed)

    @property
    def forgotten(self) -> int:
        """Up to where records were carried and removed."""
        return self._forgotten

    # -- writing ---------------------------------------------------------------------------

    async def commit(self, operation: Operation) -> Committed:
        """Make ``operation`` durable; returns after the fsync.

        Cancelling the caller does not undo it: once handed in, an operation is committed.
        Raises ``StorageFull``, ``StorageUnavailable`` or ``IdempotencyMismatch``.
        """
        return await self._commits.submit(operation)

    async def _commit_batch(self, operations: list[Operation]) -> list[Committed | Exception]:
        return await self._commit_thread.run(partial(self._commit, operations), self._settle)

    def _follow(self, result: Committed) -> None:
        """Bring memory after a commit."""
        self._tell(result)
        if self._oldest_at is None:
            self._oldest_at = time.time()
        operation, rated = result.operation, result.rated
        if not isinstance(operation, AddConversation) or result.rating is None:
            self.memory.apply(operation)
        elif rated is not None:
            self.memory.hold(with_rating(operation.conversation, rated), rated.rank)
        # else its words could not be read just now: whoever asks reads both from the journal

    def _commit(self, operations: list[Operation]) -> list[Committed | Exception]:
        """One batch, in the commit thread; its callers are told before ``_settle`` ends it."""
        self._keep_house()
        if not operations:
            return []
        results: list[Committed | Exception] = []
        try:
            self._make_room()
            self.index.begin()
            staged: dict[Position, Operation] = {}
            for operation in operations:
                try:
                    results.append(self._admit(operation, staged))
                except (StorageFull, StorageUnavailable):
                    raise
                except AudioBotError as error:
                    results.append(error)
            self.index.prepare()
            self.journal.commit()
        except Exception as error:
            self.journal.abort()  # nothing half-staged may ride along with the next batch
            self.index.roll_back()
            if not isinstance(error, Unavailable | OSError | sqlite3.Error):
                raise
            self.refusal = (
                error
                if isinstance(error, Unavailable)
                else StorageUnavailable("journal_unwritable", retry_after=10)
            )
            return [self.refusal] * len(operations)
        self._settling = [r.operation for r in results if isinstance(r, Committed) and r.fresh]
        self.index.hold_readers()
        self.refusal = None
        return results

    def _settle(self) -> None:
        """Let the index know the batch that the journal has; in the commit thread."""
        operations, self._settling = self._settling, None
        if operations is None:
            return
        try:
            self.index.commit()
        except Exception:  # noqa: BLE001  # safe in the journal: the next commit catches up first
            self._ahead = operations
            self.index.roll_back()

    def _keep_house(self) -> None:
        """Twice a second: the high-water mark, the counts for health, and whether there is room.

        A refusal ends here by itself, so whoever stopped sending because of it is heard again.
        """
        if time.monotonic() - self._kept_house_at < _KEPT_SECONDS:
            return
        self._kept_house_at = time.monotonic()
        try:
            self._make_room()
            self.journal.mark()
            self.conflicts, self.orphans = self.index.meta("conflicts"), self.index.orphans()
            self.refusal = None
        except Unavailable as error:
            self.refusal = error
        except (OSError, sqlite3.Error):
            self.refusal = StorageUnavailable("journal_unwritable", retry_after=10)

    def _make_room(self) -> None:
        if self._directory.free_bytes() < LEAST_FREE_BYTES:
            raise StorageFull("disk_full", retry_after=30)
        self.journal.check_in_place()
        if self._ahead:
            self._catch_up()

    def _admit(self, operation: Operation, staged: dict[Position, Operation]) -> Committed:
        """Stage one operation, unless it is a repeat of one that counts already."""
        known = self.index.known(key_of(operation))
        earlier = self._earlier(known.position, staged) if known else None
        if known is not None and earlier is not None:
            return _committed(earlier, False, self.index.row(known.log_id))
        row: Row | None = None
        match operation:
            case AddConversation(conversation=conversation):
                row = self.index.row(conversation.log_id)
                if row is not None and row.position is not None:
                    if not self.index.same_content(conversation):
                        self.index.count_conflict()
                    first = self._earlier(row.position, staged)
                    return _committed(first or operation, False, row)
            case RateConversation(log_id=log_id):
                row = self.index.row(log_id)
            case ReplaceKnowledge():
                if self._alone and self.index.same_knowledge(operation.source):
                    return Committed(operation, False)
            case _:
                pass
        replaced = self._in_place_of(operation, staged)
        operation = stamped(operation, self.index.stamp(operation, row))
        sequence = self.journal.next_sequence
        payload = encode(operation)
        if len(payload) > MAX_PAYLOAD:
            raise InvalidValue("record_too_large", limit=MAX_PAYLOAD >> 20)
        position = self.journal.stage(payload)
        self.index.apply(sequence, position, operation)
        staged[position] = operation
        if isinstance(operation, AddConversation):
            answered = operation.conversation.outcome == "answered"
            rating = row.rating if row else None
            rated = self._rated(row, staged) if row else None
            return Committed(operation, True, True, answered, rating, rated=rated)
        return _committed(operation, True, row)._replace(replaced=replaced)

    def _rated(self, row: Row, staged: dict[Position, Operation]) -> RateConversation | None:
        """The rating that came before its dialogue; None when it cannot be read just now."""
        rated: Operation | None = None
        with contextlib.suppress(Unavailable):  # no reason to refuse the dialogue
            rated = self._earlier(row.rating_position, staged) if row.rating_position else None
        return rated if isinstance(rated, RateConversation) else None

    def _in_place_of(
        self, operation: Operation, staged: dict[Position, Operation]
    ) -> Correction | None:
        """The correction that a new one replaces."""
        if not isinstance(operation, Correct):
            return None
        place = self.index.correction(operation.correction.correction_id)
        before = self._earlier(place, staged) if place else None
        return before.correction if isinstance(before, Correct) else None

    def _earlier(self, position: Position, staged: dict[Position, Operation]) -> Operation | None:
        """An operation committed before, or staged in this batch; None when damage took it."""
        return staged.get(position) or self._read(position)

    def _read(self, position: Position) -> Operation | None:
        """The operation at ``position``; None, and counted once, when damage took it."""
        try:
            return decode(self.journal.read(position))
        except (DamagedRecord, msgspec.MsgspecError):
            if position.segment >= self.journal.oldest_segment:  # else it was carried and let go of
                self._unreadable.add(position)
            return None

    # -- reading ---------------------------------------------------------------------------

    def _assemble(self, row: Row) -> Conversation | None:
        """The dialogue with its current rating, read from the journal; None when damaged."""
        assert row.position is not None
        added = self._read(row.position)
        if not isinstance(added, AddConversation):
            return None
        conversation = added.conversation
        rated = self._read(row.rating_position) if row.rating_position else None
        if not isinstance(rated, RateConversation):
            # Without its words a rating still counts: the index has it.
            return msgspec.structs.replace(conversation, rating=row.rating)
        return with_rating(conversation, rated)

    async def get(self, log_id: UUID) -> Conversation | None:
        """The dialogue, from memory or the journal; None when it is in neither."""
        held = self.memory.get(log_id)
        if held is not None:
            return held

        def load() -> Conversation | None:
            row = self.index.find(log_id)
            found = self._assemble(row) if row and row.position is not None else None
            return _overlaid(found, log_id, self._ahead)

        return await self._load(load)

    async def row(self, log_id: UUID) -> Row | None:
        """What the index knows of a dialogue."""
        return await self._load(lambda: self.index.find(log_id))

    async def newest_ratings(self, log_ids: list[UUID]) -> dict[UUID, RateConversation]:
        """The newest rating in the journal of each, whether its dialogue is here or not."""

        def load() -> dict[UUID, RateConversation]:
            rows = [row for log_id in log_ids if (row := self.index.find(log_id)) is not None]
            read = [self._read(row.rating_position) for row in rows if row.rating_position]
            wanted = frozenset(log_ids)
            return {
                rated.log_id: rated
                for rated in [*read, *self._ahead]
                if isinstance(rated, RateConversation) and rated.log_id in wanted
            }

        return await self._load(load)

    async def rated_elsewhere(self, least: int, after: UUID | None, most: int) -> list[UUID]:
        """A page of dialogues rated ``least`` or better here that lie elsewhere, by id."""
        return await self._load(lambda: self.index.rated_elsewhere(least, after, most))

    async def earlier(self, idempotency: Idempotency) -> Committed | None:
        """The operation committed under this key within 24 hours, if there is one."""

        def load() -> Committed | None:
            known = self.index.find_known(idempotency)
            if known is None:
                return None
            operation = self._read(known.position)
            if operation is None:
                return None
            return _committed(operation, False, self.index.find(known.log_id))

        return await self._load(load)

    async def stats(self) -> Stats:
        """Totals at this moment."""
        found = await self._load(lambda: self.index.stats(utc_now()))
        return msgspec.structs.replace(found, complete=not self._ahead)

    async def rated(
        self, min_rating: int, *, answered: bool, newest: int | None = None
    ) -> AsyncIterator[Conversation]:
        """Rated dialogues, oldest first, read page by page; the ``newest`` so many if given."""
        after: tuple[int, bytes] | None = None
        if newest is not None:
            find = partial(self.index.before_newest, min_rating, newest, answered=answered)
            after = await self._load(find)
        while True:

            def page(
                after: tuple[int, bytes] | None = after,
            ) -> tuple[tuple[int, bytes] | None, list[Conversation]]:
                rows = self.index.rated(min_rating, after, _PAGE, answered=answered)
                found = [self._assemble(row) for _, row in rows]
                return (rows[-1][0] if rows else None), [c for c in found if c is not None]

            after, conversations = await self._load(page)
            for conversation in conversations:
                yield conversation
            if after is None:
                return

    async def knowledge(self, *, empty: bool = False) -> list[KnowledgeSource]:
        """Every imported source, by name; with ``empty`` also those that were emptied."""

        def load() -> list[KnowledgeSource]:
            found = [self._read(place) for _, place in self.index.knowledge()]
            sources = [r.source for r in found if isinstance(r, ReplaceKnowledge)]
            return [source for source in sources if source.items or empty]

        return await self._load(load)

    # -- teaching --------------------------------------------------------------------------

    async def corrections(self) -> list[Correction]:
        """Each correction as it is now, in force or not."""

        def load() -> list[Correction]:
            found = [self._read(place) for place in self.index.corrections()]
            return [o.correction for o in [*found, *self._ahead] if isinstance(o, Correct)]

        return await self._load(load)

    async def dismissals(self) -> list[Verdict]:
        """The newest word on everything that was dismissed or taken back."""
        return await self._load(self.index.dismissals)

    async def inbox(self, most: int, *, low: bool) -> list[Conversation]:
        """Turns that wait for an operator, newest first; with ``low`` those rated so too."""
        return await self._load(lambda: self._assembled(self.index.inbox(most, low=low)))

    async def rated_low_elsewhere(self, most: int) -> list[UUID]:
        """Dialogues that are rated low here and lie elsewhere."""
        return await self._load(lambda: self.index.rated_low_elsewhere(most))

    async def of_session(self, session_id: str, most: int) -> list[Conversation]:
        """The newest dialogues of a session, newest first."""

        def load() -> list[Conversation]:
            found = self._assembled(self.index.of_session(session_id, most))
            return [told for told in found if told.session_id == session_id]

        return await self._load(load)

    async def suggestions(self, most: int) -> list[RateConversation]:
        """Ratings whose suggestion waits for an operator, newest first."""

        def load() -> list[RateConversation]:
            found = [self._read(place) for place in self.index.suggestions(most)]
            return [rated for rated in found if isinstance(rated, RateConversation)]

        return await self._load(load)

    async def evaluations(self, most: int) -> list[ModelMetrics]:
        """The newest evaluations, newest first."""

        def load() -> list[ModelMetrics]:
            found = [self._read(place) for place in self.index.evaluations(most)]
            return [done.metrics for done in found if isinstance(done, Evaluate)]

        return await self._load(load)

    def _assembled(self, rows: list[Row]) -> list[Conversation]:
        found = [self._assemble(row) for row in rows]
        return [conversation for conversation in found if conversation is not None]
