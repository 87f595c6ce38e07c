"""One server that the tests of this folder share where they leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import Server, serving

TOTALS = ("total_interactions", "rated_interactions", "avg_rating", "positive_ratings")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the whole run, ready to answer by meaning."""
    with serving(tmp_path_factory.mktemp("shared") / "data") as running:
        running.wait_for_meaning()
        yield running


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
