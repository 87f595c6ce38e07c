"""The public calls: a question in, an answer out; a rating of it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from audiobot.domain import MAX_SESSION_ID, Conversation
from audiobot.http import wire
from audiobot.http.access import language_of
from audiobot.http.schemas import (
    ErrorReply,
    FeedbackReply,
    FeedbackRequest,
    ProcessReply,
    ProcessRequest,
    SessionAnswer,
    SessionAnswersReply,
    SourceLine,
)
from audiobot.http.services import Services
from audiobot.messages import sentence

_ANSWERS: Final = 20

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorReply} for code in (400, 413, 415, 422, 429, 503, 507)
}


def body_of(model: type[ProcessRequest | FeedbackRequest]) -> dict[str, Any]:
    """OpenAPI's description of a JSON body and of the headers that both POSTs know."""
    return {
        **wire.body_of(model),
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "same key and body: same reply, one dialogue; kept 24 hours",
                "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
            }
        ],
    }


def make_router(services: Services) -> APIRouter:
    """``/api/voice/…`` over the running services."""
    router = APIRouter(prefix="/api/voice", tags=["voice"], route_class=wire.RequestRoute)

    @router.post(
        "/process",
        summary="Ask a question",
        response_model=ProcessReply,
        responses=ERRORS,
        openapi_extra=body_of(ProcessRequest),
    )
    async def process(request: Request) -> Response:
        services.access.limit(request, "process")
        key = wire.idempotency_key(request)
        asked = await wire.read_json(request, ProcessRequest)
        told = await services.conversation.process(
            asked.message, asked.session_id, language_of(request), key
        )
        services.metrics.answered(told.outcome)
        return wire.reply(_process_reply(told, services.access.is_operator(request)))

    @router.post(
        "/feedback",
        summary="Rate an answer",
        response_model=FeedbackReply,
        responses={**ERRORS, 404: {"model": ErrorReply}},
        openapi_extra=body_of(FeedbackRequest),
    )
    async def feedback(request: Request) -> Response:
        services.access.limit(request, "feedback")
        key = wire.idempotency_key(request)
        given = await wire.read_json(request, FeedbackRequest)
        log_id = wire.parse_log_id(given.log_id)
        bears_cookie = services.access.has_rater_cookie(request)
        session = "" if bears_cookie else await services.conversation.session_of(log_id)
        outcome, replaced = await services.conversation.feedback(
            log_id,
            given.rating,
            given.feedback_text,
            corrected_response=given.corrected_response,
            rater=services.access.rater(request, session),
            by_operator=services.access.is_operator(request),
            idempotency_key=key,
        )
        services.metrics.rated_with(given.rating)
        language = language_of(request)
        code = "feedback_thanks" if outcome.status == "stored" else "feedback_pending"
        said = [sentence(code, language)]
        if replaced is not None:
            said.append(sentence("correction_replaced", language, answer=replaced.answer))
        return wire.reply(
            FeedbackReply(
                success=True,
                message=" ".join(said),
                log_id=outcome.log_id,
                will_be_used_for_training=outcome.answered
                and outcome.rating >= services.min_rating,
                status=outcome.status,
            )
        )

    @router.get(
        "/answers",
        summary="What an operator answered to a session's questions since they were asked",
        response_model=SessionAnswersReply,
        responses={code: {"model": ErrorReply} for code in (422, 429, 503)},
    )
    async def answers(
        request: Request,
        session_id: Annotated[str, Query(min_length=12, max_length=MAX_SESSION_ID)],
    ) -> Response:
        services.access.limit(request, "answers")
        return wire.reply(
            SessionAnswersReply(
                answers=[
                    SessionAnswer(
                        log_id=told.log_id,
                        question=told.question,
                        answer=told.answer,
                        asked_at=told.asked_at,
                        answered_at=told.answered_at,
                    )
                    for told in await services.store.get_answers(session_id, _ANSWERS)
                ]
            )
        )

    return router


def _process_reply(told: Conversation, operator: bool) -> ProcessReply:
    return ProcessReply(
        response=told.ai_response,
        log_id=told.log_id,
        session_id=told.session_id,
        model_used=told.model_used,
        response_time=told.response_time,
        similar_found=told.similar_found,
        learning_improved=told.learning_improved,
        durability=told.durability,
        confidence=told.confidence,
        outcome=told.outcome,
        sources=[
            SourceLine(
                kind=source.kind,
                title=source.title,
                dialogues=source.dialogues,
                raters=source.raters,
                ids=list(source.ids) if operator else None,
            )
            for source in told.sources
        ],
    )
