"""wrk, driven by a script of ours: so many connections, bodies from a list, latencies back.

wrk (https://github.com/wg/wrk) is a Debian package; scripts/need-wrk installs it. It is a closed
loop: each connection sends its next request when the last reply has come.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
local bodies = {}
for line in io.lines("%(bodies)s") do bodies[#bodies + 1] = line end
local next_body = 0
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local pause = %(pause)d
if pause > 0 then
  function delay() return math.random(0, 2 * pause) end
end
request = function()
  next_body = next_body %% #bodies + 1
  return wrk.format(nil, nil, nil, bodies[next_body])
end
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    "RESULT {\\"requests\\": %%d, \\"microseconds\\": %%d, \\"p50\\": %%d, \\"p99\\": %%d,"
      .. " \\"longest\\": %%d, \\"refused\\": %%d, \\"broken\\": %%d}\\n",
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency.max, errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What wrk saw: a rate in requests a second, latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    longest: float


def wrk(
    url: str,
    bodies: Sequence[str],
    seconds: float,
    connections: int = 64,
    rate: float | None = None,
) -> Load:
    """Post ``bodies`` round and round for ``seconds``, at about ``rate`` a second if it is given.

    Raises ``RuntimeError`` when a request was refused or broke off: a rate of errors is no rate.
    """
    # Milliseconds that a connection waits before each request, on average: all in step would be
    # a burst, not a rate.
    pause = round(1_000 * connections / rate) if rate else 0
    with tempfile.TemporaryDirectory() as folder:
        listed, script = Path(folder) / "bodies", Path(folder) / "script.lua"
        listed.write_text("\n".join(bodies) + "\n", encoding="utf-8")
        script.write_text(SCRIPT % {"bodies": listed, "pause": pause})
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "10s"]
        ended = subprocess.run(
            [*command, "-s", str(script), url], capture_output=True, text=True, check=True,
            timeout=seconds + 60,
        )  # fmt: skip
    lines = [line for line in ended.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(ended.stdout + ended.stderr)
    told = json.loads(lines[0].removeprefix("RESULT "))
    if told["refused"] or told["broken"] or not told["requests"]:
        raise RuntimeError(f"{url}: {told}")
    return Load(
        told["requests"] / told["microseconds"] * 1e6,
        told["p50"] / 1e3,
        told["p99"] / 1e3,
        told["longest"] / 1e3,
    )


def shuffled(bodies: Sequence[dict[str, object]], seed: int) -> list[str]:
    """The bodies as JSON, in an order that the seed gives."""
    lines = [json.dumps(body, ensure_ascii=False) for body in bodies]
    random.Random(seed).shuffle(lines)
    return lines
