"""Requests that cannot read the cache cost the others next to nothing: the demo's traffic in virtual time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from warmroute_loadtest.demo.workload import SIMULATED, conversations, count_turns
from warmroute_loadtest.simulate.command import main
from warmroute_loadtest.simulate.demo_traffic import demo
from warmroute_loadtest.simulate.simulation import FleetConfig
from warmroute_loadtest.simulate.sources import Source
from warmroute_loadtest.simulate.unread import PlayUnread, asked_of, with_unread

FLEET = FleetConfig(replicas=4, cache_tokens=128_000)
SOURCE = Source("demo", 768)


def test_the_demos_traffic_is_what_the_demo_sends() -> None:
    workload = demo(1)
    made = conversations(SIMULATED)
    assert workload.requests == count_turns(made)
    assert [session.start_s for session in workload.sessions] == sorted(
        turn.at_s for conversation in made for turn in conversation.turns
    )
    first = next(session.turns[0] for session in workload.sessions if session.turns[0].id == "d5.0")
    second = next(session.turns[0] for session in workload.sessions if session.turns[0].id == "d5.1")
    assert second.keys[: len(first.keys)] == first.keys
    asked = made[5].turns[0]
    assert first.prompt_tokens == len(made[5].system) // 4 + len(asked.text) // 4
    assert second.prompt_tokens > first.prompt_tokens + asked.answer_tokens


def test_one_in_a_hundred_costs_the_others_less_than_half_a_point() -> None:
    shares = PlayUnread(SOURCE, None, FLEET, "prefix-cost", 0.01).run()
    assert shares.unread_requests == 8
    assert shares.others_without_ratio > 0.8
    assert abs(shares.lost_points) <= 0.5
    assert 0.005 < shares.without_ratio - shares.with_ratio < 0.015  # what those themselves no longer find


def test_the_same_turns_ask_whatever_the_policy() -> None:
    workload = SOURCE.load()
    asking = asked_of(workload, 0.01, 7)
    assert asking == asked_of(workload, 0.01, 7) != asked_of(workload, 0.01, 8)
    mixed = with_unread(workload, asking)
    unread = {turn.id for session in mixed.sessions for turn in session.turns if not turn.reads_cache}
    assert unread == asking
    assert all(turn.reads_cache for session in workload.sessions for turn in session.turns)


def test_the_command_shows_every_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    arguments = "--generate multi-turn --requests 40 --replicas 2 --prompt-logprobs 0.1 --draws 2 --policy round-robin"
    assert main([*arguments.split(), "--json", str(out)]) == 0
    draws = json.loads(out.read_text())["draws"]
    assert [draw["seed"] for draw in draws] == [7, 8]
    assert "the others lose" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--prompt-logprobs", "2"])
