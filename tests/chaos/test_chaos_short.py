"""The part of `make chaos` that always runs: three routers, four replicas, one Redis, each of them killed once."""

from __future__ import annotations

import asyncio

from tests.chaos.__main__ import play
from tests.chaos.scenarios import SHORT
from tests.chaos.world import World


def test_nothing_is_lost_doubled_or_left_over() -> None:
    with World(routers=2, replicas=3) as world:
        results, problems = asyncio.run(play(world, SHORT, clients=6))
    assert problems == []
    assert all(result.figures.answered > 10 for result in results)
