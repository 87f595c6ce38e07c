"""Growing up is a restart: what lived on one machine lives in PostgreSQL at the next start.

What must be there is read from the journal's files, past the store; what is there, by SQL.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import shutil
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from audiobot.domain import (
    Candidate,
    Embedding,
    Idempotency,
    KnowledgeItem,
    Source,
    content_hash,
)
from audiobot.ports import Reply
from audiobot.storage.adapter import StorageAdapter
from audiobot.storage.directory import DataDirectory, DialogueIds, KeySet
from audiobot.storage.frames import KIND_OPERATION, Frame, scan
from audiobot.storage.operations import (
    AddConversation,
    Operation,
    RateConversation,
    ReplaceKnowledge,
    decode,
)
from tests.conftest import wait_until_left
from tests.integration.raw import FEEDBACK, PROCESS, assert_error
from tests.postgres import Cluster
from tests.proxy import Proxy, free_port
from tests.servers import Server, serving, start

DIALOGUES = 2_000
WORDS = ["Уборка", "подъезда", "🧽", "'; DROP TABLE voice_logs; --", "é", "\u202e", "\x01", '"\\"']
TOTALS = (
    "total_interactions", "rated_interactions", "avg_rating", "positive_ratings",
    "negative_ratings", "improvement_rate",
)  # fmt: skip


async def _fill(path: Path) -> None:
    """A few thousand operations of every kind, as a store without a database keeps them."""
    chance, numbers = random.Random(3), np.random.default_rng(3)
    directory = DataDirectory(path)
    keys = KeySet(path / "keys.json", None)
    store = StorageAdapter(directory, DialogueIds(keys.ids), keys=keys)
    store.open()
    await store.start()

    def words() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, 12)))

    async def turn(number: int) -> None:
        dimension = chance.choice([8, 384])
        vector = numbers.standard_normal(dimension).astype("<f4").tobytes()
        reply = Reply(
            text=words(),
            outcome=chance.choice(["answered", "answered", "handed_over"]),
            model_used=chance.choice(["retrieval", "small_talk", "handover"]),
            language=chance.choice(["ru", "en"]),
            token_count=chance.choice([None, 7]),
            similar_found=chance.randint(0, 9),
            learning_improved=chance.random() < 0.5,
            confidence=chance.choice([None, chance.random()]),
            sources=(Source(kind="knowledge", title=words(), ids=("a", "b"), dialogues=2),),
            candidates=(Candidate("item", chance.random()),),
            propensity=chance.choice([None, 1.0]),
            versions={"encoder": "e", "ranking": words()},
            embedding=chance.choice([None, Embedding(vector, dimension, "test")]),
        )
        key = Idempotency(number.to_bytes(16, "big"), b"r" * 16) if number % 5 == 0 else None
        told = await store.add_conversation(
            None, words(), reply.text, f"s {number}", reply=reply,
            response_time=chance.random(), idempotency=key,
        )  # fmt: skip
        for again in range(chance.choice([0, 1, 1, 2, 3])):
            await store.update_rating(
                told.log_id,
                chance.randint(1, 5),
                chance.choice([None, "", words()]),
                corrected_response=chance.choice([None, words()]),
                rater=chance.choice([None, "rater"]),
                by_operator=chance.random() < 0.2,
                idempotency=Idempotency(f"{number:014d}{again:02d}".encode(), b"R" * 16)
                if number % 7 == 0
                else None,
            )

    for first in range(0, DIALOGUES, 100):
        await asyncio.gather(*(turn(number) for number in range(first, first + 100)))
    for _ in range(3):
        orphan = store._ids.issue()
        assert (await store.update_rating(orphan, 2, words())).status == "pending"
        assert (await store.update_rating(orphan, 4, words())).status == "pending"
    for name, titles in [("a.csv", "xyz"), ("b.md", "one two"), ("a.csv", "zy"), ("c.md", "")]:
        items = [KnowledgeItem(item_id=t, title=words() + t, answer=words()) for t in titles]
        await store.replace_knowledge(name, items)
    await store.close()
    directory.release()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that lived without a database; each test copies it."""
    path = tmp_path_factory.mktemp("grown") / "data"
    asyncio.run(_fill(path))
    return path


def journal_of(data: Path) -> list[Operation]:
    """Every operation in the journal's files, oldest first."""
    found = []
    for path in sorted((data / "journal" / "0").glob("*.log")):
        raw = path.read_bytes()
        for part in scan(raw):
            if isinstance(part, Frame) and part.kind == KIND_OPERATION:
                found.append(decode(raw[part.offset + 21 : part.end]))
    return found


class Truth(NamedTuple):
    """Everything that must be in PostgreSQL, as sorted rows of plain values."""

    dialogues: list[tuple]
    ratings: list[tuple]
    current: dict[str, tuple]
    vectors: list[tuple]
    keys: list[tuple]
    knowledge: dict[str, list[dict[str, Any]]]


def _instant(moment: Any) -> str | None:
    return moment and f"{moment.timestamp():.6f}"


def expected(operations: list[Operation]) -> Truth:
    adds = [o for o in operations if isinstance(o, AddConversation)]
    rates = [o for o in operations if isinstance(o, RateConversation)]
    ids = {o.conversation.log_id for o in adds}
    assert len(ids) == len(adds)
    newest: dict[uuid.UUID, RateConversation] = {}
    for rate in sorted(rates, key=lambda o: (o.version, o.op_id.bytes)):
        newest[rate.log_id] = rate
    dialogues = []
    for told in (o.conversation for o in adds):
        receipt = {
            "sources": [
                {"kind": s.kind, "title": s.title, "ids": list(s.ids), "dialogues": s.dialogues}
                for s in told.sources
            ],
            "candidates": [{"item_id": c.item_id, "score": c.score} for c in told.candidates],
            "propensity": told.propensity,
            "versions": told.versions,
        }
        dialogues.append(
            (
                str(told.log_id), _instant(told.created_at), told.session_id, told.user_message,
                told.ai_response, told.model_used, told.response_time, told.token_count,
                told.outcome, told.language, told.durability, told.similar_found,
                told.learning_improved, told.confidence, content_hash(told).hex(),
                _receipt(receipt),
            )
        )  # fmt: skip
    sources = {}
    for operation in operations:
        if isinstance(operation, ReplaceKnowledge):
            sources[operation.source.name] = [i.title for i in operation.source.items]
    return Truth(
        sorted(dialogues),
        sorted(
            (
                str(o.op_id), str(o.log_id), o.rating, o.version, _instant(o.rated_at),
                o.feedback_text, o.corrected_response, o.rater, o.by_operator, o.log_id in ids,
            )
            for o in rates
        ),
        {
            str(i): (o.rating, o.feedback_text, _instant(o.rated_at), o.version, str(o.op_id))
            for i, o in newest.items()
            if i in ids
        },
        sorted(
            (str(o.conversation.log_id), e.vector.hex(), e.dimension, e.model)
            for o in adds
            if (e := o.conversation.embedding) is not None
        ),
        sorted(
            (o.idempotency.key.hex(), o.idempotency.request.hex(), str(o.op_id))
            for o in [*adds, *rates]
            if o.idempotency is not None
        ),
        sources,
    )  # fmt: skip


def found(cluster: Cluster, database: str) -> Truth:
    def rows(statement: str) -> list[tuple]:
        return cluster.execute(statement, database)

    return Truth(
        sorted(
            (str(i), _instant(created), *rest, bytes(words).hex(), _receipt(receipt))
            for i, created, *rest, words, receipt in rows(
                "SELECT id, created_at, session_id, user_message, ai_response, model_used,"
                " response_time, token_count, outcome, language, durability, similar_found,"
                " learning_improved, confidence, content_hash, receipt FROM voice_logs"
            )
        ),
        sorted(
            (str(op), str(i), rating, version, _instant(at), *rest)
            for op, i, rating, version, at, *rest in rows(
                "SELECT op_id, log_id, rating, version, rated_at, feedback_text,"
                " corrected_response, rater, by_operator, joined FROM voice_ratings"
            )
        ),
        {
            str(i): (rating, feedback, _instant(at), version, str(op))
            for i, rating, feedback, at, version, op in rows(
                "SELECT id, rating, feedback_text, updated_at, rating_version, rating_op"
                " FROM voice_logs WHERE rating IS NOT NULL"
            )
        },
        sorted(
            (str(i), bytes(vector).hex(), *rest)
            for i, vector, *rest in rows(
                "SELECT log_id, vector, dimension, embedding_model FROM voice_embeddings"
            )
        ),
        sorted(
            (bytes(key).hex(), bytes(request).hex(), str(op))
            for key, request, op in rows("SELECT key, request, op_id FROM idempotency_keys")
        ),
        {
            name: [item["title"] for item in items]
            for name, items in rows("SELECT name, items FROM knowledge_sources")
        },
    )


def _receipt(receipt: dict[str, Any]) -> str:
    return json.dumps({k: v for k, v in receipt.items() if v not in (None, [], {})}, sort_keys=True)


def digest(rows: object) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def assert_whole(cluster: Cluster, database: str, truth: Truth) -> None:
    there = found(cluster, database)
    for name in Truth._fields:
        wanted, got = getattr(truth, name), getattr(there, name)
        if digest(wanted) != digest(got) and wanted != got:
            strays = (
                [r for r in got if r not in wanted][:2],
                [r for r in wanted if r not in got][:2],
            )
            raise AssertionError(f"{name}: {len(got)} for {len(wanted)}; {strays}")
    ((repeated,),) = cluster.execute(
        "SELECT count(*) - count(DISTINCT log_id) FROM voice_embeddings", database
    )
    assert repeated == 0


def totals(server: Server) -> dict[str, Any]:
    stats = server.stats()
    return {name: stats[name] for name in TOTALS}


def totals_of(truth: Truth) -> dict[str, Any]:
    ratings = [row[0] for row in truth.current.values()]
    positive = sum(r >= 4 for r in ratings)
    return {
        "total_interactions": len(truth.dialogues),
        "rated_interactions": len(ratings),
        "avg_rating": round(sum(ratings) / len(ratings), 4),
        "positive_ratings": positive,
        "negative_ratings": sum(r <= 2 for r in ratings),
        "improvement_rate": round(positive / len(truth.dialogues), 4),
    }


def post(server: Server, path: str, key: str, body: dict[str, object]) -> httpx.Response:
    return server.client.post(path, json=body, headers={"Idempotency-Key": key})


def test_g06_a_journal_becomes_postgres_history_at_the_next_start(
    cluster: Cluster, database: str, grown: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(grown, data)
    with serving(data) as server:
        asked = {"message": "спасибо", "session_id": "s"}
        first = post(server, PROCESS, "question", asked)
        rating = {"log_id": first.json()["log_id"], "rating": 4, "feedback_text": "да"}
        rated = post(server, FEEDBACK, "rating", rating)
        handed = server.ask("Где купить билет на поезд до Владивостока?")
        assert handed["outcome"] == "handed_over"
        before, export = totals(server), server.client.get("/api/learning/export").json()["data"]
    assert before["total_interactions"] == DIALOGUES + 2
    truth = expected(journal_of(data))
    assert len(truth.ratings) > DIALOGUES
    assert totals_of(truth) | {"avg_rating": 0} == before | {"avg_rating": 0}
    with serving(data, DATABASE_URL=cluster.dsn(database)) as server:
        server.wait_for_mode("postgres", 30)
        assert_whole(cluster, database, truth)
        assert totals(server) == before
        assert server.client.get("/api/learning/export").json()["data"] == export
        storage = server.health()["storage"]
        assert (storage["journal_backlog"], storage["missing_records"]) == (0, 0)
        # Keys that were used before answer as they did, and take no other request.
        assert post(server, PROCESS, "question", asked).content == first.content
        assert post(server, FEEDBACK, "rating", rating).content == rated.content
        other = {**asked, "message": "привет"}
        assert_error(post(server, PROCESS, "question", other), 422, "idempotency_mismatch")
        # Old ids stay rateable, and what the journal held is found by it.
        again = server.rate(first.json()["log_id"], 1)
        assert again.json()["status"] == "stored"
        similar = server.client.get(f"/api/learning/similar/{handed['log_id']}").json()
        assert similar["original_message"].startswith("Где купить")
        deadline = time.monotonic() + 15
        while server.health()["storage"]["orphans"] != 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    wait_until_left(cluster, database)
    assert journal_of(data) == []
    # A second start carries nothing over again.
    with serving(data, DATABASE_URL=cluster.dsn(database)) as server:
        server.wait_for_mode("postgres")
        assert totals(server)["total_interactions"] == DIALOGUES + 2
    wait_until_left(cluster, database)


def carried(cluster: Cluster, database: str) -> int:
    rows = cluster.execute("SELECT coalesce(max(sequence), 0) FROM replay_cursors", database)
    return rows[0][0]


def test_g06_growing_up_goes_on_where_it_was_interrupted_and_doubles_nothing(
    cluster: Cluster, database: str, grown: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(grown, data)
    operations = journal_of(data)
    truth, chance = expected(operations), random.Random(5)
    log = ""
    with Proxy(cluster.host, cluster.port) as proxy:
        proxy.delay(0.004)
        url = cluster.dsn(database, host=proxy.host, port=proxy.port)
        for _ in range(4):
            from_here = carried(cluster, database)
            server = start(data, DATABASE_URL=url)
            deadline = time.monotonic() + 30
            while carried(cluster, database) <= from_here:
                assert time.monotonic() < deadline, server.log
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.15))
            server.kill()
            server.client.close()
            log += server.log
        stopped_at = carried(cluster, database)
        assert 0 < stopped_at < len(operations), "it was killed too late to mean anything"
        # Half here and half there, and PostgreSQL out of reach: nothing is counted twice.
        away = cluster.dsn(database, port=free_port())
        with serving(data, DATABASE_URL=away) as server:
            assert totals(server) == totals_of(truth)
            server.kill()
        with serving(data, DATABASE_URL=url) as server:
            for _ in range(3):
                from_here = carried(cluster, database)
                deadline = time.monotonic() + 30
                while carried(cluster, database) <= from_here:
                    assert time.monotonic() < deadline, server.log
                    time.sleep(0.01)
                assert totals(server) == totals_of(truth)
                time.sleep(chance.uniform(0, 0.1))
                proxy.cut()
            server.wait_for_mode("postgres", 60)
            assert server.stats()["complete"] is True
            assert totals(server) == totals_of(truth)
            log += server.log
    wait_until_left(cluster, database)
    assert_whole(cluster, database, truth)
    assert "Traceback" not in log
    assert cluster.execute("SELECT count(*) FROM voice_conflicts", database) == [(0,)]


def test_g10_a_rating_given_while_its_dialogue_is_still_carried_counts(
    cluster: Cluster, database: str, grown: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(grown, data)
    adds = [o for o in journal_of(data) if isinstance(o, AddConversation)]
    newest = [str(o.conversation.log_id) for o in adds[-20:]]
    with Proxy(cluster.host, cluster.port) as proxy:
        proxy.delay(0.01)
        url = cluster.dsn(database, host=proxy.host, port=proxy.port)
        with serving(data, DATABASE_URL=url) as server:
            server.wait_for_mode("recovering")
            for number, log_id in enumerate(newest):
                reply = server.rate(log_id, 1 + number % 5, feedback_text="новая")
                assert reply.json()["status"] == "stored", reply.text
            assert server.stats()["total_interactions"] == DIALOGUES
            proxy.pass_through()
            server.wait_for_mode("postgres", 60)
    wait_until_left(cluster, database)
    current = dict(
        cluster.execute(
            "SELECT id::text, rating FROM voice_logs WHERE feedback_text = 'новая'", database
        )
    )
    assert current == {log_id: 1 + number % 5 for number, log_id in enumerate(newest)}
