"""The operator's calls: totals, data sets, past dialogues, and knowledge coming in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from audiobot.domain import Conversation, check_text, utc_now
from audiobot.errors import InvalidValue
from audiobot.http import wire
from audiobot.http.access import language_of
from audiobot.http.schemas import (
    BadRowReply,
    ErrorReply,
    ExportMessage,
    ExportMetadata,
    ExportReply,
    ExportSample,
    ImportReply,
    Question,
    QuestionsReply,
    SimilarConversation,
    SimilarReply,
    StatsReply,
)
from audiobot.http.services import Services
from audiobot.messages import sentence

MAX_IMPORT: int = 8 << 20
_CHUNK = 64 << 10

ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": ErrorReply} for code in (401, 422, 503)}


def make_router(services: Services) -> APIRouter:
    """``/api/learning/…`` and ``/api/knowledge`` over the running services."""
    router = APIRouter(prefix="/api", tags=["learning"], dependencies=[wire.OPERATOR])
    access, store = services.access, services.store

    @router.get(
        "/learning/stats",
        summary="Totals",
        response_model=StatsReply,
        responses=ERRORS,
        openapi_extra=access.bearer(),
    )
    async def stats(request: Request) -> Response:
        access.require_operator(request)
        totals = await store.get_stats()
        return wire.reply(
            StatsReply(
                total_interactions=totals.total_interactions,
                avg_rating=round(totals.avg_rating, 4),
                positive_ratings=totals.positive_ratings,
                negative_ratings=totals.negative_ratings,
                rated_interactions=totals.rated_interactions,
                improvement_rate=round(totals.improvement_rate, 4),
                last_learning_update=services.learning().last_update,
                complete=totals.complete,
                as_of=totals.as_of,
            )
        )

    @router.get(
        "/learning/export",
        summary="Well-rated dialogues as a data set",
        response_model=ExportReply,
        responses={
            200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}},
            **ERRORS,
        },
        openapi_extra=access.bearer(),
    )
    async def export(
        request: Request,
        min_rating: Annotated[int, Query(ge=1, le=5)] = services.min_rating,
        format_: Annotated[Literal["openai"], Query(alias="format")] = "openai",
        mask: Annotated[bool, Query()] = False,
    ) -> Response:
        assert format_ == "openai"
        access.require_operator(request)
        if mask:
            raise InvalidValue("mask_not_built")
        complete = store.status().complete
        samples = (
            _sample(c) async for c in store.get_rated_conversations(min_rating, answered=True)
        )
        if "application/x-ndjson" in request.headers.get("accept", ""):
            return StreamingResponse(
                _lines(samples),
                media_type="application/x-ndjson",
                headers={"X-AudioBot-Complete": str(complete).lower()},
            )
        document = _document(samples, min_rating, complete)
        return StreamingResponse(document, media_type="application/json")

    @router.get(
        "/learning/questions",
        summary="Questions handed over to a person that wait for an answer, newest first",
        response_model=QuestionsReply,
        responses=ERRORS,
        openapi_extra=access.bearer(),
    )
    async def questions(
        request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 50
    ) -> Response:
        access.require_operator(request)
        complete = store.status().complete
        return wire.reply(
            QuestionsReply(
                questions=[
                    Question(
                        log_id=asked.log_id,
                        session_id=asked.session_id,
                        user_message=asked.user_message,
                        timestamp=asked.created_at,
                    )
                    for asked in await store.get_handed_over(limit)
                ],
                complete=complete and store.status().complete,
            )
        )

    @router.get(
        "/learning/similar/{log_id}",
        summary="Rated dialogues near one",
        response_model=SimilarReply,
        responses={**ERRORS, 404: {"model": ErrorReply}},
        openapi_extra=access.bearer(),
    )
    async def similar(
        request: Request, log_id: str, limit: Annotated[int, Query(ge=1, le=50)] = 5
    ) -> Response:
        access.require_operator(request)
        original, found = await services.conversation.similar(wire.parse_log_id(log_id), limit)
        return wire.reply(
            SimilarReply(
                original_message=original.user_message if original else None,
                found_similar=len(found),
                complete=store.status().complete and services.learning().recall_complete,
                similar_conversations=[
                    SimilarConversation(
                        log_id=s.conversation.log_id,
                        user_message=s.conversation.user_message,
                        ai_response=s.conversation.ai_response,
                        rating=s.conversation.rating,
                        timestamp=s.conversation.created_at,
                        similarity=s.similarity,
                    )
                    for s in found
                ],
            )
        )

    @router.post(
        "/knowledge/{name:path}",
        summary="Import a file of knowledge (.md, .csv, .jsonl)",
        response_model=ImportReply,
        responses={
            **ERRORS,
            404: {"model": ErrorReply},
            413: {"model": ErrorReply},
            507: {"model": ErrorReply},
        },
        openapi_extra={
            **access.bearer(),
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string"}}},
            },
        },
    )
    async def knowledge(request: Request, name: str) -> Response:
        access.require_operator(request)
        source = check_text("name", name, 200, blank=False)
        if PurePosixPath(source).is_absolute() or ".." in PurePosixPath(source).parts:
            raise InvalidValue("field_invalid", field="name")
        imported = await services.importer.import_file(
            source, await wire.read_body(request, MAX_IMPORT)
        )
        language = language_of(request)
        return wire.reply(
            ImportReply(
                source=imported.source,
                items=imported.items,
                changed=imported.changed,
                bad_rows=[
                    BadRowReply(
                        line=row.line,
                        code=row.code,
                        detail=sentence(row.code, language, **row.details),
                    )
                    for row in imported.bad_rows[:1_000]
                ],
            )
        )

    return router


def _sample(conversation: Conversation) -> ExportSample:
    return ExportSample(
        messages=[
            ExportMessage(role="user", content=conversation.user_message),
            ExportMessage(role="assistant", content=conversation.ai_response),
        ],
        metadata=ExportMetadata(
            rating=conversation.rating or 0,
            timestamp=conversation.created_at,
            session_id=conversation.session_id,
        ),
    )


async def _lines(samples: AsyncIterator[ExportSample]) -> AsyncIterator[bytes]:
    """One sample a line, in chunks worth sending."""
    chunk = bytearray()
    async for sample in samples:
        chunk += sample.model_dump_json().encode() + b"\n"
        if len(chunk) >= _CHUNK:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


async def _document(
    samples: AsyncIterator[ExportSample], min_rating: int, complete: bool
) -> AsyncIterator[bytes]:
    """The whole reply as one JSON document, written as it is read: the count comes last."""
    count, chunk = 0, bytearray(b'{"data":[')
    async for sample in samples:
        chunk += (b"," if count else b"") + sample.model_dump_json().encode()
        count += 1
        if len(chunk) >= _CHUNK:
            yield bytes(chunk)
            chunk.clear()
    moment = utc_now().isoformat().replace("+00:00", "Z")
    yield (
        bytes(chunk)
        + (
            f'],"total_exported":{count},"min_rating_used":{min_rating},"export_timestamp":"{moment}",'
            f'"complete":{str(complete).lower()}}}'
        ).encode()
    )
