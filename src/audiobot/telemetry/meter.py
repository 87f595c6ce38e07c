"""What the wings report, counted and logged in one place."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from uuid import UUID

from prometheus_client import Histogram

from audiobot.domain import Durability
from audiobot.ports import Stage, Worded
from audiobot.telemetry.logs import Sparing, get_logger
from audiobot.telemetry.metrics import Metrics

log = get_logger(__name__)


class Timed(AbstractContextManager[object]):
    """A block whose time is observed, however it ends."""

    __slots__ = ("_histogram", "_started")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._histogram.observe(time.perf_counter() - self._started)


class MetricsMeter:
    """The :class:`audiobot.ports.Meter` of a server.

    A line about a request bears its id: it is in the context of the call.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._failed = Sparing()
        self._left = Sparing()

    def stage(self, name: Stage) -> AbstractContextManager[object]:
        """See the port."""
        return Timed(self._metrics.stages[name])

    def committed(self, home: Durability, operations: int, seconds: float) -> None:
        """See the port."""
        self._metrics.committed(home, operations, seconds)

    def not_committed(self, home: Durability, reason: str, op_id: UUID) -> None:
        """See the port."""
        self._metrics.not_committed.labels(home, reason).inc()
        if (left_out := self._failed.left_out()) is not None:
            log.warning(
                "PostgreSQL did not take an operation: it goes to the journal"
                if home == "postgres"
                else "the journal did not take an operation: its caller was told so",
                reason=reason,
                operation=str(op_id),
                left_out=left_out,
            )

    def abandoned(self, seconds: float) -> None:
        """See the port."""
        self._metrics.abandoned.inc()
        if (left_out := self._left.left_out()) is not None:
            log.warning(
                "work on PostgreSQL was given up and left to itself",
                seconds=round(seconds, 3),
                left_out=left_out,
            )

    def replayed(self, operations: int) -> None:
        """See the port."""
        self._metrics.replayed.inc(operations)

    def adopted(self, operations: int) -> None:
        """See the port."""
        self._metrics.adopted.inc()
        self._metrics.adopted_operations.inc(operations)
        log.info("a dead worker's journal was carried over", operations=operations)

    def encoded(self, texts: int) -> None:
        """See the port."""
        self._metrics.embedding_batch.observe(texts)

    def worded(self, result: Worded) -> None:
        """See the port."""
        self._metrics.worded[result].inc()
