"""Logs, metrics and traces: the only importer of their libraries."""

from __future__ import annotations

from audiobot.telemetry.logs import bind_request, configure_logging, get_logger, watch_loop
from audiobot.telemetry.meter import MetricsMeter
from audiobot.telemetry.metrics import METRICS_TYPE, Metrics
from audiobot.telemetry.shared import SharedFiles
from audiobot.telemetry.tracing import Traces, TracingMeter

__all__ = [
    "METRICS_TYPE",
    "Metrics",
    "MetricsMeter",
    "SharedFiles",
    "Traces",
    "TracingMeter",
    "bind_request",
    "configure_logging",
    "get_logger",
    "watch_loop",
]
