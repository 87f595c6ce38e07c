"""Every metric: its name, its labels, its meaning; docs/metrics.md is made from here.

Labels are words from fixed lists, so the number of series has a bound. Hot paths hold on to the
series they count in: nothing is looked up by its labels twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from audiobot.domain import Durability, Outcome, Stats, StorageMode, StorageStatus
from audiobot.ports import Refusal, Stage, Worded
from audiobot.telemetry.shared import SharedFiles

METRICS_TYPE: Final = CONTENT_TYPE_LATEST
_NOT_ALLOWED: Final = 405
_METHODS: Final = frozenset({"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"})
_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

Over = Literal["sum", "most", "least", "newest"]
"""How a gauge's values of several workers become one."""
_GAUGE_MODES: Final[dict[Over, Literal["livesum", "livemax", "livemin", "livemostrecent"]]] = {
    "sum": "livesum",
    "most": "livemax",
    "least": "livemin",
    "newest": "livemostrecent",
}


def known_method(method: str) -> str:
    """A method in a word of a fixed list."""
    return method if method in _METHODS else "OTHER"


class Described(NamedTuple):
    """One metric as the documents tell of it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    over: Over
    meaning: str


class Metrics:
    """Every metric, in a registry of its own; names and labels are part of the contract.

    With ``shared`` the numbers lie in files that all workers write: each of them tells of all.
    Make one in a process then, after ``SharedFiles.take``.
    """

    def __init__(self, shared: SharedFiles | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._told = shared.registry() if shared is not None else self._registry
        self.described: list[Described] = []
        self._by_request: dict[tuple[str, str, int], Counter] = {}
        self._by_endpoint: dict[tuple[str, str], Histogram] = {}
        self._totals: dict[str, int] = {}
        self._mode_at = time.monotonic()
        self._make_requests()
        self._make_turns()
        self._make_storage()
        self._make_commits()
        self._make_process()

    # -- their names and meanings ----------------------------------------------------------

    def _make_requests(self) -> None:
        self._requests = self._counter(
            "vasdom_requests_total",
            "HTTP requests by method, route template and status (499: the client hung up)",
            "method",
            "endpoint",
            "status",
        )
        self._duration = self._histogram(
            "vasdom_request_duration_seconds",
            "Time from the request's head to the end of the reply",
            _SECONDS,
            "method",
            "endpoint",
        )
        refused = self._counter(
            "vasdom_requests_refused_total",
            "Requests refused below the application: bad_request (no HTTP), head_too_large, "
            "request_timeout (did not come whole in time), too_many_connections, shutting_down; "
            "one whose body was awaited already is a request of status 499, too",
            "reason",
        )
        self.refused = {reason: refused.labels(reason) for reason in get_args(Refusal)}

    def _make_turns(self) -> None:
        answers = self._counter(
            "vasdom_ai_responses_total",
            "Turns by what became of them: answered, asked, handed_over",
            "status",
        )
        self._answers = {outcome: answers.labels(outcome) for outcome in get_args(Outcome)}
        stages = self._histogram(
            "vasdom_turn_stage_seconds",
            "Time of a turn's parts: embed (its question's vector), search (nearest dialogues and "
            "ranking), model (the language model), store (until it is durable)",
            _SECONDS,
            "stage",
        )
        self.stages = {stage: stages.labels(stage) for stage in get_args(Stage)}
        feedback = self._counter("vasdom_learning_feedback_total", "Ratings given", "rating")
        self._feedback = [feedback.labels(str(rating)) for rating in range(1, 6)]
        worded = self._counter(
            "vasdom_language_model_answers_total",
            "What came of asking the language model: answered, nothing (the passages do not "
            "answer), failed, skipped (it is known to be away)",
            "result",
        )
        self.worded = {result: worded.labels(result) for result in get_args(Worded)}
        self.model_configured = self._gauge(
            "vasdom_language_model_configured", "1 when a language model is configured", "most"
        )
        self.model_usable = self._gauge(
            "vasdom_language_model_usable", "1 while the language model is usable", "least"
        )
        self.encoder_ready = self._gauge(
            "vasdom_embeddings_ready",
            "1 while questions are understood by meaning, 0 by character n-grams alone",
            "least",
        )
        self.embedding_queue = self._gauge(
            "vasdom_embedding_queue", "Questions that wait for the encoder", "sum"
        )
        self.search_queue = self._gauge(
            "vasdom_search_queue",
            "Work that waits for the search thread: questions to be ranked, ratings to be learned",
            "sum",
        )
        self.embedding_batch = self._histogram(
            "vasdom_embedding_batch_size", "Questions that the encoder took at once", _SIZES[:5]
        )

    def _make_storage(self) -> None:
        self._dialogues = self._gauge("vasdom_dialogues", "Dialogues kept", "newest")
        self._rated = self._gauge("vasdom_dialogues_rated", "Dialogues rated", "newest")
        self._accepting = self._gauge(
            "vasdom_storage_accepting", "1 while dialogues can be kept safe", "least"
        )
        mode = self._gauge(
            "vasdom_storage_mode",
            "1 for the mode in force (several workers: how many of them are in it)",
            "sum",
            "mode",
        )
        seconds = self._counter(
            "vasdom_storage_mode_seconds_total", "Time spent in each mode, summed", "mode"
        )
        self._modes = {
            mode_: (mode.labels(mode_), seconds.labels(mode_)) for mode_ in get_args(StorageMode)
        }
        self._switches = self._counter(
            "vasdom_storage_switches_total",
            "Changes of mode, with the reason in the word that health and logs use",
            "from",
            "to",
            "reason",
        )
        self._database = self._gauge(
            "vasdom_database_available", "1 while PostgreSQL takes the writes", "least"
        )
        self._backlog = self._gauge(
            "vasdom_journal_backlog", "Journal records that PostgreSQL does not have yet", "sum"
        )
        self._backlog_age = self._gauge(
            "vasdom_journal_backlog_age_seconds", "How long the oldest of them has waited", "most"
        )
        self._missing = self._gauge(
            "vasdom_journal_missing_records",
            "Journal records that damage to the medium took",
            "sum",
        )
        self._orphans = self._gauge(
            "vasdom_orphan_ratings", "Ratings whose dialogue is not known", "most"
        )
        self._conflicts = self._gauge(
            "vasdom_conflicts", "Dialogues that came under an id which had other words", "most"
        )
        self._refused = self._gauge(
            "vasdom_refused_operations",
            "Operations in quarantine: PostgreSQL will never take them, they lie in files "
            "beside the journal",
            "most",
        )
        self._doubtful = self._gauge(
            "vasdom_doubtful_operations",
            "Operations in the journal that PostgreSQL may have too: its answer never came",
            "sum",
        )
        self._held = self._gauge("vasdom_memory_dialogues", "Dialogues held in memory", "sum")
        self._evictions = self._counter(
            "vasdom_memory_evictions_total", "Dialogues that left memory; they stay on disk"
        )
        self.disk_free = self._gauge(
            "vasdom_disk_free_bytes",
            "Room on the data directory's file system; below 4 MiB nothing is accepted",
            "least",
        )

    def _make_commits(self) -> None:
        commits = self._histogram(
            "vasdom_commit_seconds",
            "Time until one commit is safe: journal or postgres",
            _SECONDS,
            "home",
        )
        sizes = self._histogram(
            "vasdom_commit_batch_size", "Operations that shared one commit", _SIZES, "home"
        )
        waiting = self._gauge(
            "vasdom_commits_waiting", "Operations that wait for the next commit", "sum", "home"
        )
        self._commits = {
            home: (commits.labels(home), sizes.labels(home), waiting.labels(home))
            for home in get_args(Durability)
        }
        self.not_committed = self._counter(
            "vasdom_commits_failed_total",
            "Operations that a home did not take: PostgreSQL's go on to the journal, the "
            "journal's are refused with 503 or 507",
            "home",
            "reason",
        )
        for reason in ("full", "unwritable"):
            self.not_committed.labels("journal", reason)  # an alert sees the first one grow
        self.abandoned = self._counter(
            "vasdom_database_abandoned_total",
            "Work on PostgreSQL that was given up at its deadline and left to itself",
        )
        self._pool = self._gauge(
            "vasdom_pool_checked_out", "Connections to PostgreSQL in use", "sum"
        )
        self.replayed = self._counter(
            "vasdom_replayed_operations_total", "Operations carried from the journal to PostgreSQL"
        )
        self.adopted = self._counter(
            "vasdom_adopted_slots_total", "Journals of dead workers that were carried over"
        )
        self.adopted_operations = self._counter(
            "vasdom_adopted_operations_total", "Operations in them"
        )

    def _make_process(self) -> None:
        self.loop_lag = self._histogram(
            "vasdom_event_loop_lag_seconds",
            "How much later than asked a timer rang, ten times a second: what every request waits",
            _SECONDS,
        )
        self.memory = self._gauge(
            "vasdom_process_resident_memory_bytes", "Memory that the process holds", "sum"
        )
        self.started = self._gauge(
            "vasdom_start_time_seconds", "When the process started, as Unix time", "least"
        )
        self.workers = self._gauge("vasdom_workers", "Processes that serve", "sum")

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        self.described.append(Described(name, "counter", labels, "sum", meaning))
        return Counter(name, meaning, labels, registry=self._registry)

    def _gauge(self, name: str, meaning: str, over: Over, *labels: str) -> Gauge:
        self.described.append(Described(name, "gauge", labels, over, meaning))
        gauge = Gauge(
            name,
            meaning,
            labels,
            registry=self._registry,
            multiprocess_mode=_GAUGE_MODES[over],
        )
        if over == "least" and self._told is not self._registry:
            gauge.set(math.inf)  # a worker that still reads its journal has no say yet
        return gauge

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        self.described.append(Described(name, "histogram", labels, "sum", meaning))
        return Histogram(name, meaning, labels, buckets=buckets, registry=self._registry)

    # -- counting --------------------------------------------------------------------------

    def observe_request(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """Count one request; ``endpoint`` is a route template, so the labels stay few.

        A method that the endpoint does not have is ``OTHER``: strangers add one series to it.
        """
        known = "OTHER" if status == _NOT_ALLOWED else known_method(method)
        count = self._by_request.get((known, endpoint, status))
        if count is None:
            count = self._requests.labels(known, endpoint, str(status))
            self._by_request[known, endpoint, status] = count
        duration = self._by_endpoint.get((known, endpoint))
        if duration is None:
            duration = self._duration.labels(known, endpoint)
            self._by_endpoint[known, endpoint] = duration
        count.inc()
        duration.observe(seconds)

    def answered(self, outcome: Outcome) -> None:
        """A turn ended so."""
        self._answers[outcome].inc()

    def rated_with(self, rating: int) -> None:
        """A rating was given."""
        self._feedback[rating - 1].inc()

    def expect_switches(self, switches: Iterable[tuple[StorageMode, StorageMode, str]]) -> None:
        """Tell of these changes of mode from the start: an alert sees the first one grow."""
        for switch in switches:
            self._switches.labels(*switch)

    def switched(self, before: StorageMode, after: StorageMode, reason: str) -> None:
        """The mode changed."""
        self._switches.labels(before, after, reason).inc()

    def take_totals(self, totals: Stats) -> None:
        """Take over how many dialogues there are."""
        self._dialogues.set(totals.total_interactions)
        self._rated.set(totals.rated_interactions)

    def take_status(self, status: StorageStatus) -> None:
        """Take over where dialogues lie; called again and again, at least once a second."""
        now = time.monotonic()
        self._modes[status.mode][1].inc(now - self._mode_at)
        self._mode_at = now
        for mode, (gauge, _) in self._modes.items():
            gauge.set(mode == status.mode)
        self._accepting.set(status.accepting)
        self._database.set(status.database_available)
        self._backlog.set(status.journal_backlog)
        self._backlog_age.set(status.oldest_backlog_seconds)
        self._missing.set(status.missing_records)
        self._orphans.set(status.orphans)
        self._conflicts.set(status.conflicts)
        self._refused.set(status.refused)
        self._doubtful.set(status.doubtful)
        self._pool.set(status.pool_checked_out)
        self._held.set(status.held)
        for home, (_, _, waiting) in self._commits.items():
            waiting.set(status.waiting.get(home, 0))
        self._grown(self._evictions, "evictions", status.evicted)

    def _grown(self, counter: Counter, name: str, total: int) -> None:
        """Bring a counter up to a total that is kept elsewhere."""
        counter.inc(max(0, total - self._totals.get(name, 0)))
        self._totals[name] = total

    def committed(self, home: Durability, operations: int, seconds: float) -> None:
        """One commit of so many operations."""
        commits, sizes, _ = self._commits[home]
        commits.observe(seconds)
        sizes.observe(operations)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format; with several workers it reads their files."""
        return generate_latest(self._told)
