"""Bad queries, paths and methods: the status that fits, one form of error, never a 500."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.integration.raw import MARK, PROCESS, assert_error, head, send
from tests.servers import Server

pytestmark = pytest.mark.usefixtures("nothing_stored")

NO_NUMBERS = [
    "abc",
    "",
    "%00",
    "1e3",
    "4.5",
    "NaN",
    "null",
    "0x4",
    "5;drop",
    "9" * 5_000,
    quote(MARK),
]
ROUTES = [
    ("POST", "/api/voice/process"),
    ("POST", "/api/voice/feedback"),
    ("GET", "/api/learning/stats"),
    ("GET", "/api/learning/export"),
    ("GET", "/api/learning/similar/{log_id}"),
    ("POST", "/api/knowledge/faq.csv"),
    ("GET", "/api/health"),
    ("GET", "/api/ready"),
    ("GET", "/api/metrics"),
    ("GET", "/"),
]


@pytest.mark.parametrize(
    "limit", ["0", "51", "-1", "-0.5", str(2**63), str(2**64 + 1), *NO_NUMBERS]
)
def test_similar_refuses_a_limit_outside_1_to_50(shared: Server, log_id: str, limit: str) -> None:
    assert_error(shared.client.get(f"/api/learning/similar/{log_id}?limit={limit}"), 422)


@pytest.mark.parametrize("limit", ["1", "50"])
def test_similar_takes_the_limits_1_and_50(shared: Server, log_id: str, limit: str) -> None:
    response = shared.client.get(f"/api/learning/similar/{log_id}?limit={limit}")
    assert response.status_code == 200


@pytest.mark.parametrize(
    "unknown",
    [
        "x",
        "1",
        MARK,
        "0" * 36,
        "00000000-0000-0000-0000-000000000000",
        "a" * 5_000,
        "%ED%A0%80",
        "%FF",
    ],
)
def test_similar_answers_404_for_an_id_that_was_never_issued(shared: Server, unknown: str) -> None:
    assert_error(shared.client.get(f"/api/learning/similar/{unknown}"), 404, "unknown_dialogue")


def test_similar_refuses_nul_in_the_id(shared: Server) -> None:
    assert_error(shared.client.get(f"/api/learning/similar/{MARK}%00"), 422, "text_has_nul")


@pytest.mark.parametrize("rating", ["0", "6", "-1", *NO_NUMBERS])
def test_export_refuses_a_min_rating_outside_1_to_5(shared: Server, rating: str) -> None:
    assert_error(shared.client.get(f"/api/learning/export?min_rating={rating}"), 422)


@pytest.mark.parametrize("form", ["kto", "dpo", "sharegpt", "alpaca", "csv", "OpenAI", "", MARK])
def test_export_refuses_a_format_that_is_not_built(shared: Server, form: str) -> None:
    assert_error(
        shared.client.get("/api/learning/export", params={"format": form}), 422, "format_unknown"
    )


@pytest.mark.parametrize("mask", ["true", "1", "maybe", "", MARK])
def test_export_refuses_masking_while_it_is_not_built(shared: Server, mask: str) -> None:
    assert_error(shared.client.get("/api/learning/export", params={"mask": mask}), 422)


@pytest.mark.parametrize(
    "path", ["/api/learning/stats", "/api/health", "/api/ready", "/api/learning/export", "/"]
)
def test_unknown_query_parameters_are_let_be(shared: Server, path: str) -> None:
    for query in ("x=1", "x=%00", "x=%FF", f"{MARK}={MARK}", "&&==&", "a[]=1&a[]=2"):
        assert shared.client.get(f"{path}?{query}").status_code == 200


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_method_that_a_path_does_not_know_is_405_with_the_known_ones(
    shared: Server, log_id: str, method: str, path: str
) -> None:
    for wrong in ("PUT", "DELETE", "PATCH", "OPTIONS", "GET" if method == "POST" else "POST"):
        response = shared.client.request(wrong, path.format(log_id=log_id), content=MARK.encode())
        assert_error(response, 405, "method_not_allowed")
        assert method in response.headers["allow"]


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "GET"])
def test_head_is_no_server_error_and_has_no_body(shared: Server, log_id: str, path: str) -> None:
    response = shared.client.head(path.format(log_id=log_id))
    assert response.status_code in {200, 405}
    assert response.content == b""


@pytest.mark.parametrize("method", ["BREW", "QUERY", "PROPFIND", MARK[:7].upper()])
def test_an_unheard_of_method_is_a_clients_error(shared: Server, method: str) -> None:
    assert 400 <= send(shared, head(PROCESS, method=method), method).status < 500


@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/",
        f"/{MARK}",
        "/docs",
        "/redoc",
        "/admin",
        "/.git/config",
        "/.env",
        "//etc/passwd",
        "/api/voice/process/x",
        "/%00",
        "/%FF",
        "/" + "a/" * 2_000,
        "/api/learning/similar/",
    ],
)
def test_a_page_that_is_not_there_is_404(shared: Server, path: str) -> None:
    assert_error(shared.client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/nothing.js",
        "/static/../schemas.py",
        "/static/../../settings.py",
        "/static/../../../../../../../../etc/passwd",
        "/static/%2e%2e/schemas.py",
        "/static/%2e%2e%2fschemas.py",
        "/static/..%2f..%2fsettings.py",
        "/static/..%5c..%5csettings.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/talk.js%00.css",
        "/static/%00",
        "/static/%FF",
        "/static/" + "a" * 5_000,
        "/static/" + "a/" * 1_000,
        "/static/talk.js/x",
        f"/static/{MARK[:7]}",
    ],
)
def test_nothing_outside_the_static_files_can_be_had(shared: Server, path: str) -> None:
    answer = send(shared, head(path, method="GET"), "GET")
    assert_error(answer, 404)
    assert b"root:" not in answer.body
    assert b"import" not in answer.body


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (f"{MARK}.exe", 422),
        (MARK, 422),
        ("a.csv.zip", 422),
        (".csv", 422),
        ("a%00.csv", 422),
        ("a" * 300 + ".csv", 422),
        ("..", 404),
        ("%2e%2e", 404),
        ("%ED%A0%80.csv", 200),
    ],
)
def test_knowledge_of_a_wrong_name_is_refused_and_the_name_not_repeated(
    shared: Server, name: str, status: int
) -> None:
    answer = send(shared, head(f"/api/knowledge/{quote(name, safe='%.')}", b"Content-Length: 0"))
    if status == 200:
        assert answer.status in {200, 422}
    else:
        assert_error(answer, {status, 422} if status == 404 else status)


def test_a_knowledge_file_of_over_8_mib_is_refused_by_its_declared_size(shared: Server) -> None:
    answer = send(shared, head("/api/knowledge/a.csv", b"Content-Length: 8388609"))
    assert_error(answer, 413, "body_too_large")


def test_a_page_of_unknown_paths_adds_no_label_to_the_metrics(shared: Server) -> None:
    for number in range(20):
        shared.client.get(f"/api/{MARK[:7]}{number}")
        shared.client.request(f"VERB{number}", "/")
    exposition = shared.client.get("/api/metrics").text
    assert MARK[:7] not in exposition
    assert "VERB" not in exposition
