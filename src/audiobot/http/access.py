"""Who is who: the client's address, the operator, the rater, and how often one may call."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from itsdangerous import BadSignature, URLSafeSerializer
from starlette.requests import Request

from audiobot.domain import Language
from audiobot.errors import NotAllowed, TooManyRequests
from audiobot.http.limiter import Limiter
from audiobot.http.sessions import SESSION_COOKIE, VISIT_COOKIE, Session, Sessions

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RATER_COOKIE: Final = "audiobot_rater"
RATER_COOKIE_SECONDS: Final = 365 * 24 * 3600
_FORWARDING: Final = frozenset(
    {
        "cdn-loop", "client-ip", "fastly-client-ip", "forwarded", "proxy-client-ip",
        "true-client-ip", "via", "wl-proxy-client-ip", "x-client-ip", "x-cluster-client-ip",
        "x-host", "x-proxyuser-ip", "x-real-ip", "x-remote-addr", "x-remote-ip", "x-scheme",
    }
)  # fmt: skip
_FORWARDING_FAMILIES: Final = re.compile(
    "x-forwarded|x-original-|x-envoy-|x-azure-|x-appengine-|x-amzn-|cf-|fly-"
)


@lru_cache(256)
def is_loopback(host: str) -> bool:
    """True when binding to ``host`` reaches only this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def language_of(request: Request) -> Language:
    """Russian unless Accept-Language puts English before it."""
    return _preferred(request.headers.get("accept-language", "")[:200])


@lru_cache(4_096)
def _preferred(accepted: str) -> Language:
    best: tuple[float, Language] = (0.0, "ru")
    for part in accepted.split(","):
        tag, _, parameter = part.strip().partition(";")
        primary = tag.strip().lower().split("-")[0]
        name, _, quality = parameter.partition("=")
        try:
            weight = float(quality) if name.strip().lower() == "q" else 1.0
        except ValueError:
            continue
        if primary == "en" and weight > best[0]:
            best = (weight, "en")
        elif primary == "ru" and weight > best[0]:
            best = (weight, "ru")
    return best[1]


@lru_cache(4_096)
def _address_of(host: str) -> Address:
    """The address, IPv4 also where it comes as IPv6; ``ValueError`` when it is none."""
    found = ipaddress.ip_address(host)
    if found.version == 6 and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found


@lru_cache(4_096)
def _network_of(address: Address) -> str:
    prefix = 32 if address.version == 4 else 64
    return str(ipaddress.ip_network((address, prefix), strict=False))


class Access:
    """The rules of contract.md's "Who is who".

    ``tokens`` are an operator's; with none configured on a loopback bind, a local same-origin
    request is an operator's too, so that a first try needs no set-up. ``process_token`` is for
    commands on this machine and is made anew at each start.
    """

    def __init__(
        self,
        *,
        operator_token: str | None,
        process_token: str,
        loopback: bool,
        rater_key: bytes,
        trusted_proxies: Sequence[Network],
        rate_limit: str | None,
    ) -> None:
        self._tokens = [t.encode() for t in (operator_token, process_token) if t]
        self._open = operator_token is None and loopback
        self._loopback = loopback
        self._rater_hash = hmac.new(rater_key, digestmod=hashlib.sha256)
        self._cookies = URLSafeSerializer(rater_key, salt="rater")
        self.sessions = Sessions(rater_key, operator_token)
        self.token_configured = operator_token is not None
        self._proxies = tuple(trusted_proxies)
        chosen = rate_limit or ("off" if loopback else "60/minute")
        self._limiter = None if chosen == "off" else Limiter(chosen)

    # -- the client ------------------------------------------------------------------------

    def client(self, request: Request) -> Address | None:
        """The caller's address, seen through trusted proxies only; None when there is none."""
        chain = [request.client.host] if request.client else []
        forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
        chain = [part.strip() for part in forwarded.split(",") if part.strip()] + chain
        found: Address | None = None
        for hop in reversed(chain):
            try:
                found = _address_of(hop)
            except ValueError:
                return found
            if not self._trusts(found):
                return found
        return found

    def is_https(self, request: Request) -> bool:
        """True when the caller speaks TLS: with us, or with the trusted proxy that calls."""
        peer, said = request.client, request.headers.getlist("x-forwarded-proto")
        forwarded = said == ["https"] and peer is not None and self._trusts(_address_of(peer.host))
        return forwarded or request.url.scheme == "https"

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._proxies)

    def client_network(self, request: Request) -> str:
        """The caller's /32 or /64: one household's IPv6 addresses count as one."""
        address = self.client(request)
        return _network_of(address) if address is not None else "unknown"

    def limit(self, request: Request, call: str) -> None:
        """Count a public call; raises ``TooManyRequests`` when the window is full."""
        if self._limiter is None:
            return
        if wait := self._limiter.wait((self.client_network(request), call)):
            raise TooManyRequests("too_many_requests", retry_after=math.ceil(wait))

    # -- the operator ----------------------------------------------------------------------

    def bearer(self, *, metrics: bool = False) -> dict[str, Any]:
        """OpenAPI's word on an operator's call: where it may come without the token too."""
        free = self._loopback if metrics else self._open
        return {"security": [{}]} if free else {}

    def is_operator(self, request: Request) -> bool:
        """True for a bearer of the token, or for anyone at a first try on this machine."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            # Header bytes come as Latin-1; as bytes they are what the caller typed, in UTF-8.
            return self.is_token(given.strip().encode("latin-1", "replace"))
        if self._open:
            return self._is_local(request)
        session = self.session(request)
        # Strict cookies go with requests of the same site, and a neighbour there is no operator.
        return session is not None and session.signed_in and self.is_same_origin(request)

    def is_token(self, offered: bytes) -> bool:
        """True for an operator's token."""
        same = [hmac.compare_digest(offered, token) for token in self._tokens]
        return any(same)  # all compared before: the time tells nothing

    def session(self, request: Request) -> Session | None:
        """The session that the caller's cookies name: an operator's, else a visitor's."""
        cookies = (request.cookies.get(name) for name in (SESSION_COOKIE, VISIT_COOKIE))
        return next(filter(None, map(self.sessions.read, cookies)), None)

    def require_operator(self, request: Request) -> None:
        """Raise ``NotAllowed`` unless an operator calls."""
        if not self.is_operator(request):
            raise NotAllowed("operator_only")

    def require_metrics_reader(self, request: Request) -> None:
        """Metrics are open on a loopback bind, an operator's elsewhere."""
        if not (self._loopback and self._is_local(request)):
            self.require_operator(request)

    def _is_local(self, request: Request) -> bool:
        """A request that a page of another site, or a proxy, could not have made."""
        headers = dict(reversed(request.headers.items()))  # of two with one name the first
        if not _FORWARDING.isdisjoint(headers) or any(map(_FORWARDING_FAMILIES.match, headers)):
            return False
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not is_loopback(name.lower().removeprefix("[").removesuffix("]")):
            return False
        if request.client is not None and not is_loopback(request.client.host):
            return False
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{request.url.scheme}://{host}".lower():
            return False
        return headers.get("sec-fetch-site", "none") in {"none", "same-origin"}

    @staticmethod
    def is_same_origin(request: Request) -> bool:
        """False for what a page of another origin sent, as far as the browser says so.

        A proxy may have changed the scheme and the host that we see, never the browser's word.
        """
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            return site in {"none", "same-origin"}
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        return origin is None or origin.lower().partition("://")[2] == host.lower()

    # -- the rater -------------------------------------------------------------------------

    def new_rater_cookie(self, token: str) -> str:
        """The signed form of a fresh anonymous name."""
        return str(self._cookies.dumps(token))

    def has_rater_cookie(self, request: Request) -> bool:
        """True when the caller bears a cookie of ours already."""
        return self._cookie_name(request) is not None

    def _cookie_name(self, request: Request) -> str | None:
        cookie = request.cookies.get(RATER_COOKIE)
        if cookie is None or len(cookie) > 200:
            return None
        try:
            return str(self._cookies.loads(cookie))
        except BadSignature:
            return None

    def rater(self, request: Request, session_id: str) -> str:
        """Who rates, without saying who that is: a keyed hash, 32 hex digits."""
        name = self._cookie_name(request)
        identity = f"cookie:{name}" if name else f"{self.client_network(request)}|{session_id}"
        # Not hmac.digest: that lets go of the interpreter's lock for a microsecond's work.
        keyed = self._rater_hash.copy()
        keyed.update(identity.encode())
        return keyed.hexdigest()[:32]
