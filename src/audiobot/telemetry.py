"""Logs and metrics: the only importer of their libraries.

A log message is static text with named fields; no field ever holds what a person said, a token
or a password. Log lines are for people on a terminal and JSON elsewhere.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

METRICS_TYPE: Final = CONTENT_TYPE_LATEST
_METHODS: Final = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})
_STAGES: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)


def configure_logging(level: str) -> None:
    """Send every log line, the libraries' too, through one formatter to standard error."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if sys.stderr.isatty()
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("uvicorn.access", "httpx2", "httpcore2", "openai"):
        # Their lines hold addresses of people or bodies of requests.
        logging.getLogger(noisy).setLevel(logging.WARNING)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for static messages with named fields."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def bind_request(request_id: str) -> None:
    """Put the request's id on every line logged while it is served."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)


class Metrics:
    """Every metric, in a registry of its own; names and labels are part of the contract."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "vasdom_requests_total",
            "HTTP requests by method, route template and status",
            ["method", "endpoint", "status"],
            registry=registry,
        )
        self.duration = Histogram(
            "vasdom_request_duration_seconds",
            "Time from the request's head to the end of the reply",
            ["method", "endpoint"],
            buckets=_STAGES,
            registry=registry,
        )
        self.answers = Counter(
            "vasdom_ai_responses_total",
            "Turns by what became of them: answered, asked, handed_over",
            ["status"],
            registry=registry,
        )
        self.feedback = Counter(
            "vasdom_learning_feedback_total", "Ratings given", ["rating"], registry=registry
        )
        self.dialogues = Gauge("vasdom_dialogues", "Dialogues kept", registry=registry)
        self.rated = Gauge("vasdom_dialogues_rated", "Dialogues rated", registry=registry)
        self.accepting = Gauge(
            "vasdom_storage_accepting", "1 while dialogues can be kept safe", registry=registry
        )
        self.mode = Gauge(
            "vasdom_storage_mode", "1 for the mode in force", ["mode"], registry=registry
        )
        self.database = Gauge(
            "vasdom_database_available", "1 while PostgreSQL takes the writes", registry=registry
        )
        self.backlog = Gauge(
            "vasdom_journal_backlog",
            "Journal records that PostgreSQL does not have yet",
            registry=registry,
        )
        self.missing = Gauge(
            "vasdom_journal_missing_records",
            "Journal records that damage to the medium took",
            registry=registry,
        )
        self.orphans = Gauge(
            "vasdom_orphan_ratings", "Ratings whose dialogue is not known", registry=registry
        )

    def observe_request(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """Count one request; ``endpoint`` is a route template, so the labels stay few."""
        known = method if method in _METHODS else "OTHER"
        self.requests.labels(known, endpoint, str(status)).inc()
        self.duration.labels(known, endpoint).observe(seconds)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
