"""The operator's console at ``/console``: pages made here, and pieces of them on each action.

It uses the services that the API uses and keeps nothing of its own, so any worker serves any of
its requests.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from audiobot.errors import AudioBotError, NotAllowed
from audiobot.http import wire
from audiobot.http.console import answers, inbox
from audiobot.http.console.desk import Desk
from audiobot.http.console.door import MAX_SIGN_IN, Door, Visit
from audiobot.http.console.texts import error_text
from audiobot.http.services import Services


def make_router(services: Services) -> APIRouter:
    """Every page of the console over the running services."""
    router = APIRouter(prefix="/console", include_in_schema=False, default_response_class=Response)
    door, desk = Door(services.access), Desk(services.store, services.conversation)
    first = inbox.Inbox(services, desk)
    inbox.add_routes(router, door, first)
    answers.add_routes(router, door, answers.Answers(services, desk, first))

    async def sign_in(visit: Visit) -> Response:
        if services.access.is_operator(visit.request):
            return RedirectResponse("/console", 303)
        return _sign_in_page(visit, services)

    async def enter(visit: Visit) -> Response:
        if services.access.is_operator(visit.request):  # whose form knew of no sign-in
            return RedirectResponse("/console", 303)
        try:
            services.access.limit(visit.request, "sign in")
            visit = await door.proven(visit, MAX_SIGN_IN)
            if not services.access.is_token(visit.form.one("token").strip().encode()):
                raise NotAllowed("token_wrong")
        except AudioBotError as error:
            return _sign_in_page(visit, services, error)
        return door.sign_in(visit, RedirectResponse("/console", 303))

    async def leave(_: Visit) -> Response:
        return door.sign_out(RedirectResponse("/console/sign-in", 303))

    async def without_slash(_: Visit) -> Response:
        return RedirectResponse("/console", 303)

    router.add_api_route("/", door.open_page(without_slash), methods=["GET"])
    router.add_api_route("/sign-in", door.open_page(sign_in), methods=["GET"])
    router.add_api_route("/sign-in", door.open_page(enter), methods=["POST"])
    router.add_api_route("/sign-out", door.part(leave, MAX_SIGN_IN), methods=["POST"])
    return router


def _sign_in_page(visit: Visit, services: Services, error: AudioBotError | None = None) -> Response:
    words, status, retry = "", 200, None
    if error is not None:
        retry = getattr(error, "retry_after", None)
        words = error_text(error.code, visit.language, {**error.details, "retry_after": retry})
        status = wire.status_of(error)
    configured = services.access.token_configured
    response = visit.page("sign_in.html", status, words=words, configured=configured)
    if retry is not None:
        response.headers["Retry-After"] = str(retry)
    return response
