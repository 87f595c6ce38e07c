"""Write docs/guarantees.md: every guarantee of the store with the tests that bear its number.

``--check`` fails when the page is out of date, or when a guarantee has no test.

    .venv/bin/python scripts/guarantees.py [--check]
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from pages import write_or_check

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "guarantees.md"

GUARANTEES = {
    1: "A 2xx answer means: fsynced in the journal or committed in PostgreSQL; it says which.",
    2: "A dead or hung PostgreSQL costs one deadline, then nothing.",
    3: "A full disk refuses new turns with 507; what was acknowledged is never dropped.",
    4: "What no store could take is refused at the edge, before anything is written.",
    5: "A client that hangs up loses no acknowledged write and leaks no connection.",
    6: "Operations may be repeated any number of times to the same effect; the first add wins.",
    7: "Every rating is kept, the newest counts; a late or repeated one never overwrites it.",
    8: "A commit whose outcome is unknown is journaled under the same id.",
    9: "Statistics equal a recount at every moment.",
    10: "Ids prove themselves: a genuine one is never refused, a forged one is not found.",
    11: "A torn tail loses only what was not acknowledged; damage is named, kept aside, survived.",
    12: "A full disk stops appending and recovers by itself.",
    13: "One directory belongs to one server, by a lock that the kernel drops with the process.",
    14: "SIGTERM: stop accepting, finish requests, sync, leave.",
    15: "An ephemeral disk is said to be one.",
    16: "Each kind of PostgreSQL trouble ends in fallback with its reason, and recovers by itself.",
    17: "The probe writes, one prober at a time, with backoff.",
    18: "Every form of DSN and PgBouncer work; passwords never reach a log.",
    19: "Migrations run once, whoever starts; the first AudioBot's database is upgraded in place.",
    20: "Totals never fall across a switch; partial answers say so.",
    21: "Memory is bounded; an evicted dialogue stays rateable, counted and exportable.",
}

_NAME = re.compile(r"test_g(\d\d)_(.+)")


def find_tests() -> dict[int, list[tuple[str, str]]]:
    """Guarantee → (file, what the test's name says), in the order of the files."""
    found: dict[int, list[tuple[str, str]]] = {number: [] for number in GUARANTEES}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                match = _NAME.fullmatch(node.name)
                if match:
                    place = str(path.relative_to(ROOT))
                    found[int(match[1])].append((place, match[2].replace("_", " ")))
    return found


def page(found: dict[int, list[tuple[str, str]]]) -> str:
    """The page's text."""
    lines = [
        "# What the store promises, and the tests that try to break it",
        "",
        "Generated from the tests' names by `make guarantees`; the gate fails when it is out of "
        "date or a promise has no test.",
        "",
    ]
    for number, promise in GUARANTEES.items():
        lines += [f"## {number}. {promise}", ""]
        lines += [f"- {name} (`{place}`)" for place, name in found[number]]
        lines += [""] if found[number] else []
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Write or check the page."""
    found = find_tests()
    missing = [n for n in GUARANTEES if not found[n]]
    if missing:
        sys.stderr.write(f"guarantees without a test: {missing}\n")
        return 1
    return write_or_check(PAGE, page(found), "guarantees")


if __name__ == "__main__":
    sys.exit(main())
