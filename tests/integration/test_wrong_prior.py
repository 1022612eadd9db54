"""Engines 12 times as fast as `policy.prefill_tokens_per_s` says, which nobody sets: it must not matter.

One agent is alone at first, so that a single replica is measured before any other. Whoever compares its measured speed
with the prior of its fellows finds it 12 times as fast, gives it everything, and never learns better.

Two fleets serve the same requests at the same time, one behind a router with default settings and one behind a router
that is told the truth: a busy machine is the same to both.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from statistics import fmean

import pytest

from tests.support.processes import RouterProcess, SimProcess
from tests.support.replay import Replay, Texts, replay
from warmroute.config.schema import Config
from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn, Workload

REPLICAS = 8
TRUE_TOKENS_PER_S = 100_000
BLOCK_TOKENS = 64
OUTPUT_TOKENS = 16
DEFAULT: list[str] = []
TRUTH = ["--set", f"policy.prefill_tokens_per_s={TRUE_TOKENS_PER_S}"]
MOST_SHARES = 2.5
"""What the busiest replica may take of the requests, in even shares; 8 is everything."""
MOST_TTFT_RATIO = 1.5
"""Of the mean TTFT to that of the router that is told the truth."""


def agents() -> Workload:
    """60 agents of five turns under four system prompts: much is read before the first turn, little before the others.

    300 requests of 12,000 to 24,000 tokens in some seven seconds. Where each agent stays at one replica, their prefill
    is a quarter of the fleet's time: it is twice what one replica has.
    """
    keys = KeyMaker()
    heads = [keys.fresh(2048 // BLOCK_TOKENS) for _ in range(4)]
    sessions = []
    for number in range(60):
        chain = list(heads[number % 4])
        tokens = 12_000 + 173 * (number % 32)
        turns = []
        for turn in range(5):
            blocks = (tokens + OUTPUT_TOKENS) // BLOCK_TOKENS
            chain += keys.fresh(blocks - len(chain))
            pause_s = 0.25 if turn else 0.0
            turns.append(Turn(f"{number}.{turn}", tokens, OUTPUT_TOKENS, tuple(chain), pause_s))
            tokens += OUTPUT_TOKENS + 1_100 + 29 * (number % 17)
        sessions.append(Session(number * 0.07, turns))
    return Workload("agents", BLOCK_TOKENS, sessions)


def lonely_agent() -> Workload:
    """One agent, eight turns, before anyone else has come."""
    keys = KeyMaker(first=1_000_000)
    chain = keys.fresh(200)
    turns = []
    for turn in range(8):
        tokens = 3_000 + 1_200 * turn
        blocks = (tokens + OUTPUT_TOKENS) // BLOCK_TOKENS
        turns.append(Turn(f"lonely.{turn}", tokens, OUTPUT_TOKENS, chain[:blocks], 0.05 if turn else 0.0))
    return Workload("lonely agent", BLOCK_TOKENS, [Session(0.0, turns)])


async def served(url: str, whole_ratio: float) -> Replay:
    """What came of the agents, after the lonely one had its answers."""
    texts = Texts(BLOCK_TOKENS)
    alone = await replay(url, lonely_agent().whole(whole_ratio), texts)
    assert alone.failures == []
    assert len({sample.replica for sample in alone.samples}) == 1, "it was meant to teach of one replica only"
    return await replay(url, agents().whole(whole_ratio), texts)


async def side_by_side(urls: list[str], whole_ratio: float) -> list[Replay]:
    return await asyncio.gather(*(served(url, whole_ratio) for url in urls))


def played(*told: list[str], whole_ratio: float = 0.0) -> list[Replay]:
    """The same requests before a fleet for each router's settings, all at the same time.

    Args:
        whole_ratio: Share of the answers that do not stream.
    """
    engine = ["--prefill-tokens-per-s", str(TRUE_TOKENS_PER_S), "--block-tokens", str(BLOCK_TOKENS)]
    with ExitStack() as stack:
        sims = [stack.enter_context(SimProcess(REPLICAS, *engine)) for _ in told]
        routers = [
            stack.enter_context(RouterProcess(sim.urls, *settings))
            for sim, settings in zip(sims, told, strict=True)
        ]
        urls = [f"http://127.0.0.1:{router.port}" for router in routers]
        return asyncio.run(side_by_side(urls, whole_ratio))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("whole_ratio", [0.0, 1.0])
def test_engines_twelve_times_as_fast_as_believed_share_the_work(whole_ratio: float) -> None:
    assert 12 <= TRUE_TOKENS_PER_S / Config().policy.prefill_tokens_per_s <= 13
    default, right = played(DEFAULT, TRUTH, whole_ratio=whole_ratio)
    assert default.failures == right.failures == []
    assert len(default.samples) == len(right.samples) == 300
    counts = Counter(sample.replica for sample in default.samples)
    shares = max(counts.values()) * REPLICAS / len(default.samples)
    default_s, right_s = (fmean(sample.ttft_s for sample in found.samples) for found in (default, right))
    assert shares < MOST_SHARES, sorted(counts.values())
    assert default_s < MOST_TTFT_RATIO * right_s, f"{shares:.2f} even shares"
