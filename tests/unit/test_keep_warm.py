"""The keeper of promises: what it sends, what it gives up, and when it stops. No sockets, no waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.support.wire import Wire
from warmroute.adapters.caching.memory import MemoryContents
from warmroute.caching.budget import PrefillBudget
from warmroute.caching.content import CachedContent, Prefix
from warmroute.caching.prefilled import Prefilled
from warmroute.core.fleet.fleet import DrainStarted, ProbeSucceeded, ReplicaRemoved
from warmroute.core.fleet.replica import Replica
from warmroute.core.types import Api, ReplicaId, RequestShape
from warmroute.dataplane.own_requests import OwnRequests
from warmroute.dialects.cached_contents import Wanted
from warmroute.service.cached_contents import Bounds, CachedContents
from warmroute.service.content_promises import ContentPromises
from warmroute.service.keep_warm import KeepWarm
from warmroute.tasks import Tasks

TOKENS = 5_000


class Sender:
    """Notes what is sent, and in the registry, as a request would; replicas answer as told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._own = OwnRequests(world.wire.gateway)
        self.sent: list[ReplicaId | None] = []
        self.answer = Prefilled(200, prompt_tokens=TOKENS, cached_tokens=0)

    @property
    def fingerprints(self) -> object:
        return self._own.fingerprints

    def shape(self, body: bytes, sharing: str, api: Api = Api.CHAT) -> RequestShape:
        return self._own.shape(body, sharing, api)

    async def send(
        self, body: bytes, *, sharing: str, on: ReplicaId | None, path: bytes, api: Api
    ) -> Prefilled:
        self.sent.append(on)
        if self.answer.status == 200 and on is not None:
            self._world.touch(self._own.shape(body, sharing, api), self._world.wire.worker.fleet.replicas[on])
        return self.answer


class World:
    def __init__(self, replicas: int = 3, ratio: float = 0.2, uses_per_copy_per_s: float = 2.0) -> None:
        self.wire = Wire(replicas=replicas)
        self.now_s = time.time()
        self.store = MemoryContents()
        bounds = Bounds(1000, 1 << 30, 1 << 30, 0, 600.0, 600.0)
        self.caches = CachedContents(
            self.store, bounds, clock=lambda: self.now_s, entropy=lambda count: bytes(count)
        )
        self.sender = Sender(self)
        self.tasks = Tasks()
        gateway = self.wire.gateway
        self.keeper = KeepWarm(
            [ContentPromises(self.caches)],
            lead=lambda for_s: self.caches.store.lead("r", for_s),
            fleet=gateway.fleet,
            registry=gateway.registry,
            sender=self.sender,
            budget=PrefillBudget(ratio, ratio),
            tasks=self.tasks,
            interval_s=0.5,
            uses_per_copy_per_s=uses_per_copy_per_s,
            clock=lambda: self.now_s,
        )

    def touch(self, shape: RequestShape, replica: Replica) -> None:
        assert replica.incarnation is not None
        self.wire.gateway.registry.touch(shape.rungs, replica.incarnation, self.now_s)

    async def promise(self, lives_s: float = 600.0) -> CachedContent:
        """A content, as its maker has it computed on the first replica."""

        async def warm(body: bytes) -> Prefilled:
            self.touch(self.sender.shape(body, ""), self.wire.replicas[0])
            return Prefilled(200, prompt_tokens=TOKENS, cached_tokens=0)

        prefix = Prefix([{"role": "user", "content": "long " * 4_000}])
        return await self.caches.create("t.a", "", Wanted("m", prefix, "", self.now_s + lives_s), warm)

    async def round(self) -> list[ReplicaId | None]:
        """What one round sends."""
        self.sender.sent.clear()
        await self.keeper.round()
        while len(self.tasks):
            await asyncio.sleep(0)
        return list(self.sender.sent)

    @property
    def ids(self) -> list[ReplicaId]:
        return [replica.id for replica in self.wire.replicas]


def run(test: Callable[[World], Awaitable[None]], world: World | None = None) -> None:
    async def whole() -> None:
        started = world or World()
        await test(started)
        await started.tasks.stop()

    asyncio.run(whole())


def test_a_warm_promise_costs_nothing_until_its_copy_was_idle_for_long() -> None:
    async def test(world: World) -> None:
        await world.promise()
        assert await world.round() == []
        world.now_s += 59.0
        assert await world.round() == []
        world.now_s += 2.0
        world.sender.answer = Prefilled(200, prompt_tokens=TOKENS, cached_tokens=TOKENS - 8)
        assert await world.round() == [world.ids[0]]
        assert world.keeper.prefills == {"refresh": 1, "copy": 0}
        assert world.keeper.tokens == 8
        assert await world.round() == []

    run(test)


@pytest.mark.parametrize("how", ["removed", "draining", "restarted"])
def test_a_replica_that_is_leaving_or_has_lost_its_cache_is_made_good_on_another(how: str) -> None:
    async def test(world: World) -> None:
        await world.promise()
        assert await world.round() == []
        first = world.wire.replicas[0]
        fleet = world.wire.worker.fleet
        if how == "removed":
            fleet.apply(ReplicaRemoved(first.id))
        elif how == "draining":
            fleet.apply(DrainStarted(first.id))
        else:
            world.wire.restart(0)
        sent = await world.round()
        assert len(sent) == 1
        assert how == "restarted" or sent[0] in world.ids[1:]
        assert world.keeper.prefills == {"refresh": 0, "copy": 1}
        assert await world.round() == []

    run(test)


def test_use_decides_on_how_many_replicas_it_is_kept() -> None:
    async def test(world: World) -> None:
        content = await world.promise()
        await world.round()
        for _ in range(100_000):
            await world.store.find("t.a", content.id, world.now_s, use=True)
        assert len(await world.round()) == 1
        assert len(await world.round()) == 1
        assert await world.round() == [], "all three have it"
        assert world.keeper.prefills["copy"] == 2

    run(test, World(uses_per_copy_per_s=0.001))


def test_what_the_budget_does_not_have_is_given_up_and_told() -> None:
    async def test(world: World) -> None:
        content = await world.promise()
        world.wire.restart(0)
        assert await world.round() == []
        kept, _ = await world.caches.use("t.a", content.name)
        assert kept.lapsed
        assert world.keeper.given_up == {"budget": 1, "failed": 0}
        assert world.keeper.budget.spent_s == 0.0
        assert await world.round() == []
        assert world.keeper.given_up["budget"] == 1, "told once"
        # A client's own request has made it warm again.
        prefix = await world.caches.prefix(kept)
        from warmroute.dialects.cached_contents import warming_request

        world.touch(world.sender.shape(warming_request("m", prefix), ""), world.wire.replicas[1])
        await world.round()
        kept, _ = await world.caches.use("t.a", content.name)
        assert not kept.lapsed

    run(test, World(ratio=1e-9))


def test_many_promises_spend_no_more_than_the_budget() -> None:
    async def test(world: World) -> None:
        for number in range(40):
            world.caches._entropy = lambda count, number=number: bytes([number]) * count  # type: ignore[misc]
            await world.promise()
        for life in range(10):
            world.wire.restart(0)
            await world.round()
            assert life >= 0
        keeper = world.keeper
        assert keeper.budget.refused > 0
        assert keeper.budget.spent_s <= 0.002 * 3 * 61

    run(test, World(ratio=0.002))


def test_nothing_is_sent_once_it_has_expired_or_was_deleted() -> None:
    async def test(world: World) -> None:
        content = await world.promise(lives_s=10.0)
        await world.round()
        assert world.keeper.promises == 1
        world.now_s += 10.0
        world.wire.restart(0)
        assert await world.round() == []
        assert world.keeper.promises == 0
        again = await world.promise()
        assert again.id == content.id
        await world.caches.delete("t.a", again.name)
        world.wire.restart(0)
        assert await world.round() == []

    run(test)


def test_a_promise_that_no_replica_computes_is_given_up_and_tried_more_and_more_rarely() -> None:
    async def test(world: World) -> None:
        content = await world.promise()
        world.wire.restart(0)
        world.sender.answer = Prefilled(503, "busy", "no_replica")
        assert len(await world.round()) == 1
        assert await world.round() == [], "not at once again"
        world.keeper._watched[content.promise].next_s = 0.0
        assert len(await world.round()) == 1
        assert world.keeper.given_up == {"budget": 0, "failed": 1}
        assert world.keeper.budget.spent_s == 0.0

    run(test)


def test_a_promise_that_has_failed_for_days_is_still_tried_only_now_and_then() -> None:
    async def test(world: World) -> None:
        await world.promise()
        await world.round()
        world.wire.worker.fleet.apply(ReplicaRemoved(world.ids[0]))
        world.sender.answer = Prefilled(503, "busy", "no_replica")
        (watched,) = world.keeper._watched.values()
        watched.failures = 2000
        assert await world.round()
        assert not await world.round(), "half a minute later, and not at once"

    run(test)


def test_a_refresh_that_finds_nothing_there_makes_the_next_come_sooner() -> None:
    async def test(world: World) -> None:
        content = await world.promise()
        await world.round()
        world.now_s += 61.0
        assert len(await world.round()) == 1
        assert world.keeper.lost == 1
        assert world.keeper._watched[content.promise].pace.pause_s == 30.0

    run(test)


def test_only_the_router_that_leads_sends() -> None:
    async def test(world: World) -> None:
        class Followed(MemoryContents):
            async def lead(self, router: str, for_s: float) -> bool:
                return False

        await world.promise()
        await world.round()
        world.caches.store = Followed()
        world.wire.restart(0)
        assert await world.round() == []
        assert (world.keeper.leads, world.keeper.promises) == (False, 0)

    run(test)


def test_a_copy_that_is_pushed_out_by_others_is_refreshed_in_time() -> None:
    async def test(world: World) -> None:
        fleet = world.wire.worker.fleet
        first = world.wire.replicas[0]
        assert first.incarnation is not None
        fleet.apply(
            ProbeSucceeded(first.id, first.incarnation, {"m": {}}, 16, 50_000, world.now_s, life_told=True)
        )
        await world.promise()
        first.residency.touch(TOKENS, world.now_s)
        world.now_s += 1.0
        assert await world.round() == []
        first.residency.touch(19_000, world.now_s)
        assert await world.round() == []
        first.residency.touch(2_000, world.now_s)
        assert await world.round() == [first.id]
        assert world.keeper.prefills["refresh"] == 1

    run(test)


def test_a_content_that_is_lost_is_not_looked_for_and_logged_in_every_round(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(scope: str, content_id: str) -> bytes | None:
        return None

    async def test(world: World) -> None:
        await world.promise()
        with monkeypatch.context() as patched:
            patched.setattr(world.store, "prefix", lost)
            for _ in range(5):
                assert await world.round() == []
        assert [record.message for record in caplog.records] == ["cached_content_lost"]
        monkeypatch.setattr("warmroute.service.keep_warm.SHAPE_AGE_S", 0.0)
        world.now_s += 61.0
        assert await world.round() == [world.ids[0]], "it is back"

    run(test)
