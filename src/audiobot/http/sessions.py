"""An operator's session: a signed cookie that any worker can read, and the proof its forms bear."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NamedTuple

from itsdangerous import BadData, URLSafeTimedSerializer

from audiobot.entropy import random_name

SESSION_COOKIE: Final = "audiobot_operator"
VISIT_COOKIE: Final = "audiobot_visit"
"""Whoever has not signed in has a name of their own.

A link on another site brings no strict cookie along: what it is answered must not replace one.
"""
SESSION_SECONDS: Final = 7 * 24 * 3600
"""How long one sign-in lasts: ten minutes a day need a token once a week."""
_MAX_COOKIE: Final = 300


class Session(NamedTuple):
    """Who holds a page open: a random name, and whether the token was shown for it."""

    name: str
    signed_in: bool


class Sessions:
    """Makes and reads sessions; nothing is kept, so every worker knows all of them.

    Another operator's token is another key: whoever signed in with the old one is out.
    """

    def __init__(self, secret: bytes, token: str | None, seconds: int = SESSION_SECONDS) -> None:
        said = b"operator session " + (token or "").encode()
        self._key = hmac.digest(secret, said, hashlib.sha256)
        self._cookies = URLSafeTimedSerializer(self._key, salt="session")
        self._seconds = seconds

    def begin(self, *, signed_in: bool) -> Session:
        """A new session; signing in begins one too, so that no earlier name is carried over."""
        return Session(random_name(12), signed_in)

    def cookie(self, session: Session) -> str:
        """The session in the form that the browser keeps."""
        return str(self._cookies.dumps([session.name, session.signed_in]))

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie of ours that is not too old; None for anything else."""
        if cookie is None or len(cookie) > _MAX_COOKIE:
            return None
        try:
            kept = self._cookies.loads(cookie, max_age=self._seconds)
        except BadData:
            return None
        match kept:
            case [str(name), bool(signed_in)]:
                return Session(name, signed_in)
        return None

    def proof(self, session: Session) -> str:
        """What a form of this session's pages bears, and no other site can know."""
        return hmac.digest(self._key, f"form {session.name}".encode(), hashlib.sha256).hex()

    def proves(self, session: Session, given: str) -> bool:
        """True for the session's own proof; the time tells nothing."""
        return hmac.compare_digest(self.proof(session).encode(), given.encode())
