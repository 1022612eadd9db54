from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmroute_loadtest.locust.replay import Played, Recording, arrivals
from warmroute_loadtest.locust.talks import Api, Piece
from warmroute_loadtest.locust.tape import Tape
from warmroute_loadtest.simulate.traces import TraceError

TAPE = Tape("s")


def line(at_ms: int, tokens: int, ids: list[int], **more: object) -> str:
    """One of Mooncake's."""
    row = {"timestamp": at_ms, "input_length": tokens, "output_length": 10, "hash_ids": ids, **more}
    return json.dumps(row)


def trace(tmp_path: Path, *lines: str) -> Path:
    """A file of these lines."""
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_prompts_agree_exactly_as_far_as_their_ids_do(tmp_path: Path) -> None:
    path = trace(tmp_path, line(0, 1300, [1, 2, 3]), line(2500, 1200, [1, 2, 9]), line(2500, 600, [7, 8]))
    first, second, third = arrivals(Recording(path))
    assert [first.at_s, second.at_s, third.at_s] == [0.0, 2.5, 2.5]
    texts = [TAPE.text(each.talk.asks[0].text) for each in (first, second, third)]
    assert [len(text) for text in texts] == [4 * 1300, 4 * 1200, 4 * 600]
    assert texts[0][: 4 * 1024] == texts[1][: 4 * 1024]
    assert texts[0][4 * 1024 : 4 * 1024 + 12] != texts[1][4 * 1024 : 4 * 1024 + 12]
    assert texts[2][:12] != texts[0][:12]


def test_lines_of_a_session_are_one_talk_at_the_traces_times(tmp_path: Path) -> None:
    lines = [line(at, 100, [at], block=64, session="s") for at in (0, 4000, 9000)]
    path = trace(tmp_path, *lines, line(1000, 100, [5], block=64))
    one, other = arrivals(Recording(path))
    assert [ask.at_s for ask in one.talk.asks] == [0.0, 4.0, 9.0]
    assert (other.at_s, len(other.talk.asks)) == (1.0, 1)
    assert not one.talk.grows
    assert len(arrivals(Recording(path, open_loop=True))) == 4
    hurried = arrivals(Recording(path, speed=2.0))
    assert [ask.at_s for ask in hurried[0].talk.asks] == [0.0, 2.0, 4.5]


def test_rate_requests_lengths_and_api_are_applied(tmp_path: Path) -> None:
    path = trace(tmp_path, *(line(1000 * n, 5120, list(range(10 * n, 10 * n + 10))) for n in range(11)))
    made = arrivals(Recording(path, rate=11.0, lengths=0.1, api="messages", requests=5))
    assert len(made) == 5
    # The rate is of what is played: five requests over four gaps.
    assert made[-1].at_s == pytest.approx(5 / 11.0)
    assert made[0].talk.asks[0].tokens == pytest.approx(512, abs=10)
    assert made[0].talk.api is Api.MESSAGES


def test_a_broken_line_is_told_with_its_number_and_left_out(tmp_path: Path) -> None:
    good = [line(n, 600, [n, 99]) for n in range(30)]
    path = trace(tmp_path, *good[:10], "{half", *good[10:], '{"timestamp": 5}')
    said: list[str] = []
    assert len(arrivals(Recording(path), said.append)) == 30
    assert len(said) == 2
    assert said[0].startswith("left out: trace.jsonl:11: not JSON")
    assert said[1].startswith("left out: trace.jsonl:32: no Mooncake record")


def test_many_broken_lines_are_counted_and_more_than_a_tenth_are_too_many(tmp_path: Path) -> None:
    good = [line(n, 600, [n, 99]) for n in range(200)]
    said: list[str] = []
    assert len(arrivals(Recording(trace(tmp_path, *good, *["x"] * 15)), said.append)) == 200
    assert said[-1] == "left out: 5 more broken lines"
    assert len(said) == 11
    with pytest.raises(TraceError, match="40 of 240 lines are broken"):
        arrivals(Recording(trace(tmp_path, *good, *["x"] * 40)))
    with pytest.raises(TraceError, match="holds no request"):
        arrivals(Recording(trace(tmp_path, "")))


def test_the_access_log_leaves_broken_lines_out_too(tmp_path: Path) -> None:
    row = {
        "time": 1000.0,
        "duration_s": 1.0,
        "model": "m",
        "api": "chat",
        "status": 200,
        "prompt_tokens": 300,
        "completion_tokens": 10,
        "cached_tokens": 0,
        "prompt_bytes": 1200,
        "session": None,
        "rungs": "0" * 16,
    }
    rows = [json.dumps({**row, "time": 1000.0 + n}) for n in range(20)]
    path = tmp_path / "access.json"
    path.write_text("\n".join([*rows, "broken"]) + "\n")
    said: list[str] = []
    made = arrivals(Recording(path, is_access_log=True), said.append)
    assert [each.at_s for each in made] == [float(n) for n in range(20)]
    assert all(each.talk.asks[0].tokens == 300 for each in made)
    assert said == [s for s in said if s.startswith("left out: access.json:21: no access-log record")]
    assert len(said) == 1


def test_played_again_a_record_has_other_texts(tmp_path: Path) -> None:
    source = Played(arrivals(Recording(trace(tmp_path, line(0, 600, [1, 2]), line(5, 600, [1, 3])))))
    assert source.talk(0).asks[0].text[0] == Piece("block/2", 512)
    assert source.talk(2).asks[0].text[0] == Piece("1/block/2", 512)
    assert source.mean_requests() == 1.0
