"""The chart rendered to plain manifests, for those who use no Helm: deploy/kubernetes.

    python -m tests.support.plain_manifests        writes them (`make chart`)

They name a Secret instead of holding one, and leave out what only Helm reads. Valid from Kubernetes 1.29 on.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.chart import CHART, ROOT, values_file
from tests.support.helm import helm

FOLDER = ROOT / "deploy" / "kubernetes"
FILES = {"vllm.yaml": "minimal", "simulated.yaml": "simulated"}
"""Each file, and the scenario that it is."""

_HEAD = """\
# Made from the Helm chart by `make chart`: change helm/warmroute, not this file. README.md says how to apply it.
"""
_ORDER = [
    "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount", "ConfigMap", "Role", "RoleBinding", "Service",
    "StatefulSet", "Deployment",
]  # fmt: skip
"""What others need comes first."""


def documents() -> dict[Path, str]:
    """What the files should hold."""
    return {FOLDER / name: _HEAD + _render(scenario) for name, scenario in FILES.items()}


def _render(scenario: str) -> str:
    command = [helm(), "template", "warmroute", str(CHART), "-n", "warmroute", "--kube-version", "1.29.0"]
    command += ["--no-hooks", "-f", str(values_file(scenario)), "--set", "secrets.existingSecret=warmroute"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    parts = re.split(r"^---\n", done.stdout, flags=re.MULTILINE)
    kept = sorted(filter(None, map(_plain, parts)), key=_place)
    return "".join(f"---\n{part}" for part in kept)


def _plain(part: str) -> str:
    part = re.sub(r"^# Source: .*\n", "", part, flags=re.MULTILINE)
    part = re.sub(r"^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", "", part, flags=re.MULTILINE)
    # What belongs to the test, which only helm runs.
    return "" if "kind:" not in part or re.search(r"component: test$", part, re.MULTILINE) else part


def _place(part: str) -> tuple[int, str]:
    kind = re.search(r"^kind: (\w+)$", part, re.MULTILINE)
    name = re.search(r"^  name: (\S+)$", part, re.MULTILINE)
    assert kind is not None
    assert name is not None
    return _ORDER.index(kind[1]), name[1]


def main() -> int:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for path, text in documents().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
