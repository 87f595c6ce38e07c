"""The totals kept beside a snapshot, against a naive model of PostgreSQL and a journal.

The model keeps every operation and counts anew each time. What the tally is told is only what
the store can know: operations with their effects, snapshots, and which doubtful ones are there.
"""

from __future__ import annotations

import copy
import uuid
from collections import Counter
from datetime import timedelta

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from audiobot.domain import Conversation, Stats, utc_now
from audiobot.storage.memory import SafeInMemoryStorage
from audiobot.storage.operations import AddConversation, Committed, Operation, RateConversation
from audiobot.storage.tally import Effect, Tally, effect_of


def add(number: int) -> AddConversation:
    told = Conversation(
        log_id=uuid.UUID(int=number),
        session_id="s",
        user_message="q",
        ai_response="a",
        created_at=utc_now(),
    )
    return AddConversation(op_id=uuid.uuid4(), conversation=told)


def rate(number: int, rating: int, version: int) -> RateConversation:
    return RateConversation(
        op_id=uuid.uuid4(),
        log_id=uuid.UUID(int=number),
        rating=rating,
        version=version,
        rated_at=utc_now(),
    )


def counted(operations: list[Operation]) -> Counter[int]:
    """How many dialogues lie in each bucket, given all that happened to them."""
    ratings: dict[uuid.UUID, tuple[int, int]] = {}
    dialogues = set()
    for operation in operations:
        if isinstance(operation, AddConversation):
            dialogues.add(operation.conversation.log_id)
        elif isinstance(operation, RateConversation):
            version = (operation.version, operation.rating)
            ratings[operation.log_id] = max(ratings.get(operation.log_id, (0, 0)), version)
    return Counter(ratings.get(log_id, (0, 0))[1] for log_id in dialogues)


def stats(counts: Counter[int]) -> Stats:
    return Stats(
        total_interactions=counts.total(),
        rated_interactions=counts.total() - counts[0],
        rating_sum=sum(r * n for r, n in counts.items()),
        positive_ratings=counts[4] + counts[5],
        negative_ratings=counts[1] + counts[2],
        recent=counts.total(),
        recent_positive=counts[4] + counts[5],
        complete=True,
        as_of=utc_now(),
    )


def numbers(told: Stats) -> tuple[int, ...]:
    return tuple(getattr(told, name) for name in Stats.__struct_fields__[:7])


class TallyAndModel(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.tally = Tally(stats(Counter()))
        self.memory = SafeInMemoryStorage()
        self.postgres: list[Operation] = []
        self.journal: list[Operation] = []
        self.unacknowledged: list[Operation] = []
        self.version = 0
        self.dialogues = 0

    def _operation(self, which: int, rating: int) -> Operation:
        if not rating or not self.dialogues:
            self.dialogues += 1
            return add(self.dialogues)
        self.version += 1
        return rate(1 + which % self.dialogues, rating, self.version)

    def _acknowledge(self, operation: Operation, *, journaled: bool) -> None:
        effect = effect_of(Committed(operation, True), self.memory)
        self.tally.wrote(operation, effect, journaled=journaled)
        self.memory.apply(operation)
        (self.journal if journaled else self.postgres).append(operation)

    def _present(self) -> set[uuid.UUID]:
        return self.tally.doubtful.keys() & {o.op_id for o in self.postgres}

    def _snapshot(self) -> Stats:
        return stats(counted(self.postgres))

    @precondition(lambda self: not self.unacknowledged)
    @rule(which=st.integers(0, 20), rating=st.integers(0, 5), journaled=st.booleans())
    def write(self, which: int, rating: int, journaled: bool) -> None:
        self._acknowledge(self._operation(which, rating), journaled=journaled)

    @precondition(lambda self: not self.unacknowledged)
    @rule(which=st.integers(0, 20), rating=st.integers(0, 5), there=st.booleans())
    def a_commit_does_not_answer(self, which: int, rating: int, there: bool) -> None:
        operation = self._operation(which, rating)
        self.tally.doubt(operation)
        self.unacknowledged.append(operation)
        if there:
            self.postgres.append(operation)

    @precondition(lambda self: self.unacknowledged)
    @rule()
    def it_goes_to_the_journal(self) -> None:
        self._acknowledge(self.unacknowledged.pop(), journaled=True)

    @rule()
    def a_zombie_commits(self) -> None:
        there = {o.op_id for o in self.postgres}
        late = [o for o in self.tally.doubtful.values() if o.op_id not in there]
        self.postgres += late[:1]

    @rule(most=st.integers(1, 4))
    def carry(self, most: int) -> None:
        carried, self.journal = self.journal[:most], self.journal[most:]
        self.postgres += carried
        self.tally.carried(carried)

    @rule()
    def take_a_snapshot(self) -> None:
        self.tally.renew(self._snapshot(), self._present())

    @precondition(lambda self: not self.postgres and not self.unacknowledged)
    @rule()
    def restart_before_postgres_was_ever_reached(self) -> None:
        """What lies in the journal is all that is known."""
        self.tally = Tally(stats(Counter()))
        self.tally.recall((operation, False) for operation in self.journal)

    @invariant()
    def what_is_told_is_the_truth(self) -> None:
        if not hasattr(self, "tally") or self.unacknowledged:
            return  # nobody has been told of it: it may be counted or not
        truth = numbers(stats(counted([*self.postgres, *self.journal])))
        told = self.tally.told()
        assert (numbers(told), told.complete) == (truth, False)
        read = copy.deepcopy(self.tally)  # a look must change nothing of what follows
        read.renew(self._snapshot(), self._present())
        told = read.told(complete=True)
        assert (numbers(told), told.complete) == (truth, True)


TallyAndModel.TestCase.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, derandomize=True
)


class TestG20TallyAndModel(TallyAndModel.TestCase):
    """Bears the machine into the suite."""


def test_g20_nothing_is_counted_twice_when_a_snapshot_saw_it_before_the_journal_did() -> None:
    tally, dialogue = Tally(stats(Counter())), add(1)
    tally.doubt(dialogue)
    tally.renew(stats(Counter({0: 1})), {dialogue.op_id})
    tally.wrote(dialogue, Effect(None, 0), journaled=True)
    assert tally.told().total_interactions == 1
    tally.carried([dialogue])
    assert tally.told().total_interactions == 1
    assert not tally.doubtful


@pytest.mark.parametrize("carried", range(4))
def test_g20_after_a_restart_a_rated_dialogue_is_one_rated_dialogue(carried: int) -> None:
    journal = [add(1), rate(1, 2, 1), rate(1, 5, 2)]
    kept = [(operation, place < carried) for place, operation in enumerate(journal)]
    tally = Tally(stats(counted(journal[:carried])))
    tally.recall(kept)
    assert numbers(tally.told()) == numbers(stats(Counter({5: 1})))


def test_g20_a_rating_that_came_before_its_dialogue_is_counted_with_it() -> None:
    tally = Tally(stats(Counter()))
    tally.recall([(rate(1, 4, 1), False), (add(1), False)])
    assert numbers(tally.told()) == numbers(stats(Counter({4: 1})))


def test_g20_a_rating_in_postgres_takes_the_place_of_one_that_the_journal_still_holds() -> None:
    tally, late, live = Tally(stats(Counter({0: 1}))), rate(1, 5, 1), rate(1, 3, 2)
    tally.wrote(late, Effect(0, 5), journaled=True)
    tally.wrote(live, Effect(5, 3), journaled=False)
    tally.renew(stats(Counter({3: 1})), set())
    assert numbers(tally.told()) == numbers(stats(Counter({3: 1})))


def test_g20_what_was_carried_without_a_known_effect_wants_a_new_snapshot() -> None:
    tally, unknown = Tally(stats(Counter({0: 1}))), rate(1, 5, version=1)
    tally.wrote(unknown, None, journaled=True)
    assert not tally.stale
    tally.carried([unknown])
    assert tally.stale
    tally.renew(stats(Counter({5: 1})), set())
    assert not tally.stale


def test_g20_postgres_does_not_know_that_a_live_rating_replaces_a_journaled_one() -> None:
    tally = Tally(stats(Counter({0: 1})))
    tally.wrote(rate(1, 3, version=1), Effect(0, 3), journaled=True)
    tally.wrote(rate(1, 5, version=2), Effect(0, 5), journaled=False)  # 0: as PostgreSQL had it
    assert numbers(tally.told()) == numbers(stats(Counter({5: 1})))


def test_g20_an_old_dialogue_rated_in_an_outage_is_no_improvement_of_the_last_day() -> None:
    memory = SafeInMemoryStorage()
    fresh, old = add(1), add(2)
    told = msgspec.structs.replace(old.conversation, created_at=utc_now() - timedelta(days=2))
    for one in (fresh, msgspec.structs.replace(old, conversation=told)):
        memory.apply(one)
    snapshot = stats(Counter({0: 2}))
    tally = Tally(msgspec.structs.replace(snapshot, recent=1))
    for version, (number, rating) in enumerate(((2, 5), (1, 4), (1, 2)), 1):
        operation = rate(number, rating, version)
        tally.wrote(operation, effect_of(Committed(operation, True, True), memory), journaled=True)
        memory.apply(operation)
    now = tally.told()
    assert (now.rated_interactions, now.positive_ratings) == (2, 1)
    assert (now.recent, now.recent_positive) == (1, 0)


def test_who_hears_that_the_journal_refused_doubts_no_longer() -> None:
    tally = Tally(stats(Counter()))
    operation = add(1)
    tally.doubt(operation)
    assert not tally.stale
    tally.let_go(operation)
    assert not tally.doubtful
    assert tally.stale
    tally.stale = False
    tally.let_go(operation)
    assert not tally.stale
    tally.renew(stats(Counter({0: 1})), {operation.op_id})  # asked about before it was let go of
    assert tally.told().total_interactions == 1
