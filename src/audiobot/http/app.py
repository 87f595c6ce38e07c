"""The ASGI application, made from a Services record."""

from __future__ import annotations

import itertools
import secrets
import time
from importlib import resources
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audiobot import __version__
from audiobot.errors import AudioBotError
from audiobot.http import console, learning, operations, teaching, voice, wire
from audiobot.http.services import Services
from audiobot.telemetry import Metrics, Traces, bind_request, get_logger

log = get_logger(__name__)

_SLOW_SECONDS: Final = 5.0
_OPENAPI: Final = "/openapi.json"


class Watch:
    """Outermost: an id for each request, its count and time, the headers every reply has.

    It also answers for what went wrong below everything else, so that a fault of ours still is
    a JSON sentence and is counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, traces: Traces | None = None) -> None:
        self._app = app
        self._metrics = metrics
        self._traces = traces
        self._process, self._numbers = secrets.token_hex(4), itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"{self._process}{next(self._numbers):08x}"
        scope["audiobot.request_id"] = request_id
        bind_request(request_id)
        if self._traces is None:
            await self._serve(scope, receive, send, request_id)
            return
        with self._traces.request(scope["method"], request_id) as finish:
            finish(*await self._serve(scope, receive, send, request_id))

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, request_id: str
    ) -> tuple[str, int]:
        """Serve it, count it; its route template and its status."""
        started, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"same-origin"),
                ]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            pass  # nobody is left to be told; counted as 499
        except Exception as error:
            if status:
                raise
            response = await wire.on_any_error(Request(scope), error)
            await response(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - started
            route = scope.get("route")
            endpoint = getattr(route, "path", None) or "unmatched"
            if endpoint == "unmatched" and status < 400 and scope["path"] == _OPENAPI:
                endpoint = _OPENAPI  # FastAPI serves it by a route that does not name itself
            status = status or 499
            self._metrics.observe_request(scope["method"], endpoint, status, seconds)
            if seconds >= _SLOW_SECONDS:
                log.warning("slow request", endpoint=endpoint, seconds=round(seconds, 3))
        return endpoint, status


def create_app(services: Services) -> FastAPI:
    """The application over running services; it opens and closes nothing itself."""
    app = FastAPI(
        title="VasDom AudioBot",
        version=__version__,
        description=operations.DESCRIPTION,
        openapi_url=_OPENAPI,
        redirect_slashes=False,  # it would send the caller to the scheme and host that we see
        # FastAPI's own spans and logs hold queries and texts of errors: people's words.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(AudioBotError, wire.on_audiobot_error)
    app.add_exception_handler(HTTPException, wire.on_http_exception)
    app.add_exception_handler(RequestValidationError, wire.on_bad_parameters)
    for router in (
        voice.make_router(services),
        learning.make_router(services),
        teaching.make_router(services),
        operations.make_router(services),
        console.make_router(services),
    ):
        # Their routes themselves: a router inside a router is matched twice for every request.
        app.router.routes.extend(router.routes)
    http = resources.files("audiobot") / "http"
    for place in ("static", "console/static"):
        files = StaticFiles(directory=str(http / place))
        # Over a phone's network they are a third of their size.
        app.mount(f"/{place}", GZipMiddleware(files, minimum_size=1_000), name=place)
    if services.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(services.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Content-Type", "Authorization", "Idempotency-Key", "Accept-Language"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_middleware(Watch, metrics=services.metrics, traces=services.traces)
    return app
