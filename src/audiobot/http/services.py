"""What the HTTP side is given by the composition root: ports and settings, no adapter by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from audiobot.conversation import ConversationService
from audiobot.http.access import Access
from audiobot.ports import KnowledgeImporter, Store
from audiobot.telemetry import Metrics, Traces


@dataclass(frozen=True, kw_only=True)
class SystemSample:
    """The machine's load, in percent, sampled in the background."""

    cpu_percent: float = 0.0
    memory_percent: float = 0.0
    disk_percent: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LearningState:
    """What learning looks like from outside: when it last changed the answers, what is cached."""

    last_update: datetime | None
    embeddings_ready: bool
    embeddings_cached: int
    recall_complete: bool = True
    """False while not every well-rated dialogue is at hand: there are too many, or they load."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """One running AudioBot, as the routes see it."""

    store: Store
    conversation: ConversationService
    access: Access
    metrics: Metrics
    started_at: datetime
    min_rating: int
    max_conversations: int
    cors_origins: tuple[str, ...]
    learning: Callable[[], LearningState]
    language_model_usable: Callable[[], bool]
    system: Callable[[], SystemSample]
    traces: Traces | None = None
    sample: Callable[[], None]
    """Brings every gauge up to date."""
    importer: KnowledgeImporter
