"""Every setting in one place, read from the environment once, checked at start."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from audiobot.errors import SetupError

PREFIX: Final = "AUDIOBOT_"
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
_EXAMPLES: Final = {
    "llm_base_url": "http://127.0.0.1:8080/v1",
    "traces": "http://127.0.0.1:4318",
}
_RATE: Final = re.compile(r"off|[1-9]\d{0,5}/(second|minute|hour|day)")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Settings(BaseSettings):
    """What can be set, each by the environment variable of its name.

    ``DATABASE_URL``, ``PORT``, ``CORS_ORIGINS``, ``MIN_RATING_THRESHOLD`` and
    ``RETRAINING_THRESHOLD`` keep the names they always had; all else begins with ``AUDIOBOT_``.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(None, validation_alias=AliasChoices("DATABASE_URL"))
    port: int = Field(8000, ge=1, le=65_535, validation_alias=AliasChoices("PORT"))
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), validation_alias=AliasChoices("CORS_ORIGINS")
    )
    min_rating_threshold: int = Field(
        4, ge=1, le=5, validation_alias=AliasChoices("MIN_RATING_THRESHOLD")
    )
    retraining_threshold: float = Field(
        3.5, ge=1, le=5, validation_alias=AliasChoices("RETRAINING_THRESHOLD")
    )

    data_dir: Path = Path("data")
    operator_token: SecretStr | None = None
    secret: SecretStr | None = None
    rate_limit: str | None = None
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()
    llm_base_url: str | None = None
    llm_model: str | None = None
    llm_api_key: SecretStr | None = None
    llm_timeout: float = Field(8.0, gt=0, le=120)
    knowledge: str | None = None
    max_conversations: int = Field(10_000, ge=1, le=10_000_000)
    error_rate: float = Field(0.1, ge=0.0, le=1.0)
    log_level: str = "info"
    traces: str | None = None

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _words(value) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        origins = tuple(origin.lower() for origin in value)
        if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
            raise ValueError("write each origin as https://example.com, without a path")
        return origins

    @field_validator("llm_base_url", "traces")
    @classmethod
    def _web_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        value = value.strip()
        try:
            parts = urlsplit(value)
            good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or re.search(r"\s", value):
            raise ValueError(f"write it as {_EXAMPLES[str(info.field_name)]}")
        return value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(ipaddress.ip_network(word, strict=False) for word in _words(value))

    @field_validator("rate_limit")
    @classmethod
    def _rate(cls, value: str | None) -> str | None:
        if value is not None and not _RATE.fullmatch(value):
            raise ValueError("write it as 60/minute, or off")
        return value

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        if value.lower() not in {"debug", "info", "warning", "error"}:
            raise ValueError("choose debug, info, warning or error")
        return value.lower()

    @field_validator("operator_token", "secret", "llm_api_key")
    @classmethod
    def _stripped(cls, value: SecretStr | None) -> SecretStr | None:
        # No header can carry a blank at either end: such a token would let nobody in.
        return SecretStr(value.get_secret_value().strip()) if value else value

    @field_validator("operator_token", "secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 8:
            raise ValueError("at least 8 characters")
        return value


def _words(value: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[,\s]+", value) if word)


def load_settings() -> Settings:
    """The settings as the environment has them; ``SetupError`` names the one that is wrong.

    A blank variable counts as not set, as container tools leave them.
    """
    blank = [name for name, value in os.environ.items() if not value.strip() and _ours(name)]
    for name in blank:
        del os.environ[name]
    try:
        return Settings.model_validate({})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = str(first["loc"][0]) if first["loc"] else "?"
        name = place if place.isupper() else PREFIX + place.upper()
        cause = first["msg"].removeprefix("Value error, ")
        raise SetupError("setting_invalid", name=name, cause=cause) from None


def check_together(settings: Settings) -> None:
    """Raises ``SetupError`` for settings that mean nothing one without the other."""
    pair = {
        "AUDIOBOT_LLM_BASE_URL": settings.llm_base_url,
        "AUDIOBOT_LLM_MODEL": settings.llm_model,
    }
    given = [name for name, value in pair.items() if value]
    missing = [name for name, value in pair.items() if not value]
    if given and missing:
        raise SetupError("setting_missing", given=given[0], missing=missing[0])


def _names() -> frozenset[str]:
    fields = Settings.model_fields.items()
    return frozenset(PREFIX + n.upper() for n, field in fields if field.validation_alias is None)


def _ours(name: str) -> bool:
    return name.startswith(PREFIX) or name in {
        "DATABASE_URL",
        "PORT",
        "CORS_ORIGINS",
        "MIN_RATING_THRESHOLD",
        "RETRAINING_THRESHOLD",
    }


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """Names that begin like ours but are none of ours: most often a slip of the pen."""
    return sorted(n for n in environ if n.startswith(PREFIX) and n not in _names())
