"""Logs: for people on a terminal, JSON elsewhere.

A log message is static text with named fields; no field ever holds what a person said, a token
or a password.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

_MOST_LINES: Final = 20
_WINDOW_SECONDS: Final = 10.0


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
                _without_words,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    threading.excepthook = _thread_ended
    sys.unraisablehook = _unraisable
    for noisy in ("uvicorn.access", "httpx2", "httpcore2", "openai", "urllib3"):
        # Their lines hold addresses of people or bodies of requests.
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _thread_ended(args: threading.ExceptHookArgs) -> None:
    """Tell what ended a thread as every error is told: Python's own way shows the error's text."""
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        get_logger("threading").error("a thread ended by an error", exc_info=args.exc_value)


def _unraisable(args: sys.UnraisableHookArgs) -> None:
    """The same for an error in a finalizer."""
    if args.exc_value is not None:
        get_logger("python").error("an error in a finalizer", exc_info=args.exc_value)


def _without_words(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An error as its kind and where it was: its text may quote what a person said."""
    given = line.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    error = given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        line["exception"] = _told(error)
    return line


def _told(error: BaseException) -> str:
    frames = "".join(traceback.format_tb(error.__traceback__))
    within = [error.__cause__, *getattr(error, "exceptions", ())]
    told = [_told(inner) for inner in within if inner is not None]
    told.append(f"Traceback (most recent call last):\n{frames}{type(error).__name__}")
    return "\n".join(told)


def watch_loop() -> None:
    """Have the running event loop report what nobody caught as every error is told.

    Its own way is to show the task too, with the error's text and what it was given.
    """
    log = get_logger("asyncio")

    def report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        log.error(context["message"], exc_info=context.get("exception"))

    asyncio.get_running_loop().set_exception_handler(report)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for static messages with named fields."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def bind_request(request_id: str) -> None:
    """Put the request's id on every line logged while it is served."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)


class Sparing:
    """Lets the first lines of one kind through, twenty in ten seconds, and counts the rest.

    A fault under load fails thousands of calls in the same way: the disk that is full already
    shall not drown in lines that say so.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._lines = 0
        self._left_out = 0

    def left_out(self) -> int | None:
        """How many lines were left out before this one; None when this one is too."""
        now = time.monotonic()
        if now - self._since >= _WINDOW_SECONDS:
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines > _MOST_LINES:
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        return left_out
