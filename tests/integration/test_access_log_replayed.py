"""The whole way of an operator's own traffic: served live, logged as fingerprints, served again in virtual time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.live_fleet import live
from tests.support.replay import Texts
from warmroute_loadtest.simulate.bounds import infinite_ratio
from warmroute_loadtest.simulate.command import main
from warmroute_loadtest.simulate.simulation import FleetConfig
from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn, Workload
from warmroute_replica.sim.step_time import StepTime

BLOCK_TOKENS = 16
SPEED = 20.0


def conversations() -> Workload:
    """24 conversations of four turns under three system prompts, some 50 requests a second."""
    keys = KeyMaker()
    heads = [keys.fresh(90) for _ in range(3)]
    sessions = []
    for number in range(24):
        chain = list(heads[number % 3])
        turns = []
        tokens = len(chain) * BLOCK_TOKENS + 900 + 37 * number
        for turn in range(4):
            blocks = (tokens + 40) // BLOCK_TOKENS
            chain += keys.fresh(blocks - len(chain))
            turns.append(Turn(f"{number}.{turn}", tokens, 40, tuple(chain), 0.3 if turn else 0.0))
            tokens += 40 + 250 + 11 * number
        sessions.append(Session(number * 0.08, turns))
    return Workload("conversations", BLOCK_TOKENS, sessions)


@pytest.mark.parametrize("name_sessions", [True, False])
def test_the_log_of_a_live_fleet_gives_its_cached_share_in_virtual_time(
    tmp_path: Path, name_sessions: bool
) -> None:
    log, figures = tmp_path / "access.jsonl", tmp_path / "figures.json"
    fleet = FleetConfig(3, 60_000, StepTime(speed=SPEED))
    settings = {
        "access_log": {"enabled": True, "path": str(log), "fingerprints": True},
        "policy": {"name": "prefix-cost", "prefill_tokens_per_s": 8000 * SPEED},
    }
    workload = conversations()
    served = live(workload, Texts(BLOCK_TOKENS), fleet, settings, name_sessions=name_sessions)
    assert served.failures == []
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == workload.requests == 96
    assert all(line["session"] is None for line in lines) == (not name_sessions)
    assert "rest of" not in log.read_text(), "a word of every prompt"
    asked = ["--access-log", str(log), "--replicas", "3", "--cache-tokens", "60000"]
    asked += ["--prefill-tokens-per-s", str(8000 * SPEED), "--policy", "prefix-cost"]
    assert main([*asked, "--json", str(figures)]) == 0
    simulated = json.loads(figures.read_text())
    assert simulated["requests"] == 96
    # The log tells which prompts belong together. When they were sent is told too; a busy machine meets other caches.
    assert simulated["infinite_ratio"] == pytest.approx(infinite_ratio(workload), abs=0.03)
    assert simulated["policies"][0]["cached_ratio"] == pytest.approx(served.cached_ratio, abs=0.2)
