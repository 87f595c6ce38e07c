"""The console's door: who may come in, in which language, and whether a form is our own page's.

Every handler gets a ``Visit``. What goes wrong becomes a sentence beside what the operator typed,
never in its place.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response

from audiobot.domain import Language
from audiobot.errors import AudioBotError, Forged, MalformedRequest, NotAllowed
from audiobot.http import wire
from audiobot.http.access import Access, language_of
from audiobot.http.console import view
from audiobot.http.console.texts import error_text
from audiobot.http.sessions import SESSION_COOKIE, SESSION_SECONDS, VISIT_COOKIE, Session

LANGUAGE_COOKIE: Final = "audiobot_language"
PROOF_HEADER: Final = "x-csrf-token"
_LANGUAGE_SECONDS: Final = 365 * 24 * 3600
MAX_FORM: Final = 4 << 20
"""Bytes: fifty wordings, an answer and a thousand ids, each letter written as in an address."""
MAX_SIGN_IN: Final = 16 << 10
"""Bytes of a form that anybody may send: a token and a proof."""
_MAX_FIELDS: Final = 2_000


class Form:
    """A form's fields, as typed; line ends are those of text."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in pairs:
            self._fields.setdefault(name, []).append(value.replace("\r\n", "\n"))

    def one(self, name: str) -> str:
        """The first value, empty when there is none."""
        return self._fields.get(name, [""])[0]

    def every(self, name: str) -> list[str]:
        """All values in order."""
        return self._fields.get(name, [])

    def lines(self, name: str) -> list[str]:
        """A text's lines that are not blank, each once."""
        stripped = (line.strip() for line in self.one(name).split("\n"))
        return list(dict.fromkeys(line for line in stripped if line))


@dataclass(frozen=True)
class Visit:
    """One request of somebody at the console."""

    request: Request
    language: Language
    session: Session
    proof: str
    form: Form

    def render(self, template: str, **context: Any) -> str:
        """A template in the visitor's language."""
        return view.render(template, self.language, proof=self.proof, **context)

    def page(self, template: str, status: int = 200, **context: Any) -> Response:
        """A whole page."""
        frame = {"path": self.request.url.path, "signs_out": self.session.signed_in}
        return view.html(self.render(template, **frame, **context), status)


Handler = Callable[[Visit], Awaitable[Response]]


class Door:
    """Wraps handlers: a session for everyone, a sign-in and a proof where they are needed."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def page(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A whole page for operators; anyone else is sent to sign in."""

        async def served(request: Request) -> Response:
            visit, fresh = await self._visit(request)
            response: Response
            if not self._access.is_operator(request):
                response = RedirectResponse("/console/sign-in", 303)
            else:
                try:
                    response = await handler(visit)
                except AudioBotError as error:
                    response = told(visit, error, "trouble.html")
            return self._with_cookies(visit, response, fresh)

        return served

    def open_page(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """A page for anyone: the one where one signs in."""

        async def served(request: Request) -> Response:
            visit, fresh = await self._visit(request)
            return self._with_cookies(visit, await handler(visit), fresh)

        return served

    def part(
        self, handler: Handler, largest: int = MAX_FORM
    ) -> Callable[[Request], Awaitable[Response]]:
        """A piece of a page, or a form that was sent; every error is a sentence on the page."""

        async def served(request: Request) -> Response:
            visit, fresh = await self._visit(request)
            try:
                self._check(request)
                if request.method == "POST":
                    visit = await self.proven(visit, largest)
                return await handler(visit)
            except AudioBotError as error:
                response = told(visit, error)
                if isinstance(error, Forged) and Access.is_same_origin(request):
                    # Signed in anew meanwhile: with the new proof the same page can try again.
                    response = self._with_cookies(visit, response, fresh)
                    response.headers["HX-Trigger"] = json.dumps({"proof": visit.proof})
                return response
            except ClientDisconnect:
                raise  # nobody is left to be told
            except Exception as error:  # noqa: BLE001  # a fault of ours is a sentence there too
                await wire.on_any_error(request, error)
                request_id = request.scope.get("audiobot.request_id", "-")
                return told(visit, AudioBotError("internal", request_id=request_id))

        return served

    def _check(self, request: Request) -> None:
        if not self._access.is_operator(request):
            raise NotAllowed("session_over")

    async def proven(self, visit: Visit, largest: int) -> Visit:
        """The visit with its form; raises ``Forged`` unless a page of this session made it."""
        form = await read_form(visit.request, largest)
        given = visit.request.headers.get(PROOF_HEADER) or form.one("proof")
        if not self._access.sessions.proves(visit.session, given):
            raise Forged("form_stale")
        return Visit(visit.request, visit.language, visit.session, visit.proof, form)

    def sign_in(self, visit: Visit, response: Response) -> Response:
        """Let an operator in, under a new session."""
        session = self._access.sessions.begin(signed_in=True)
        self._set(visit.request, response, SESSION_COOKIE, session)
        response.delete_cookie(VISIT_COOKIE)
        return response

    def sign_out(self, response: Response) -> Response:
        """Let an operator out."""
        response.delete_cookie(SESSION_COOKIE)
        return response

    async def _visit(self, request: Request) -> tuple[Visit, bool]:
        session = self._access.session(request)
        known = session or self._access.sessions.begin(signed_in=False)
        proof = self._access.sessions.proof(known)
        return Visit(request, language_for(request), known, proof, Form([])), session is None

    def _with_cookies(self, visit: Visit, response: Response, fresh: bool) -> Response:
        if fresh:
            self._set(visit.request, response, VISIT_COOKIE, visit.session)
        if visit.request.query_params.get("lang") == visit.language:
            response.set_cookie(
                LANGUAGE_COOKIE,
                visit.language,
                max_age=_LANGUAGE_SECONDS,
                httponly=True,
                samesite="strict",
                secure=self._access.is_https(visit.request),
            )
        return response

    def _set(self, request: Request, response: Response, name: str, session: Session) -> None:
        response.set_cookie(
            name,
            self._access.sessions.cookie(session),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=self._access.is_https(request),
        )


def language_for(request: Request) -> Language:
    """What was chosen now, else what was chosen before, else what the browser asks for."""
    for chosen in (request.query_params.get("lang"), request.cookies.get(LANGUAGE_COOKIE)):
        if chosen == "ru":
            return "ru"
        if chosen == "en":
            return "en"
    return language_of(request)


async def read_form(request: Request, largest: int) -> Form:
    """The form that was sent, sizes before content."""
    kind = request.headers.get("content-type", "").lower().partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise MalformedRequest("form_type")
    body = await wire.read_body(request, largest)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_FIELDS,
        )
    except ValueError:
        raise MalformedRequest("form_malformed") from None
    return Form(pairs)


def told(visit: Visit, error: AudioBotError, template: str = "error.html") -> Response:
    """An error as a sentence in the page's own place for messages; what was typed stays."""
    details = dict(error.details)
    retry = getattr(error, "retry_after", None)
    if retry is not None:
        details["retry_after"] = retry
    words = error_text(error.code, visit.language, details)
    headers = {"HX-Retarget": "#notice", "HX-Reswap": "innerHTML"}
    if retry is not None:
        headers["Retry-After"] = str(retry)
    signs_in = error.code == "session_over"
    frame = {"path": visit.request.url.path, "signs_out": visit.session.signed_in}
    content = visit.render(template, words=words, signs_in=signs_in, **frame)
    return view.html(content, wire.status_of(error), headers)
