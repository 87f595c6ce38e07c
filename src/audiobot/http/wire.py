"""Bytes to requests and errors to replies: sizes before content, short sentences, no echo."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from typing import Any, Final, TypeVar

from fastapi import Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response

from audiobot.domain import MAX_SESSION_ID
from audiobot.errors import (
    AudioBotError,
    Forged,
    IdempotencyMismatch,
    InvalidValue,
    MalformedRequest,
    NotAllowed,
    StorageFull,
    StorageUnavailable,
    TooManyRequests,
    UnknownCorrection,
    UnknownDialogue,
)
from audiobot.http.access import language_of
from audiobot.http.schemas import ErrorReply
from audiobot.messages import codes, sentence
from audiobot.telemetry import get_logger

log = get_logger(__name__)

OPERATOR: Final = Security(
    HTTPBearer(
        scheme_name="operator",
        description="The operator's token; on a first try on this machine none is needed.",
        auto_error=False,
    )
)
"""How OpenAPI tells of an operator's calls; who is one is for ``Access`` to say."""

MAX_BODY: Final = 128 << 10
"""Bytes: more than 8,000 characters of the costliest JSON escapes."""

_M = TypeVar("_M", bound=BaseModel)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_FIELDS: Final = (
    "message", "session_id", "log_id", "feedback_text", "corrected_response", "answer", "wordings",
    "log_ids", "correction_id",
)  # fmt: skip
_KEY: Final = re.compile(r"[!-~]{1,200}")

_STATUS: Final[dict[type[AudioBotError], int]] = {
    InvalidValue: 422,
    IdempotencyMismatch: 422,
    UnknownDialogue: 404,
    UnknownCorrection: 404,
    NotAllowed: 401,
    Forged: 403,
    TooManyRequests: 429,
    StorageFull: 507,
    StorageUnavailable: 503,
}
_MALFORMED: Final = {"body_too_large": 413, "content_type": 415, "form_type": 415}
_HTTP_CODES: Final = {404: "not_found", 405: "method_not_allowed"}


class RequestRoute(APIRoute):
    """A route that calls its endpoint itself when that takes the request and nothing else.

    FastAPI's handler resolves parameters and dependencies, and keeps two exit stacks for the
    latter, also where there are none; Starlette's, of which it is a copy, has neither. What FastAPI
    would do besides (a limit of the body's size, background tasks) no endpoint asks of it.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        needs = self.dependant
        resolved = (
            needs.path_params, needs.query_params, needs.header_params, needs.cookie_params,
            needs.body_params, needs.dependencies,
        )  # fmt: skip
        if needs.request_param_name == "request" and not any(resolved):
            self.app = request_response(endpoint)


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's description of a JSON body."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": model.model_json_schema()}},
        }
    }


def reply(model: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply as JSON."""
    return Response(model.model_dump_json(), status, headers, "application/json")


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The body, never more than ``limit`` bytes of it: refused by its size before it is read."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limit:
        raise MalformedRequest("body_too_large", limit=limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise MalformedRequest("body_too_large", limit=limit)
    return bytes(body)


async def read_json(request: Request, model: type[_M], limit: int = MAX_BODY) -> _M:
    """The body as ``model``: 415, 413, 400 or 422 for what is not one."""
    kind, *parameters = request.headers.get("content-type", "").lower().split(";")
    named = (parameter.partition("=") for parameter in parameters)
    charsets = {value.strip().strip('"') for name, _, value in named if name.strip() == "charset"}
    if kind.strip() != "application/json" or charsets - {"", "utf-8", "utf8"}:
        raise MalformedRequest("content_type")
    body = await read_body(request, limit)
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise _why_not_json(body) from None
    if not isinstance(values, dict):
        raise InvalidValue("body_not_object")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _as_invalid(error) from None


def _why_not_json(body: bytes) -> AudioBotError:
    """Lone surrogates are well-formed JSON of a bad value; all else is malformed."""
    try:
        values = json.loads(body.decode("utf-8"))
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        fields = values if isinstance(values, dict) else {}
        guilty = (n for n in _FIELDS if _lone(fields.get(n)))
        return InvalidValue("text_has_surrogate", field=next(guilty, "?"))
    except (ValueError, RecursionError):
        return MalformedRequest("json_malformed")
    return MalformedRequest("json_malformed")


def _lone(value: object) -> bool:
    if isinstance(value, list):
        return any(_lone(each) for each in value)
    return isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value)


def _as_invalid(error: ValidationError) -> InvalidValue:
    first = error.errors(include_input=False, include_url=False)[0]
    field = str(first["loc"][0])[:40] if first["loc"] else "?"
    kind = first["type"]
    if kind == "missing":
        return InvalidValue("field_missing", field=field)
    if kind in ("string_too_long", "too_long"):
        of_list = first["ctx"].get("field_type") == "List"
        code = "list_too_long" if of_list else "text_too_long"
        return InvalidValue(code, field=field, limit=first["ctx"]["max_length"])
    if kind in ("too_short", "string_too_short", "string_pattern_mismatch"):
        return InvalidValue("text_blank", field=field)
    if kind in codes():
        return InvalidValue(kind, field=field)
    return InvalidValue("rating_range" if field == "rating" else "field_invalid", field=field)


def parse_log_id(text: str) -> uuid.UUID:
    """The id in any letter case; what is no UUID was never issued."""
    if "\x00" in text:
        raise InvalidValue("text_has_nul", field="log_id")
    if len(text) > MAX_SESSION_ID or not _UUID.fullmatch(text):
        raise UnknownDialogue("unknown_dialogue")
    return uuid.UUID(text)


def parse_correction_id(text: str) -> uuid.UUID:
    """The id in any letter case; what is no UUID names no correction."""
    if "\x00" in text:
        raise InvalidValue("text_has_nul", field="correction_id")
    if not _UUID.fullmatch(text):
        raise UnknownCorrection("unknown_correction")
    return uuid.UUID(text)


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key header; ``InvalidValue`` when it is not 1-200 printable ASCII."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidValue("idempotency_key")
    return key


def error_reply(request: Request, status: int, code: str, **details: object) -> Response:
    """The one form every error has."""
    text = sentence(code, language_of(request), **details)
    headers = {"Cache-Control": "no-store"}
    if "retry_after" in details:
        headers["Retry-After"] = str(details["retry_after"])
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status == 413:
        headers["Connection"] = "close"
    return reply(ErrorReply(detail=text, code=code), status, headers)


def status_of(error: AudioBotError) -> int:
    """The status that says of what kind an error is."""
    if isinstance(error, MalformedRequest):
        return _MALFORMED.get(error.code, 400)
    kinds = (kind for kind in type(error).__mro__ if kind in _STATUS)
    return _STATUS.get(next(kinds, AudioBotError), 500)


async def on_audiobot_error(request: Request, error: Exception) -> Response:
    """An error of ours, by the status table."""
    assert isinstance(error, AudioBotError)
    status = status_of(error)
    details: dict[str, Any] = dict(error.details)
    if hasattr(error, "retry_after"):
        details["retry_after"] = error.retry_after
    return error_reply(request, status, error.code, **details)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own: no such page, no such method."""
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "bad_request")
    response = error_reply(request, error.status_code, code)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


async def on_bad_parameters(request: Request, error: Exception) -> Response:
    """A query or path parameter outside its bounds."""
    assert isinstance(error, RequestValidationError)
    location = error.errors()[0]["loc"]
    if location[-1] == "format":
        return error_reply(request, 422, "format_unknown")
    return error_reply(request, 422, "field_invalid", field=str(location[-1])[:40])


async def on_any_error(request: Request, error: Exception) -> Response:
    """A fault of ours: logged with its trace, told without it."""
    request_id = request.scope.get("audiobot.request_id", "-")
    log.error("request failed", exc_info=error)
    return error_reply(request, 500, "internal", request_id=request_id)
