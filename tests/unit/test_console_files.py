"""The console's files: htmx as its makers published it, and all that the pages ask for."""

from __future__ import annotations

import hashlib
import re
from importlib import resources

HTTP = resources.files("audiobot") / "http"
HTMX = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
"""SHA-256 of dist/htmx.min.js in htmx.org 2.0.11 on npm."""


def test_htmx_is_the_one_that_was_published() -> None:
    script = (HTTP / "console" / "static" / "htmx.min.js").read_bytes()
    assert hashlib.sha256(script).hexdigest() == HTMX


def test_every_file_that_a_page_names_is_there_and_none_is_elsewhere() -> None:
    page = (HTTP / "console" / "templates" / "base.html").read_text()
    named = re.findall(r'(?:src|href)="([^"{#]+)"', page)
    files = {path for path in named if "/static/" in path}
    assert len(files) == 4
    for path in files:
        folder, name = path.rsplit("/static/", 1)
        assert (HTTP / folder.strip("/") / "static" / name).is_file(), path
    assert not [path for path in named if path.startswith(("http:", "https:", "//"))]
