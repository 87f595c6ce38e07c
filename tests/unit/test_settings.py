"""Settings: their names and defaults, blanks, slips of the pen, and what is wrong by name."""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from audiobot.errors import SetupError
from audiobot.settings import check_together, load_settings, unknown_names

OURS = ("DATABASE_URL", "PORT", "CORS_ORIGINS", "MIN_RATING_THRESHOLD", "RETRAINING_THRESHOLD")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in OURS or name.startswith("AUDIOBOT_"):
            monkeypatch.delenv(name)


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load_settings()
    assert settings.port == 8000
    assert settings.min_rating_threshold == 4
    assert settings.retraining_threshold == 3.5
    assert settings.max_conversations == 10_000
    assert settings.database_url is None
    assert settings.operator_token is None
    assert settings.knowledge is None
    assert settings.rate_limit is None
    assert settings.cors_origins == ()


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("PORT", "9000", "port", 9000),
        ("MIN_RATING_THRESHOLD", "5", "min_rating_threshold", 5),
        ("RETRAINING_THRESHOLD", "4.25", "retraining_threshold", 4.25),
        (
            "CORS_ORIGINS",
            "https://a.b, https://c.d",
            "cors_origins",
            ("https://a.b", "https://c.d"),
        ),
        ("CORS_ORIGINS", " https://a.b,, ", "cors_origins", ("https://a.b",)),
        ("CORS_ORIGINS", "*", "cors_origins", ("*",)),
        (
            "CORS_ORIGINS",
            "HTTP://Localhost:3000 app://host http://[::1]:80",
            "cors_origins",
            ("http://localhost:3000", "app://host", "http://[::1]:80"),
        ),
        (
            "AUDIOBOT_LLM_BASE_URL",
            " https://llm.example:8443/v1 ",
            "llm_base_url",
            "https://llm.example:8443/v1",
        ),
        ("AUDIOBOT_DATA_DIR", "/x/y", "data_dir", Path("/x/y")),
        ("AUDIOBOT_RATE_LIMIT", "60/minute", "rate_limit", "60/minute"),
        ("AUDIOBOT_RATE_LIMIT", "off", "rate_limit", "off"),
        ("AUDIOBOT_KNOWLEDGE", "none", "knowledge", "none"),
        ("AUDIOBOT_LLM_MODEL", "m", "llm_model", "m"),
        ("AUDIOBOT_LOG_LEVEL", "DEBUG", "log_level", "debug"),
        (
            "AUDIOBOT_TRUSTED_PROXIES",
            "10.1.2.3/8 ::1",
            "trusted_proxies",
            (ip_network("10.0.0.0/8"), ip_network("::1")),
        ),
    ],
)
def test_a_setting_is_read_from_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), field) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("MIN_RATING_THRESHOLD", "0"),
        ("MIN_RATING_THRESHOLD", "6"),
        ("MIN_RATING_THRESHOLD", "4.5"),
        ("RETRAINING_THRESHOLD", "nan"),
        ("RETRAINING_THRESHOLD", "inf"),
        ("AUDIOBOT_RATE_LIMIT", "sixty"),
        ("AUDIOBOT_RATE_LIMIT", "0/minute"),
        ("AUDIOBOT_RATE_LIMIT", "60/minute;10/second"),
        ("AUDIOBOT_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("AUDIOBOT_TRUSTED_PROXIES", "*"),
        ("AUDIOBOT_OPERATOR_TOKEN", "sesame7"),
        ("AUDIOBOT_SECRET", "sesame7"),
        ("AUDIOBOT_LLM_TIMEOUT", "0"),
        ("AUDIOBOT_LLM_TIMEOUT", "nan"),
        ("AUDIOBOT_MAX_CONVERSATIONS", "0"),
        ("AUDIOBOT_MAX_CONVERSATIONS", "many"),
        ("AUDIOBOT_LOG_LEVEL", "loud"),
        ("AUDIOBOT_OPERATOR_TOKEN", "   sesame7   "),
        *[("CORS_ORIGINS", value) for value in ("a.b", "https://a.b/", "https://a.b, c", "null")],
        *[("CORS_ORIGINS", value) for value in ("https://a.b/x", "https://*.a.b", "https://")],
        *[("AUDIOBOT_LLM_BASE_URL", value) for value in ("llm", "ftp://a/v1", "http://", "//a")],
        *[("AUDIOBOT_LLM_BASE_URL", value) for value in ("http://a b/", "http://a:b", "http://[")],
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError) as raised:
        load_settings()
    assert raised.value.code == "setting_invalid"
    assert raised.value.details["name"] == name
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize("blank", ["", " ", "\t"])
def test_a_blank_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    for name in (*OURS, "AUDIOBOT_OPERATOR_TOKEN", "AUDIOBOT_LLM_TIMEOUT", "AUDIOBOT_KNOWLEDGE"):
        monkeypatch.setenv(name, blank)
    settings = load_settings()
    assert (settings.port, settings.operator_token, settings.database_url) == (8000, None, None)


@pytest.mark.parametrize("name", ["OPERATOR_TOKEN", "SECRET", "LLM_API_KEY"])
def test_blanks_around_a_secret_are_none_of_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"AUDIOBOT_{name}", " sesame-sesame\n")
    assert getattr(load_settings(), name.lower()).get_secret_value() == "sesame-sesame"


@pytest.mark.parametrize(
    ("given", "value", "missing"),
    [
        ("AUDIOBOT_LLM_MODEL", "m", "AUDIOBOT_LLM_BASE_URL"),
        ("AUDIOBOT_LLM_BASE_URL", "http://a/v1", "AUDIOBOT_LLM_MODEL"),
    ],
)
def test_a_model_without_its_address_and_the_reverse_are_named(
    monkeypatch: pytest.MonkeyPatch, given: str, value: str, missing: str
) -> None:
    check_together(load_settings())
    monkeypatch.setenv(given, value)
    with pytest.raises(SetupError) as raised:
        check_together(load_settings())
    assert raised.value.details == {"given": given, "missing": missing}
    monkeypatch.setenv(missing, value if "/" in value else "http://a/v1")
    check_together(load_settings())


def test_names_like_ours_that_are_none_of_ours_are_found() -> None:
    environ = {"AUDIOBOT_OPERATOR_TOKN": "", "AUDIOBOT_PORT": "", "AUDIOBOT_SECRET": "", "PATH": ""}
    assert "AUDIOBOT_OPERATOR_TOKN" in unknown_names(environ)
    assert "AUDIOBOT_SECRET" not in unknown_names(environ)
    assert "PATH" not in unknown_names(environ)


@pytest.mark.parametrize("name", OURS)
def test_an_old_name_under_our_prefix_has_no_effect_and_is_found_too(name: str) -> None:
    assert unknown_names({f"AUDIOBOT_{name}": "1"}) == [f"AUDIOBOT_{name}"]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUDIOBOT_OPERATOR_TOKEN", "AUDIOBOT_SECRET", "AUDIOBOT_LLM_API_KEY"):
        monkeypatch.setenv(name, "sesame-sesame")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:sesame@h/d")
    assert "sesame" not in repr(load_settings())
