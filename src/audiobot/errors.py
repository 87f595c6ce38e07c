"""One error tree: a class for what the caller can do, a ``code`` that names the sentence.

The sentences themselves, in Russian and English, are in :mod:`audiobot.messages`.
"""

from __future__ import annotations

import asyncio


def report_fault(message: str, error: Exception) -> None:
    """Tell whoever watches the running event loop of a fault after which the work goes on."""
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})


class AudioBotError(Exception):
    """Root of every error AudioBot raises on purpose.

    ``code`` names the sentence, ``details`` fill its blanks. Details never hold what a person
    said: they end up in replies and logs.
    """

    retryable = False

    def __init__(self, code: str, **details: object) -> None:
        super().__init__(code)
        self.code = code
        self.details = details

    def __str__(self) -> str:
        return ", ".join([self.code, *(f"{name}={value}" for name, value in self.details.items())])


class InvalidValue(AudioBotError):
    """A value no store would take: change it and call again."""


class MalformedRequest(AudioBotError):
    """Not even well-formed: bytes that are no JSON, a body that is too large or of another type."""


class UnknownDialogue(AudioBotError):
    """An id that AudioBot never issued."""


class UnknownCorrection(AudioBotError):
    """A correction that no operator ever made."""


class IdempotencyMismatch(AudioBotError):
    """The same Idempotency-Key came with another request."""


class NotAllowed(AudioBotError):
    """An operator's call without an operator's token."""


class Forged(NotAllowed):
    """A form that none of our own pages made for this session."""


class Unavailable(AudioBotError):
    """Not now; the same call may succeed after ``retry_after`` seconds."""

    retryable = True

    def __init__(self, code: str, *, retry_after: int = 5, **details: object) -> None:
        super().__init__(code, **details)
        self.retry_after = retry_after


class StorageFull(Unavailable):
    """No room to keep another dialogue safe; what was acknowledged stays."""


class StorageUnavailable(Unavailable):
    """The journal cannot be written just now."""


class TooManyRequests(Unavailable):
    """The caller's rate limit is spent."""


class SetupError(AudioBotError):
    """The program cannot start as it is configured: the sentence says what to change."""


class LanguageModelError(AudioBotError):
    """The language model gave nothing that could be told; the answer goes on without it."""

    retryable = True
