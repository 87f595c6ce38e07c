"""The operator's desk: what waits for an answer, the answers given, and what customers suggest."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from audiobot.domain import Conversation, Correction, CorrectionOutcome
from audiobot.http import wire
from audiobot.http.schemas import (
    CorrectionItem,
    CorrectionReply,
    CorrectionRequest,
    CorrectionsReply,
    DismissReply,
    DismissRequest,
    ErrorReply,
    InboxGroupsReply,
    InboxReply,
    InboxTurn,
    PraisedItem,
    PraisedReply,
    PreviewedItem,
    PreviewReply,
    PreviewRequest,
    QuestionGroupItem,
    SuggestionItem,
    SuggestionsReply,
)
from audiobot.http.services import Services

MAX_LESSON: Final = 2 << 20
"""Bytes: fifty wordings and an answer, in the costliest JSON escapes."""

CorrectionId = Annotated[str, Path(json_schema_extra={"format": "uuid"})]
"""As OpenAPI tells it; what is no id is 404, like one that no correction bears."""

READ_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorReply} for code in (401, 422, 503)
}
WRITE_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorReply} for code in (400, 401, 404, 413, 415, 422, 503, 507)
}


def make_router(services: Services) -> APIRouter:
    """The inbox, corrections and suggestions under ``/api/learning`` over the running services."""
    router = APIRouter(prefix="/api/learning", tags=["teaching"], dependencies=[wire.OPERATOR])
    access, store, conversation = services.access, services.store, services.conversation

    @router.get(
        "/inbox",
        summary="Turns that wait for an operator, newest first",
        response_model=InboxReply,
        responses=READ_ERRORS,
        openapi_extra=access.bearer(),
    )
    async def inbox(request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 200) -> Response:
        access.require_operator(request)
        complete = store.status().complete
        return wire.reply(
            InboxReply(
                turns=[_turn(turn) for turn in await store.get_inbox(limit)],
                complete=complete and store.status().complete,
            )
        )

    @router.get(
        "/inbox/groups",
        summary="Turns that wait for an operator by what they ask, the group worth most first",
        response_model=InboxGroupsReply,
        responses=READ_ERRORS,
        openapi_extra=access.bearer(),
    )
    async def groups(
        request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 200
    ) -> Response:
        access.require_operator(request)
        complete = store.status().complete
        found = await conversation.inbox_groups(limit)
        return wire.reply(
            InboxGroupsReply(
                groups=[
                    QuestionGroupItem(
                        question=group.question,
                        language=group.language,
                        turns=[_turn(turn) for turn in group.turns],
                    )
                    for group in found
                ],
                complete=complete and store.status().complete,
            )
        )

    @router.post(
        "/preview",
        summary="What an answer would change, were it kept",
        response_model=PreviewReply,
        responses={c: WRITE_ERRORS[c] for c in (400, 401, 413, 415, 422, 503)},
        openapi_extra={**access.bearer(), **wire.body_of(PreviewRequest)},
    )
    async def preview(request: Request) -> Response:
        access.require_operator(request)
        given = await wire.read_json(request, PreviewRequest, MAX_LESSON)
        found = await conversation.preview(given.answer, given.wordings, given.language)
        return wire.reply(
            PreviewReply(
                caught=[
                    PreviewedItem(
                        log_id=turn.log_id,
                        question=turn.question,
                        before=turn.before,
                        after=turn.after,
                    )
                    for turn in found.caught
                ],
                looked_at=found.looked_at,
                terse=found.terse,
            )
        )

    @router.post(
        "/inbox/dismiss",
        summary="Take turns or suggestions out of sight, or back",
        response_model=DismissReply,
        responses=WRITE_ERRORS,
        openapi_extra={**access.bearer(), **wire.body_of(DismissRequest)},
    )
    async def dismiss(request: Request) -> Response:
        access.require_operator(request)
        asked = await wire.read_json(request, DismissRequest)
        subjects = [wire.parse_log_id(text) for text in asked.log_ids]
        return wire.reply(DismissReply(dismissed=await store.dismiss(subjects, asked.dismissed)))

    @router.get(
        "/corrections",
        summary="Operators' answers, oldest version first",
        response_model=CorrectionsReply,
        responses=READ_ERRORS,
        openapi_extra=access.bearer(),
    )
    async def corrections(
        request: Request, withdrawn: Annotated[bool, Query()] = False
    ) -> Response:
        access.require_operator(request)
        complete = store.status().complete
        found = await store.get_corrections(withdrawn=withdrawn)
        return wire.reply(
            CorrectionsReply(
                corrections=[_item(correction) for correction in found],
                complete=complete and store.status().complete,
            )
        )

    @router.post(
        "/corrections",
        summary="Answer questions from now on",
        response_model=CorrectionReply,
        responses=WRITE_ERRORS,
        openapi_extra={**access.bearer(), **wire.body_of(CorrectionRequest)},
    )
    async def correct(request: Request) -> Response:
        access.require_operator(request)
        given = await wire.read_json(request, CorrectionRequest, MAX_LESSON)
        named = given.correction_id
        outcome = await conversation.correct(
            given.answer,
            given.wordings,
            language=given.language,
            log_ids=[wire.parse_log_id(text) for text in given.log_ids],
            correction_id=wire.parse_correction_id(named) if named is not None else None,
            seen_version=given.seen_version,
        )
        return wire.reply(_reply(outcome))

    @router.delete(
        "/corrections/{correction_id}",
        summary="Let a correction count no more",
        response_model=CorrectionReply,
        responses={**READ_ERRORS, 404: {"model": ErrorReply}, 507: {"model": ErrorReply}},
        openapi_extra=access.bearer(),
    )
    async def withdraw(request: Request, correction_id: CorrectionId) -> Response:
        access.require_operator(request)
        name = wire.parse_correction_id(correction_id)
        return wire.reply(_reply(await conversation.withdraw(name, withdrawn=True)))

    @router.post(
        "/corrections/{correction_id}/restore",
        summary="Let a withdrawn correction count again",
        response_model=CorrectionReply,
        responses={**READ_ERRORS, 404: {"model": ErrorReply}, 507: {"model": ErrorReply}},
        openapi_extra=access.bearer(),
    )
    async def restore(request: Request, correction_id: CorrectionId) -> Response:
        access.require_operator(request)
        name = wire.parse_correction_id(correction_id)
        return wire.reply(_reply(await conversation.withdraw(name, withdrawn=False)))

    _add_strangers_words(router, services)
    return router


def _add_strangers_words(router: APIRouter, services: Services) -> None:
    """What customers and a language model said: no operator's words before one takes them."""
    access, store, conversation = services.access, services.store, services.conversation

    @router.get(
        "/suggestions",
        summary="Customers' better answers, newest first",
        response_model=SuggestionsReply,
        responses=READ_ERRORS,
        openapi_extra=access.bearer(),
    )
    async def suggestions(
        request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 100
    ) -> Response:
        access.require_operator(request)
        complete = store.status().complete
        return wire.reply(
            SuggestionsReply(
                suggestions=[
                    SuggestionItem(
                        op_id=suggested.op_id,
                        log_id=suggested.conversation.log_id,
                        user_message=suggested.conversation.user_message,
                        ai_response=suggested.conversation.ai_response,
                        text=suggested.text,
                        rating=suggested.conversation.rating,
                        quarantined=suggested.quarantined,
                        timestamp=suggested.suggested_at,
                    )
                    for suggested in await store.get_suggestions(limit)
                ],
                complete=complete and store.status().complete,
            )
        )

    @router.get(
        "/praised",
        summary="A language model's well-rated answers that nobody approved, by raters",
        response_model=PraisedReply,
        responses=READ_ERRORS,
        openapi_extra=access.bearer(),
    )
    async def praised(
        request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 100
    ) -> Response:
        access.require_operator(request)
        complete = store.status().complete
        return wire.reply(
            PraisedReply(
                praised=[
                    PraisedItem(
                        praise_id=found.praise_id,
                        log_ids=[turn.log_id for turn in found.turns],
                        user_message=found.newest.user_message,
                        ai_response=found.newest.ai_response,
                        raters=found.raters,
                        quarantined=found.quarantined,
                        timestamp=found.newest.created_at,
                    )
                    for found in await conversation.praised(limit)
                ],
                complete=complete and store.status().complete,
            )
        )


def _turn(turn: Conversation) -> InboxTurn:
    return InboxTurn(
        log_id=turn.log_id,
        session_id=turn.session_id,
        user_message=turn.user_message,
        ai_response=turn.ai_response,
        outcome=turn.outcome,
        model_used=turn.model_used,
        confidence=turn.confidence,
        language=turn.language,
        rating=turn.rating,
        feedback_text=turn.feedback_text,
        timestamp=turn.created_at,
    )


def _item(correction: Correction) -> CorrectionItem:
    return CorrectionItem(
        correction_id=correction.correction_id,
        answer=correction.answer,
        wordings=list(correction.wordings),
        language=correction.language,
        log_ids=list(correction.log_ids),
        corrected_at=correction.corrected_at,
        version=correction.version,
        withdrawn=correction.withdrawn,
    )


def _reply(outcome: CorrectionOutcome) -> CorrectionReply:
    replaced = outcome.replaced
    return CorrectionReply(
        correction=_item(outcome.correction), replaced=_item(replaced) if replaced else None
    )
