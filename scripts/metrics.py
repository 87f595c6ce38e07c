"""Write docs/metrics.md: every metric with its type, its labels and its meaning.

``--check`` fails when the page is out of date.

    .venv/bin/python scripts/metrics.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

from pages import write_or_check

from audiobot.telemetry import Metrics

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"

HEAD = """\
# Metrics

Generated from the program by `make metrics`; the gate fails when it is out of date.

Prometheus scrapes `/api/metrics` with the operator's token as its bearer. Without it only a scrape
from the same machine, straight to an AudioBot that listens on loopback, is answered: through a
proxy the token is needed. Labels are words from fixed lists, and an endpoint is a route template:
the number of series has a bound. No label ever holds what a person said, an id or an address.

With several workers (`serve --workers N`) whichever worker is asked tells what all have counted:
each writes its numbers to files in `run/metrics` of the data directory and reads the others'. They
are cleared at each start. A worker that died takes none of its counts along, and its gauges end
with it. Gauges of several workers become one as the fourth column says. Machines are scraped
one by one.

What to watch and when to be woken: the rules in [deploy/alerts.yml](../deploy/alerts.yml), the
[runbook](runbook.md) and the [dashboard](../deploy/grafana-dashboard.json).

| metric | type | labels | workers | meaning |
|---|---|---|---|---|
"""


def page() -> str:
    """The page's text."""
    rows = [
        f"| `{d.name}` | {d.kind} | {', '.join(f'`{label}`' for label in d.labels) or '–'}"
        f" | {d.over} | {d.meaning} |"
        for d in Metrics().described
    ]
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Write or check the page."""
    return write_or_check(PAGE, page(), "metrics")


if __name__ == "__main__":
    sys.exit(main())
