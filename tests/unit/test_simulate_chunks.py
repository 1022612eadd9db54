"""Passages in any order, in virtual time: what the trace's pieces become, and what a router that knows them gains."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from warmroute_loadtest.simulate.bounds import chunks_ratio, infinite_ratio
from warmroute_loadtest.simulate.contenders import OURS, UNTOLD, maker
from warmroute_loadtest.simulate.metrics import figures
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.sources import Source
from warmroute_loadtest.simulate.traces import ragpulse

HEAD, PASSAGES, QUESTION = 1, range(100, 140), 1000
SIZES = {"1_sys_prompt": "sys_prompt_id", "2_passages": "passage_id", "4_user_input": "user_input_id"}


def folder(path: Path, requests: int = 120, seed: int = 1) -> Path:
    """A small RAGPulse: one system prompt, passages drawn from two score, in random order."""
    dice = Random(seed)
    tables = {"1_sys_prompt": {HEAD: 128}, "2_passages": dict.fromkeys(PASSAGES, 512), "4_user_input": {}}
    rows = []
    for number in range(requests):
        tables["4_user_input"][QUESTION + number] = 20
        topic = dice.randrange(8)
        parts = {
            "sys_prompt": [HEAD],
            "passages_ids": dice.sample([*PASSAGES][topic * 5 : topic * 5 + 5], 4),
            "history": [],
            "web_search": [],
            "user_input": [QUESTION + number],
        }
        rows.append({"timestamp": str(number), "input_length": 0, "output_length": 8, "hash_ids": parts})
    for name in ("3_history", "5_web_search"):
        (path / f"{name}.jsonl").write_text("")
    for name, sizes in tables.items():
        lines = [json.dumps({SIZES[name]: key, "token_length": tokens}) for key, tokens in sizes.items()]
        (path / f"{name}.jsonl").write_text("\n".join(lines))
    (path / "0_trace.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def test_pieces_behind_the_system_prompt_are_chunks_where_they_are_long_enough(tmp_path: Path) -> None:
    first = ragpulse(folder(tmp_path), 64).sessions[0].turns[0]
    assert [(start, end) for _, start, end in first.chunks] == [
        (128 + 512 * place, 640 + 512 * place) for place in range(4)
    ]
    assert len(ragpulse(tmp_path, 1).sessions[0].turns[0].chunks) == 5, "the question too"
    assert ragpulse(tmp_path).sessions[0].turns[0].chunks == ()


def test_only_ragpulse_has_chunks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only the RAGPulse trace"):
        Source("multi-turn", 10, chunk_tokens=64).load()
    assert Source("ragpulse", 10, folder(tmp_path), chunk_tokens=64).identity[-1] == "chunks of 64 tokens"


def test_a_router_that_knows_the_chunks_sends_them_where_they_are(tmp_path: Path) -> None:
    workload = ragpulse(folder(tmp_path), 64).at_rate(2.0)
    fleet = FleetConfig(4, 100_000, chunk_store_tokens=12_000)
    told, untold, waiting = (
        figures(simulate(workload, fleet, maker(name))) for name in (OURS, UNTOLD, "waiting+2x")
    )
    without = figures(simulate(workload, FleetConfig(4, 100_000), maker(OURS)))
    assert (told.policy, untold.policy) == (OURS, UNTOLD)
    bound = chunks_ratio(workload, fleet.recompute_ratio)
    assert bound > 2 * infinite_ratio(workload)
    assert told.cached_ratio > 0.8 * bound
    assert told.cached_ratio > max(untold.cached_ratio, waiting.cached_ratio) + 0.05
    assert without.cached_ratio <= infinite_ratio(workload) + 1e-9


def test_what_an_engine_reuses_is_what_a_single_infinite_one_would(tmp_path: Path) -> None:
    workload = ragpulse(folder(tmp_path), 64).at_rate(0.2)
    fleet = FleetConfig(1, 1_000_000, chunk_store_tokens=1_000_000, recompute_ratio=0.0)
    alone = figures(simulate(workload, fleet, maker("round-robin")))
    assert alone.cached_ratio == pytest.approx(chunks_ratio(workload, 0.0), abs=0.005)
