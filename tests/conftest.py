"""What every suite shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Server, serving


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
