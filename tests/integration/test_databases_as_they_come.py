"""Databases as companies have them: in another encoding, and for a role with few rights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql

from audiobot.errors import SetupError
from audiobot.storage.dsn import parse_dsn
from audiobot.storage.upgrading import look, upgrade
from tests.conformance.hybrid import dialogues_in, hybrid, ratings_in, wait_for_reason
from tests.postgres import Cluster

EVERY_LETTER = "Это дорого 😡 𝕌 é مرحبا"


@pytest.fixture(params=["WIN1251", "LATIN1", "SQL_ASCII"])
def narrow(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """A database whose encoding has not every letter."""
    name = f"narrow_{request.param.lower()}"
    cluster.execute(
        sql.SQL(
            "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING {} LC_COLLATE 'C' LC_CTYPE 'C'"
        ).format(sql.Identifier(name), sql.Identifier(cluster.owner), sql.Literal(request.param))
    )
    yield name
    cluster.drop_database(name)


async def test_g16_a_database_that_lacks_letters_is_named_and_not_entered(
    tmp_path: Path, cluster: Cluster, narrow: str
):
    dsn = cluster.dsn(narrow)
    for asks in (look, upgrade):
        with pytest.raises(SetupError, match="database_encoding"):
            asks(parse_dsn(dsn))
    async with hybrid(tmp_path / "data", dsn, mode="fallback") as store:
        await wait_for_reason(store, "encoding")
        told = await store.add_conversation(None, EVERY_LETTER, "a", "s")
        assert told.durability == "journal"


async def test_g16_what_the_database_takes_for_its_clients_encoding_is_nothing_to_us(
    tmp_path: Path, cluster: Cluster, database: str
):
    named = sql.SQL("ALTER DATABASE {} ").format(sql.Identifier(database))
    cluster.execute(named + sql.SQL("SET client_encoding = 'LATIN1'"))
    async with hybrid(tmp_path / "data", cluster.dsn(database)) as store:
        told = await store.add_conversation(None, EVERY_LETTER, EVERY_LETTER, "s")
        assert told.durability == "postgres"
    cluster.execute(named + sql.SQL("RESET client_encoding"))
    kept = cluster.execute("SELECT user_message, ai_response FROM voice_logs", database)
    assert kept == [(EVERY_LETTER, EVERY_LETTER)]


async def test_g16_a_role_that_may_use_the_tables_needs_nothing_beside_them(
    tmp_path: Path, cluster: Cluster, database: str
):
    """What ``GRANT … ON ALL TABLES`` gives is what the doctor asks for."""
    role, password = "lesser_role", "of-a-test"
    identifier = sql.Identifier(role)
    cluster.execute(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(identifier, sql.Literal(password))
    )
    try:
        for right in ("USAGE ON SCHEMA", "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA"):
            grant = sql.SQL("GRANT {} public TO {}").format(sql.SQL(right), identifier)
            cluster.execute(grant, database)
        dsn = cluster.dsn(database, user=role, password=password)
        assert look(parse_dsn(dsn)).missing == ()
        async with hybrid(tmp_path / "data", dsn) as store:
            told = await store.add_conversation(None, "q", "a", "s")
            assert told.durability == "postgres"
            assert (await store.update_rating(told.log_id, 5)).status == "stored"
            assert store.status().mode == "postgres"
        assert dialogues_in(cluster, database) == {told.log_id: 5}
        assert ratings_in(cluster, database) == 1
    finally:
        cluster.execute(sql.SQL("DROP OWNED BY {}").format(identifier), database)
        cluster.execute(sql.SQL("DROP ROLE {}").format(identifier))
