"""The Helm chart as tests see it: rendered manifests, and what the values that it refuses are told.

Renders with the real helm, each combination once. Knows manifests' form, and nothing of what they should say.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.helm import helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "warmroute"
SCENARIOS = sorted(path.name.removesuffix("-values.yaml") for path in CHART.glob("ci/*-values.yaml"))
VERSIONS = tuple(f"1.{minor}.0" for minor in range(28, 37))
"""Versions of Kubernetes that the chart is for."""
MIDDLE = "1.32.0"
NAMESPACE = "prod"

Manifest = dict[str, Any]
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def values_file(scenario: str) -> Path:
    """The values of a scenario."""
    return CHART / "ci" / f"{scenario}-values.yaml"


def _command(scenario: str | None, version: str, settings: tuple[str, ...], release: str) -> list[str]:
    command = [helm(), "template", release, str(CHART), "-n", NAMESPACE, "--kube-version", version]
    if scenario is not None:
        command += ["-f", str(values_file(scenario))]
    for setting in settings:
        command += ["--set", setting]
    return command


@cache
def text(
    scenario: str | None, version: str = MIDDLE, settings: tuple[str, ...] = (), release: str = "warmroute"
) -> str:
    """What helm renders, or an error with what it says."""
    command = _command(scenario, version, settings, release)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return done.stdout


@cache
def manifests(
    scenario: str | None, version: str = MIDDLE, settings: tuple[str, ...] = (), release: str = "warmroute"
) -> tuple[Manifest, ...]:
    """What helm renders, parsed; not to be changed."""
    rendered = text(scenario, version, settings, release)
    return tuple(part for part in yaml.load_all(rendered, Loader=_Loader) if part)


def refusal(*settings: str, scenario: str | None = None) -> str:
    """What is said to values that are refused."""
    done = subprocess.run(
        _command(scenario, MIDDLE, settings, "warmroute"), capture_output=True, text=True, check=False
    )
    assert done.returncode != 0, f"{settings} were taken"
    return done.stderr


def of_kind(all_manifests: tuple[Manifest, ...], *kinds: str) -> list[Manifest]:
    """Those of some kinds."""
    return [manifest for manifest in all_manifests if manifest["kind"] in kinds]


def named(all_manifests: tuple[Manifest, ...], kind: str, name: str) -> Manifest:
    """The only one of that kind and name."""
    (found,) = [m for m in of_kind(all_manifests, kind) if m["metadata"]["name"] == name]
    return found


def workloads(all_manifests: tuple[Manifest, ...]) -> list[Manifest]:
    """Those that make pods."""
    return of_kind(all_manifests, "Deployment", "StatefulSet", "Job", "Pod")


def pod_of(workload: Manifest) -> Manifest:
    """The pod's metadata and spec."""
    return workload if workload["kind"] == "Pod" else workload["spec"]["template"]


def containers(pod: Manifest) -> list[Manifest]:
    """All containers of a pod, those that run first included."""
    spec = pod["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def container(pod: Manifest, name: str) -> Manifest:
    """One of them."""
    (found,) = [each for each in containers(pod) if each["name"] == name]
    return found


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a selector with `matchLabels` only selects something with these labels."""
    wanted = (selector or {}).get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items())


def values_in(part: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every scalar below, with its path."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield from values_in(value, (*path, key))
    elif isinstance(part, list):
        for index, value in enumerate(part):
            yield from values_in(value, (*path, index))
    else:
        yield path, part
