"""The dashboard, the alerts and the runbook speak of metrics that are there, and of each other."""

from __future__ import annotations

import json
import re
from pathlib import Path

from audiobot.telemetry import Metrics

ROOT = Path(__file__).parents[2]
ALERTS = (ROOT / "deploy" / "alerts.yml").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
DASHBOARD = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
DESCRIBED = {d.name: d for d in Metrics().described}
NAMES = re.findall(r"- alert: (\w+)", ALERTS)


def expressions() -> list[str]:
    panels = [t["expr"] for panel in DASHBOARD["panels"] for t in panel.get("targets", ())]
    return [*panels, *(a["expr"] for a in DASHBOARD["annotations"]["list"])]


def metrics_in(text: str) -> set[str]:
    """The metrics that a text names, a histogram by its own name."""
    found = set(re.findall(r"\bvasdom_\w+", text))
    parts = re.compile(r"_(bucket|sum|count)$")
    return {parts.sub("", name) if parts.sub("", name) in DESCRIBED else name for name in found}


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_are_there() -> None:
    asked = metrics_in("\n".join([ALERTS, RUNBOOK, *expressions()]))
    assert asked <= set(DESCRIBED)


def test_they_ask_by_labels_that_are_there() -> None:
    text = "\n".join([ALERTS, *expressions()])
    for name, labels in re.findall(r"\b(vasdom_\w+)\{([^}]*)\}", text):
        described = DESCRIBED[next(iter(metrics_in(name)))]
        used = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", labels))
        assert used <= {*described.labels, "instance", "job"}, name


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    elsewhere = {
        "vasdom_embedding_batch_size", "vasdom_adopted_operations_total", "vasdom_memory_dialogues",
        "vasdom_memory_evictions_total", "vasdom_storage_mode_seconds_total",
        "vasdom_start_time_seconds",
    }  # fmt: skip
    assert set(DESCRIBED) - metrics_in("\n".join([ALERTS, *expressions()])) == elsewhere


def test_every_alert_has_its_section_in_the_runbook_and_leads_to_it() -> None:
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == NAMES
    led_to = re.findall(r"runbook: docs/runbook\.md#(\w+)", ALERTS)
    assert led_to == [name.lower() for name in NAMES]


def test_every_section_says_what_it_means_what_is_safe_and_what_to_do() -> None:
    for section in RUNBOOK.split("\n## ")[1:]:
        words = re.findall(r"^\*\*(\w+)\*\*", section, re.MULTILINE)
        assert words == ["Means", "Safe", "Do"], section[:40]


def test_the_unit_leaves_to_its_settings_what_they_can_say() -> None:
    """What its command line says no line of /etc/audiobot.env can change."""
    unit = (ROOT / "deploy" / "audiobot.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    assert command.split()[1:] == ["serve", "--host", "127.0.0.1"]
    assert "EnvironmentFile=-/etc/audiobot.env" in unit


def test_the_panels_of_the_dashboard_do_not_lie_upon_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
