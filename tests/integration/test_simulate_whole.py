"""The simulator's commands from end to end, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.grid_arguments import WORKLOADS, grid_arguments
from warmroute_loadtest.simulate.command import main
from warmroute_loadtest.simulate.rivals import RIVALS


def test_the_whole_grid_is_26_cells_of_every_rival(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid.json"
    assert main([*grid_arguments(tmp_path), "--requests", "2", "--json", str(out), "--jobs", "2"]) == 0
    rows = json.loads(out.read_text())["cells"]
    assert len(rows) == 26
    assert {row["cell"].split(" ")[0] for row in rows} == set(WORKLOADS)
    for row in rows:
        assert {played["policy"] for played in row["policies"]} == {"prefix-cost", *RIVALS}
        assert all(2 <= played["requests"] < 150 for played in row["policies"])
        assert 0 <= row["pooled_lru_ratio"] <= 1
    printed = capsys.readouterr().out
    assert "of 26 cells not lost" in printed
    assert "geometric mean" in printed
