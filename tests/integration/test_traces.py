"""Traces: off at no cost; on, a span for each part of a turn and no word of a person."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from audiobot.errors import SetupError
from audiobot.telemetry import Traces
from tests.models import completion, says, talking
from tests.proxy import free_port
from tests.servers import serving

QUESTION = "Сколько стоит уборка подъезда? Щклмнzqxv"


class Collector:
    """A real HTTP server that takes spans in, as a collector does."""

    def __init__(self) -> None:
        self.raw = b""
        self.paths: set[str] = set()
        self.spans: list[Span] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.raw += body
                collector.paths.add(self.path)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        collector.server.server_close()
        thread.join(10)


def attributes(span: Span) -> dict[str, object]:
    return {
        a.key: a.value.string_value if a.value.HasField("string_value") else a.value.int_value
        for a in span.attributes
    }


def test_a_turn_is_one_trace_with_a_span_for_each_part_and_no_word_in_it(tmp_path: Path) -> None:
    with collecting() as collector, talking() as talker:
        talker.reply = says(completion("Ответ: щклмнzqxv."))
        with serving(
            tmp_path / "data",
            AUDIOBOT_TRACES=collector.address,
            AUDIOBOT_LLM_BASE_URL=talker.base_url,
            AUDIOBOT_LLM_MODEL="m",
        ) as server:
            server.wait_for_meaning()
            server.client.get("/api/learning/stats?щклмнzqxv=1")
            sent = server.client.post("/api/voice/process", json={"message": QUESTION})
            assert sent.status_code == 200
            told = sent.json()
        assert collector.paths == {"/v1/traces"}
        (request,) = [s for s in collector.spans if s.name == "POST /api/voice/process"]
        assert request.kind == Span.SPAN_KIND_SERVER
        assert request.parent_span_id == b""
        assert attributes(request) == {
            "http.request.method": "POST",
            "http.route": "/api/voice/process",
            "http.response.status_code": 200,
            "audiobot.request_id": sent.headers["x-request-id"],
        }
        parts = [s for s in collector.spans if s.trace_id == request.trace_id and s != request]
        assert [s.name for s in parts] == ["embed", "search", "model", "store"]
        for part in parts:
            assert part.parent_span_id == request.span_id
            assert request.start_time_unix_nano <= part.start_time_unix_nano
            assert part.end_time_unix_nano <= request.end_time_unix_nano
        for words in ("щклмнzqxv", "Щклмнzqxv", "zqxv", told["response"], told["log_id"]):
            assert words.encode() not in collector.raw


def test_a_collector_that_is_away_costs_no_answer_and_no_stop(tmp_path: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    with serving(tmp_path / "data", AUDIOBOT_TRACES=away) as server:
        for _ in range(5):
            assert server.ask("привет")["outcome"] == "answered"
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10


def test_without_the_setting_nothing_of_the_extra_is_imported() -> None:
    code = (
        "import sys, audiobot.cli, audiobot.main, audiobot.telemetry\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk',"
        " 'opentelemetry.exporter', 'google.protobuf'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_without_the_extra_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SetupError, match="tracing_missing"):
        Traces("http://127.0.0.1:4318", "1")
