"""DATABASE_URL in every form people paste it, made into libpq's connection parameters.

The forms differ by the program they were written for: libpq, SQLAlchemy (``+driver``, repeated
``host``), asyncpg (``ssl``), Prisma and poolers (``schema``, ``pgbouncer``). What libpq does not
know is left out and named. The text holds a password: no error raised here quotes any of it but
the scheme, none is chained to an error that does, and a :class:`Dsn` does not print it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, unquote_plus

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from audiobot.errors import SetupError

_KEYWORDS: Final = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())
_DEFAULTS: Final = {
    "application_name": "audiobot",
    "connect_timeout": "3",  # seconds, for each address tried
    # The kernel drops a connection whose peer is gone, 5 s after sending or 15 s into waiting, not
    # after hours. (A frozen server's kernel still acknowledges: deadlines are for that.)
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "tcp_user_timeout": "5000",  # milliseconds
}
_OURS: Final = {"client_encoding": "UTF8"}
"""Not to be set: what people say has every letter there is."""
_SSLMODES: Final = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
_SSL: Final = {"true": "require", "no-verify": "require", "false": "disable"}
_ALIASES: Final = {"ssl": "sslmode", "database": "dbname"}

_SCHEME: Final = re.compile(r"([A-Za-z][\w+.-]*)://", re.ASCII)
_POSTGRES: Final = re.compile(r"postgres(ql)?(\+\w+)?")
_TAIL: Final = re.compile(r"([^/?@]*)(?:/([^/?@]*))?(?:\?(.*))?", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z][\w.-]*", re.ASCII)
_HOST: Final = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^\s\[\]:/?#@&=]+))(?::([^\[\]:/?@]*))?"
)


@dataclass(frozen=True)
class Dsn:
    """``parameters`` go to libpq, ``unknown`` were left out, ``shown`` is the server's name."""

    parameters: dict[str, str] = field(repr=False)
    unknown: tuple[str, ...]
    shown: str


def parse_dsn(text: str) -> Dsn:
    """Read a PostgreSQL URL or libpq's ``key=value`` pairs, or raise ``database_url_invalid``."""
    given = {name: value for name, value in _pairs(text.strip()).items() if value}
    for alias in _ALIASES.keys() & given:
        given.setdefault(_ALIASES[alias], given.pop(alias))
    if mode := given.get("sslmode"):
        given["sslmode"] = _SSL.get(mode, mode)
    unknown = tuple(name for name in given if name not in _KEYWORDS)
    parameters = {name: value for name, value in given.items() if name in _KEYWORDS}
    dsn = Dsn(_DEFAULTS | parameters | _OURS, unknown, _shown(parameters))
    if _libpq(dsn.parameters) != dsn.parameters:
        raise _invalid("it holds a character that libpq does not take")
    return dsn


def _invalid(cause: str) -> SetupError:
    return SetupError("database_url_invalid", cause=cause)


def _libpq(given: str | dict[str, str]) -> dict[str, str] | None:
    """What libpq makes of it; None when it refuses: its own error may quote the password."""
    try:
        text = given if isinstance(given, str) else make_conninfo("", **given)
        return {name: str(value) for name, value in conninfo_to_dict(text).items()}
    except (ProgrammingError, UnicodeError):
        return None


def _decoded(text: str, *, plus: bool = False) -> str:
    """Percent-decoded, or as it is where that gives no UTF-8. A stray % stays."""
    try:
        return (unquote_plus if plus else unquote)(text, errors="strict")
    except UnicodeDecodeError:
        return text


def _pairs(text: str) -> dict[str, str]:
    if not text:
        raise _invalid("it is blank")
    if (scheme := _SCHEME.match(text)) and not _POSTGRES.fullmatch(scheme[1].lower()):
        raise _invalid(f"{scheme[1].lower()}:// is not PostgreSQL")
    if scheme:
        return dict(_from_url(text[scheme.end() :], sqlalchemy="+" in scheme[1]))
    if (pairs := _libpq(text)) is None:
        raise _invalid("it is neither a postgresql:// URL nor key=value pairs libpq takes")
    return pairs


def _from_url(rest: str, *, sqlalchemy: bool) -> Iterator[tuple[str, str]]:
    """The parameters in what follows ``scheme://``; of those yielded twice the last counts."""
    # Passwords come with a raw @, / or ? in them: the login ends at the first @ after which all
    # reads as hosts, database and query. Of these only a query that libpq knows may hold an @.
    for start in [0, *(at.end() for at in re.finditer("@", rest))]:
        user, _, password = rest[: max(start - 1, 0)].partition(":")
        tail = _TAIL.fullmatch(rest, start)
        query = _query(tail[3] or "") if tail else None
        if tail and query is not None and not re.search("[/?]", user):
            break
    else:
        raise _invalid("it is not of the form postgresql://user:password@host:port/database")
    yield from (("user", _decoded(user)), ("password", _decoded(password)))
    yield from _addresses(tail[1])
    yield "dbname", _decoded(tail[2] or "")
    # In libpq's own URLs a plus is a plus.
    values = [(name, value) for name, raw in query if (value := _decoded(raw, plus=sqlalchemy))]
    yield from values  # SQLAlchemy repeats host for several
    if ports := ",".join(value for name, value in values if name == "port"):
        yield "port", ports
    yield from _addresses(",".join(value for name, value in values if name == "host"), decoded=True)


def _query(text: str) -> list[tuple[str, str]] | None:
    """A query's names and raw values; None when it reads rather as a piece of a password."""
    pairs = [part.partition("=") for part in text.split("&") if part]
    known = "@" not in text or all(name in {*_KEYWORDS, *_ALIASES} for name, _, _ in pairs)
    good = known and all(equals and _NAME.fullmatch(name) for name, equals, _ in pairs)
    return [(name, raw) for name, _, raw in pairs] if good else None


def _addresses(text: str, *, decoded: bool = False) -> Iterator[tuple[str, str]]:
    """Hosts with or without ports, as libpq's two lists."""
    hosts, ports = list[str](), list[str]()
    for item in text.split(",") if text else ():
        found = _HOST.fullmatch(item)
        if not found and not (decoded and item):  # a query's may be a socket or a bare IPv6
            raise _invalid("a host is missing or not written as name:port or [IPv6]:port")
        hosts.append(_decoded(found[1] or found[2]) if found else item)
        ports.append((found[3] if found else None) or "")
    if hosts:
        yield "host", ",".join(hosts)
    if any(ports):
        yield "port", ",".join(port or "5432" for port in ports)


def _shown(parameters: dict[str, str]) -> str:
    """The server's name; refuses what libpq would refuse only when it connects."""
    if not parameters.keys() & {"host", "hostaddr", "dbname", "service"}:
        raise _invalid("it names neither a host nor a database")
    if parameters.get("sslmode", "prefer") not in _SSLMODES:
        raise _invalid("there is no such sslmode")
    for name, value in parameters.items():
        number = name.startswith("keepalives") or name.endswith("_timeout")
        if number and not re.fullmatch("-?[0-9]{1,9}", value):
            raise _invalid(f"{name} is not a whole number")
    hosts = (parameters.get("host") or parameters.get("hostaddr") or "local socket").split(",")
    ports = parameters.get("port", "5432").split(",")
    if not all(re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536 for port in ports):
        raise _invalid("a port is not a number from 1 to 65535")
    if len(ports) not in {1, len(hosts)}:
        raise _invalid("there are not as many ports as hosts")
    hosts = [f"[{host}]" if re.match("[^/]*:", host) else host for host in hosts]
    pairs = zip(hosts, ports * (len(hosts) // len(ports)), strict=True)
    where = ",".join(f"{host}:{port}" for host, port in pairs)
    user = parameters.get("user", "(default)").partition(":")[0]  # some encode the colon too
    named = f"{where}/{parameters.get('dbname', '')} as {user}"
    return "".join(letter if letter.isprintable() else "?" for letter in named)
