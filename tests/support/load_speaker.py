"""A router reduced to its load reports, on a real Redis: in this process, or in its own that only takes on load."""

from __future__ import annotations

import asyncio
import sys
import time
from random import Random

from warmroute.adapters.load_board.redis import RedisLoadBoard
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Decision, Fleet, ProbeSucceeded, ReplicaAdded
from warmroute.core.fleet.replica import Replica
from warmroute.core.health.health import HealthParameters
from warmroute.core.types import ReplicaId, RequestShape
from warmroute.service.load_reports import LoadReports
from warmroute.tasks import Tasks


class Speaker:
    """A fleet and its load reports, within `async with`."""

    def __init__(self, url: str, router: int, replicas: int = 1) -> None:
        parameters = CostParameters()
        self.fleet = Fleet(POLICIES["round-robin"](parameters), Random(1), parameters, HealthParameters())
        for number in range(replicas):
            replica_id = ReplicaId(f"10.0.0.1:{number}")
            self.fleet.apply(ReplicaAdded(replica_id, f"http://{replica_id}"))
            self.fleet.apply(ProbeSucceeded(replica_id, None, ["m"], None, None, 0.0))
        self.replicas: list[Replica] = list(self.fleet.replicas.values())
        self.board = RedisLoadBoard(url)
        self._tasks = Tasks()
        self.load_reports = LoadReports(
            self.fleet,
            self.board,
            self._tasks,
            router=router,
            publish_interval_s=0.05,
            expire_s=1.0,
            clock=time.monotonic,
            fleet_clock=time.time,
        )

    def send(self, replica: Replica, tokens: int) -> Decision:
        """Take on one request."""
        return self.fleet.reserve_on(replica.id, RequestShape("m", prompt_tokens=tokens), time.time())

    async def __aenter__(self) -> Speaker:
        await self.board.start()
        self.load_reports.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.stop()
        await self.load_reports.stop()
        await self.board.stop()


async def take_on_load(url: str, count: int, seed: int) -> None:
    """One more request after every random pause, each with the moment it came; then stay until killed."""
    rng = Random(seed)
    async with Speaker(url, seed) as speaker:
        await asyncio.sleep(1.0)
        for _ in range(count):
            await asyncio.sleep(rng.uniform(0.005, 0.06))
            speaker.send(speaker.replicas[0], 1000)
            print(time.monotonic(), flush=True)
        await asyncio.sleep(60)


def main(arguments: list[str]) -> int:
    """`URL COUNT SEED`."""
    asyncio.run(take_on_load(arguments[0], int(arguments[1]), int(arguments[2])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
