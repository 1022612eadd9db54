"""The chart is valid: helm's lint, Kubernetes' schemas, its own schema, and what is made from its values."""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from tests.support.chart import CHART, MIDDLE, ROOT, SCENARIOS, VERSIONS, manifests, values_file
from tests.support.chart_reference import Value, documents, read
from tests.support.helm import helm
from tests.support.kubernetes_schemas import CUSTOM, errors

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_lint_has_nothing_to_say() -> None:
    command = [helm(), "lint", "--strict", str(CHART)]
    for scenario in SCENARIOS:
        done = subprocess.run(
            [*command, "-f", str(values_file(scenario))], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{scenario}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_scenario_is_valid_for_every_version_of_kubernetes(version: str) -> None:
    # Those that use most of the chart at every version, the others where what is rendered changes.
    every = ("production", "several-models")
    scenarios = SCENARIOS if version in (VERSIONS[0], VERSIONS[1], MIDDLE, VERSIONS[-1]) else every
    seen = set()
    for scenario in scenarios:
        for manifest in manifests(scenario, version):
            key = json.dumps(manifest, sort_keys=True)
            if key not in seen:
                seen.add(key)
                assert errors(manifest, version) == [], scenario
    assert len(seen) > 30


def test_the_chart_is_of_the_program_s_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["kubeVersion"] == ">=1.28.0-0"


def test_the_schemas_find_what_is_wrong() -> None:
    deployment = next(m for m in manifests("minimal") if m["kind"] == "Deployment")
    wrong = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    assert "replica" in errors(wrong, MIDDLE)[0]


def test_the_scenarios_use_every_template() -> None:
    kinds = {(m["apiVersion"].split("/")[0], m["kind"]) for s in SCENARIOS for m in manifests(s)}
    assert {group for group, _ in kinds} >= CUSTOM
    rendered = {kind for _, kind in kinds}
    assert rendered >= {"HTTPRoute", "Ingress", "HorizontalPodAutoscaler", "ScaledObject", "Job"}
    assert rendered >= {"ServiceMonitor", "PrometheusRule", "PodDisruptionBudget", "NetworkPolicy"}


def test_the_schema_of_values_is_one_and_takes_the_defaults_and_the_scenarios() -> None:
    Draft7Validator.check_schema(SCHEMA)
    validator = Draft7Validator(SCHEMA)
    for path in [CHART / "values.yaml", *map(values_file, SCENARIOS)]:
        assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == [], (
            path
        )


def test_the_schema_of_values_is_closed() -> None:
    open_maps = [path for path, part in _maps(SCHEMA, "") if "additionalProperties" not in part]
    # Maps without keys of their own are Kubernetes' business, which judges them itself.
    assert all("properties" not in part for _, part in _maps(SCHEMA, "") if _ in open_maps)
    assert sum("properties" in part for _, part in _maps(SCHEMA, "")) > 30


def _maps(part: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        if part.get("type") == "object" or "properties" in part:
            yield path, part
        for key, value in part.items():
            yield from _maps(value, f"{path}/{key}")


def test_every_value_is_described() -> None:
    def walk(values: list[Value]) -> Iterator[Value]:
        for value in values:
            yield value
            yield from walk(value.children)

    values = list(walk(read((CHART / "values.yaml").read_text())))
    assert len(values) > 200
    for value in values:
        assert value.text.endswith((".", ":")), (
            f"{'.'.join(value.path)} has no description that is a sentence"
        )


def test_what_is_made_from_the_values_is_current() -> None:
    for path, text in documents().items():
        assert path.read_text() == text, f"{path.name} is stale: run `make chart`"
