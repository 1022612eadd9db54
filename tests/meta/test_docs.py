"""Generated documents are what their source generates."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from warmroute.config.load import load
from warmroute.config.reference import markdown as configuration
from warmroute.config.schema import Config
from warmroute.config.schema_walk import leaves
from warmroute.telemetry.metrics_page import markdown as metrics

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("name", "command", "generated"),
    [("configuration.md", "config --reference", configuration()), ("metrics.md", "metrics", metrics())],
)
def test_generated_documents_are_current(name: str, command: str, generated: str) -> None:
    stale = f"docs/{name} is stale: run `warmroute {command} > docs/{name}`"
    assert (DOCS / name).read_text() == generated, stale


def test_every_setting_has_a_manual() -> None:
    rows = [line.split("|") for line in configuration().splitlines() if line.startswith("| `")]
    meanings = {row[1].strip(" `"): row[-2].strip() for row in rows}
    for key, _, _ in leaves(Config):
        assert len(meanings[key]) > 20, key
        assert meanings[key].endswith("."), key


def test_the_example_in_the_reference_loads(tmp_path: Path) -> None:
    example = configuration().split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "example.yaml"
    path.write_text(example)
    config = load(path=str(path), environ={})
    assert [replica.id for replica in config.replicas] == ["10.0.0.1:8000", "second"]
    assert set(yaml.safe_load(example)) <= {key.split(".")[0] for key, _, _ in leaves(Config)}
