"""The modes of the hybrid store and how one follows another: one table.

The diagram in the documents, the metrics' labels and the transition tests all come from
``TRANSITIONS``; nothing else in the code changes the mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, Literal, NamedTuple, get_args

from audiobot.domain import StorageMode, utc_now
from audiobot.storage.trouble import Reason

Mode = StorageMode
Event = Literal["reached", "trouble", "journaled", "carried", "closing"]

TRANSITIONS: Final[dict[tuple[Mode, Event], Mode]] = {
    # A probe wrote to PostgreSQL: new writes go there at once, the journal follows.
    ("fallback", "reached"): "recovering",
    # Nothing is left in the journal that PostgreSQL does not have.
    ("recovering", "carried"): "postgres",
    # One write missed its deadline though PostgreSQL is well: it waits in the journal.
    ("postgres", "journaled"): "recovering",
    ("postgres", "trouble"): "fallback",
    ("recovering", "trouble"): "fallback",
    ("memory", "closing"): "draining",
    ("postgres", "closing"): "draining",
    ("fallback", "closing"): "draining",
    ("recovering", "closing"): "draining",
}

REASONS: Final[dict[Event, tuple[str, ...]]] = {
    "reached": ("reached",),
    "carried": ("carried",),
    "journaled": ("late",),
    "trouble": get_args(Reason),
    "closing": ("closing",),
}
"""Every word that may be told as an event's reason."""


class Switched(NamedTuple):
    """One change of mode, as it is logged: from, to, why, and how long the old mode lasted.

    From a mode to itself when only the reason is another.
    """

    before: Mode
    after: Mode
    reason: str
    seconds: float


class ModeState:
    """The mode in force, since when, and why. ``tell`` hears of every change."""

    def __init__(
        self, mode: Mode, reason: str, tell: Callable[[Switched], None] = lambda switched: None
    ) -> None:
        self.mode: Mode = mode
        self.reason = reason
        self.since: datetime = utc_now()
        self._tell = tell

    @property
    def to_postgres(self) -> bool:
        """True while new writes go to PostgreSQL."""
        return self.mode in ("postgres", "recovering")

    def explain(self, reason: str) -> None:
        """The mode in force has another reason."""
        if reason != self.reason:
            self.reason = reason
            seconds = (utc_now() - self.since).total_seconds()
            self._tell(Switched(self.mode, self.mode, reason, seconds))

    def happen(self, event: Event, reason: str) -> bool:
        """Let an event have its effect; false when it has none in this mode."""
        after = TRANSITIONS.get((self.mode, event))
        if after is None:
            return False
        now = utc_now()
        switched = Switched(self.mode, after, reason, (now - self.since).total_seconds())
        self.mode, self.reason, self.since = after, reason, now
        self._tell(switched)
        return True


def outage_switches() -> Iterator[tuple[Mode, Mode, str]]:
    """Every change of mode that an outage and its end may bring: from, to, why."""
    for (before, event), after in TRANSITIONS.items():
        if event != "closing":
            yield from ((before, after, reason) for reason in REASONS[event])


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> memory: no DATABASE_URL", "    [*] --> fallback"]
    lines += [
        f"    {before} --> {after}: {event}" for (before, event), after in TRANSITIONS.items()
    ]
    return "\n".join([*lines, "    draining --> [*]"])
