"""Break PostgreSQL under a live load and say what people notice: the table in docs/reliability.md.

    .venv/bin/python benchmarks/outages.py [--quick]

A real server, a real PostgreSQL, 60 calls a second of which 40 % are ratings, questions from a
pool of 200 that are all asked before. "Control" is the same load without a fault in the same run.
Every answer is matched with what PostgreSQL holds in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import psutil
from tests.outage import Load, quantile
from tests.postgres import Cluster
from tests.proxy import Proxy
from tests.servers import Server, start

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "outages.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SEED = 20_261_124
CONTROL_SECONDS = 15.0
AFTER_SECONDS = 5.0

Break = Callable[["Stage"], Awaitable[None]]


class Stage:
    """One server on one database, with a load; a fault has its hands on all of it."""

    def __init__(self, cluster: Cluster, database: str, proxy: Proxy, folder: Path) -> None:
        self.cluster, self.database, self.proxy = cluster, database, proxy
        self.folder = folder
        self.server = self._start()
        self.load = Load(self.server.address, SEED)

    def _start(self) -> Server:
        dsn = self.cluster.dsn(self.database, host=self.proxy.host, port=self.proxy.port)
        return start(self.folder / "data", port=self._port(), DATABASE_URL=dsn)

    def _port(self) -> int:
        return int(self.server.address.rsplit(":", 1)[1]) if hasattr(self, "server") else 0

    async def restart_server(self) -> None:
        """Kill the server as a crash does, start it again in the same place."""
        await asyncio.to_thread(self.server.kill)
        self.server = await asyncio.to_thread(self._start)


async def in_thread(work: Callable[[], object]) -> None:
    """Something that blocks, beside the load."""
    await asyncio.to_thread(work)


FAULTS: dict[str, tuple[float, float, Break, Break]] = {
    "PostgreSQL stopped as in a crash": (
        15, 4, lambda s: in_thread(lambda: s.cluster.stop("immediate")),
        lambda s: in_thread(s.cluster.start),
    ),
    "PostgreSQL killed": (
        15, 4, lambda s: in_thread(s.cluster.kill), lambda s: in_thread(s.cluster.start),
    ),
    "frozen (SIGSTOP), then thawed": (
        45, 6, lambda s: in_thread(s.cluster.freeze), lambda s: in_thread(s.cluster.thaw),
    ),
    "the network cut, nothing listens": (
        10, 4, lambda s: in_thread(s.proxy.refuse), lambda s: in_thread(s.proxy.pass_through),
    ),
    "the network swallows everything": (
        10, 4, lambda s: in_thread(s.proxy.stall), lambda s: in_thread(s.proxy.pass_through),
    ),
}  # fmt: skip


async def measure(
    name: str, fault: tuple[float, float, Break, Break], quick: bool
) -> dict[str, object]:
    """One fault: before, during, after; then the books are balanced."""
    long, short, begin, end = fault
    seconds = short if quick else long
    control = CONTROL_SECONDS / 3 if quick else CONTROL_SECONDS
    with tempfile.TemporaryDirectory() as made, Cluster() as cluster:
        database = cluster.create_database()
        with Proxy(cluster.host, cluster.port) as proxy:
            stage = Stage(cluster, database, proxy, Path(made))
            load = stage.load
            try:
                await load.until("postgres")
                await load.warm()
                await load.run(2)
                watching = asyncio.create_task(load.watch())
                since = load.now
                await load.run(control)
                struck = load.now
                breaking = asyncio.create_task(begin(stage))  # type: ignore[arg-type]
                await load.run(seconds)
                await breaking
                healed = load.now
                healing = asyncio.create_task(end(stage))  # type: ignore[arg-type]
                await load.run(AFTER_SECONDS)
                await healing
                back = await load.until("postgres")
                await load.quiet()
                watching.cancel()
                with suppress(asyncio.CancelledError):
                    await watching
                balance = load.verify(cluster, database)
                log = stage.server.log
                noticed = [s.at for s in load.samples if s.at > struck and not s.database]
                back_at = [s.at for s in load.samples if s.at > healed and s.mode == "postgres"]
            finally:
                stage.server.stop()
                await load.client.aclose()
    calm = load.latencies(since, struck)
    hit = load.latencies(struck, healed)
    later = load.latencies(struck + 2, healed)
    return {
        "fault": name,
        "seconds": seconds,
        **balance,
        "control p99, ms": round(1_000 * quantile(calm, 0.99), 1),
        "during p50, ms": round(1_000 * quantile(hit, 0.5), 1),
        "during p99, ms": round(1_000 * quantile(hit, 0.99), 1),
        "after the first 2 s p99, ms": round(1_000 * quantile(later, 0.99), 1),
        "max, ms": round(1_000 * quantile(hit, 1), 1),
        "noticed after, s": round(noticed[0] - struck, 2) if noticed else None,
        "back after, s": round((back_at[0] if back_at else back) - healed, 2),
        "replayed, 1/s": replay_rate(log),
    }


def replay_rate(log: str) -> int | None:
    """Operations a second that the last replay carried, beside the load, by the server's log."""
    switches = [json.loads(line) for line in log.splitlines() if "storage mode changed" in line]
    backlog = [s["backlog"] for s in switches if s["after"] == "recovering"]
    seconds = [s["seconds"] for s in switches if s["before"] == "recovering"]
    return round(backlog[-1] / seconds[-1]) if backlog and seconds and seconds[-1] else None


async def app_killed(quick: bool) -> dict[str, object]:
    """PostgreSQL goes, then the server is killed and started again, then PostgreSQL comes back."""
    with tempfile.TemporaryDirectory() as made, Cluster() as cluster:
        database = cluster.create_database()
        with Proxy(cluster.host, cluster.port) as proxy:
            stage = Stage(cluster, database, proxy, Path(made))
            load = stage.load
            await load.until("postgres")
            await load.warm()
            await load.run(2)
            await asyncio.to_thread(cluster.kill)
            await load.run(3 if quick else 8)
            await stage.restart_server()
            await load.run(3 if quick else 8)
            healed = load.now
            await asyncio.to_thread(cluster.start)
            await load.run(AFTER_SECONDS)
            back = await load.until("postgres")
            await load.quiet()
            balance = load.verify(cluster, database)
            stage.server.stop()
            await load.client.aclose()
    # Calls that were on their way into the killed process got no answer: they are no promise.
    return {"fault": "the app killed in the middle of the outage", **balance,
            "back after, s": round(back - healed, 2)}  # fmt: skip


async def started_without(quick: bool) -> dict[str, object]:
    """The server starts while PostgreSQL is down, serves at once, and PostgreSQL comes up."""
    with tempfile.TemporaryDirectory() as made, Cluster() as cluster:
        database = cluster.create_database()
        with Proxy(cluster.host, cluster.port) as proxy:
            await asyncio.to_thread(cluster.stop, "immediate")
            began = time.monotonic()
            stage = Stage(cluster, database, proxy, Path(made))
            serves = time.monotonic() - began
            load = stage.load
            await load.warm()
            await load.run(4 if quick else 10)
            healed = load.now
            await asyncio.to_thread(cluster.start)
            await load.run(AFTER_SECONDS)
            back = await load.until("postgres")
            await load.quiet()
            balance = load.verify(cluster, database)
            stage.server.stop()
            await load.client.aclose()
    waits = {"serves after, s": round(serves, 2), "back after, s": round(back - healed, 2)}
    return {"fault": "started while PostgreSQL is down", **balance, **waits}


def table(rows: list[dict[str, object]]) -> str:
    """The rows as Markdown, columns in the order in which they first appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = ("" if row.get(c) is None else str(row[c]) for c in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


async def run(quick: bool) -> list[dict[str, object]]:
    """Every fault, one after another."""
    rows = []
    for name, fault in FAULTS.items():
        rows.append(await measure(name, fault, quick))
        print(rows[-1], flush=True)
    for more in (app_killed, started_without):
        rows.append(await more(quick))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure, keep, and put the table into the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    rows = asyncio.run(run(quick))
    if quick:
        return
    machine = (
        f"{psutil.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    )
    result = {"machine": machine, "seed": SEED, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    measured = f"{BEGIN}\n\n{table(rows)}\n\n{machine}, seed {SEED}.\n\n{END}"
    PAGE.write_text(before + measured + after, encoding="utf-8")


if __name__ == "__main__":
    main()
