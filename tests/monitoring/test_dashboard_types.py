"""The dashboard against the types that Grafana publishes of dashboards and panels (`make test-monitoring`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "helm/warmroute/files/dashboard.json"
TYPES = Path(__file__).with_name("dashboard_types.ts")
PACKAGES = ("@grafana/schema@13.2.3", "typescript@5.9.3")
COMPILE = ("--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler", "--module", "esnext")


@pytest.fixture(scope="module")
def folder() -> Path:
    """Where the packages are."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    found = Path(os.environ.get("WARMROUTE_CACHE") or ".cache/warmroute").absolute() / "grafana-types"
    found.mkdir(parents=True, exist_ok=True)
    if not (found / "node_modules/.bin/tsc").exists():
        install = ("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", *PACKAGES)
        subprocess.run(install, cwd=found, check=True, timeout=300)
    return found


WRONG = (
    ('"drawStyle": "line"', '"drawStyle": "lines"'),
    ('"fillOpacity": 8', '"fillOpacty": 8'),
    ('"showLegend": true', '"showLegend": "yes"'),
    ('"refresh": 2', '"refresh": 7'),
)
"""What is right, and something like it that Grafana does not know."""


def test_grafana_knows_every_field_and_value_and_would_not_know_others(folder: Path) -> None:
    right = DASHBOARD.read_text()
    texts = {"right.ts": right}
    for number, (known, unknown) in enumerate(WRONG):
        assert known in right
        texts[f"wrong_{number}.ts"] = right.replace(known, unknown)
    for name, text in texts.items():
        (folder / name).write_text(TYPES.read_text().replace("= DASHBOARD;", f"= {text};"))
    command = ["node_modules/.bin/tsc", *COMPILE, *texts]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    faulty = {line.partition("(")[0] for line in done.stdout.splitlines() if "error TS" in line}
    assert "right.ts" not in faulty, done.stdout
    assert faulty == texts.keys() - {"right.ts"}
