"""Traces become workloads; a bad line is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from warmroute_loadtest.simulate.sources import Source
from warmroute_loadtest.simulate.traces import TraceError, mooncake, ragpulse
from warmroute_loadtest.simulate.workload import Shaper, Turn


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


def of_session(at_ms: int, tokens: int, ids: list[int], **more: object) -> dict[str, object]:
    return {**record(at_ms, tokens, ids), "block": 64, **more}


def test_lines_of_one_session_become_turns_that_pause_as_recorded(tmp_path: Path) -> None:
    workload = mooncake(
        write(
            tmp_path / "t.jsonl",
            of_session(1000, 130, [0, 1, 2], session=4),
            of_session(3500, 200, [0, 1, 7, 8], session=4),
            of_session(2000, 64, [0], session="b"),
            of_session(1500, 64, [9]),
            of_session(9000, 64, [5], session=4),
            of_session(9500, 64, [9]),
        )
    )
    assert workload.block_tokens == 64
    assert [[turn.id for turn in session.turns] for session in workload.sessions] == [
        ["m1", "m2", "m5"], ["m4"], ["m3"], ["m6"],
    ]  # fmt: skip
    assert [session.start_s for session in workload.sessions] == [1.0, 1.5, 2.0, 9.5]
    first, second, third = workload.sessions[0].turns
    assert [turn.pause_s for turn in (first, second, third)] == [0.0, 2.5, 5.5]
    assert second.keys[:2] == first.keys
    assert len(second.keys) == 3
    assert len({turn.user_key for turn in (first, second, third)}) == 1
    assert [s.turns[0].session for s in workload.sessions] == [0, 1, 2, 3]
    assert {turn.session for turn in (first, second, third)} == {0}
    # The unit of load is all requests by the sessions' starts: 6 in 8.5 s.
    faster = workload.at_rate(6 / 4.25)
    assert [session.start_s for session in faster.sessions] == [0.5, 0.75, 1.0, 4.75]
    assert faster.sessions[0].turns[1].pause_s == 1.25
    assert faster.rate == pytest.approx(6 / 4.25)
    alone = mooncake(tmp_path / "t.jsonl", open_loop=True).sessions
    assert [(s.start_s, [turn.id for turn in s.turns]) for s in alone] == [
        (1.0, ["m1"]), (1.5, ["m4"]), (2.0, ["m3"]), (3.5, ["m2"]), (9.0, ["m5"]), (9.5, ["m6"]),
    ]  # fmt: skip


def test_blocks_are_joined_to_larger_ones_that_agree_where_all_parts_do(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        of_session(0, 64 * 9, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        of_session(1, 64 * 8, [0, 1, 2, 3, 4, 5, 6, 17]),
        of_session(2, 64 * 3, [0, 1, 2]),
    )
    workload = mooncake(path, join_tokens=256)
    assert workload.block_tokens == 256
    one, other, short = (session.turns[0] for session in workload.sessions)
    assert [len(turn.keys) for turn in (one, other, short)] == [2, 2, 0]
    assert one.keys[0] == other.keys[0]
    assert one.keys[1] != other.keys[1]
    assert one.prompt_tokens == 64 * 9
    with pytest.raises(TraceError, match=r"t\.jsonl:1: .*64 tokens do not make one of 100"):
        mooncake(path, join_tokens=100)
    source = Source("mooncake", 3, path)
    assert replace(source, join_tokens=256).load().sessions == workload.slice(3).sessions
    assert (
        replace(source, join_tokens=256).identity != source.identity == Source("mooncake", 3, path).identity
    )
    assert replace(source, open_loop=True).identity != source.identity
    for nonsense in (Source("multi-turn", 3, join_tokens=256), Source("multi-turn", 3, open_loop=True)):
        with pytest.raises(ValueError, match="multi-turn"):
            nonsense.load()


GOOD = record(0, 1100, [0, 1, 2])


@pytest.mark.parametrize(
    "bad",
    [
        "{nonsense",
        "[]",
        "null",
        {"timestamp": 1},
        {**GOOD, "input_length": "long"},
        {**GOOD, "input_length": 0},
        {**GOOD, "output_length": -1},
        {**GOOD, "timestamp": None},
        {**GOOD, "hash_ids": 7},
        {**GOOD, "hash_ids": [1]},
        {**GOOD, "hash_ids": ["x", "y"]},
        {**GOOD, "hash_ids": [-2, 1]},
        {**GOOD, "block": 64},
        {**GOOD, "block": "wide"},
        {**GOOD, "session": [1]},
    ],
)
def test_a_mooncake_line_that_is_no_record_is_named(tmp_path: Path, bad: object) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + (bad if isinstance(bad, str) else json.dumps(bad)) + "\n")
    with pytest.raises(TraceError, match=r"t\.jsonl:3: "):
        mooncake(path)


def test_a_trace_of_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match=r"t\.jsonl:1"):
        mooncake(tmp_path / "t.jsonl")


def ragpulse_folder(folder: Path, *rows: object) -> Path:
    names = {"1_sys_prompt": 1, "2_passages": 2, "3_history": 3, "4_user_input": 4, "5_web_search": 5}
    for stem, identity in names.items():
        write(folder / f"{stem}.jsonl", {"x_id": identity, "token_length": 100})
    write(folder / "2_passages.jsonl", {"x_id": 2, "token_length": 100}, {"x_id": 20, "token_length": 100})
    write(folder / "0_trace.jsonl", *rows)
    return folder


def question(passage: int, **more: object) -> dict[str, object]:
    ids = {"sys_prompt": [1], "passages_ids": [passage], "history": [], "web_search": [], "user_input": [4]}
    return {"timestamp": "5", "input_length": 300, "output_length": 9, "hash_ids": ids, **more}


def test_ragpulse_pieces_share_blocks_up_to_the_first_that_differs(tmp_path: Path) -> None:
    folder = ragpulse_folder(tmp_path, question(2), question(20), question(2))
    one, other, again = (session.turns[0] for session in ragpulse(folder).sessions)
    assert one.prompt_tokens == 300
    assert one.keys == again.keys
    assert len(one.keys) == 4
    assert one.keys[0] == other.keys[0]
    assert one.keys[1] != other.keys[1]


@pytest.mark.parametrize(
    "bad",
    [
        question(99),
        question(2, timestamp="noon"),
        question(2, hash_ids=[]),
        question(2, output_length=-1),
        [],
    ],
)
def test_a_ragpulse_line_that_is_no_record_is_named(tmp_path: Path, bad: object) -> None:
    with pytest.raises(TraceError, match=r"0_trace\.jsonl:2: "):
        ragpulse(ragpulse_folder(tmp_path, question(2), bad))


@pytest.mark.parametrize(
    "bad",
    [{"x_id": 3}, {"token_length": 3}, {"x_id": 3, "token_length": -5}, {"x_id": "a", "token_length": 1}, 7],
)
def test_a_ragpulse_size_that_is_no_record_is_named(tmp_path: Path, bad: object) -> None:
    folder = ragpulse_folder(tmp_path, question(2))
    write(folder / "3_history.jsonl", {"x_id": 3, "token_length": 1}, bad)
    with pytest.raises(TraceError, match=r"3_history\.jsonl:2: "):
        ragpulse(folder)


def test_prompts_that_share_blocks_share_rungs_and_nothing_more() -> None:
    shaper = Shaper(512)
    one = shaper.shape(Turn("a", 1600, 1, (1, 2, 3)))
    other = shaper.shape(Turn("b", 1600, 1, (1, 2, 4)))
    shared = [x == y for x, y in zip(one.rungs, other.rungs, strict=True)]
    assert shared == [True] * 8 + [False] * 2
    assert one.head_key == other.head_key
