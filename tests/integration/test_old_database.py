"""The database of the first public AudioBot, upgraded in place: nothing lost, nothing left over."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from audiobot.domain import Conversation
from audiobot.http.learning import _sample
from audiobot.storage.dsn import parse_dsn
from audiobot.storage.migrations.versions.hybrid_002 import LEGACY
from audiobot.storage.postgres import PostgresStore
from audiobot.storage.upgrading import downgrade, look, upgrade
from tests.conformance.hybrid import hybrid
from tests.old_database import DDL, Row, dump, make_old, old_rows, shape, vectors
from tests.postgres import Cluster

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Old:
    """The old database, upgraded; with what was in it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.name = cluster.create_database()
        self.logs = make_old(cluster, self.name)
        self.vectors = vectors(self.logs)
        self.rows = old_rows(cluster, self.name)
        self.before = dump(cluster, self.name)
        self.revisions = upgrade(parse_dsn(cluster.dsn(self.name)))
        self.ids = new_ids([row.id for row in self.logs], [v[0] for v in self.vectors])

    def execute(self, statement: str) -> list[tuple]:
        return self.cluster.execute(statement, self.name)


@pytest.fixture(scope="module")
def old(cluster: Cluster) -> Iterator[Old]:
    old = Old(cluster)
    yield old
    assert cluster.connections(old.name) == 0
    cluster.drop_database(old.name)


@pytest.fixture
def copy(cluster: Cluster, old: Old) -> Iterator[str]:
    """A copy of the upgraded database, to change."""
    with cluster.database(template=old.name) as name:
        yield name


def new_ids(logs: list[str], owners: list[str]) -> dict[str, uuid.UUID]:
    """By the rule, told in other words than the migration's: which id becomes which."""
    every = {*logs, *owners}
    spelled = Counter(text.lower() for text in every)
    found = {}
    for text in every:
        if UUID.fullmatch(text) or (UUID.fullmatch(text.lower()) and spelled[text.lower()] == 1):
            found[text] = uuid.UUID(text)
        else:
            found[text] = uuid.uuid5(LEGACY, text)
    return found


def as_told(text: str | None) -> datetime | None:
    """An old time read as UTC; None where Python or every zone's calendar has none."""
    if text is None or "infinity" in text or "BC" in text or text >= "9999-12-31":
        return None
    if text.startswith(("12000", "0001-01-01")):
        return None
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_g19_an_old_database_comes_to_today_in_one_step(old: Old):
    assert old.revisions == ("initial_001", "joining_004")
    assert len(old.logs) >= 1_000
    assert upgrade(parse_dsn(old.cluster.dsn(old.name))) == ("joining_004", "joining_004")


def test_g19_every_dialogue_keeps_its_words_and_gets_its_id(old: Old):
    rows = old.execute(
        "SELECT id, session_id, user_message, ai_response, feedback_text, model_used,"
        " response_time::text, token_count, legacy_id FROM voice_logs"
    )
    assert len({old.ids[row.id] for row in old.logs}) == len(old.logs) == len(rows)
    kept = {row[0]: row[1:] for row in rows}
    for row in old.logs:
        new = old.ids[row.id]
        seconds = None if row.response_time is None else row.response_time
        found = kept[new]
        assert found[:5] == (
            row.session_id, row.user_message, row.ai_response, row.feedback_text, row.model_used,
        )  # fmt: skip
        assert (found[5] is None) == (seconds is None)
        if seconds is not None:
            assert repr(float(found[5])) == repr(seconds)
        assert found[6] == row.token_count
        assert found[7] == (None if UUID.fullmatch(row.id) else row.id)


def test_g19_times_are_read_as_utc_and_odd_ones_kept_aside(old: Old):
    rows = old.execute(
        "SELECT id, created_at, updated_at, legacy->>'created_at', legacy ? 'created_at',"
        " (legacy->>'updated_at')::timestamp::text FROM voice_logs"
    )
    kept = {row[0]: row[1:] for row in rows}
    odd = 0
    for row in old.logs:
        created, updated, text, was_odd, updated_text = kept[old.ids[row.id]]
        assert created == (as_told(row.created_at) or as_told(row.updated_at) or EPOCH)
        assert updated == as_told(row.updated_at)
        assert was_odd == (as_told(row.created_at) is None)
        assert (text is None) == (row.created_at is None or not was_odd)
        lost = row.updated_at is not None and updated is None
        assert updated_text == (row.updated_at if lost else None)
        odd += was_odd
    assert odd > 50


def test_g19_every_rating_counts_and_begins_its_history(old: Old):
    rows = old.execute("SELECT id, rating, rating_version, rating_op, legacy FROM voice_logs")
    history = {
        row[0]: row[1:]
        for row in old.execute(
            "SELECT log_id, op_id, rating, version, rated_at, feedback_text, joined"
            " FROM voice_ratings"
        )
    }
    kept = {row[0]: row[1:] for row in rows}
    good = [row for row in old.logs if row.rating is not None and 1 <= row.rating <= 5]
    assert len(history) == len(good)
    assert old.execute("SELECT count(*) FROM voice_ratings") == [(len(good),)]
    for row in old.logs:
        new = old.ids[row.id]
        rating, version, op_id, legacy = kept[new]
        if row not in good:
            assert rating is version is op_id is None
            assert legacy.get("rating") == row.rating
            continue
        at = as_told(row.updated_at) or as_told(row.created_at) or EPOCH
        assert history[new] == (op_id, row.rating, version, at, row.feedback_text, True)
        assert (rating, "rating" in legacy) == (row.rating, False)
        now = datetime.now(UTC)
        assert version <= now.timestamp() * 1e6
        if at < now:
            assert version == round((at - EPOCH).total_seconds() * 1e6) or at.year < 1900


def test_g19_every_vector_is_kept_to_the_byte_orphans_too(old: Old):
    rows = old.execute(
        "SELECT legacy_id, log_id, vector, dimension, embedding_model, created_at,"
        " legacy->>'log_id' FROM voice_embeddings"
    )
    kept = {row[0]: row[1:] for row in rows}
    logs = {row.id for row in old.logs}
    orphans = 0
    assert len(rows) == len(old.vectors)
    for number, (log_id, vector, model, at) in enumerate(old.vectors, 1):
        new, found, dimension, found_model, found_at, found_id = kept[number]
        assert (new, found, found_model) == (old.ids[log_id], vector, model)
        assert dimension == (len(vector) // 4 if len(vector) % 4 == 0 else None)
        assert found_at == (as_told(at) or EPOCH)
        assert found_id == (log_id if log_id not in logs and not UUID.fullmatch(log_id) else None)
        orphans += log_id not in logs
    assert orphans == 6
    dsn = parse_dsn(old.cluster.dsn(old.name))
    assert look(dsn).orphans == orphans


def test_g19_metrics_and_data_sets_are_kept(old: Old):
    for table in ("model_metrics", "training_datasets"):
        now = {
            row["legacy_id"]: row
            for (row,) in old.execute(f"SELECT row_to_json(every) FROM {table} AS every")
        }
        before = [json.loads(text) for (text,) in old.rows[table]]
        assert len(now) == len(before)
        for row in before:
            found = now[row["id"]]
            for name, value in row.items():
                if name == "id":
                    continue
                if name.endswith(("_at", "_start", "_end")):
                    told = value and as_told(value.replace("T", " "))
                    kept = found[name] and datetime.fromisoformat(found[name])
                    assert kept == (told or (EPOCH if name == "created_at" else None))
                    if told is None and (value is not None or name == "created_at"):
                        assert found["legacy"][name] == value
                else:
                    assert found[name] == value, name


async def test_g09_statistics_of_an_old_database_equal_a_recount(old: Old):
    store = PostgresStore(parse_dsn(old.cluster.dsn(old.name)))
    try:
        stats, _ = await store.stats()
    finally:
        await store.close()
    good = [row.rating for row in old.logs if row.rating is not None and 1 <= row.rating <= 5]
    assert stats.total_interactions == len(old.logs)
    assert (stats.rated_interactions, stats.rating_sum) == (len(good), sum(good))
    assert stats.positive_ratings == sum(rating > 3 for rating in good)
    assert stats.negative_ratings == sum(rating < 3 for rating in good)
    tomorrow = [as_told(r.created_at) or as_told(r.updated_at) or EPOCH for r in old.logs]
    assert stats.recent == sum(at > datetime.now(UTC) for at in tomorrow)


@pytest.mark.parametrize("settings", ["", "DateStyle=German;TimeZone=America/New_York"])
async def test_g19_the_store_works_on_it(cluster: Cluster, old: Old, copy: str, settings, tmp_path):
    for setting in filter(None, settings.split(";")):
        name, value = setting.split("=")
        cluster.execute(f"ALTER DATABASE {copy} SET {name} = '{value}'")
    good = {old.ids[r.id]: r for r in old.logs if r.rating is not None and 1 <= r.rating <= 5}
    async with hybrid(tmp_path / "data", cluster.dsn(copy)) as store:
        for row in old.logs[:: 1 if settings == "" else 10]:
            check_told(await store.get_conversation(old.ids[row.id]), row)
        exported = [c async for c in store.get_rated_conversations(1, answered=True)]
        assert [c.log_id for c in exported] == sorted(
            good, key=lambda i: (next(c.created_at for c in exported if c.log_id == i), i)
        )
        assert [c.created_at for c in exported] == sorted(c.created_at for c in exported)
        for told in exported:
            line = json.loads(_sample(told).model_dump_json())
            assert line["metadata"]["rating"] == good[told.log_id].rating
        newest = [c.log_id async for c in store.get_rated_conversations(1, newest=7)]
        assert newest == [c.log_id for c in exported][-7:]
        for row in old.logs[:25]:
            rated = await store.update_rating(old.ids[row.id], 2, "adopted")
            assert rated.status == "stored"
            told = await store.get_conversation(old.ids[row.id])
            assert told is not None
            assert (told.rating, told.feedback_text) == (2, "adopted")
        kept = await store.add_conversation(None, "new", "one", "s")
        assert await store.get_conversation(kept.log_id) == kept
        stats = await store.get_stats()
        assert stats.total_interactions == len(old.logs) + 1
        want = len(good) + sum(old.ids[row.id] not in good for row in old.logs[:25])
        assert stats.rated_interactions == want


def check_told(told: Conversation | None, row: Row) -> None:
    assert told is not None
    assert (told.user_message, told.ai_response) == (row.user_message, row.ai_response)
    assert (told.session_id, told.model_used) == (row.session_id or "", row.model_used or "")
    assert math.isfinite(told.response_time)
    if row.response_time is not None and math.isfinite(row.response_time):
        assert told.response_time == row.response_time
    assert told.embedding is None or len(told.embedding.vector) == 4 * told.embedding.dimension > 0


def test_g19_down_and_up_again_loses_nothing_the_old_shape_can_hold(
    cluster: Cluster, old: Old, copy: str
):
    dsn = parse_dsn(cluster.dsn(copy))
    up = dump(cluster, copy)
    assert downgrade(dsn, "initial_001") == ("joining_004", "initial_001")
    down = dump(cluster, copy)
    assert old_rows(cluster, copy) == old.rows
    fresh = old.before["shape"]
    for part, found in down["shape"].items():
        # Its foreign key had been dropped; what is added now does not look at orphans.
        want = [c for c in found if "voice_embeddings_log_id_fkey" in c]
        assert found == sorted(fresh[part] + want, key=repr), part
    upgrade(dsn)
    again = dump(cluster, copy)
    assert again["shape"] == up["shape"]
    assert stable(again["rows"]) == stable(up["rows"])


def stable(rows: dict[str, list[tuple]]) -> dict[str, list]:
    """The rows without what is drawn or stamped anew at each upgrade."""
    drawn = ("rating_op", "op_id", "received_at", "rating_version", "version")
    found = {}
    for table, texts in rows.items():
        kept = []
        for (text,) in texts:
            row = json.loads(text)
            serial = table not in {"voice_logs", "voice_ratings"}
            left_out = (*drawn, "id") if serial else drawn
            kept.append(json.dumps({k: v for k, v in row.items() if k not in left_out}))
        found[table] = sorted(kept)
    return found


async def test_g19_what_was_told_since_goes_down_and_up_too(
    cluster: Cluster, database: str, tmp_path: Path
):
    dsn = parse_dsn(cluster.dsn(database))
    async with hybrid(tmp_path / "data", cluster.dsn(database)) as store:
        ids = [(await store.add_conversation(None, f"q{i}", "r", "s")).log_id for i in range(20)]
        for i, log_id in enumerate(ids[:10]):
            await store.update_rating(log_id, i % 5 + 1, f"f{i}")
        before = [await store.get_conversation(log_id) for log_id in ids]
    downgrade(dsn, "initial_001")
    fk = "SELECT convalidated FROM pg_constraint WHERE contype = 'f'"
    assert cluster.execute(fk, database) == [(True,)]
    new = "INSERT INTO model_metrics (model_version) VALUES ('next') RETURNING id"
    assert cluster.execute(new, database) == [(1,)]
    upgrade(dsn)
    async with hybrid(tmp_path / "other", cluster.dsn(database)) as store:
        assert [await store.get_conversation(log_id) for log_id in ids] == before
        assert (await store.get_stats()).rated_interactions == 10


def test_g19_down_to_nothing_and_up_again(cluster: Cluster, database: str):
    up = shape(cluster, database)
    dsn = parse_dsn(cluster.dsn(database))
    assert downgrade(dsn, "base") == ("joining_004", None)
    left = shape(cluster, database)
    assert {row[0] for row in left["columns"]} == {"alembic_version"}
    assert (left["functions"], left["triggers"], left["sequences"]) == ([], [], [])
    upgrade(dsn)
    assert shape(cluster, database) == up


def test_g19_a_trigger_of_somebody_stamps_no_row(cluster: Cluster, empty_database: str):
    make_old(cluster, empty_database, 50)
    cluster.execute(
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$",
        empty_database,
    )
    cluster.execute(
        "CREATE TRIGGER stamp BEFORE UPDATE ON voice_logs FOR EACH ROW EXECUTE FUNCTION stamp()",
        empty_database,
    )
    upgrade(parse_dsn(cluster.dsn(empty_database)))
    stamped = "SELECT count(*) FROM voice_logs WHERE updated_at > now() - interval '1 hour'"
    future = "SELECT count(*) FROM voice_logs WHERE updated_at > now()"
    assert cluster.execute(stamped, empty_database) == cluster.execute(future, empty_database)


def test_g19_ids_made_to_collide_do_not(cluster: Cluster, empty_database: str):
    """An id that is another's uuid5, an orphan with no letter, an orphan's small-lettered twin."""
    alone = str(uuid.UUID(int=0xC1 << 64))
    made = str(uuid.uuid5(LEGACY, "log-1"))
    logs = ["log-1", made, alone.upper()]
    with psycopg.connect(cluster.dsn(empty_database)) as connection:
        for statement in DDL:
            connection.execute(statement)
        connection.execute(
            "ALTER TABLE voice_embeddings DROP CONSTRAINT voice_embeddings_log_id_fkey"
        )
        for log_id in logs:
            connection.execute("INSERT INTO voice_logs VALUES (%s, '', 'q', 'a')", [log_id])
        for log_id in ("", "log-1", made, alone, alone.upper()):
            connection.execute(
                "INSERT INTO voice_embeddings (log_id, vector) VALUES (%s, %s)",
                [log_id, log_id.encode()],
            )
    before = old_rows(cluster, empty_database)
    dsn = parse_dsn(cluster.dsn(empty_database))
    upgrade(dsn)
    found = dict(
        cluster.execute("SELECT coalesce(legacy_id, id::text), id FROM voice_logs", empty_database)
    )
    assert found[made] == uuid.UUID(made)
    assert len({*found.values(), uuid.UUID(alone)}) == 4
    owners = dict(cluster.execute("SELECT vector, log_id FROM voice_embeddings", empty_database))
    for log_id in logs:
        assert owners[log_id.encode()] == found[log_id]
    assert owners[b""] == uuid.uuid5(LEGACY, "")
    assert owners[alone.encode()] == uuid.UUID(alone)
    assert look(dsn).orphans == 2
    downgrade(dsn, "initial_001")
    assert old_rows(cluster, empty_database) == before
