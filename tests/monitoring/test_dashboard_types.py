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


def faults(folder: Path, dashboard: str) -> str:
    """What the compiler says of it."""
    source = TYPES.read_text().replace("= DASHBOARD;", f"= {dashboard};")
    (folder / "dashboard.ts").write_text(source)
    command = ["node_modules/.bin/tsc", *COMPILE, "dashboard.ts"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=100, check=False
    ).stdout


def test_grafana_knows_every_field_and_value(folder: Path) -> None:
    assert faults(folder, DASHBOARD.read_text()) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"drawStyle": "line"', '"drawStyle": "lines"'),
        ('"fillOpacity": 8', '"fillOpacty": 8'),
        ('"showLegend": true', '"showLegend": "yes"'),
        ('"refresh": 2', '"refresh": 7'),
    ],
)
def test_what_grafana_does_not_know_is_found(folder: Path, right: str, wrong: str) -> None:
    text = DASHBOARD.read_text()
    assert right in text
    assert "error TS" in faults(folder, text.replace(right, wrong))
