"""Traces by OpenTelemetry: an extra, off unless an endpoint is set, and not even imported then.

A span bears names from fixed lists: method, route template, status, the request's id. No address of
a page, no text of an error: they may quote what a person said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from audiobot.errors import SetupError
from audiobot.ports import Stage
from audiobot.telemetry.meter import MetricsMeter
from audiobot.telemetry.metrics import Metrics, known_method

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_EXPORT_SECONDS: Final = 2
_PATH: Final = "/v1/traces"

Finish = Callable[[str, int], None]
"""Told the route template and the status when the reply has ended."""


class Traces:
    """Spans of one process, on their way to a collector in the background."""

    def __init__(self, endpoint: str, version: str) -> None:
        try:
            # Imported only when it is used: it is an extra, and costs a start half a second.
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ImportError:
            raise SetupError("tracing_missing") from None
        where = endpoint.rstrip("/")
        where = where if where.endswith(_PATH) else where + _PATH
        resource = Resource({"service.name": "audiobot", "service.version": version})
        self._provider: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(where, timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("audiobot", version)

    def stage(self, name: Stage) -> AbstractContextManager[Any]:
        """A span of one part of a turn, within the request's."""
        return self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        )

    @contextmanager
    def request(self, method: str, request_id: str) -> Iterator[Finish]:
        """A span of one request; a trace of its own, whatever its caller says."""
        from opentelemetry.context import Context  # noqa: PLC0415  # at hand already
        from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415

        method = known_method(method)
        with self._tracer.start_as_current_span(
            method,
            Context(),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "audiobot.request_id": request_id},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            def finish(route: str, status: int) -> None:
                span.update_name(f"{method} {route}")
                span.set_attribute("http.route", route)
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    span.set_status(StatusCode.ERROR)

            yield finish

    def close(self) -> None:
        """Send what waits and stop; blocks for some seconds at most."""
        self._provider.shutdown()


class TracingMeter(MetricsMeter):
    """A meter whose stages are spans too."""

    def __init__(self, metrics: Metrics, traces: Traces) -> None:
        super().__init__(metrics)
        self._traces = traces

    @contextmanager
    def _both(self, name: Stage) -> Iterator[None]:
        with super().stage(name), self._traces.stage(name):
            yield

    def stage(self, name: Stage) -> AbstractContextManager[object]:
        """See the port."""
        return self._both(name)
