"""A real Prometheus on loopback that scrapes servers and evaluates the alert rules of deploy/.

It scrapes once a second, and an alert need not last: only *how long* a rule waits is left out, its
expression is the one that is shipped.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import httpx

from tests.proxy import free_port
from tests.servers import Server, client_of

RULES = Path(__file__).parent.parent / "deploy" / "alerts.yml"
_CONFIGURATION = """
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yml]
scrape_configs:
  - job_name: audiobot
    metrics_path: /api/metrics
    file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]
"""


class Prometheus:
    """Watches the servers it is given, each under a name of its own."""

    def __init__(self, place: Path) -> None:
        program = shutil.which("prometheus")
        if program is None:
            raise RuntimeError(
                "no prometheus: scripts/need-promtool, or apt-get install prometheus"
            )
        self._place = place
        self._targets: dict[str, str] = {}
        (place / "prometheus.yml").write_text(_CONFIGURATION)
        (place / "rules.yml").write_text(re.sub(r"\n +for: \w+", "", RULES.read_text()))
        (place / "targets.json").write_text("[]")
        port = free_port()
        self._log = place / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    f"--config.file={place / 'prometheus.yml'}",
                    f"--storage.tsdb.path={place / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._client = client_of(f"http://127.0.0.1:{port}", 5)
        deadline = time.monotonic() + 30
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"Prometheus does not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def watch(self, name: str, server: Server, seconds: float = 30) -> None:
        """Scrape a server from now on; returns when it was, twice."""
        self._targets[name] = server.address.removeprefix("http://")
        targets = [
            {"targets": [address], "labels": {"instance": label}}
            for label, address in self._targets.items()
        ]
        new = self._place / "targets.json.new"
        new.write_text(json.dumps(targets))
        new.replace(self._place / "targets.json")
        scraped = f'count_over_time(vasdom_workers{{instance="{name}"}}[1h]) >= 2'
        deadline = time.monotonic() + seconds
        while not self.query(scraped):
            assert time.monotonic() < deadline, f"{name} is not scraped"
            time.sleep(0.1)

    def query(self, expression: str) -> list[dict]:
        reply = self._client.get("/api/v1/query", params={"query": expression}).json()
        assert reply["status"] == "success", reply
        return reply["data"]["result"]

    def firing(self, name: str) -> set[str]:
        """The alerts that fire for a server."""
        found = self.query(f'ALERTS{{alertstate="firing",instance="{name}"}}')
        return {series["metric"]["alertname"] for series in found}

    def wait_for(self, name: str, *alerts: str, seconds: float = 30) -> None:
        """Wait until these fire."""
        deadline = time.monotonic() + seconds
        while not set(alerts) <= (firing := self.firing(name)):
            assert time.monotonic() < deadline, f"{alerts} do not all fire, only {firing}"
            time.sleep(0.2)

    def close(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(20)
