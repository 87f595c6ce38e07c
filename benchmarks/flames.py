"""Where the time of a call goes: a flame graph and a table, from a sampled server under load.

    .venv/bin/python benchmarks/flames.py [--mode memory]

py-spy looks at the server 200 times a second from outside and slows it hardly down. Each sample of
the event loop's thread is counted for the layer that its innermost frame belongs to.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.harness import ROOT, SEED, write
from benchmarks.throughput import ASKED, POOL, running
from benchmarks.wrk import shuffled, wrk

SECONDS = 12
PLACE = re.compile(r"\(([^()]*):\d+\)$")
LAYERS = (
    ("uvicorn and the socket", ("uvicorn/", "audiobot/http/protocol")),
    ("FastAPI and Starlette", ("fastapi/", "starlette/")),
    ("our HTTP layer", ("audiobot/http/", "pydantic/", "hmac", "ipaddress")),
    ("metrics and logs", ("audiobot/telemetry", "prometheus_client", "structlog")),
    ("answering", ("audiobot/answering", "numpy", "usearch")),
    ("store", ("audiobot/storage", "audiobot/domain", "audiobot/conversation", "uuid", "random")),
    ("psycopg and SQLAlchemy", ("psycopg", "sqlalchemy")),
    ("the event loop", ("asyncio/", "contextlib", "contextvars", "concurrent")),
)


def layer_of(stack: str) -> str:
    """The layer of the innermost frame that belongs to one."""
    for frame in reversed(stack.split(";")):
        found = PLACE.search(frame)
        place = found[1] if found else ""
        for name, starts in LAYERS:
            if place.startswith(starts):
                return name
    return "other"


def main() -> None:
    """Load, sample, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("memory", "postgres"), default="memory")
    mode = parser.parse_args().mode
    shares: dict[str, dict[str, float]] = {}
    spy = str(Path(sys.executable).parent / "py-spy")
    with tempfile.TemporaryDirectory() as made, running(mode, Path(made)) as server:
        pool = [f"{ASKED[i % len(ASKED)]} {i}?" for i in range(POOL)]
        ids = [server.ask(text)["log_id"] for text in pool for _ in range(5)]
        loads = {
            "rating": ("feedback", [{"log_id": i, "rating": r} for i in ids for r in (5, 3)]),
            "turn": ("process", [{"message": text} for text in pool]),
        }
        for call, (path, bodies) in loads.items():
            url, lines = f"{server.address}/api/voice/{path}", shuffled(bodies, SEED)
            load = threading.Thread(target=wrk, args=(url, lines, 2 * SECONDS + 2))
            load.start()
            record = [spy, "record", "-d", str(SECONDS), "-r", "200", "-p", str(server.process.pid)]
            raw = Path(made) / "raw"
            subprocess.run([*record, "-f", "raw", "-o", str(raw)], check=True, capture_output=True)
            picture = ROOT / "docs" / "pictures" / f"flame-{call}-{mode}.svg"
            drawn = Path(made) / "flame.svg"
            subprocess.run([*record, "-o", str(drawn)], check=True, capture_output=True)
            # Its subtitle is the command, which names places of this machine.
            text = re.sub(r"[^>]*py-spy record[^<]*", "", drawn.read_text(encoding="utf-8"))
            picture.write_text(text, encoding="utf-8")
            load.join()
            counted: Counter[str] = Counter()
            for line in raw.read_text().splitlines():
                stack, _, samples = line.rpartition(" ")
                if "Runner.run" in stack:
                    counted[layer_of(stack)] += int(samples)
            whole = sum(counted.values())
            shares[call] = {name: n / whole for name, n in counted.most_common()}
            told = "; ".join(f"{name} {share:.0%}" for name, share in shares[call].items())
            print(f"{call}, {mode} mode: {told}")
    write(f"flames-{mode}", shares=shares)


if __name__ == "__main__":
    main()
