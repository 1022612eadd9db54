"""The grid: which cells there are, how a policy is judged, and that nothing is computed twice or kept too long."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.grid_arguments import grid_arguments
from warmroute_loadtest.simulate import jobs
from warmroute_loadtest.simulate.cells import CACHES, cells, geometric_means, mean_outcomes, wanted_knees
from warmroute_loadtest.simulate.command import main
from warmroute_loadtest.simulate.grid import play_grid
from warmroute_loadtest.simulate.report import grid_table
from warmroute_loadtest.simulate.simulation import FleetConfig
from warmroute_loadtest.simulate.sources import Source


@pytest.fixture
def traces(tmp_path: Path) -> list[str]:
    return grid_arguments(tmp_path)


def test_every_workload_has_both_caches_and_loads_and_the_first_other_sizes() -> None:
    sources = {name: Source(name, 10) for name in ("multi-turn", "no-reuse")}
    knees = dict.fromkeys(wanted_knees(sources, FleetConfig(), [7]), 10.0)
    made = list(cells(sources, knees, FleetConfig(), 7))
    assert [(c.fleet.replicas, c.fleet.cache_tokens, c.rate) for c in made if c.name.startswith("no")] == [
        (8, size, rate) for size in CACHES for rate in (5.0, 9.0)
    ]
    assert [(c.fleet.replicas, c.rate) for c in made if c.fleet.replicas != 8] == [(4, 4.0), (32, 32.0)]


def test_what_is_done_is_not_computed_again_unless_the_code_changed(
    traces: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "grid.json"
    ran: list[str] = []
    run = jobs.Play.run

    def counted(self: jobs.Play) -> jobs.Played:
        ran.append(self.policy)
        return run(self)

    monkeypatch.setattr(jobs.Play, "run", counted)
    asked = [*traces, "--requests", "8", "--json", str(out)]
    assert main([*asked, "--only", "no-reuse 8x300k"]) == 0
    assert len(ran) == 2 * 13
    ran.clear()
    assert main([*asked, "--only", "no-reuse"]) == 0
    assert len(ran) == 2 * 13
    ran.clear()
    assert main([*asked, "--only", "hot-keys 8x300k 50%"]) == 0
    assert len(json.loads(out.read_text())["cells"]) == 5
    ran.clear()
    digest: Callable[[bool], str] = jobs.code_digest
    monkeypatch.setattr(jobs, "code_digest", lambda rival: digest(rival) if rival else "another core")
    assert main([*asked, "--only", "no-reuse"]) == 0
    assert ran == ["prefix-cost"] * 4


def test_draws_are_other_runs_at_nearly_the_same_rate(
    traces: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid.json"
    asked = [*traces, "--requests", "8", "--json", str(out), "--only", "hot-keys 8x300k 50%"]
    assert main([*asked, "--draws", "3"]) == 0
    rows: list[dict[str, Any]] = json.loads(out.read_text())["cells"]
    assert [(row["seed"], row["draw"]) for row in rows] == [(7, 0), (7, 1), (7, 2)]
    rate = rows[0]["rate"]
    assert [row["rate"] / rate - 1 for row in rows] == pytest.approx([0, 3e-4, -3e-4], abs=1e-9)
    own = [row["policies"][0]["ttft_mean_s"] for row in rows]
    assert len({row["policies"][0]["run"] for row in rows}) == 3
    assert f"{sum(own) / 3:.3f}" in capsys.readouterr().out


def test_an_interrupted_grid_keeps_what_it_has(
    traces: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "grid.json"
    run = jobs.Play.run

    def failing(self: jobs.Play) -> jobs.Played:
        if self.policy == "sglang":
            raise KeyboardInterrupt
        return run(self)

    monkeypatch.setattr(jobs.Play, "run", failing)
    with pytest.raises(KeyboardInterrupt):
        main([*traces, "--requests", "8", "--json", str(out), "--only", "no-reuse 8x300k 50%"])
    (row,) = json.loads(out.read_text())["cells"]
    assert [played["policy"] for played in row["policies"]][0] == "prefix-cost"
    assert 0 < len(row["policies"]) < 13


def test_more_seeds_are_averaged_and_told_apart_in_json(
    traces: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grid.json"
    asked = [*traces, "--requests", "8", "--json", str(out), "--seeds", "7,8"]
    assert main([*asked, "--only", "hot-keys 8x300k 50%", "--only", "conversation 8x300k 50%"]) == 0
    rows: list[dict[str, Any]] = json.loads(out.read_text())["cells"]
    assert sorted((row["cell"].split(" ")[0], row["seed"]) for row in rows) == [
        ("conversation", 7), ("conversation", 8), ("hot-keys", 7), ("hot-keys", 8),
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert "of 2 cells" in printed
    own = [row["policies"][0]["ttft_mean_s"] for row in rows if row["cell"].startswith("hot")]
    assert own[0] != own[1]
    assert f"{sum(own) / 2:.3f}" in printed


def test_a_cell_is_judged_by_its_best_rival(tmp_path: Path) -> None:
    knees = tmp_path / "knees.json"
    sources = {"no-reuse": Source("no-reuse", 30)}
    fleet = FleetConfig(replicas=2)
    knees.write_text(json.dumps(dict.fromkeys(wanted_knees(sources, fleet, [7]), 4.0)))
    (outcome,) = play_grid(
        sources, fleet, ["prefix-cost"], [7], only=["8 2x300k 50%", "2x300k 50%"], knees_path=knees
    )
    best, name = outcome.best("ttft_mean_s")
    assert all(best <= f.ttft_mean_s for n, f in outcome.figures.items() if n != "prefix-cost")
    assert outcome.ratios("prefix-cost")[0] == pytest.approx(
        outcome.figures["prefix-cost"].ttft_mean_s / best
    )
    assert geometric_means([outcome], "prefix-cost")[name] == pytest.approx(outcome.ratios("prefix-cost")[0])
    assert outcome.lost("round-robin") == (max(outcome.ratios("round-robin")) > 1.03)
    assert mean_outcomes([outcome, outcome])[0].figures == outcome.figures
    assert "geometric mean" in grid_table([outcome], "prefix-cost")


def test_files_that_are_not_the_grids_are_refused(
    traces: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"cells": [{"policies": [{"run": "x", "colour": 1}]}]}')
    assert main([*traces, "--requests", "8", "--only", "no-reuse", "--json", str(wrong)]) == 2
    assert "wrong.json" in capsys.readouterr().err
    assert main([*traces, "--only", "no-such"]) == 2
    assert main([*traces, "--seeds", "6"]) == 2
