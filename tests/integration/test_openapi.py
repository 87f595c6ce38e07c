"""Schemathesis against the running server: the OpenAPI document is true, and nothing breaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from tests.servers import Server

CHECKS: list[schemathesis.CheckFunction] = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
]
WITH_INPUT = [
    ("POST", "/api/voice/process"),
    ("POST", "/api/voice/feedback"),
    ("GET", "/api/learning/export"),
    ("GET", "/api/learning/similar/{log_id}"),
    ("GET", "/api/learning/questions"),
    ("POST", "/api/knowledge/{name}"),
    ("GET", "/api/learning/inbox"),
    ("GET", "/api/learning/inbox/groups"),
    ("POST", "/api/learning/preview"),
    ("POST", "/api/learning/inbox/dismiss"),
    ("GET", "/api/learning/corrections"),
    ("POST", "/api/learning/corrections"),
    ("DELETE", "/api/learning/corrections/{correction_id}"),
    ("POST", "/api/learning/corrections/{correction_id}/restore"),
    ("GET", "/api/learning/suggestions"),
    ("GET", "/api/learning/praised"),
    ("GET", "/api/voice/answers"),
]
WITHOUT = [
    ("GET", "/api/learning/stats"),
    ("GET", "/api/health"),
    ("GET", "/api/ready"),
    ("GET", "/api/metrics"),
    ("GET", "/"),
]
EXAMPLES, FEW = 50, 15
ENCODED = ("/api/learning/preview", "/api/learning/inbox/groups")
"""Calls that have the encoder read texts that nobody would write, each for a second."""
MODES = [
    *((*call, mode) for call in WITH_INPUT for mode in GenerationMode),
    *((*call, GenerationMode.POSITIVE) for call in WITHOUT),
]


@pytest.fixture(scope="module")
def document(shared: Server) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{shared.address}/openapi.json")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """Connections that are kept, and no look at the environment for proxies at each call."""
    with requests.Session() as kept:
        kept.trust_env = False
        yield kept


def test_no_call_of_the_document_is_left_out_here(document: schemathesis.BaseSchema) -> None:
    found = [result.ok() for result in document.get_all_operations()]
    assert {(o.method.upper(), o.path) for o in found} == {*WITH_INPUT, *WITHOUT}


@pytest.mark.parametrize(("method", "path", "mode"), MODES)
def test_every_call_answers_as_the_openapi_document_says(
    document: schemathesis.BaseSchema,
    shared: Server,
    session: requests.Session,
    method: str,
    path: str,
    mode: GenerationMode,
) -> None:
    operation = document[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=FEW if path in ENCODED else EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=shared.address, session=session, checks=CHECKS)

    check()
