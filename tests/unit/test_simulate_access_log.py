"""The router's access log as a workload: how far prompts agree, which requests belong together, which lines are bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from warmroute_loadtest.simulate.access_log import LOG_BLOCK_TOKENS, access_log
from warmroute_loadtest.simulate.traces import TraceError
from warmroute_loadtest.simulate.workload import Workload


def line(at_s: float, tokens: int, rungs: str, **more: Any) -> dict[str, Any]:
    """A request whose token is four bytes; a letter a rung."""
    return {
        "time": at_s,
        "duration_s": 1.0,
        "api": "chat",
        "model": "m",
        "status": 200,
        "prompt_tokens": tokens,
        "completion_tokens": 64,
        "cached_tokens": 0,
        "prompt_bytes": tokens * 4,
        "session": None,
        "rungs": "".join(letter * 16 for letter in rungs),
        **more,
    }


def read(tmp_path: Path, *rows: object) -> Workload:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n\n")
    return access_log(path)


def shared_tokens(workload: Workload) -> int:
    """Between the first two requests."""
    one, other = (turn.keys for session in workload.sessions for turn in session.turns)
    count = sum(x == y for x, y in zip(one, other, strict=False))
    assert one[:count] == other[:count]
    return count * LOG_BLOCK_TOKENS


def test_prompts_agree_as_far_as_their_last_common_rung(tmp_path: Path) -> None:
    # Rungs are 512 bytes, here 128 tokens, apart.
    assert shared_tokens(read(tmp_path, line(100, 520, "abcd"), line(110, 520, "abxy"))) == 256
    assert shared_tokens(read(tmp_path, line(100, 520, "abcd"), line(110, 520, "wxyz"))) == 0


def test_what_an_engine_had_narrows_where_prompts_differ(tmp_path: Path) -> None:
    more = line(110, 520, "abxy", cached_tokens=336)
    assert shared_tokens(read(tmp_path, line(100, 520, "abcd"), more)) == 320
    beyond = line(110, 520, "abxy", cached_tokens=500)
    assert shared_tokens(read(tmp_path, line(100, 520, "abcd"), beyond)) == 384, "the next rung differs"


def test_a_session_goes_on_with_its_prompt_and_answer_after_a_pause(tmp_path: Path) -> None:
    first, second = line(100, 600, "abcd", session="s"), line(104, 900, "abcdefg", session="s")
    workload = read(tmp_path, first, second)
    (session,) = workload.sessions
    assert [turn.pause_s for turn in session.turns] == [0.0, 3.0]
    assert shared_tokens(workload) == (600 + 64) // LOG_BLOCK_TOKENS * LOG_BLOCK_TOKENS


def test_requests_of_a_session_that_overlap_in_time_start_by_the_clock(tmp_path: Path) -> None:
    workload = read(
        tmp_path, line(100, 520, "abcd", session="s"), line(100.5, 520, "abcd", session="s", duration_s=0.1)
    )
    assert [session.start_s for session in workload.sessions] == [0.0, 0.5]


def test_bytes_become_tokens_by_the_models_own_mean(tmp_path: Path) -> None:
    rows = [line(100 + n, 520, rungs, prompt_bytes=1040) for n, rungs in enumerate(("ab", "ax"))]
    assert shared_tokens(read(tmp_path, *rows)) == 256
    unknown = [{**row, "completion_tokens": None, "cached_tokens": None} for row in rows]
    assert shared_tokens(read(tmp_path, *unknown)) == 128


def test_every_prompt_with_a_rung_agrees_up_to_it_however_dense_its_text(tmp_path: Path) -> None:
    rows = [line(100, 400, "abcd", prompt_bytes=2080), line(110, 900, "abcd", prompt_bytes=2080)]
    rows.append(line(120, 700, "abcd", prompt_bytes=2080))
    turns = [session.turns[0] for session in read(tmp_path, *rows).sessions]
    depth = int(2048 * 2000 / 6240) // LOG_BLOCK_TOKENS
    assert turns[1].keys[:depth] == turns[2].keys[:depth]
    assert turns[0].keys == turns[1].keys[: len(turns[0].keys)] or len(turns[0].keys) <= depth
    for turn in turns:
        assert len(turn.keys) * LOG_BLOCK_TOKENS <= turn.prompt_tokens + turn.output_tokens


def test_lines_without_an_answer_or_a_prompt_are_left_out(tmp_path: Path) -> None:
    kept = line(100, 520, "abcd")
    workload = read(
        tmp_path, kept, {**kept, "status": 502}, {**kept, "api": "other"}, {"path": "/v1/models"}, ""
    )
    assert workload.requests == 1


def test_short_prompts_count_though_they_have_no_rung(tmp_path: Path) -> None:
    (session,) = read(tmp_path, line(100, 40, "")).sessions
    assert session.turns[0].prompt_tokens == 40


@pytest.mark.parametrize(
    "bad",
    [
        "{nonsense",
        "[1]",
        {**line(1, 520, "abcd"), "rungs": ["a"]},
        {**line(1, 520, "abcd"), "rungs": "abc"},
        {**line(1, 520, "abcd"), "prompt_tokens": 0},
        {**line(1, 520, "abcd"), "prompt_tokens": "many"},
        {**line(1, 520, "abcd"), "prompt_bytes": 100},
        {**line(1, 520, "abcd"), "duration_s": -1},
        {**line(1, 520, "abcd"), "cached_tokens": -1},
        {**line(1, 520, "abcd"), "session": ["s"]},
        {**line(1, 520, "abcd"), "time": None},
        {name: value for name, value in line(1, 520, "abcd").items() if name != "time"},
        {"rungs": ""},
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: object) -> None:
    with pytest.raises(TraceError, match=r"log\.jsonl:2: "):
        read(tmp_path, line(100, 520, "abcd"), bad)


def test_a_log_without_fingerprints_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"access_log\.fingerprints"):
        read(tmp_path, {"path": "/"})
