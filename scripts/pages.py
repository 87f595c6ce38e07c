"""The ending of every script that writes a page of docs/: write it, or check that it is true."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(page: Path, text: str, command: str) -> int:
    """Write ``page``, or with ``--check`` say which ``command`` would change it; the exit code."""
    if "--check" in sys.argv:
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"docs/{page.name} is out of date: run make {command}\n")
            return 1
        return 0
    page.parent.mkdir(exist_ok=True)
    page.write_text(text, encoding="utf-8")
    return 0
