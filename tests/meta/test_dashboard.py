"""The dashboard is what its source makes, explains itself, and shows what there is; the manual has every alert."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from deploy.grafana.dashboard import dashboard, text
from warmroute.telemetry.catalogue import CATALOGUE
from warmroute.telemetry.metric import Kind

ROOT = Path(__file__).parents[2]
FILES = ROOT / "helm/warmroute/files"
MANUAL = (ROOT / "docs/monitoring.md").read_text()
RULES = yaml.safe_load((FILES / "rules.yaml").read_text())
NOT_SHOWN = {
    "warmroute_predicted_cached_tokens_total": "the funnel has it in the engines' units",
    "warmroute_model_bytes_per_token_confidence_ratio": "for `/replicas`",
    "warmroute_model_answer_tokens_confidence_ratio": "for `/replicas`",
    "warmroute_replica_base_latency_seconds": "for `/replicas`",
    "warmroute_replica_interference_seconds": "for `/replicas`",
    "warmroute_replica_waiting_tokens": "for `/replicas`",
    "warmroute_replica_engine_running": "in flight is nearer to now",
    "warmroute_replica_prompt_tokens_total": "the table has shares of requests, the panel computed tokens",
    "warmroute_discovery_age_seconds": "whether a source can be read says it sooner",
    "warmroute_registry_entries": "bytes are what is bounded",
    "warmroute_registry_idle_seconds": "for `/replicas`",
    "warmroute_registry_pending_records": "not 0 only where the registry is down, which is shown",
    "warmroute_registry_local_entries": "bounded by settings",
    "warmroute_retry_budget_refused_total": "the share that is spent says it sooner",
    "warmroute_second_tries_wasted_tokens_total": "second tries beside those won say it",
    "warmroute_keys": "for whoever changes them; the log says it too",
    "warmroute_limits_local_total": "whether limits are shared says it sooner",
}
"""Metrics that are on no panel, and why."""


def panels() -> list[dict[str, Any]]:
    """All of them, rows left out."""
    flat = []
    for panel in dashboard()["panels"]:
        flat += [panel, *panel.get("panels", [])]
    return [panel for panel in flat if panel["type"] != "row"]


def metrics_in(expressions: str) -> set[str]:
    """Names of our metrics, parts of histograms as their whole."""
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"\bwarmroute_\w+", expressions)}


def test_the_file_is_current() -> None:
    stale = "run `python -m deploy.grafana.dashboard > helm/warmroute/files/dashboard.json`"
    assert (FILES / "dashboard.json").read_text() == text(), stale


def test_every_panel_says_what_it_shows_and_the_manual_names_it() -> None:
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert len(panel["description"]) > 40, panel["title"]
        assert f"| {panel['title']} |" in MANUAL, panel["title"]


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_query_follows_the_variables() -> None:
    for panel in panels():
        for target in panel["targets"]:
            for labels in re.findall(r"\b(?:warmroute|process)_\w+(\{[^}]*\}|)", target["expr"]):
                assert 'job=~"$job",namespace=~"$namespace",instance=~"$instance"' in labels, panel["title"]


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist_and_no_metric_is_forgotten() -> None:
    known = {metric.name for metric in CATALOGUE}
    shown = metrics_in(json.dumps(dashboard()))
    asked = metrics_in(json.dumps(RULES))
    assert shown | asked <= known
    assert shown | asked | NOT_SHOWN.keys() == known
    assert not (shown | asked) & NOT_SHOWN.keys()


def test_labels_that_queries_name_are_labels_of_the_metric() -> None:
    labels = {metric.name: {*metric.labels, "job", "namespace", "instance"} for metric in CATALOGUE}
    for metric in CATALOGUE:
        if metric.kind is Kind.HISTOGRAM:
            labels[f"{metric.name}_bucket"] = labels[f"{metric.name}_count"] = labels[metric.name] | {"le"}
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    expressions += [rule["expr"] for rule in RULES["groups"][0]["rules"]]
    for expression in expressions:
        for name, matchers in re.findall(r"\b(warmroute_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)(?:=~|!~|!=|=)", matchers)) <= labels[name], expression


def test_every_alert_has_its_section_in_the_manual() -> None:
    headings = re.findall(r"^### (\w+)$", MANUAL, re.MULTILINE)
    alerts = [rule["alert"] for rule in RULES["groups"][0]["rules"]]
    assert sorted(headings) == sorted(alerts), (
        "docs/monitoring.md has a section `### NAME` an alert, and no others"
    )
    for alert in alerts:
        section = MANUAL.split(f"### {alert}\n")[1].partition("\n#")[0]
        assert len(section) > 150, alert
