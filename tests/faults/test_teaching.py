"""What operators teach through outages, late and repeated writes: the later word counts, once."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audiobot.domain import Correction, ModelMetrics, utc_now
from audiobot.errors import StorageUnavailable
from audiobot.ports import Reply
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.batch import Batch
from audiobot.storage.dsn import parse_dsn
from audiobot.storage.operations import Correct, Dismiss, Evaluate, Operation
from audiobot.storage.postgres import PostgresStore
from tests.conformance.hybrid import (
    close_hybrid,
    hybrid,
    open_hybrid,
    wait_for_mode,
    wait_until_carried,
)
from tests.faults.test_late_writes import blocked_or_done, connected
from tests.postgres import Cluster
from tests.proxy import Proxy, free_port

JOURNAL = uuid.UUID(int=7)
NAME, TURN, OTHER = uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3)
HANDED = Reply(text="r", outcome="handed_over", model_used="handover")
TABLES = (
    "SELECT correction_id, version, op_id, answer, wordings::text, log_ids::text, withdrawn"
    " FROM corrections ORDER BY 1",
    "SELECT log_id, correction_id FROM settled_turns ORDER BY 1, 2",
    "SELECT subject, version, op_id, dismissed FROM dismissals ORDER BY 1",
    "SELECT op_id FROM taught_operations ORDER BY 1",
)


def correct(answer: str, version: int, *log_ids: uuid.UUID, withdrawn: bool = False) -> Correct:
    said = Correction(
        correction_id=NAME,
        answer=answer,
        wordings=("q",),
        language="ru",
        corrected_at=utc_now(),
        version=version,
        log_ids=log_ids,
        withdrawn=withdrawn,
    )
    return Correct(op_id=uuid.uuid4(), correction=said)


def dismiss(version: int, *subjects: uuid.UUID, dismissed: bool = True) -> Dismiss:
    return Dismiss(
        op_id=uuid.uuid4(),
        subjects=subjects,
        version=version,
        dismissed_at=utc_now(),
        dismissed=dismissed,
    )


@pytest.fixture
async def postgres(cluster: Cluster, database: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(parse_dsn(cluster.dsn(database)))
    store.start()
    yield store
    await store.close()


@pytest.fixture
def proxy(cluster: Cluster):
    with Proxy(cluster.host, cluster.port) as between:
        yield between


def tables(cluster: Cluster, database: str) -> list[list[tuple]]:
    return [cluster.execute(statement, database) for statement in TABLES]


async def test_g06_corrections_and_dismissals_in_any_order_and_repeated_end_in_the_same_tables(
    cluster: Cluster, database: str, postgres: PostgresStore
):
    operations: list[Operation] = [
        correct("one", 1, TURN, OTHER),
        correct("two", 2, TURN),
        correct("two", 3, TURN, withdrawn=True),
        correct("last", 4, OTHER),
        dismiss(5, TURN, OTHER),
        dismiss(6, TURN, dismissed=False),
    ]
    ended = []
    for order in itertools.islice(itertools.permutations(operations), 0, None, 37):
        for many in (1, 3, 6):  # in one transaction, in several
            for start in range(0, 6, many):
                await postgres.replay(list(order[start : start + many]), JOURNAL, 1)
        await postgres.replay([*order, *order[:2]], JOURNAL, 2)
        ended.append(tables(cluster, database))
        cluster.execute(
            "TRUNCATE corrections, settled_turns, dismissals, taught_operations", database
        )
    assert len(ended) > 10
    assert all(end == ended[0] for end in ended)
    corrections, settled, dismissals, taken = ended[0]
    assert [(row[1], row[3]) for row in corrections] == [(4, "last")]
    assert settled == [(OTHER, NAME)]
    assert [(row[0], row[1], row[3]) for row in dismissals] == [(TURN, 6, False), (OTHER, 5, True)]
    assert len(taken) == 6


async def test_g07_a_zombies_correction_does_not_overwrite_a_newer_one(
    cluster: Cluster, database: str, postgres: PostgresStore
):
    """Its commit never answered, so it was journaled and carried; then it commits after all."""
    late, late_dismissal = correct("late", 1, TURN), dismiss(1, OTHER)
    await postgres.replay([late, late_dismissal], JOURNAL, 2)
    newer = await postgres.commit(correct("newer", 2, OTHER))
    await postgres.commit(dismiss(2, OTHER, dismissed=False))
    before = tables(cluster, database)
    async with connected(cluster, database) as session:
        await session.begin()
        batch = Batch(session, live=True, careful=False)
        found = await batch.apply([late, late_dismissal])
        await session.commit()
    assert not found[late.op_id].fresh  # type: ignore[union-attr]
    assert tables(cluster, database) == before
    assert newer.replaced is not None
    assert newer.replaced.answer == "late"


async def test_g07_a_live_correction_is_above_what_another_machines_clock_said(
    postgres: PostgresStore,
):
    await postgres.replay([correct("ahead", 10**18, TURN), dismiss(10**18, OTHER)], JOURNAL, 2)
    committed = await postgres.commit(correct("now", 5, TURN))
    assert committed.operation.correction.version == 10**18 + 1  # type: ignore[union-attr]
    await postgres.commit(dismiss(5, OTHER, dismissed=False))
    assert [v.dismissed for v in await postgres.verdicts([OTHER])] == [False]
    assert [c.answer for c in await postgres.corrections()] == ["now"]


async def test_g06_two_transactions_that_change_one_correction_leave_the_later_ones_turns(
    cluster: Cluster, database: str, postgres: PostgresStore
):
    async with connected(cluster, database) as session:
        await session.begin()
        await Batch(session, live=True, careful=False).apply([correct("one", 1, TURN)])
        second = asyncio.create_task(postgres.replay([correct("two", 10**18, OTHER)], JOURNAL, 1))
        await blocked_or_done(cluster, database, second)
        assert not second.done()
        await session.commit()
        await second
    _, settled, _, _ = tables(cluster, database)
    assert settled == [(OTHER, NAME)]


def evaluate(day: int, *, current: bool = True) -> Evaluate:
    found = ModelMetrics(
        evaluation_id=uuid.UUID(int=day),
        model_version="v",
        created_at=datetime(2026, 1, day, tzinfo=UTC),
        is_current_model=current,
    )
    return Evaluate(op_id=uuid.uuid4(), metrics=found)


def current_days(cluster: Cluster, database: str) -> list[int]:
    rows = cluster.execute("SELECT id FROM model_metrics WHERE is_current_model", database)
    return [row[0].int for row in rows]


async def test_evaluations_in_any_order_and_repeated_leave_the_newest_current(
    cluster: Cluster, database: str, postgres: PostgresStore
):
    operations = [evaluate(1), evaluate(2), evaluate(3), evaluate(4, current=False)]
    for order in itertools.permutations(operations):
        for many in (1, 4):  # in several transactions, in one
            for start in range(0, 4, many):
                await postgres.replay([*order[start : start + many]], JOURNAL, 1)
            assert current_days(cluster, database) == [3]
        cluster.execute("TRUNCATE model_metrics", database)


async def test_of_two_evaluations_at_once_the_newer_is_current(
    cluster: Cluster, database: str, postgres: PostgresStore
):
    async with connected(cluster, database) as session:
        await session.begin()
        await Batch(session, live=True, careful=False).apply([evaluate(2)])
        late = asyncio.create_task(postgres.replay([evaluate(1)], JOURNAL, 1))
        await blocked_or_done(cluster, database, late)
        await session.commit()
        await late
    assert current_days(cluster, database) == [2]


async def test_g08_a_correction_is_told_made_and_heard_through_an_outage(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    """In fallback at once where it was made; elsewhere within a second of its replay."""
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    async with (
        hybrid(tmp_path / "one", dsn) as one,
        hybrid(tmp_path / "two", cluster.dsn(database)) as two,
    ):
        turn = await one.add_conversation(None, "q", "r", "session-of-mine", reply=HANDED)
        first = (await one.correct("one", ["q"], "ru", log_ids=[turn.log_id])).correction
        mark = (await two.changes(None)).mark
        proxy.refuse()
        await wait_for_mode(one, "fallback")
        outcome = await one.correct(
            "two", ["q"], "ru", correction_id=first.correction_id, log_ids=[turn.log_id]
        )
        assert outcome.replaced == first  # known from before the outage
        assert outcome.correction.version > first.version
        assert await one.get_corrections() == [outcome.correction]
        assert await two.get_corrections() == [first]
        heard = await two.changes(mark)
        assert not heard.corrections
        proxy.pass_through()
        await wait_for_mode(one, "recovering")
        carried = time.monotonic()
        while not (heard := await two.changes(heard.mark)).corrections:
            assert time.monotonic() - carried < 5
            await asyncio.sleep(0.02)
        assert await two.get_corrections() == [outcome.correction]
        await wait_until_carried(one)
        assert await one.get_corrections() == [outcome.correction]
        assert not (await two.changes(heard.mark)).corrections


async def test_g20_a_start_in_an_outage_knows_the_corrections(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    async with hybrid(tmp_path / "data", dsn) as store:
        kept = (await store.correct("a", ["q"], "ru")).correction
        gone = (await store.correct("b", ["q"], "ru")).correction
        await store.withdraw(gone.correction_id)
    proxy.refuse()
    async with hybrid(tmp_path / "data", dsn, mode="fallback") as store:
        assert await store.get_corrections() == [kept]
        await store.withdraw(kept.correction_id)
        assert await store.get_corrections() == []
        proxy.pass_through()
        await wait_until_carried(store)
        assert await store.get_corrections() == []
        again = await store.withdraw(gone.correction_id, withdrawn=False)
        assert await store.get_corrections() == [again.correction]
    rows = cluster.execute("SELECT answer, withdrawn FROM corrections ORDER BY 1", database)
    assert rows == [("a", True), ("b", False)]


async def test_g10_a_correction_of_a_turn_out_of_reach_counts_and_is_heard_when_it_is_in_reach(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    nowhere = cluster.dsn(database, port=free_port())
    away = await open_hybrid(tmp_path / "away", nowhere, mode="fallback")
    turn = await away.add_conversation(None, "how much?", "r", "s", reply=HANDED)
    await close_hybrid(away)
    async with hybrid(tmp_path / "data", dsn) as store:
        mark = (await store.changes(None)).mark
        await store.correct("a", [], "en", log_ids=[turn.log_id])
        heard = await store.changes(mark)
        assert heard.corrections
        assert await store.get_corrections() == []
        # Its journal is carried over: from now on the question is known.
        async with hybrid(tmp_path / "away", cluster.dsn(database)) as back:
            await wait_until_carried(back)
        heard = await store.changes(heard.mark)
        assert heard.corrections
        (found,) = await store.get_corrections()
        assert (found.answer, found.wordings, found.language) == ("a", ("how much?",), "ru")
        assert await store.get_inbox(10) == []


async def test_g20_the_inbox_lays_the_journal_over_postgres(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
):
    """While the journal waits: what it settles, dismisses, takes back, adds and rates counts."""
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    async with hybrid(tmp_path / "data", dsn) as store:
        turns = {}
        for name in ("settled", "dismissed", "back", "withdrawn", "well", "low", "left"):
            reply = HANDED if name not in ("well", "low") else Reply(text="r")
            turns[name] = await store.add_conversation(None, name, "r", "s" * 12, reply=reply)
        await store.update_rating(turns["well"].log_id, 1)
        await store.dismiss([turns["back"].log_id])
        gone = (
            await store.correct("x", ["q"], "ru", log_ids=[turns["withdrawn"].log_id])
        ).correction
        for name in ("bettered", "rejected"):
            await store.update_rating(turns["left"].log_id, 3, corrected_response=name)
        rejected, bettered = await store.get_suggestions(9)
        assert await names(store) == ["left", "well", "dismissed", "settled"]
        proxy.refuse()
        await wait_for_mode(store, "fallback")
        await store.correct("a", ["q"], "ru", log_ids=[turns["settled"].log_id])
        await store.withdraw(gone.correction_id)
        await store.dismiss([turns["dismissed"].log_id, rejected.op_id])
        await store.dismiss([turns["back"].log_id], False)
        await store.update_rating(turns["well"].log_id, 5)
        await store.update_rating(turns["low"].log_id, 2)
        await store.add_conversation(None, "new", "r", "s" * 12, reply=HANDED)
        expected = ["new", "left", "low", "withdrawn", "back"]
        monkeypatch.setattr(store._switch, "_carry_some", never)  # the journal stays as it is
        proxy.pass_through()
        await wait_for_mode(store, "recovering")
        assert await names(store) == expected
        assert await unanswered(store) == [name for name in expected if name != "low"]
        assert [s.text for s in await store.get_suggestions(9)] == ["bettered"]
        assert {a.question for a in await store.get_answers("s" * 12, 20)} == {"settled"}
        monkeypatch.undo()
        await wait_until_carried(store)
        assert await names(store) == expected
        assert await unanswered(store) == [name for name in expected if name != "low"]
        assert [s.op_id for s in await store.get_suggestions(9)] == [bettered.op_id]
        assert {a.question for a in await store.get_answers("s" * 12, 20)} == {"settled"}


async def test_g20_a_list_of_questions_that_lacks_postgres_part_does_not_look_whole(
    tmp_path: Path, cluster: Cluster, database: str, proxy: Proxy
):
    dsn = cluster.dsn(database, host=proxy.host, port=proxy.port)
    async with hybrid(tmp_path / "data", dsn) as store:
        await store.add_conversation(None, "before", "r", "s", reply=HANDED)
        assert await unanswered(store) == ["before"]
        assert store.status().complete
        proxy.refuse()
        proxy.cut()
        with pytest.raises(StorageUnavailable):
            await store.get_handed_over(9)
        await wait_for_mode(store, "fallback")
        await store.add_conversation(None, "since", "r", "s", reply=HANDED)
        assert await unanswered(store) == ["since"]
        assert not store.status().complete
        proxy.pass_through()
        await wait_until_carried(store)
        assert await unanswered(store) == ["since", "before"]


async def never() -> bool:
    await asyncio.sleep(0.05)
    return False


async def names(store: StorageAdapter) -> list[str]:
    return [turn.user_message for turn in await store.get_inbox(100)]


async def unanswered(store: StorageAdapter) -> list[str]:
    return [turn.user_message for turn in await store.get_handed_over(100)]
