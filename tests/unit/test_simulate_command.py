"""The command: what it prints and writes, and that nonsense is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmroute_loadtest.simulate.command import main

SMALL = ["--requests", "60", "--replicas", "2", "--policy", "prefix-cost", "--policy", "round-robin"]


def test_a_comparison_is_a_table_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, shown = tmp_path / "out.json", tmp_path / "out.html"
    assert main([*SMALL, "--json", str(out), "--html", str(shown)]) == 0
    printed = capsys.readouterr().out
    figures = json.loads(out.read_text())
    for fact in ("pooled_lru_ratio", "clairvoyant_ratio", "working_set_ratio"):
        assert fact in printed
        assert 0 < figures[fact] < 1
    for title in ("p50", "p90", "p99", "goodput", "cached", "of bound", "imbalance"):
        assert title in printed
    assert "knee" not in printed
    assert [row["policy"] for row in figures["policies"]] == ["prefix-cost", "round-robin"]
    ours = figures["policies"][0]
    assert ours["of_bound_ratio"] == pytest.approx(ours["cached_ratio"] / figures["pooled_lru_ratio"])
    page = shown.read_text()
    assert page.count("<svg") == 2
    assert page.count("<polyline") == 2
    assert "round-robin" in page
    for outside in ("http", "<script", "src=", "@import", "url("):
        assert outside not in page


def test_a_knee_is_found_beside_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    asked = ["--generate", "no-reuse", "--requests", "60", "--replicas", "2", "--policy", "least-loaded"]
    assert main([*asked, "--knee", "--json", str(out)]) == 0
    assert "knee" in capsys.readouterr().out
    assert json.loads(out.read_text())["policies"][0]["knee_rate"] > 0.5


def test_worker_processes_change_no_figure(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert main([*SMALL, "--json", str(one)]) == 0
    assert main([*SMALL, "--json", str(two), "--jobs", "2"]) == 0
    assert one.read_text() == two.read_text()


def test_another_seed_is_another_draw(tmp_path: Path) -> None:
    texts = []
    for seed in ("7", "8"):
        out = tmp_path / f"{seed}.json"
        assert main([*SMALL, "--seed", seed, "--json", str(out)]) == 0
        texts.append(json.loads(out.read_text())["policies"][0]["ttft_mean_s"])
    assert texts[0] != texts[1]


def test_every_number_of_routers_is_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--routers", "1,2", "--spread"]) == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[-3:]]
    assert rows == ["prefix-cost", "prefix-cost x2", "round-robin"]


def test_nonsense_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--policy", "no-such"],
        ["--mooncake", str(tmp_path / "missing.jsonl")],
        ["--speeds", "1,2,3", "--replicas", "2"],
        ["--cells"],
        ["--routers", "0"],
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("simulate: ")
        assert error.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["--requests", "0"])


def test_a_picture_needs_its_library_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "out.png"
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert main([*SMALL, "--png", str(picture)]) == 2
        assert "matplotlib" in capsys.readouterr().err
    else:
        assert main([*SMALL, "--png", str(picture)]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_explanation_names_the_tie(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--explain", "20"]) == 0
    shown = json.loads(capsys.readouterr().out)
    tie = shown["tie"]
    assert tie["decided_by"] in {"cost", "requests", "ring", "bound", "only_one"}
    assert shown["replica"] in tie["replicas"]
    assert tie["least_s"] <= tie["limit_s"]
    assert tie["least_s"] == pytest.approx(min(row["total_s"] for row in shown["candidates"]), abs=2e-6)
