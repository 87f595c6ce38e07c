"""One server that the tests of this folder share where they leave nothing behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import Home, settled
from tests.postgres import Cluster
from tests.servers import Server, serving

MODE: dict[Home, str] = {"journal": "memory", "postgres": "postgres"}
"""The mode of a server that is well."""
TOTALS = ("total_interactions", "rated_interactions", "avg_rating", "positive_ratings")


@pytest.fixture(scope="session")
def shared_servers(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster
) -> Iterator[Callable[[Home], Server]]:
    """One server for each home; it is started when it is first asked for."""
    running: dict[Home, Server] = {}
    with ExitStack() as stack:

        def server_in(home: Home) -> Server:
            if home not in running:
                settings = stack.enter_context(settled(home, cluster))
                data = tmp_path_factory.mktemp(f"shared-{home}") / "data"
                server = stack.enter_context(serving(data, **settings))
                server.wait_for_mode(MODE[home])
                server.wait_for_meaning()
                running[home] = server
            return running[home]

        yield server_in
    for server in running.values():
        assert not re.search("Traceback|request failed|never retrieved", server.log), server.log


@pytest.fixture(scope="session")
def shared(home: Home, shared_servers: Callable[[Home], Server]) -> Server:
    """A server for the whole run, ready to answer by meaning."""
    return shared_servers(home)


@pytest.fixture
def nothing_stored(shared: Server) -> Iterator[None]:
    """The test leaves the totals where they were."""
    before = {name: shared.stats()[name] for name in TOTALS}
    yield
    assert {name: shared.stats()[name] for name in TOTALS} == before


@pytest.fixture(scope="session")
def log_id(shared: Server) -> str:
    """A genuine id."""
    return str(shared.ask("привет")["log_id"])
