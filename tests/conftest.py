"""What every suite shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audiobot.storage.dsn import parse_dsn
from audiobot.storage.upgrading import upgrade
from tests.postgres import Cluster, cluster, template_of
from tests.servers import Server, serving

__all__ = ["cluster"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder names the category; a test outside every folder is an error."""
    for item in items:
        folder = Path(item.fspath).parent.name
        item.add_marker(getattr(pytest.mark, folder))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One real server for a module, ready to answer by meaning."""
    with serving(tmp_path_factory.mktemp("server") / "data") as running:
        running.wait_for_meaning()
        yield running


def migrate(dsn: str) -> None:
    """Today's schema, as ``serve`` makes it."""
    upgrade(parse_dsn(dsn))


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """The name of a fresh database with today's schema; its test leaves no connection open."""
    name = cluster.create_database(template=template_of(cluster, migrate))
    yield name
    if cluster.running:
        assert cluster.connections(name) == 0
        cluster.drop_database(name)


@pytest.fixture
def empty_database(cluster: Cluster) -> Iterator[str]:
    """The name of a database with nothing in it."""
    name = cluster.create_database()
    yield name
    cluster.drop_database(name)
