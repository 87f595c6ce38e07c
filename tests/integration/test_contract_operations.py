"""Health, readiness, metrics, the root and the OpenAPI document."""

from __future__ import annotations

import json
import re
from importlib import resources

import pytest
from prometheus_client.parser import text_string_to_metric_families

import audiobot
from tests.conftest import Home
from tests.integration.conftest import MODE
from tests.servers import Server

HEALTH = {
    "status", "version", "timestamp", "uptime_seconds", "response_time_ms", "services", "storage",
    "learning_data", "critical_checks", "system_metrics",
}  # fmt: skip
SERVICES = {"database", "storage", "embeddings", "llm", "speech_to_text", "text_to_speech"}
STORAGE = {
    "mode", "reason", "since", "durability", "journal_backlog", "oldest_backlog_seconds"
}  # fmt: skip
LEARNING = {
    "total_conversations", "embeddings_cached", "rated_conversations", "max_storage_limit"
}  # fmt: skip


def samples(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = server.client.get("/api/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_health_has_all_its_keys_and_is_healthy(shared: Server) -> None:
    response = shared.client.get("/api/health")
    assert response.status_code == 200
    body = response.json()
    assert set(body) == HEALTH
    assert body["status"] == "healthy"
    assert body["version"] == audiobot.__version__
    assert body["uptime_seconds"] > 0
    assert body["response_time_ms"] >= 0
    assert set(body["services"]) == SERVICES
    assert set(body["storage"]) >= STORAGE
    assert set(body["learning_data"]) == LEARNING
    assert set(body["system_metrics"]) == {"cpu_percent", "memory_percent", "disk_percent"}
    assert all(isinstance(v, int | float) for v in body["system_metrics"].values())


def test_health_says_what_is_usable_now_in_booleans(shared: Server, home: Home) -> None:
    services = shared.health()["services"]
    assert services == {
        "database": home == "postgres",
        "storage": True,
        "embeddings": True,
        "llm": False,
        "speech_to_text": False,
        "text_to_speech": False,
    }


def test_the_critical_checks_are_flat_and_all_booleans(shared: Server) -> None:
    checks = shared.health()["critical_checks"]
    assert checks
    assert all(type(value) is bool for value in checks.values())


def test_g01_health_names_mode_and_durability(shared: Server, home: Home) -> None:
    storage = shared.health()["storage"]
    assert (storage["mode"], storage["durability"]) == (MODE[home], home)
    assert storage["survives_machine_loss"] is (home == "postgres")
    assert storage["journal_backlog"] == 0
    assert storage["oldest_backlog_seconds"] == 0


def test_health_counts_what_there_is_to_learn_from(shared: Server) -> None:
    shared.rate(shared.ask("привет")["log_id"], 5)
    learning, stats = shared.health()["learning_data"], shared.stats()
    assert learning["total_conversations"] == stats["total_interactions"]
    assert learning["rated_conversations"] == stats["rated_interactions"]
    assert learning["max_storage_limit"] == 10_000
    assert learning["embeddings_cached"] > 0


def test_ready_is_200_while_something_durable_can_be_accepted(shared: Server, home: Home) -> None:
    response = shared.client.get("/api/ready")
    assert response.status_code == 200
    assert response.json() == {"ready": True, "mode": MODE[home]}


def test_metrics_count_requests_by_route_template_and_status(shared: Server) -> None:
    log_id = shared.ask("привет")["log_id"]
    before = samples(shared)
    for _ in range(3):
        shared.client.get(f"/api/learning/similar/{log_id}")
    shared.client.get("/api/learning/similar/x")
    shared.rate(log_id, 4)
    shared.ask("Где купить билет на поезд до Владивостока?")
    shared.client.get("/nothing-of-the-kind")
    after = samples(shared)

    def grown(name: str, **labels: str) -> float:
        key = (name, tuple(sorted(labels.items())))
        return after.get(key, 0) - before.get(key, 0)

    total, seconds = "vasdom_requests_total", "vasdom_request_duration_seconds_count"
    similar = "/api/learning/similar/{log_id}"
    assert grown(total, method="GET", endpoint=similar, status="200") == 3
    assert grown(total, method="GET", endpoint=similar, status="404") == 1
    assert grown(seconds, method="GET", endpoint=similar) == 4
    assert grown(total, method="POST", endpoint="/api/voice/feedback", status="200") == 1
    assert grown("vasdom_learning_feedback_total", rating="4") == 1
    assert grown("vasdom_ai_responses_total", status="handed_over") == 1


def test_metrics_know_no_endpoint_but_the_route_templates(shared: Server) -> None:
    log_id = shared.ask("привет")["log_id"]
    for path in (f"/{log_id}", "/static/talk.js", f"/static/{log_id}", f"/api/{log_id}", "/docs"):
        shared.client.get(path)
    document = shared.client.get("/openapi.json").json()
    known = {*document["paths"], "unmatched", "/openapi.json", "/static"}
    endpoints = {dict(labels).get("endpoint") for _, labels in samples(shared)} - {None}
    endpoints = {endpoint.replace(":path}", "}") for endpoint in endpoints}
    assert endpoints <= known
    assert log_id not in shared.client.get("/api/metrics").text


def test_the_openapi_document_is_counted_by_its_own_path(shared: Server) -> None:
    key = (
        "vasdom_requests_total",
        (("endpoint", "/openapi.json"), ("method", "GET"), ("status", "200")),
    )
    before = samples(shared).get(key, 0)
    shared.client.get("/openapi.json")
    assert samples(shared)[key] == before + 1


@pytest.mark.parametrize("path", ["/", "/api/health", "/api/ready"])
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_head_is_get_without_its_body(shared: Server, path: str, accept: str) -> None:
    headers = {"Accept": accept}
    told, asked = (shared.client.request(m, path, headers=headers) for m in ("HEAD", "GET"))
    assert (told.status_code, told.content) == (200, b"")
    assert told.headers["content-type"] == asked.headers["content-type"]
    assert int(told.headers["content-length"]) > 0
    assert told.headers.get("vary") == asked.headers.get("vary")


def test_openapi_says_which_calls_need_the_operators_token(shared: Server) -> None:
    document = shared.client.get("/openapi.json").json()
    scheme = document["components"]["securitySchemes"]["operator"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    guarded = {
        path for path, at in document["paths"].items() for o in at.values() if o.get("security")
    }
    assert guarded == {
        path
        for path in document["paths"]
        if path.startswith(("/api/learning", "/api/knowledge", "/api/metrics"))
    }


def test_metrics_are_prometheus_text_and_all_of_one_prefix(shared: Server) -> None:
    response = shared.client.get("/api/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert {name.split("_")[0] for name, _ in samples(shared)} == {"vasdom"}


@pytest.mark.parametrize("accept", ["application/json", None, "*/*", "application/json, */*;q=0.1"])
def test_the_root_tells_a_program_what_this_is(shared: Server, accept: str | None) -> None:
    headers = {"Accept": accept} if accept else {}
    response = shared.client.get("/", headers=headers)
    body = response.json()
    assert set(body) == {"name", "version", "description", "features", "stats"}
    assert body["version"] == audiobot.__version__
    assert all(isinstance(feature, str) for feature in body["features"])
    assert body["stats"]["total_interactions"] == shared.stats()["total_interactions"]
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize("accept", ["text/html", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"])
def test_the_root_gives_a_browser_the_page_with_nothing_from_elsewhere(
    shared: Server, accept: str
) -> None:
    response = shared.client.get("/", headers={"Accept": accept})
    assert response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "accept" in response.headers["vary"].lower()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=", response.text)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", response.text)


def test_the_json_of_the_root_varies_by_accept_for_caches(shared: Server) -> None:
    response = shared.client.get("/", headers={"Accept": "application/json"})
    assert "accept" in response.headers.get("vary", "").lower()


def test_page_and_assets_weigh_at_most_40_kb(shared: Server) -> None:
    """As they travel; whoever takes nothing compressed gets them as they are."""
    static = resources.files("audiobot") / "http" / "static"
    total = 0
    for asset in static.iterdir():
        path = "/" if asset.name == "index.html" else f"/static/{asset.name}"
        with shared.client.stream("GET", path, headers={"Accept": "text/html"}) as response:
            assert response.status_code == 200
            total += len(b"".join(response.iter_raw()))
        plain = {"Accept": "text/html", "Accept-Encoding": "identity"}
        response = shared.client.get(path, headers=plain)
        assert response.content == asset.read_bytes()
        assert "content-encoding" not in response.headers
        if asset.name == "talk.js":
            assert "accept-encoding" in response.headers["vary"].lower()
    assert total <= 20 << 10  # of the 40 that were promised


def test_every_reply_bears_an_id_and_forbids_sniffing(shared: Server) -> None:
    seen = set()
    for path in ("/", "/api/health", "/nothing", "/static/talk.js", "/api/learning/similar/x"):
        response = shared.client.get(path)
        assert response.headers["x-content-type-options"] == "nosniff"
        seen.add(response.headers["x-request-id"])
        assert "server" not in response.headers
    assert len(seen) == 5


def test_the_openapi_document_describes_every_call_of_the_contract(shared: Server) -> None:
    document = shared.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    calls = {(m.upper(), path) for path, at in document["paths"].items() for m in at}
    assert calls >= {
        ("POST", "/api/voice/process"),
        ("POST", "/api/voice/feedback"),
        ("GET", "/api/learning/stats"),
        ("GET", "/api/learning/export"),
        ("GET", "/api/learning/similar/{log_id}"),
        ("GET", "/api/learning/inbox"),
        ("POST", "/api/learning/inbox/dismiss"),
        ("GET", "/api/learning/corrections"),
        ("POST", "/api/learning/corrections"),
        ("DELETE", "/api/learning/corrections/{correction_id}"),
        ("POST", "/api/learning/corrections/{correction_id}/restore"),
        ("GET", "/api/learning/suggestions"),
        ("GET", "/api/learning/praised"),
        ("GET", "/api/voice/answers"),
        ("GET", "/api/health"),
        ("GET", "/api/ready"),
        ("GET", "/api/metrics"),
        ("GET", "/"),
    }
    for path, at in document["paths"].items():
        for method, operation in at.items():
            assert operation.get("summary"), (path, method)
            if path.startswith("/api/voice"):
                expected = {"422", "429", "503"}
                expected |= {"400", "413", "415", "507"} if method == "post" else set()
                assert expected <= set(operation["responses"])


def test_every_reference_in_the_openapi_document_leads_somewhere(shared: Server) -> None:
    document = shared.client.get("/openapi.json").json()
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(document)):
        place = document
        assert reference.startswith("#/"), reference
        for step in reference[2:].split("/"):
            place = place[step]


def test_errors_are_described_as_they_are(shared: Server) -> None:
    document = shared.client.get("/openapi.json").json()
    assert "HTTPValidationError" not in json.dumps(document)
    error = document["components"]["schemas"]["ErrorReply"]
    assert set(error["required"]) == {"detail", "code"}


def test_a_call_of_a_later_step_is_absent_never_a_stub(shared: Server) -> None:
    response = shared.client.post("/api/learning/train")
    assert response.status_code == 404
    assert "/api/learning/train" not in shared.client.get("/openapi.json").json()["paths"]
