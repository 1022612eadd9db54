"""The traffic that nothing is tuned on is what its descriptions say, and its cells are played without a knee."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from warmroute_loadtest.simulate.bounds import infinite_ratio
from warmroute_loadtest.simulate.fresh import bursty_chat, completions, reasoning, subagents, tree_search
from warmroute_loadtest.simulate.fresh_cells import LOADS, RIVALS, fresh_cells
from warmroute_loadtest.simulate.generators import GENERATORS
from warmroute_loadtest.simulate.grid import FRESH, play_grid
from warmroute_loadtest.simulate.simulation import FleetConfig
from warmroute_loadtest.simulate.sources import Source
from warmroute_loadtest.simulate.workload import Turn, Workload


def turns(workload: Workload) -> list[Turn]:
    return [turn for session in workload.sessions for turn in session.turns]


def test_an_editor_asks_for_little_and_moves_its_cursor_back_now_and_then() -> None:
    workload = completions(4000)
    assert 30 < fmean(turn.output_tokens for turn in turns(workload)) < 50
    pairs = [
        (before, turn)
        for session in workload.sessions
        for before, turn in zip(session.turns, session.turns[1:], strict=False)
    ]
    back = [turn.prompt_tokens < before.prompt_tokens for before, turn in pairs]
    assert 0.08 < sum(back) / len(back) < 0.17
    for before, turn in pairs:
        same = min(len(before.keys), len(turn.keys))
        if turn.prompt_tokens >= before.prompt_tokens:
            assert turn.keys[:same] == before.keys[:same], "what is in front of the cursor stays"
    assert infinite_ratio(workload) > 0.75


def test_chats_come_in_bursts() -> None:
    workload = bursty_chat(20_000)
    starts_s = [session.start_s for session in workload.sessions]
    gaps_s = [later - sooner for sooner, later in zip(starts_s, starts_s[1:], strict=False)]
    assert 2.2 < pstdev(gaps_s) / fmean(gaps_s) < 3.8
    assert 2.5 < workload.requests / len(workload.sessions) < 3.5


def test_reasoning_is_left_out_of_the_next_prompt() -> None:
    workload = reasoning(2000)
    assert 3400 < fmean(turn.output_tokens for turn in turns(workload)) < 4600
    grown = [
        turn.prompt_tokens - before.prompt_tokens
        for session in workload.sessions
        for before, turn in zip(session.turns, session.turns[1:], strict=False)
    ]
    assert 700 < fmean(grown) < 1100, "a question and what was said, without what was thought"


def test_subagents_share_their_task_and_begin_at_one_moment() -> None:
    workload = subagents(4000)
    by_start = Counter(session.start_s for session in workload.sessions)
    together = [start_s for start_s, count in by_start.items() if count > 1]
    assert together
    assert max(by_start.values()) <= 6
    task = (12_000 + 1500) // 64 - 1
    for start_s in together:
        siblings = [session for session in workload.sessions if session.start_s == start_s]
        assert len({session.turns[0].keys[:task] for session in siblings}) == 1
        assert len({session.turns[0].keys for session in siblings}) == len(siblings)
    assert infinite_ratio(workload) > 0.9


def test_a_search_goes_on_from_the_best_of_the_level_before() -> None:
    workload = tree_search(400)
    trees: dict[float, list[list[Turn]]] = {}
    for session in workload.sessions:
        trees.setdefault(session.start_s, []).append(session.turns)
    for branches in trees.values():
        assert [len(branch) for branch in branches] == [5] * 8
        for level in range(4):
            reached = {branch[level].keys for branch in branches}
            bases = {
                next(keys for keys in reached if branch[level + 1].keys[: len(keys)] == keys)
                for branch in branches
            }
            assert 1 <= len(bases) <= 3


@pytest.mark.parametrize("name", list(LOADS))
def test_every_load_is_of_a_generator_whose_draws_differ(name: str) -> None:
    make = GENERATORS[name]
    assert turns(make(50, 1))[5].prompt_tokens != turns(make(50, 2))[5].prompt_tokens


def test_cells_have_the_rates_given_and_the_rivals() -> None:
    sources = {name: Source(name, 100) for name in LOADS}
    cells = list(fresh_cells(sources, {}, FleetConfig(), 7))
    assert [(cell.source.kind, cell.rate) for cell in cells] == [
        (name, rate) for name, load in LOADS.items() for rate in load.rates
    ]
    assert all(cell.fleet.cache_tokens == 400_000 for cell in cells)
    assert {cell.rivals for cell in cells} == {RIVALS}


def test_a_fresh_cell_is_played_without_a_file_of_knees(tmp_path: Path) -> None:
    (outcome,) = play_grid(
        {"reasoning": Source("reasoning", 40)},
        FleetConfig(replicas=2),
        ["prefix-cost"],
        [7],
        only=["28/s"],
        json_path=tmp_path / "fresh.json",
        design=FRESH,
    )
    assert outcome.cell.name == "reasoning 28/s"
    assert set(outcome.figures) == {"prefix-cost", *outcome.cell.rivals}
    assert outcome.figures["prefix-cost"].ttft_mean_s > 0.0
