"""What is wrong with PostgreSQL, in one word that health, logs and metrics share.

Whoever works without PostgreSQL knows the words too, so they need no driver;
:mod:`audiobot.storage.driver` finds them.
"""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "starting",
    "refused",
    "dns",
    "lost",
    "timeout",
    "locked",
    "read_only",
    "too_many_connections",
    "password",
    "database_missing",
    "schema",
    "full",
    "restarting",
    "foreign",
    "hindered",
    "too_old",
    "encoding",
    "unknown",
]


class DatabaseTrouble(Exception):
    """PostgreSQL did not do it, or nobody knows; the journal takes over."""

    def __init__(self, reason: Reason, state: str | None = None) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
        self.state = state


class DataRefused(Exception):
    """PostgreSQL will never take this value: no reason to mistrust PostgreSQL."""
