"""helm/warmroute/files/rules.yaml as promtool judges it: each alert fires when it should, and only then."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import ensure_programs, promtool

# ruff: noqa: E501 - a case a line, as a table

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm/warmroute/files/rules.yaml"
ALERTS = {rule["alert"]: rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}

Series = dict[str, str]
"""Series without the labels of every target -> values a minute, in promtool's notation."""


@dataclass(frozen=True)
class Case:
    """When one alert fires, and something like it when it does not; both after so many minutes."""

    alert: str
    minutes: int
    fires: Series
    quiet: Series
    bare: bool = False
    """No router is there unless the series bring one."""


def state(state: str, instance: str = "a") -> str:
    return f'warmroute_replica_state{{replica="r",state="{state}",instance="{instance}"}}'


def buckets(name: str, below: str, within: str, labels: str = "") -> Series:
    """All observations between two bounds, one a second."""
    return {
        f'{name}_bucket{{le="{below}"{labels}}}': "0+0x90",
        f'{name}_bucket{{le="{within}"{labels}}}': "0+60x90",
        f'{name}_bucket{{le="+Inf"{labels}}}': "0+60x90",
        f"{name}_count{{{labels.lstrip(',')}}}": "0+60x90",
    }


def requests(bad: int, good: int, status: str = "503") -> Series:
    return {
        f'warmroute_requests_total{{status="{status}"}}': f"0+{bad}x90",
        'warmroute_requests_total{status="200"}': f"0+{good}x90",
    }


def believed(predicted: int, cached: int) -> Series:
    return {
        'warmroute_replica_confirmed_prompt_tokens_total{replica="r"}': "0+1000x90",
        'warmroute_replica_predicted_cached_tokens_total{replica="r"}': f"0+{predicted}x90",
        'warmroute_replica_cached_tokens_total{replica="r"}': f"0+{cached}x90",
    }


def funnel(told: int, untold: int) -> Series:
    name = "warmroute_funnel_tokens_total"
    return {
        f'{name}{{model="m",stage="prompt",reported="yes"}}': f"0+{told}x90",
        f'{name}{{model="m",stage="prompt",reported="no"}}': f"0+{untold}x90",
    }


def lookups(late: int) -> Series:
    return {
        "warmroute_registry_lookups_total": "0+1000x90",
        "warmroute_registry_lookup_timeouts_total": f"0+{late}x90",
    }


def two(peers: str) -> Series:
    """Two routers over one Redis, each of which hears of so many."""
    series: Series = {}
    for router in ("a", "b"):
        series |= {
            f"warmroute_build_info{{version='1',registry='redis',instance='{router}'}}": "1x90",
            f"warmroute_workers{{instance='{router}'}}": "1x90",
            f"warmroute_peers{{instance='{router}'}}": f"{peers}x90",
        }
    return series


def build(*versions: str, registry: str = "redis") -> Series:
    return {
        f"warmroute_build_info{{version='{version}',registry='{registry}',instance='{index}'}}": "1x90"
        for index, version in enumerate(versions)
    }


MODEL = 'warmroute_model_replicas{model="m",state="ready"}'
EJECTIONS = 'warmroute_replica_ejections_total{replica="r",reason="probe"}'
ERROR = 'warmroute_errors_total{{code="{}"}}'.format
RETRIES = 'warmroute_retries_total{reason="lost"}'

CASES = (
    Case("WarmrouteNoRouterReady", 2, {"warmroute_ready": "0x9"}, {"warmroute_ready": "0x9", "warmroute_ready{instance='b'}": "1x9"}),
    Case("WarmrouteModelWithoutReplica", 2, {MODEL: "0x9"}, {MODEL: "0x9", MODEL.replace("}", ',instance="b"}'): "1x9"}),
    Case("WarmrouteErrors", 12, requests(6, 60), requests(2, 60)),
    Case("WarmrouteErrors", 12, requests(6, 60, "500"), requests(60, 60, "429")),
    Case("WarmrouteErrors", 12, requests(2, 10), requests(1, 5)),
    Case("WarmrouteAnswersLost", 22, {ERROR("replica_lost"): "0+2x90", **requests(0, 60)}, {ERROR("client_gone"): "0+9x90", **requests(0, 60)}),
    Case("WarmrouteSlowFirstToken", 22, buckets("warmroute_ttft_seconds", "10", "20", ',model="m"'), buckets("warmroute_ttft_seconds", "5", "10", ',model="m"')),
    Case("WarmrouteRequestsHeld", 22, {"warmroute_held": "3x90"}, {"warmroute_held": "3 3 3 0 3 3 3 0 3 3 3 0 3 3 3 0 3 3 3 0 3 3 3 0"}),
    Case("WarmrouteReplicaUnwell", 6, {state("ejected"): "1x9"}, {state("ejected"): "1 1 1 stale _x9", state("ready"): "_ _ _ 1x9"}),
    Case("WarmrouteReplicaUnwell", 6, {state("ejected"): "1 _ 1 _ 1 _ 1", state("probing"): "_ 1 _ 1 _ 1 _"}, {state("draining"): "1x9"}),
    Case("WarmrouteReplicaNeverSeen", 31, {state("starting"): "1x90"}, {state("starting"): "1x90", state("ready", "b"): "1x90"}),
    Case("WarmrouteDiscoveryFailing", 6, {'warmroute_discovery_up{source="dns"}': "0x90"}, {'warmroute_discovery_up{source="dns"}': "0 0 0 1x90"}),
    Case("WarmrouteReplicaFlapping", 40, {EJECTIONS: "0+1x90"}, {EJECTIONS: "0x20 5x90"}),
    Case("WarmrouteReplicaRestarts", 70, {'warmroute_replica_restarts_total{replica="r"}': "0x20 1x10 2x10 3x90"}, {'warmroute_replica_restarts_total{replica="r"}': "0x20 1x10 2x90"}),
    Case("WarmrouteDeadlyRequests", 12, {ERROR("deadly_request"): "0x8 1x90"}, {ERROR("prompt_required"): "0+9x90"}),
    Case("WarmrouteRetries", 22, {RETRIES: "0+6x90", **requests(0, 60)}, {RETRIES: "0+2x90", **requests(0, 60)}),
    Case("WarmrouteCacheBelowPrediction", 32, believed(800, 500), believed(800, 700)),
    Case("WarmrouteCachedTokensUntold", 47, funnel(0, 100), funnel(100, 90)),
    Case("WarmrouteRegistryDown", 3, {"warmroute_registry_up": "0x9"}, {"warmroute_registry_up": "0 1x9"}),
    Case("WarmrouteRegistrySlow", 22, lookups(20), lookups(5)),
    Case("WarmrouteRegistryErrors", 22, {"warmroute_registry_errors_total": "0+5x90", "warmroute_registry_up": "1x90"}, {"warmroute_registry_errors_total": "0+5x90", "warmroute_registry_up": "0x90"}),
    Case("WarmrouteNothingShared", 61, build("1", "1", registry="memory"), build("1", registry="memory"), bare=True),
    Case("WarmrouteRoutersUnheard", 12, two("0"), two("1"), bare=True),
    Case("WarmrouteRoutersDisagree", 16, {state("ready", "0"): "1x90", state("ejected", "1"): "1x90", **build("1", "1")}, {state("ready", "0"): "1x90", state("ready", "1"): "1x90", **build("1", "1")}, bare=True),
    Case("WarmrouteRoutersDisagree", 16, {state("ready", "0"): "1x90", **build("1", "1")}, {state("ejected", "0"): "1x90", **build("1", "1")}, bare=True),
    Case("WarmrouteDown", 3, {"up": "0x90", "warmroute_build_info{version='2'}": "1 _x90"}, {"up": "0x90"}, bare=True),
    Case("WarmrouteAbsent", 6, {"up": "1x90"}, build("1"), bare=True),
    Case("WarmrouteBusy", 16, {"process_cpu_seconds_total": "0+58x90"}, {"process_cpu_seconds_total": "0+40x90", "process_cpu_seconds_total{job='other'}": "0+58x90"}),
    Case("WarmrouteLate", 22, buckets("warmroute_loop_lateness_seconds", "0.1", "0.25"), buckets("warmroute_loop_lateness_seconds", "0.005", "0.01")),
    Case("WarmrouteLimitReached", 12, {ERROR("too_many_connections"): "0x8 1x90"}, {ERROR("body_too_large"): "0+1x90"}),
    Case("WarmrouteFileDescriptors", 6, {"process_open_fds": "900x90", "process_max_fds": "1024x90"}, {"process_open_fds": "500x90", "process_max_fds": "1024x90"}),
    Case("WarmrouteWorkerRestarts", 31, {"warmroute_worker_restarts_total": "0x5 1x5 2x90"}, {"warmroute_worker_restarts_total": "0x5 1x90"}),
    Case("WarmrouteSettingsNotCurrent", 6, {"warmroute_settings_current": "0x90"}, {"warmroute_settings_current": "0 0 0 1x90"}),
    Case("WarmrouteVersionsDiffer", 61, build("1", "2"), build("2", "2"), bare=True),
    Case("WarmrouteAccessLogDropped", 12, {"warmroute_access_log_dropped_total": "0x5 7x90"}, {"warmroute_access_log_dropped_total": "7x90"}),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder() -> Path:
    return ensure_programs()


def test_every_alert_is_tried() -> None:
    assert {case.alert for case in CASES} == set(ALERTS)


def test_the_rules_are_valid(folder: Path) -> None:
    assert f"{len(ALERTS)} rules found" in promtool(folder, "check", "rules", "--lint-fatal", str(RULES))


def test_alerts_fire_when_they_should_and_not_when_they_should_not(folder: Path, tmp_path: Path) -> None:
    """All cases at once, each a job of its own; the absence of everything is alone."""
    together = [case for case in CASES if case.alert != "WarmrouteAbsent"]
    alone = [case for case in CASES if case.alert == "WarmrouteAbsent"]
    tests = [_test(together), *[_test([case]) for case in alone]]
    path = tmp_path / "alerts.yaml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    assert "SUCCESS" in promtool(folder, "test", "rules", str(path))


def _test(cases: Sequence[Case]) -> dict[str, Any]:
    """As promtool reads it: whether `ALERTS` has it firing, which needs no copy of its annotations."""
    inputs, asked = [], []
    for number, case in enumerate(cases):
        for fires, series in ((True, case.fires), (False, case.quiet)):
            job = f"{number} {case.alert} {'fires' if fires else 'is quiet'}"
            if not case.bare:
                series = {"warmroute_build_info{version='1',registry='redis'}": "1x90", **series}
            inputs += [
                {
                    "series": _labelled(name, job),
                    "values": re.sub(r"(?<![\dx+])(\d+)x(\d+)", r"\1+0x\2", values),
                }
                for name, values in series.items()
            ]
            of = "" if case.alert == "WarmrouteAbsent" else f',job="{job}"'
            if fires or of:
                firing = f'sum(ALERTS{{alertname="{case.alert}",alertstate="firing"{of}}}) > bool 0'
                sample = [{"labels": "{}", "value": 1}] if fires else []
                asked.append({"expr": firing, "eval_time": f"{case.minutes}m", "exp_samples": sample})
    if cases[0].alert == "WarmrouteAbsent":
        inputs = [entry for entry in inputs if "fires" in entry["series"]]
    return {"interval": "1m", "input_series": inputs, "promql_expr_test": asked}


def _labelled(series: str, job: str) -> str:
    """With the labels of a target, where it does not say otherwise."""
    name, _, labels = series.rstrip("}").partition("{")
    labels = labels.strip(",")
    for label, value in (("job", job), ("namespace", "n"), ("instance", "a")):
        if f"{label}=" not in labels:
            labels = f'{labels},{label}="{value}"'.lstrip(",")
    return f"{name}{{{labels}}}"


@pytest.mark.parametrize("alert", sorted(ALERTS))
def test_an_alert_tells_how_bad_it_is_what_it_means_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"].endswith(".")
    assert len(rule["annotations"]["description"]) > 100
    assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{alert.lower()}"
