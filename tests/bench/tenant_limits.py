"""Three router processes that share a Redis: a limit offered three times over, and how soon a revoked key is refused.

    python -m tests.bench.tenant_limits [--limit 1000]

Offers each router as many requests as all three may serve in a minute, and counts what was served; revokes keys, and
takes the time until every router refuses each; then offers the same again to another tenant with Redis stopped. Not a
test: times depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.fault import test_fault_tenants as fault

ROUNDS = 5


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=1000)
    limit = parser.parse_args().limit
    fault.LIMIT = limit  # type: ignore[misc]
    with ExitStack() as stack:
        world = fault.World(stack, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        _offer(world, world.new_key("limited"), limit, "with Redis")
        longest_s = 0.0
        for number in range(ROUNDS):
            key = world.new_key(f"r{number}")
            (listed,) = [line for line in world.keys("list").splitlines() if f" r{number} " in line]
            world.keys("revoke", listed.split()[0])
            revoked_s = time.monotonic()
            while set(world.statuses(key)) != {401}:
                pass
            longest_s = max(longest_s, time.monotonic() - revoked_s)
        key = world.new_key("limited-too")
        world.redis.stop()
        _offer(world, key, limit, "with Redis stopped")
        print(f"revoked keys were refused by all routers after {longest_s:.2f} s at most, of {ROUNDS}")


def _offer(world: fault.World, key: str, limit: int, how: str) -> None:
    answers: list[tuple[int, float, int, dict[str, Any]]] = []
    alone = fault.judged_alone(world)
    started_s = time.monotonic()
    asyncio.run(fault.offer(world.routers, key, limit, answers))
    served = [number for number, _, status, _ in answers if status == 200]
    shares = ", ".join(str(served.count(number)) for number in range(3))
    print(
        f"{how}: {limit:,} a minute allowed, {len(answers):,} offered in {time.monotonic() - started_s:.0f} s:"
        f" {len(served):,} served ({shares}), {fault.judged_alone(world) - alone:,} judged without it",
        flush=True,
    )


if __name__ == "__main__":
    main()
