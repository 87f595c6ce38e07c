"""What every suite shares."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from audiobot.storage.dsn import parse_dsn
from audiobot.storage.upgrading import upgrade
from tests import forked, servers
from tests.postgres import Cluster, cluster, template_of
from tests.servers import Server, serving

__all__ = ["cluster"]


servers.begin = forked.begin


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder names the category; a test outside every folder is an error."""
    for item in items:
        folder = Path(item.fspath).parent.name
        item.add_marker(getattr(pytest.mark, folder))


Home = Literal["journal", "postgres"]


@pytest.fixture(scope="session", params=["journal", "postgres"])
def home(request: pytest.FixtureRequest) -> Home:
    """Where dialogues live. A test that asks for it, by however many steps, runs in both homes."""
    return request.param


@contextmanager
def settled(home: Home, cluster: Cluster) -> Iterator[dict[str, str]]:
    """The settings of a server in this home, with nothing in it yet.

    Not one connection may be left when its servers have ended.
    """
    if home == "journal":
        yield {}
        return
    with cluster.database(template=template_of(cluster, migrate)) as name:
        yield {"DATABASE_URL": cluster.dsn(name)}
        wait_until_left(cluster, name)


def wait_until_left(cluster: Cluster, database: str, seconds: float = 10) -> None:
    """A killed client's backend needs a moment to notice."""
    deadline = time.monotonic() + seconds
    while left := cluster.connections(database):
        assert time.monotonic() < deadline, f"{left} connections are left"
        time.sleep(0.02)


@pytest.fixture
def settings(home: Home, cluster: Cluster) -> Iterator[dict[str, str]]:
    """The settings of the test's own servers in this home."""
    with settled(home, cluster) as found:
        yield found


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
        deadline = time.monotonic() + 5
        while left := cluster.connections(name):  # a backend takes a moment to see its client go
            assert time.monotonic() < deadline, f"{left} connections left open"
            time.sleep(0.01)
        cluster.drop_database(name)


@pytest.fixture
def empty_database(cluster: Cluster) -> Iterator[str]:
    """The name of a database with nothing in it."""
    name = cluster.create_database()
    yield name
    cluster.drop_database(name)
