"""Write docs/states.md: the modes, how one follows another, and why, from the code's own tables.

``--check`` fails when the page is out of date, or when a mode or a reason has no sentence.

    .venv/bin/python scripts/states.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

from pages import write_or_check

from audiobot.domain import StorageMode
from audiobot.messages import codes, sentence
from audiobot.storage.circuit import AT_ONCE
from audiobot.storage.modes import TRANSITIONS, diagram
from audiobot.storage.trouble import Reason

PAGE = Path(__file__).parent.parent / "docs" / "states.md"
EVENTS = {
    "reached": "a probe has written to PostgreSQL, and the schema is the one that is meant",
    "trouble": "two heartbeats in a row failed, or the circuit opened",
    "journaled": "one write missed its deadline though PostgreSQL is well, and is in the journal",
    "carried": "the journal holds nothing that PostgreSQL does not have",
    "closing": "SIGTERM: nothing new is accepted, what can be carried over is",
}


def missing_sentences() -> list[str]:
    """Codes without which a mode or a reason could not be told."""
    needed = [f"state_{mode}" for mode in get_args(StorageMode)]
    needed += [f"cause_{reason}" for reason in get_args(Reason)]
    return [code for code in needed if code not in codes()]


def page() -> str:
    """The page's text."""
    lines = [
        "# The states of the store",
        "",
        "Generated from the tables in the code by `make guarantees`; the gate fails when it is out "
        "of date.",
        "",
        "```mermaid",
        diagram(),
        "```",
        "",
        "| state | in the program's words |",
        "|---|---|",
    ]
    for mode in get_args(StorageMode):
        told = sentence(f"state_{mode}", "en", minutes=4, backlog=132, cause="no answer in time")
        lines.append(f"| `{mode}` | {told} |")
    lines += ["", "| from | when | to |", "|---|---|---|"]
    for (before, event), after in TRANSITIONS.items():
        lines.append(f"| `{before}` | {event}: {EVENTS[event]} | `{after}` |")
    lines += [
        "",
        "Health, log and metrics name the trouble in one word:",
        "",
        "| reason | in words | falls back |",
        "|---|---|---|",
    ]
    for reason in get_args(Reason):
        when = "when one probe confirms it" if reason in AT_ONCE else "when it lasts"
        if reason in ("starting", "foreign", "too_old", "encoding"):
            when = "is not entered at all"
        lines.append(f"| `{reason}` | {sentence(f'cause_{reason}', 'en')} | {when} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or check the page."""
    missing = missing_sentences()
    if missing:
        sys.stderr.write(f"no sentence for: {missing}\n")
        return 1
    return write_or_check(PAGE, page(), "guarantees")


if __name__ == "__main__":
    sys.exit(main())
