"""Traces become workloads; a bad line is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.simulate.traces import TraceError, access_log, mooncake, ragpulse
from loadtest.simulate.workload import Shaper, Turn


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


def record(at_ms: int, tokens: int, ids: list[int]) -> dict[str, object]:
    return {"timestamp": at_ms, "input_length": tokens, "output_length": 10, "hash_ids": ids}


def test_a_mooncake_prompt_keeps_its_full_blocks_only(tmp_path: Path) -> None:
    workload = mooncake(write(tmp_path / "t.jsonl", record(500, 1300, [0, 7, 9]), record(0, 512, [0])))
    first, second = (session.turns[0] for session in workload.sessions)
    assert (first.prompt_tokens, len(first.keys)) == (512, 1)
    assert len(second.keys) == 2
    assert second.keys[0] == first.keys[0]
    assert [session.start_s for session in workload.sessions] == [0.0, 0.5]


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"t\.jsonl:2"):
        mooncake(write(tmp_path / "t.jsonl", record(0, 512, [0]), {"timestamp": 1}))
    (tmp_path / "u.jsonl").write_text("{nonsense\n", encoding="utf-8")
    with pytest.raises(TraceError, match=r"u\.jsonl:1"):
        mooncake(tmp_path / "u.jsonl")


def test_ragpulse_pieces_share_blocks_up_to_the_first_that_differs(tmp_path: Path) -> None:
    names = {"1_sys_prompt": 1, "2_passages": 2, "3_history": 3, "4_user_input": 4, "5_web_search": 5}
    for stem, identity in names.items():
        write(tmp_path / f"{stem}.jsonl", {"x_id": identity, "token_length": 100})
    write(tmp_path / "2_passages.jsonl", {"x_id": 2, "token_length": 100}, {"x_id": 20, "token_length": 100})

    def row(passage: int) -> dict[str, object]:
        ids = {
            "sys_prompt": [1],
            "passages_ids": [passage],
            "history": [],
            "web_search": [],
            "user_input": [4],
        }
        return {"timestamp": "5", "input_length": 300, "output_length": 9, "hash_ids": ids}

    write(tmp_path / "0_trace.jsonl", row(2), row(20), row(2))
    one, other, again = (session.turns[0] for session in ragpulse(tmp_path).sessions)
    assert one.prompt_tokens == 300
    assert one.keys == again.keys
    assert len(one.keys) == 4
    assert one.keys[0] == other.keys[0]
    assert one.keys[1] != other.keys[1]


def test_an_access_log_with_fingerprints_is_a_workload(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl",
        {"time_s": 105.0, "prompt_tokens": 700, "rungs": ["a", "b", "c"], "output_tokens": 5},
        {"time_s": 100.0, "prompt_tokens": 700, "rungs": ["a", "b", "x"]},
        {"path": "/v1/embeddings"},
    )
    early, late = access_log(path).sessions
    assert (early.start_s, late.start_s) == (0.0, 5.0)
    assert early.turns[0].keys[:2] == late.turns[0].keys[:2]
    assert early.turns[0].keys[2] != late.turns[0].keys[2]
    with pytest.raises(TraceError, match="fingerprints"):
        access_log(write(tmp_path / "none.jsonl", {"path": "/"}))


def test_prompts_that_share_blocks_share_rungs_and_nothing_more() -> None:
    shaper = Shaper(512)
    one = shaper.shape(Turn("a", 1600, 1, (1, 2, 3)))
    other = shaper.shape(Turn("b", 1600, 1, (1, 2, 4)))
    shared = [x == y for x, y in zip(one.rungs, other.rungs, strict=True)]
    assert shared == [True] * 8 + [False] * 2
    assert one.head_key == other.head_key
