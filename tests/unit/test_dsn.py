"""DATABASE_URL: every form people paste, and never a word of its password."""

from __future__ import annotations

import traceback
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from audiobot.errors import SetupError
from audiobot.storage.dsn import Dsn, parse_dsn

pytestmark = pytest.mark.unit

DEFAULTS = {
    "application_name": "audiobot",
    "connect_timeout": "3",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "tcp_user_timeout": "5000",
    "client_encoding": "UTF8",
}
FIXED = {"client_encoding"}
LOGIN = {"user": "u", "password": "p", "host": "h", "dbname": "db"}
passwords = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1
) | st.text("@:/?#%&=+,[] \\'\"ab1", min_size=1)


def added(dsn: Dsn) -> dict[str, str]:
    """What the text gave, without the defaults it did not touch."""
    return {key: value for key, value in dsn.parameters.items() if DEFAULTS.get(key) != value}


@pytest.mark.parametrize(
    "scheme",
    [
        *("postgres", "postgresql", "POSTGRESQL", "postgres+asyncpg", "postgresql+asyncpg"),
        *("postgresql+psycopg", "postgresql+psycopg2", "postgresql+psycopg_async"),
    ],
)
def test_g18_every_scheme(scheme: str) -> None:
    dsn = parse_dsn(f" {scheme}://u:p@h:5433/db\n")
    assert dsn.parameters == DEFAULTS | LOGIN | {"port": "5433"}
    assert dsn == Dsn(dsn.parameters, (), "h:5433/db as u")


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("u:p@h/db", LOGIN, "h:5432/db as u"),
        ("u:p@h:/db", LOGIN, "h:5432/db as u"),
        ("h", {"host": "h"}, "h:5432/ as (default)"),
        ("u@h/db?", {"user": "u", "host": "h", "dbname": "db"}, "h:5432/db as u"),
        ("u:@h/db", {"user": "u", "host": "h", "dbname": "db"}, "h:5432/db as u"),
        (
            "u:p@h/db?sslmode=verify-full&channel_binding=require&connect_timeout=9",
            LOGIN
            | {"sslmode": "verify-full", "channel_binding": "require", "connect_timeout": "9"},
            "h:5432/db as u",
        ),
        (
            "u:p@h/db?application_name=a%26b&options=-c%20search_path%3Dx&",
            LOGIN | {"application_name": "a&b", "options": "-c search_path=x"},
            "h:5432/db as u",
        ),
        (
            "u:p@h1:5432,h2:5433/db?target_session_attrs=read-write",
            LOGIN | {"host": "h1,h2", "port": "5432,5433", "target_session_attrs": "read-write"},
            "h1:5432,h2:5433/db as u",
        ),
        (
            "u:p@h1,h2:6/db",
            LOGIN | {"host": "h1,h2", "port": "5432,6"},
            "h1:5432,h2:6/db as u",
        ),
        (
            "u:p@/db?host=h1,h2&port=6",
            LOGIN | {"host": "h1,h2", "port": "6"},
            "h1:6,h2:6/db as u",
        ),
        (
            "u:p@/db?host=h1%3A6&host=h2",
            LOGIN | {"host": "h1,h2", "port": "6,5432"},
            "h1:6,h2:5432/db as u",
        ),
        ("/db", {"dbname": "db"}, "local socket:5432/db as (default)"),
        (
            "/db?host=/var/run/postgresql",
            {"dbname": "db", "host": "/var/run/postgresql"},
            "/var/run/postgresql:5432/db as (default)",
        ),
        (
            "u:p@%2Fvar%2Frun:5433/db",
            LOGIN | {"host": "/var/run", "port": "5433"},
            "/var/run:5433/db as u",
        ),
        (
            "u:p@/db?host=/cloudsql/project:region:name",
            LOGIN | {"host": "/cloudsql/project:region:name"},
            "/cloudsql/project:region:name:5432/db as u",
        ),
        (
            "u:p@[2001:db8::1]:5433/db",
            LOGIN | {"host": "2001:db8::1", "port": "5433"},
            "[2001:db8::1]:5433/db as u",
        ),
        (
            "u:p@[fe80::1%25eth0],[::1]:6/db",
            LOGIN | {"host": "fe80::1%eth0,::1", "port": "5432,6"},
            "[fe80::1%eth0]:5432,[::1]:6/db as u",
        ),
        ("/db?host=::1", {"dbname": "db", "host": "::1"}, "[::1]:5432/db as (default)"),
        (
            "/?database=db&user=u&password=p&hostaddr=10.0.0.1",
            {"dbname": "db", "user": "u", "password": "p", "hostaddr": "10.0.0.1"},
            "10.0.0.1:5432/db as u",
        ),
        ("u:p@h/db?ssl=require", LOGIN | {"sslmode": "require"}, "h:5432/db as u"),
        ("u:p@h/db?ssl=true", LOGIN | {"sslmode": "require"}, "h:5432/db as u"),
        ("u:p@h/db?sslmode=no-verify", LOGIN | {"sslmode": "require"}, "h:5432/db as u"),
        (
            "u:p@h/db?sslmode=verify-full&ssl=true",
            LOGIN | {"sslmode": "verify-full"},
            "h:5432/db as u",
        ),
        ("u@tenant:p@h/db", LOGIN | {"user": "u@tenant"}, "h:5432/db as u@tenant"),
        (
            "h/db?user=u@tenant&password=p@h",
            LOGIN | {"user": "u@tenant", "password": "p@h"},
            "h:5432/db as u@tenant",
        ),
        ("u%3Ap@h", {"user": "u:p", "host": "h"}, "h:5432/ as u"),
        ("u%0A@h/%D0%B1", {"user": "u\n", "host": "h", "dbname": "б"}, "h:5432/б as u?"),
    ],
)
def test_g18_forms_of_a_url(url: str, expected: dict[str, str], shown: str) -> None:
    dsn = parse_dsn(f"postgresql://{url}")
    assert added(dsn) == expected
    assert dsn.parameters.keys() >= DEFAULTS.keys()
    assert (dsn.unknown, dsn.shown) == ((), shown)
    assert conninfo_to_dict(make_conninfo("", **dsn.parameters)) == dsn.parameters


@pytest.mark.parametrize(
    "url",
    [
        *("u:p@h/db", "u:p@h:5433/db?sslmode=require", "h1:5432,h2:5433/db", "/db?host=/tmp"),
        *("u%40x:p%25@[::1]/db", "u@%2Ftmp/db?options=-c+a%3Db", "h/db?ssl=true", "u:p%2B+@h"),
    ],
)
def test_g18_what_libpq_reads_is_read_alike(url: str) -> None:
    assert added(parse_dsn(f"postgresql://{url}")) == conninfo_to_dict(f"postgresql://{url}")


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        ("pgbouncer=true&schema=public", ("pgbouncer", "schema")),
        ("prepared_statement_cache_size=0&statement_cache_size=0&pool_size=5", None),
        ("command_timeout=2&server_settings=x&sslmode=require&uselibpqcompat=true", None),
    ],
)
def test_g18_what_libpq_does_not_know_is_left_out_and_named(
    query: str, unknown: tuple[str, ...] | None
) -> None:
    dsn = parse_dsn(f"postgresql://u:p@h/db?{query}")
    names = tuple(part.partition("=")[0] for part in query.split("&"))
    assert dsn.unknown == (unknown or tuple(name for name in names if name != "sslmode"))
    assert not dsn.parameters.keys() & set(dsn.unknown)


def test_g18_a_plus_is_a_space_only_where_sqlalchemy_wrote_it() -> None:
    query = "u:p+p@h/db?options=-c+a%3Db"
    assert parse_dsn(f"postgresql://{query}").parameters["options"] == "-c+a=b"
    dsn = parse_dsn(f"postgresql+asyncpg://{query}")
    assert (dsn.parameters["options"], dsn.parameters["password"]) == ("-c a=b", "p+p")


def test_g18_key_value_pairs() -> None:
    dsn = parse_dsn(r"host=h1,h2 port=6 user=u password='a\'b://c d' dbname=db sslmode=prefer")
    expected = {"host": "h1,h2", "port": "6", "password": "a'b://c d", "sslmode": "prefer"}
    assert added(dsn) == LOGIN | expected
    assert dsn.shown == "h1:6,h2:6/db as u"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "blank"),
        (" \n", "blank"),
        ("sekret", "neither a postgresql:// URL nor"),
        ("u:sekret@h/db", "neither a postgresql:// URL nor"),
        ("host=h password=sekret pgbouncer=true", "neither a postgresql:// URL nor"),
        ("host=h password='sekret", "neither a postgresql:// URL nor"),
        ("user=u password=sekret", "neither a host nor a database"),
        ("mysql://u:sekret@h/db", "mysql:// is not PostgreSQL"),
        ("sqlite:///sekret.db", "sqlite:// is not PostgreSQL"),
        ("file:///sekret", "file:// is not PostgreSQL"),
        ("http://u:sekret@h", "http:// is not PostgreSQL"),
        ("postgresqlx://u:sekret@h/db", "postgresqlx:// is not PostgreSQL"),
        ("postgresql://", "neither a host nor a database"),
        ("postgresql://u:sekret@", "neither a host nor a database"),
        ("postgresql://u:sekret@:5432/db", "a host is missing"),
        ("postgresql://u:sekret@h1,,h2/db", "a host is missing"),
        ("postgresql://u:sekret@h:1:2/db", "a host is missing or not written"),
        ("postgresql://u:sekret@[::zz]/db", "a host is missing or not written"),
        ("postgresql://u:sekret@h:port/db", "a port is not a number"),
        ("postgresql://u:sekret/db", "a port is not a number"),
        ("postgresql://u:sekret@h:65536/db", "a port is not a number"),
        ("postgresql://u:sekret@h:٣/db", "a port is not a number"),
        ("postgresql://u:sekret@h1,h2,h3/db?port=1,2", "not as many ports"),
        ("postgresql://u:sekret@h/db/more", "not of the form"),
        ("postgresql://u:sekret@h/db?sekret", "not of the form"),
        ("postgresql://u:p@h/db?sslmode=sekret", "no such sslmode"),
        ("postgresql://u:p@h/db?connect_timeout=sekret", "connect_timeout is not a whole"),
        ("postgresql://u:sekret%00@h/db", "a character that libpq does not take"),
        ("postgresql://u:sekret\udcff@h/db", "a character that libpq does not take"),
    ],
)
def test_g18_what_is_refused_says_why_without_the_password(text: str, cause: str) -> None:
    with pytest.raises(SetupError) as caught:
        parse_dsn(text)
    assert caught.value.code == "database_url_invalid"
    assert cause in str(caught.value.details["cause"])
    said = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value)
    assert "sekret" not in said + str(caught.value) + str(caught.value.details)
    assert caught.value.__context__ is caught.value.__cause__ is None


@given(passwords)
@example("%41")
@example("p%ff")
def test_g18_an_encoded_password_comes_back_and_shows_nowhere(password: str) -> None:
    dsn = parse_dsn(f"postgresql://u:{quote(password, safe='')}@h:5433/db?x=y&password_file=z")
    assert added(dsn) == LOGIN | {"password": password, "port": "5433"}
    other = parse_dsn("postgresql://u:other@h:5433/db?x=y&password_file=z")
    assert (repr(dsn), str(dsn), dsn.shown) == (repr(other), str(other), other.shown)
    assert "other" not in repr(other)
    for broken in ("postgresql://u:{}@h:x/db", "mysql://u:{}@h/db", "postgresql://u:{}@h/d/b"):
        errors = []
        for secret in (quote(password, safe=""), "other"):
            with pytest.raises(SetupError) as caught:
                parse_dsn(broken.format(secret))
            errors.append((repr(caught.value), str(caught.value), caught.value.details))
        assert errors[0] == errors[1]


@given(st.text("@:/?#&=+,[] \\'\"ab1б", min_size=1))
@example("p@ss/w?rd#1%")
@example("p%ff")
@example("100%?")
@example("a@b/c?d=e@f:1")
def test_g18_a_password_pasted_as_it_is(password: str) -> None:
    dsn = parse_dsn(f"postgresql://u:{password}@h:5433/db?sslmode=require")
    assert dsn.parameters["password"] == password
    assert (dsn.unknown, dsn.shown) == ((), "h:5433/db as u")


def test_g18_an_at_sign_in_the_query_is_no_end_of_the_password() -> None:
    dsn = parse_dsn("postgresql://u:p/@x@h/db?application_name=a@b")
    assert (dsn.parameters["password"], dsn.parameters["application_name"]) == ("p/@x", "a@b")


def test_g18_defaults_give_way() -> None:
    dsn = parse_dsn("postgresql://h/db?" + "&".join(f"{name}=7" for name in DEFAULTS))
    given = dict.fromkeys(DEFAULTS.keys() - FIXED, "7")
    assert added(dsn) == {"host": "h", "dbname": "db", **given}
