"""The axes: one thing changed at a time, held against the same case's rival and against the plain case."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from warmroute_loadtest.simulate.axes import (
    CACHE_TOKENS,
    CHOSEN_ON,
    REPORTED_APART,
    axis_cells,
    cases,
    summaries,
    wanted_knees,
    whole_cells,
)
from warmroute_loadtest.simulate.cells import KNEE_POLICY, Cell, Outcome
from warmroute_loadtest.simulate.command import main
from warmroute_loadtest.simulate.contenders import OURS
from warmroute_loadtest.simulate.metrics import Figures
from warmroute_loadtest.simulate.report import axes_table
from warmroute_loadtest.simulate.rivals import RIVALS
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.sources import Source
from warmroute_loadtest.simulate.workload import Turn

ALL = {name: Source("no-reuse", 100) for name in (*CHOSEN_ON, *REPORTED_APART)}


def made(fleet: FleetConfig | None = None) -> list[Cell]:
    fleet = fleet or FleetConfig()
    return list(axis_cells(ALL, dict.fromkeys(wanted_knees(ALL, fleet, [7]), 10.0), fleet, 7))


def test_answers_come_whole_in_forty_cells_at_the_plain_rates() -> None:
    knees = dict.fromkeys(wanted_knees(ALL, FleetConfig(), [7]), 10.0)
    cells = {cell.name: cell for cell in whole_cells(ALL, knees, FleetConfig(), 7)}
    assert len(cells) == 40
    for plain in made():
        case, _, place = plain.name.partition(": ")
        if case == "plain":
            for name, ratio in (("whole", 1.0), ("half whole", 0.5)):
                cell = cells[f"{name}: {place}"]
                assert replace(cell, name=plain.name, source=plain.source) == plain
                assert cell.source == replace(plain.source, whole_ratio=ratio)
    assert cells["whole, prior x100: lmcache 90%"].fleet.prefill_prior == 800_000


def test_half_of_the_answers_come_whole_and_nothing_else_changes() -> None:
    source = Source("multi-turn", 1000)
    asked, whole = source.load(), replace(source, whole_ratio=0.5).load()
    turns = [turn for session in whole.sessions for turn in session.turns]
    assert 0.45 < sum(not turn.streams for turn in turns) / len(turns) < 0.55
    assert [replace(turn, streams=True) for turn in turns] == [t for s in asked.sessions for t in s.turns]
    assert not any(turn.streams for session in asked.whole(1.0).sessions for turn in session.turns)
    assert source.identity != replace(source, whole_ratio=0.5).identity


def test_no_router_hears_of_a_whole_answer_before_its_end() -> None:
    heard: dict[str, float] = {}

    class Listening(RIVALS["round-robin"]):  # type: ignore[misc]
        def first_byte(self, turn: Turn, replica: int, now_s: float) -> None:
            heard[turn.id] = now_s

    asked = replace(Source("no-reuse", 100), whole_ratio=0.5).load().at_rate(4.0)
    for served in simulate(asked, FleetConfig(4, 400_000), Listening).served:
        assert heard[served.turn.id] == (served.first_s if served.turn.streams else served.end_s)
        assert served.first_s < served.end_s


def test_sixty_cells_cover_every_axis_with_one_change_each() -> None:
    cells = made()
    assert len(cells) == len({cell.name for cell in cells}) == 60
    plain = replace(FleetConfig(), cache_tokens=CACHE_TOKENS, seed=7)
    by_case: dict[str, list[Cell]] = {}
    for cell in cells:
        by_case.setdefault(cell.name.partition(": ")[0], []).append(cell)
        assert KNEE_POLICY in cell.rivals
    assert list(by_case) == [case.name for case in cases()]
    assert {cell.fleet for cell in by_case["plain"]} == {plain}
    assert len(by_case["plain"]) == 16
    changed = {name: of[0].fleet for name, of in by_case.items()}
    assert changed["speed 1,000/s"] == replace(plain, speed=0.125)
    assert changed["speed 100,000/s"].prefill_prior == 100_000
    assert changed["prior 1/100"].prefill_prior == 80
    assert changed["prior x100"].prefill_prior == 800_000
    assert (changed["replicas 2"].replicas, changed["replicas 32"].replicas) == (2, 32)
    assert changed["routers 4"] == plain
    assert {cell.routers for cell in by_case["routers 4"]} == {4}
    assert {cell.name.partition(": ")[0] for cell in cells if cell.source.spread} == {"routers 4"}
    assert changed["caches told x4"].told_cache_tokens == 4 * CACHE_TOKENS
    assert changed["caches not told"].told_cache_tokens is None
    assert [changed["uneven half"].speed_of(i) for i in range(8)] == [1, 0.5] * 4
    assert [changed["uneven quarter"].speed_of(i) for i in range(8)] == [0.25, *[1] * 7]
    assert changed["uneven throttled"].changes[0].request == 50


def test_a_rate_is_a_share_of_the_plain_knee_times_what_there_is_of_its_speed() -> None:
    rates = {cell.name: cell.rate for cell in made()}
    assert rates["plain: conversation 60%"] == 6.0
    assert rates["plain: conversation 90%"] == rates["speed 1,000/s: conversation 90%"] == 9.0
    assert rates["replicas 2: conversation 60%"] == 6.0 / 4
    assert rates["replicas 32: no-reuse 90%"] == 36.0
    assert rates["uneven half: no-reuse 90%"] == 9.0 * 0.75
    assert {cell.source.requests for cell in made() if cell.fleet.replicas == 32} == {200}


def test_every_workload_is_in_one_half_of_the_split() -> None:
    assert not set(CHOSEN_ON) & set(REPORTED_APART)
    assert {cell.name.split(": ")[1].split(" ")[0] for cell in made()} == {*CHOSEN_ON, *REPORTED_APART}


def test_what_is_asked_of_the_fleet_besides_holds_in_every_cell() -> None:
    asked = FleetConfig(long_prefill_token_threshold=1024)
    assert {cell.fleet.long_prefill_token_threshold for cell in made(asked)} == {1024}


def figures(policy: str, times: tuple[float, float, float]) -> Figures:
    mean, p90, p99 = times
    return Figures(policy, 10, mean, mean, p90, p99, 0.5, 1.0, 1.1, 10, 0, 0.5, 9.0)


def outcome(name: str, own: tuple[float, float, float], fleet: FleetConfig | None = None) -> Outcome:
    """Of a cell in which the rival has 1, 2 and 4 s."""
    cell = Cell(name, Source("no-reuse", 1), 1.0, fleet or FleetConfig(), rivals=(KNEE_POLICY,))
    rival = figures(KNEE_POLICY, (1.0, 2.0, 4.0))
    return Outcome(cell, {OURS: figures(OURS, own), KNEE_POLICY: rival}, {"pooled_lru_ratio": 0.5})


def test_a_case_is_summed_up_against_its_rival_and_against_the_plain_case() -> None:
    found = summaries(
        [
            outcome("plain: conversation 90%", (0.5, 1.0, 4.0)),
            outcome("plain: no-reuse 90%", (2.0, 2.0, 4.0)),
            outcome("prior 1/100: conversation 90%", (0.8, 1.0, 2.0)),
            outcome("speed 100,000/s: conversation 90%", (0.06, 0.1, 0.4), FleetConfig(speed=10.0)),
            outcome("replicas 2: mixed 90%", (1.0, 1.0, 1.0)),
        ],
        OURS,
    )
    lines = {one.name: one for one in found}
    assert list(lines) == [
        "plain, chosen on", "plain, apart", "plain", "prior 1/100", "speed 100,000/s", "replicas 2",
    ]  # fmt: skip
    assert lines["plain, chosen on"].over_rival == pytest.approx([0.5, 0.5, 1.0])
    assert lines["plain, apart"].over_rival == pytest.approx([2.0, 1.0, 1.0])
    assert lines["plain"].over_rival == pytest.approx([1.0, 0.5**0.5, 1.0])
    assert lines["plain"].worst == "no-reuse 90% 2.00"
    assert lines["prior 1/100"].over_rival == pytest.approx([0.8, 0.5, 0.5])
    assert lines["prior 1/100"].plain_over_rival == pytest.approx([0.5, 0.5, 1.0])
    assert lines["prior 1/100"].over_plain == pytest.approx([1.6, 1.0, 0.5])
    assert lines["speed 100,000/s"].over_plain == pytest.approx([1.2, 1.0, 1.0])
    assert lines["replicas 2"].plain_over_rival is None
    shown = axes_table([outcome("replicas 2: mixed 90%", (1.0, 1.0, 1.0))], OURS)
    assert "replicas 2" in shown.splitlines()[-1]


def test_parts_of_the_set_are_played_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knees, out = tmp_path / "knees.json", tmp_path / "axes.json"
    keys = wanted_knees(dict.fromkeys(("hot-keys", "mixed"), Source("no-reuse", 1)), FleetConfig(), [7])
    knees.write_text(json.dumps(dict.fromkeys(keys, 5.0)))
    asked = ["--cells", "axes", "--requests", "20", "--knees", str(knees), "--json", str(out)]
    only = ["--only", "plain: hot-keys 90%", "--only", "replicas 2: hot-keys", "--only", "routers 4: mixed"]
    assert main([*asked, *only]) == 0
    rows = {
        row["cell"]: [one["policy"] for one in row["policies"]]
        for row in json.loads(out.read_text())["cells"]
    }
    assert rows == {
        "plain: hot-keys 90%": [OURS, KNEE_POLICY, "llm-d", "preble"],
        "replicas 2: hot-keys 60%": [OURS, KNEE_POLICY],
        "routers 4: mixed 90%": [f"{OURS} x4", KNEE_POLICY],
    }
    printed = capsys.readouterr().out
    assert "replicas 2" in printed
    assert "plain, chosen on" in printed
    assert main([*asked, *only]) == 0
    assert "8 runs, 8 of them done before" in capsys.readouterr().err
    assert main([*asked, "--only", "conversation"]) == 2
