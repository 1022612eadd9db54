"""Engines for tests: one that says what it is told, and worlds in which every adapter of the port is asked the same."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack

from tests.support.fake_vllm import FakeVllm
from warmroute.adapters.engine.probe import HttpEngine
from warmroute.core.health.health import FailureReason
from warmroute.core.types import Incarnation, ReplicaId
from warmroute.ports import Engine, ProbeResult
from warmroute_replica.sim.command import serving
from warmroute_replica.sim.server import ReplicaServer
from warmroute_replica.sim.simulated_replica import ReplicaConfig

WELL = ProbeResult(
    alive=True, incarnation=Incarnation(7), models={"m": {}}, block_tokens=32, cache_tokens=8192
)
REFUSED = ProbeResult(alive=False, failure=FailureReason.REFUSED, detail="connection refused")


class ToldEngine:
    """Answers what it is told; remembers who was asked when."""

    def __init__(self, default: ProbeResult = WELL, probed: Iterable[ReplicaId] = ()) -> None:
        self.answers: dict[ReplicaId, ProbeResult] = {}
        self.default = default
        self.asked: list[tuple[float, ReplicaId]] = []
        self.models_asked = 0
        self.forgotten: list[ReplicaId] = []
        self.delay_s = 0.0
        self.at_once = 0
        self.most_at_once = 0
        self._probed: set[ReplicaId] = set(probed)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def probe(self, replica_id: ReplicaId, url: str) -> ProbeResult:
        self.asked.append((asyncio.get_running_loop().time(), replica_id))
        self._probed.add(replica_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.at_once -= 1
        return self.answers.get(replica_id, self.default)

    async def models(self, replica_id: ReplicaId, url: str) -> Mapping[str, object] | None:
        self.models_asked += 1
        await asyncio.sleep(0)
        told = self.answers.get(replica_id, self.default)
        return told.models if replica_id in self._probed else None

    def read_again(self, replica_id: ReplicaId) -> None: ...

    def forget(self, replica_id: ReplicaId) -> None:
        self.forgotten.append(replica_id)
        self._probed.discard(replica_id)

    def times(self, replica_id: ReplicaId) -> list[float]:
        return [at_s for at_s, asked in self.asked if asked == replica_id]


class EngineWorld:
    """One replica, and an adapter that probes it; up between `start` and `stop`."""

    engine: Engine
    replica_id = ReplicaId("replica-1")
    url: str
    model: str
    """One that it serves."""

    async def start(self) -> None:
        """Both are there; nobody was asked."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Leave nothing open."""
        raise NotImplementedError

    async def restart(self) -> None:
        """Another life of the replica, at once."""
        raise NotImplementedError

    async def go_down(self) -> None:
        """Nothing listens there any more."""
        raise NotImplementedError

    async def serve_also(self, model: str) -> None:
        """From now on it serves one more."""
        raise NotImplementedError

    async def probe(self) -> ProbeResult:
        return await self.engine.probe(self.replica_id, self.url)

    async def models(self) -> Mapping[str, object] | None:
        return await self.engine.models(self.replica_id, self.url)


class ToldWorld(EngineWorld):
    """The fake."""

    url = "http://replica-1"
    model = "m"

    async def start(self) -> None:
        self.engine = self._told = ToldEngine()

    async def stop(self) -> None:
        await self.engine.stop()

    async def restart(self) -> None:
        life = self._now().incarnation
        assert life is not None
        self._told.answers[self.replica_id] = dataclasses.replace(
            self._now(), incarnation=Incarnation(life + 1)
        )

    async def go_down(self) -> None:
        self._told.answers[self.replica_id] = REFUSED

    async def serve_also(self, model: str) -> None:
        models = {**(self._now().models or {}), model: {}}
        self._told.answers[self.replica_id] = dataclasses.replace(self._now(), models=models)

    def _now(self) -> ProbeResult:
        return self._told.answers.get(self.replica_id, WELL)


class _HttpWorld(EngineWorld):
    """The real adapter; its clock stands, so that nothing is read for its age alone."""

    def make_engine(self) -> None:
        self.engine = HttpEngine(timeout_s=60.0, scrape_interval_s=10.0, clock=lambda: 1_800_000_000.0)


class VllmWorld(_HttpWorld):
    """Over HTTP, a server that answers probes as vLLM does."""

    model = "m"

    async def start(self) -> None:
        self._server = FakeVllm()
        await self._server.start()
        self.url = self._server.url
        self.make_engine()
        await self.engine.start()

    async def stop(self) -> None:
        await self.engine.stop()
        await self._server.stop()

    async def restart(self) -> None:
        await self._server.restart()

    async def go_down(self) -> None:
        await self._server.stop()

    async def serve_also(self, model: str) -> None:
        listed = json.loads(self._server.models)["data"]
        self._server.models = json.dumps({"data": [*listed, {"id": model}]}).encode()


class SimulatedWorld(_HttpWorld):
    """Over HTTP, a simulated replica."""

    model = "sim"

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        self._server: ReplicaServer
        self._port = 0
        await self._open()
        self.url = self._server.url
        self.make_engine()
        await self.engine.start()

    async def stop(self) -> None:
        await self.engine.stop()
        await self._stack.aclose()

    async def _open(self) -> None:
        opened = serving(ReplicaConfig(models=(self.model,)), [self._port])
        (self._server,) = await self._stack.enter_async_context(opened)
        self._port = self._server.port

    async def restart(self) -> None:
        before_s = self._server.replica.metrics.start_time_s
        await self._stack.aclose()
        await self._open()
        # Lives begin within the clock's resolution here; processes do not.
        metrics = self._server.replica.metrics
        metrics.start_time_s = max(metrics.start_time_s, before_s + 1.0)

    async def go_down(self) -> None:
        await self._stack.aclose()

    async def serve_also(self, model: str) -> None:
        self._server.replica.load_lora(model, "/adapters/" + model, in_place=False)


WORLDS: dict[str, Callable[[], EngineWorld]] = {
    "told": ToldWorld,
    "vllm": VllmWorld,
    "simulated": SimulatedWorld,
}
