"""How the program is doing: health, readiness, metrics, and the page at the root."""

from __future__ import annotations

import asyncio
import secrets
import time
from importlib import resources
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from audiobot import __version__
from audiobot.domain import Language, StorageStatus, utc_now
from audiobot.http import wire
from audiobot.http.access import RATER_COOKIE, RATER_COOKIE_SECONDS, language_of
from audiobot.http.schemas import (
    ErrorReply,
    HealthReply,
    LearningHealth,
    ReadyReply,
    RootReply,
    ServicesHealth,
    StorageHealth,
    SystemHealth,
)
from audiobot.http.services import Services
from audiobot.messages import sentence, state_sentence
from audiobot.telemetry import METRICS_TYPE

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DESCRIPTION: Final = "Self-hosted, self-learning voice assistant for service companies"
FEATURES: Final = [
    "answers from the company's own knowledge",
    "hands over what it does not know",
    "ratings 1-5 that count from the next question on",
    "every answered dialogue is on disk before the reply",
    "export of well-rated dialogues for fine-tuning",
]


def refusal_code(status: StorageStatus) -> str:
    """Which sentence says why nothing is accepted."""
    return "state_full" if status.reason == "full" else "state_unwritable"


def storage_sentence(status: StorageStatus, language: Language) -> str:
    """Where dialogues lie, or why nothing is accepted."""
    if not status.accepting:
        return sentence(refusal_code(status), language)
    minutes = int((utc_now() - status.since).total_seconds() // 60)
    return state_sentence(status.mode, status.reason, status.journal_backlog, minutes, language)


def make_router(services: Services) -> APIRouter:
    """``/``, ``/api/health``, ``/api/ready`` and ``/api/metrics``."""
    router = APIRouter(tags=["operations"])
    page = (resources.files("audiobot") / "http" / "static" / "index.html").read_bytes()

    @router.head("/api/health", include_in_schema=False)
    @router.get("/api/health", summary="How the program is", response_model=HealthReply)
    async def health(request: Request) -> Response:
        started = time.perf_counter()
        status, totals = services.store.status(), await services.store.get_stats()
        learning, system = services.learning(), services.system()
        usable = ServicesHealth(
            database=status.database_available,
            storage=status.accepting,
            embeddings=learning.embeddings_ready,
            llm=services.language_model_usable(),
            speech_to_text=False,
            text_to_speech=False,
        )
        checks = {
            "storage_accepts_writes": status.accepting,
            "journal_complete": status.missing_records == 0,
            "embeddings_ready": learning.embeddings_ready,
        }
        moment = utc_now()
        return wire.reply(
            HealthReply(
                status="healthy" if all(checks.values()) else "degraded",
                version=__version__,
                timestamp=moment,
                uptime_seconds=round((moment - services.started_at).total_seconds(), 3),
                services=usable,
                storage=StorageHealth(
                    mode=status.mode,
                    reason=status.reason,
                    since=status.since,
                    durability=status.durability,
                    journal_backlog=status.journal_backlog,
                    oldest_backlog_seconds=status.oldest_backlog_seconds,
                    survives_machine_loss=status.durability == "postgres",
                    ephemeral=status.ephemeral,
                    missing_records=status.missing_records,
                    conflicts=status.conflicts,
                    orphans=status.orphans,
                    summary=storage_sentence(status, language_of(request)),
                ),
                learning_data=LearningHealth(
                    total_conversations=totals.total_interactions,
                    embeddings_cached=learning.embeddings_cached,
                    rated_conversations=totals.rated_interactions,
                    max_storage_limit=services.max_conversations,
                ),
                critical_checks=checks,
                system_metrics=SystemHealth(
                    cpu_percent=system.cpu_percent,
                    memory_percent=system.memory_percent,
                    disk_percent=system.disk_percent,
                ),
                response_time_ms=round((time.perf_counter() - started) * 1_000, 3),
            )
        )

    @router.head("/api/ready", include_in_schema=False)
    @router.get(
        "/api/ready",
        summary="Whether something durable can be accepted",
        response_model=ReadyReply,
        responses={503: {"model": ErrorReply}},
    )
    async def ready(request: Request) -> Response:
        status = services.store.status()
        if status.accepting:
            return wire.reply(ReadyReply(ready=True, mode=status.mode))
        return wire.error_reply(request, 503, refusal_code(status), retry_after=5)

    @router.get(
        "/api/metrics",
        summary="Prometheus metrics",
        dependencies=[wire.OPERATOR],
        openapi_extra=services.access.bearer(metrics=True),
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            401: {"model": ErrorReply},
        },
    )
    async def metrics(request: Request) -> Response:
        services.access.require_metrics_reader(request)
        gauges = services.metrics
        gauges.take_totals(await services.store.get_stats())
        services.sample()
        # In a thread: with several workers it reads a file or two of each.
        return Response(await asyncio.to_thread(gauges.exposition), media_type=METRICS_TYPE)

    @router.head("/", include_in_schema=False)
    @router.get(
        "/",
        summary="The talk page, or what this is",
        response_model=RootReply,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    async def root(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            response = Response(page, media_type="text/html")
            response.headers["Content-Security-Policy"] = CSP
            response.headers["Cache-Control"] = "no-cache"
            response.headers["Vary"] = "Accept"
            if not services.access.has_rater_cookie(request):
                response.set_cookie(
                    RATER_COOKIE,
                    services.access.new_rater_cookie(secrets.token_urlsafe(12)),
                    max_age=RATER_COOKIE_SECONDS,
                    httponly=True,
                    samesite="lax",
                    secure=services.access.is_https(request),
                )
            return response
        totals = await services.store.get_stats()
        stats: dict[str, Any] = {
            "total_interactions": totals.total_interactions,
            "rated_interactions": totals.rated_interactions,
            "avg_rating": round(totals.avg_rating, 4),
        }
        what = RootReply(
            name="VasDom AudioBot",
            version=__version__,
            description=DESCRIPTION,
            features=FEATURES,
            stats=stats,
        )
        return wire.reply(what, headers={"Vary": "Accept"})

    return router
