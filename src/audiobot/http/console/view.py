"""From what a page shows to HTML: the templates, and the headers that every reply bears."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from starlette.responses import Response

from audiobot.domain import Language, spoken_language
from audiobot.http.console.texts import moment, number, plural, text

if TYPE_CHECKING:
    from jinja2 import Environment

CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HTMX: Final = {
    "allowEval": False,
    "includeIndicatorStyles": False,
    "historyEnabled": False,
    "selfRequestsOnly": True,
    "timeout": 30_000,
    "responseHandling": [
        {"code": "204", "swap": False},
        {"code": "[23]..", "swap": True},
        {"code": "[45]..", "swap": True, "error": True},
    ],
}
"""htmx (https://htmx.org/docs/#config) within our policy; no page with people's words is kept."""


@cache
def environment() -> Environment:
    """The templates, all values escaped; read at the first page, not at the start."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415

    folder = resources.files("audiobot") / "http" / "console" / "templates"
    made = Environment(
        loader=FileSystemLoader(str(folder)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters["spoken"] = lambda words: spoken_language(words) or "ru"
    made.globals["htmx_config"] = json.dumps(_HTMX)
    return made


def render(template: str, language: Language, **context: Any) -> str:
    """One template in one language."""

    def when(at: datetime) -> dict[str, str]:
        local = at.astimezone()
        return {"iso": at.isoformat(), "shown": moment(local)}

    return (
        environment()
        .get_template(template)
        .render(
            language=language,
            t=lambda code, **details: text(code, language, **details),
            n=lambda code, count: plural(code, count, language),
            number=lambda count: number(count, language),
            when=when,
            **context,
        )
    )


def html(
    content: str | Iterable[str], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A page or pieces of one: never kept by a browser, with the policy of all our pages."""
    response = Response(
        content if isinstance(content, str) else "\n".join(content),
        status,
        {"Cache-Control": "no-store", "Content-Security-Policy": CSP, **(headers or {})},
        "text/html",
    )
    response.headers["Vary"] = "Cookie, Accept-Language"
    if status == 413:
        response.headers["Connection"] = "close"  # what is still being sent is not listened to
    return response
