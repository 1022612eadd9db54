"""What the documents say of the chart can be done: their commands and their values, as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.chart import CHART, MIDDLE, ROOT, SCENARIOS
from tests.support.helm import helm

GUIDE = ROOT / "docs" / "kubernetes.md"
DOCUMENTS = (GUIDE, CHART / "README.md", ROOT / "README.md", ROOT / "deploy" / "kubernetes" / "README.md")
COMMANDS = [
    command
    for document in DOCUMENTS
    for command in re.findall(r"^    (helm (?:install|upgrade) .*)$", document.read_text(), re.MULTILINE)
]
VALUES = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_a_command_installs_something(command: str) -> None:
    words = shlex.split(command)
    program, action, *rest = words
    assert (program, rest[:2]) == ("helm", ["warmroute", "helm/warmroute"])
    rendering = [
        word
        for word in rest
        if word not in ("--create-namespace", "--reset-then-reuse-values", "--reuse-values")
    ]
    if action == "upgrade":
        rendering += ["--set", "model=as-installed"]
    done = subprocess.run(
        [helm(), "template", *rendering, "--kube-version", MIDDLE],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kind: Deployment" in done.stdout


@pytest.mark.parametrize("values", VALUES)
def test_values_are_taken(values: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(values)
    command = [helm(), "template", "warmroute", str(CHART), "--kube-version", MIDDLE, "-f", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_there_are_commands_and_values_to_try() -> None:
    assert len(COMMANDS) >= 5
    assert len(VALUES) >= 8


def test_objects_and_values_that_the_guide_names_exist() -> None:
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    named = set(
        re.findall(
            r"`((?:router|redis|networkPolicy|metrics|discovery|secrets|loadtest|service)\.[A-Za-z.]+)`",
            GUIDE.read_text(),
        )
    )
    assert len(named) >= 12
    for name in named:
        here = known
        for part in name.split("."):
            assert part in here, name
            here = here[part]
    for scenario in re.findall(r"ci/([a-z-]+)-values\.yaml", GUIDE.read_text()):
        assert scenario in SCENARIOS
