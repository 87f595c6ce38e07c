"""Break PostgreSQL under a live load and say what people notice: the tables in docs/reliability.md.

    .venv/bin/python benchmarks/outages.py [--quick] [--only NAME]

A real server, a real PostgreSQL, 60 calls a second of which 40 % are ratings, questions from a
pool of 200 that are all asked before. "Control" is the same load without a fault in the same run.
Every answer is matched with what PostgreSQL holds in the end. The faults are in outage_faults.py;
the disk one mounts a tmpfs and needs root, the pooled one PgBouncer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import traceback
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import ROOT, machine, write
from tests.outage import QUESTIONS, Load, quantile

from outage_faults import FAULTS, SEED, Fault, Stage

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CONTROL_SECONDS, AFTER_SECONDS = 8.0, 2.0
QUICK_CONTROL, QUICK_AFTER, QUICK_QUESTIONS = 1.0, 0.5, 20
LEAST_BACKLOG = 100
"""A replay of fewer operations says nothing about its rate."""

Row = dict[str, object]
LOST = ("fault", "seconds", "acknowledged", "lost", "wrong", "doubled", "unknown", "errors",
        "5xx", "refused (507)")  # fmt: skip
NOTICED = ("fault", "control, ms", "added p50, ms", "added p99, ms", "added max, ms",
           "added p99 after 2 s, ms", "noticed after, s", "back after, s", "replayed, 1/s",
           "serves after, s", "reasons named")  # fmt: skip
MUST_BE_0 = ("lost", "wrong", "doubled", "errors", "5xx")


async def measure(fault: Fault, quick: bool) -> Row:
    """One fault: before, during, after; then the books are balanced."""
    seconds = fault.short if quick else fault.long
    questions = QUESTIONS[:QUICK_QUESTIONS] if quick else QUESTIONS
    with ExitStack() as things:
        stage = Stage(fault, seconds, questions, things)
        load = stage.load
        await load.until("postgres")
        await stage.warm()
        await load.run(1)
        watching = asyncio.create_task(load.watch())
        since = load.now
        await load.run(QUICK_CONTROL if quick else CONTROL_SECONDS)
        stage.struck = load.now
        breaking = asyncio.create_task(fault.begin(stage))  # type: ignore[arg-type]
        await load.run(seconds)
        stage.over.set()
        await go_on_until(breaking, load)
        healed = load.now
        healing = asyncio.create_task(fault.end(stage))  # type: ignore[arg-type]
        await load.run(QUICK_AFTER if quick else AFTER_SECONDS)
        await go_on_until(healing, load)
        await load.quiet()
        await load.settled()
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await load.client.aclose()
        balance = load.verify(stage.cluster, stage.database, fault.may)
        await asyncio.to_thread(stage.stop_server)
        for finding in (*load.findings, *(load.errors if balance["errors"] else ())):
            print("  ", finding[:300])
        if "Traceback" in stage.log:
            print(stage.log)
        return {
            "fault": fault.name,
            "seconds": seconds,
            **balance,
            **latencies(load, since, stage.struck, healed),
            **noticed(load, stage.struck, healed),
            "replayed, 1/s": replay_rate(stage.log),
            "serves after, s": stage.serves_after and round(stage.serves_after, 2),
        }


async def go_on_until(task: asyncio.Task[object], load: Load) -> None:
    """People go on talking while something takes longer; then hear how it went."""
    while not task.done():
        await load.run(0.1)
    await task


def latencies(load: Load, since: float, struck: float, healed: float) -> Row:
    """Those without the fault, and what it added, in ms, of the calls that were answered."""
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    calm, hit = load.latencies(since, struck), load.latencies(struck, healed)
    later = load.latencies(struck + 2, healed)
    control = {name: 1_000 * quantile(calm, share) for name, share in shares.items()}
    row: Row = {f"control {name}, ms": round(value, 1) for name, value in control.items()}
    row["control, ms"] = " / ".join(f"{value:.1f}" for value in control.values())
    for name, share in shares.items():
        row[f"added {name}, ms"] = round(1_000 * quantile(hit, share) - control[name], 1)
    row["added p99 after 2 s, ms"] = round(1_000 * quantile(later, 0.99) - control["p99"], 1)
    return row


def noticed(load: Load, struck: float, healed: float) -> Row:
    """When health first said that PostgreSQL is away, and from when on that all is as it was."""
    away = [s for s in load.samples if s.at > struck and not s.database]
    left = [s.at for s in load.samples if s.at > struck and s.mode != "postgres"]
    back = [s.at for s in load.samples if s.at > max([healed, *left])]
    named = [s.reason for s in load.samples if healed > s.at > struck and s.mode == "fallback"]
    return {
        "noticed after, s": round(away[0].at - struck, 2) if away else None,
        "back after, s": round(back[0] - healed, 2) if left and back else None,
        "reasons named": ", ".join(dict.fromkeys(named)),
    }


def replay_rate(log: str) -> int | None:
    """Operations a second that the largest replay carried, beside the load, by the server's log."""
    lines = [json.loads(line) for line in log.splitlines() if "storage mode changed" in line]
    begun = [(moment(line), line["backlog"]) for line in lines if line["after"] == "recovering"]
    rates = []
    for line in lines:
        if (line["before"], line["after"]) == ("recovering", "postgres") and line["seconds"]:
            started = moment(line) - line["seconds"]  # several workers write to one log
            _, backlog = min(begun, key=lambda each: abs(each[0] - started))
            rates.append((backlog, round(backlog / line["seconds"])))
    largest, rate = max(rates, default=(0, 0))
    return rate if largest >= LEAST_BACKLOG else None


def moment(line: dict[str, str]) -> float:
    """When a line of the log was written."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def table(rows: list[Row], columns: tuple[str, ...]) -> str:
    """The rows as Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = ("" if row.get(c) is None else str(row[c]) for c in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


async def run(faults: list[Fault], quick: bool) -> list[Row]:
    """Every fault, one after another; one that could not be measured does not hinder the next."""
    rows = []
    for fault in faults:
        try:
            rows.append(await measure(fault, quick))
            print(rows[-1], flush=True)
        except Exception:  # noqa: BLE001  # told, and the run fails in the end
            print(f"not measured: {fault.name}", flush=True)
            traceback.print_exc()
    return rows


def main() -> None:
    """Measure, keep, and put the tables into the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="all of it in five minutes")
    parser.add_argument("--only", default="", metavar="NAME", help="faults with this in the name")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if options.only in fault.name]
    began = time.monotonic()
    rows = asyncio.run(run(faults, options.quick))
    print(f"{time.monotonic() - began:.0f} s")
    tables = f"{table(rows, LOST)}\n\n{table(rows, NOTICED)}"
    if options.quick or options.only:
        print(tables)
    elif len(rows) == len(faults):
        publish(rows, tables)
    if len(rows) < len(faults) or any(row[name] for row in rows for name in MUST_BE_0):
        sys.exit("something was lost, wrong, doubled or an error, or could not be measured")


def publish(rows: list[Row], tables: str) -> None:
    """Write the results and the page."""
    write("outages", rows=rows, seed=SEED)
    here = machine()
    place = f"{here['cores']} cores, {here['processor']}, Python {here['python']}"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    measured = f"{BEGIN}\n\n{tables}\n\n{place}, seed {SEED}.\n\n{END}"
    PAGE.write_text(before + measured + after, encoding="utf-8")


if __name__ == "__main__":
    main()
