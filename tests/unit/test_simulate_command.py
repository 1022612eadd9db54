"""The command: what it prints and writes, and that nonsense is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.simulate.cells import Cell, geometric_means, play
from loadtest.simulate.command import main
from loadtest.simulate.generators import no_reuse
from loadtest.simulate.report import grid_table
from loadtest.simulate.simulation import FleetConfig
from loadtest.simulate.warm import warm

SMALL = ["--requests", "60", "--replicas", "2", "--policy", "prefix-cost", "--policy", "round-robin"]


def test_a_comparison_is_a_table_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, shown = tmp_path / "out.json", tmp_path / "out.html"
    assert main([*SMALL, "--json", str(out), "--html", str(shown)]) == 0
    printed = capsys.readouterr().out
    assert "pooled_lru_ratio" in printed
    assert "round-robin" in printed
    figures = json.loads(out.read_text())
    assert [row["policy"] for row in figures["policies"]] == ["prefix-cost", "round-robin"]
    page = shown.read_text()
    assert "<svg" in page
    assert "http" not in page


def test_nonsense_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--policy", "no-such"],
        ["--mooncake", str(tmp_path / "missing.jsonl")],
        ["--speeds", "1,2,3", "--replicas", "2"],
        ["--cells"],
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("simulate: ")
        assert error.count("\n") == 1


def test_a_cell_is_judged_by_its_best_rival() -> None:
    cell = Cell("test", no_reuse(60), 4.0, FleetConfig(replicas=2))
    outcome = play(cell, {"prefix-cost": warm("prefix-cost")})
    best, name = outcome.best("ttft_mean_s")
    assert all(best <= f.ttft_mean_s for n, f in outcome.figures.items() if n != "prefix-cost")
    assert outcome.ratios("prefix-cost")[0] == pytest.approx(
        outcome.figures["prefix-cost"].ttft_mean_s / best
    )
    assert geometric_means([outcome], "prefix-cost")[name] == pytest.approx(outcome.ratios("prefix-cost")[0])
    assert "geometric mean" in grid_table([outcome], "prefix-cost")
