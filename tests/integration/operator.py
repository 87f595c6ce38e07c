"""An operator's browser by hand: cookies, forms and the proof that they bear."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html import unescape
from urllib.parse import urlencode

import httpx

from tests.servers import Server, client_of

Fields = dict[str, str | list[str]]
Visiting = Callable[..., "Visitor"]


@contextmanager
def visitors() -> Iterator[Visiting]:
    """Lets visitors in, each with a browser of their own, and closes these at the end."""
    with ExitStack() as stack:

        def visit(server: Server, language: str = "ru", **headers: str) -> Visitor:
            visitor = Visitor(server, language, headers)
            stack.callback(visitor.client.close)
            return visitor

        yield visit


class Visitor:
    """Somebody at the console, with cookies of their own."""

    def __init__(self, server: Server, language: str, headers: dict[str, str]) -> None:
        self.server = server
        self.client = client_of(server.address, headers={"Accept-Language": language, **headers})
        self.proof = ""

    def get(self, path: str, **headers: str) -> httpx.Response:
        response = self.client.get(path, headers=headers)
        found = re.search(r'X-CSRF-Token": "(\w+)"', unescape(response.text))
        if found:
            self.proof = found[1]
        return response

    def post(self, path: str, proof: str | None = None, /, **fields: str | list[str]):
        """Send a form as a page does; ``proof`` in place of the session's own."""
        headers = {
            "HX-Request": "true",
            "X-CSRF-Token": self.proof if proof is None else proof,
            "Content-Type": "application/x-www-form-urlencoded",
        }
        body = urlencode(fields, doseq=True).encode()
        return self.client.post(path, content=body, headers=headers)

    def sign_in(self, token: str) -> httpx.Response:
        self.get("/console/sign-in")
        response = self.post("/console/sign-in", token=token)
        self.get("/console")
        return response

    def opened(self, log_id: str) -> Fields:
        """The fields of the form in an opened group."""
        return fields_of(self.get(f"/console/inbox/{log_id}").text)


def fields_of(html: str) -> Fields:
    """Names and values of the first form in a piece of a page."""
    form = html[html.index("<form") : html.index("</form>")]
    fields: Fields = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form):
        kept = fields.setdefault(name, [])
        assert isinstance(kept, list)
        kept.append(unescape(value))
    for name, value in re.findall(r'<textarea[^>]* name="(\w+)"[^>]*>([^<]*)</textarea>', form):
        fields[name] = unescape(value)
    return fields


def words_of(response: httpx.Response) -> str:
    """What a person reads in a reply."""
    plain = re.sub(r"<[^>]+>", " ", response.text)
    return " ".join(unescape(plain).split())
