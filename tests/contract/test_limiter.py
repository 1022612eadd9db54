"""One suite over every limiter, and what routers that share one promise together."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import uvloop

from tests.support.redis_server import RedisServer, free_port
from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.link import RedisLink
from warmroute.adapters.tenants.limits_memory import MemoryLimiter
from warmroute.adapters.tenants.limits_redis import RedisLimiter
from warmroute.ports import Limiter
from warmroute.tenants.limits import CONCURRENT, COST_DAY, COST_MONTH, NAMES, Grant, LocalLimits, Scope

_namespaces = count()
Open = Callable[[], Limiter]
PATIENT_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture(params=["memory", "redis", "redis away"])
def opener(request: pytest.FixtureRequest) -> Open:
    if request.param == "memory":
        return MemoryLimiter
    if request.param == "redis":
        return sharing(request.getfixturevalue("server"))
    url = f"redis://127.0.0.1:{free_port()}"
    return lambda: RedisLimiter(RedisLink(url), router="r", routers=lambda: 1)


def sharing(server: RedisServer, **settings: Any) -> Callable[[], RedisLimiter]:
    """Opens routers that share limits."""
    namespace, routers = f"l{next(_namespaces)}", count()
    settings = {"deadline_s": PATIENT_S, **settings}
    return lambda: RedisLimiter(
        RedisLink(server.url), router=f"r{next(routers)}", routers=lambda: 3, namespace=namespace, **settings
    )


def limits(**values: int) -> Any:
    return tuple(values.get(name, 0) for name in NAMES)


async def ask(limiter: Limiter, scopes: list[Scope], tokens: int = 0, cost_nano: int = 0) -> Grant:
    grant = Grant(scopes, tokens)
    grant.cost_nano = cost_nano
    decided = asyncio.Event()
    if not limiter.take(grant, decided.set):
        await decided.wait()
    return grant


@asynccontextmanager
async def started(*limiters: Limiter) -> AsyncIterator[None]:
    for limiter in limiters:
        await limiter.start()
    try:
        yield
    finally:
        for limiter in limiters:
            await limiter.stop()


def test_it_grants_and_refuses_as_the_rules_say(opener: Open) -> None:
    async def run() -> None:
        limiter = opener()
        model = Scope("a", "m", limits(requests_per_minute=5, tokens_per_minute=100))
        whole = Scope("a", "", limits(tokens_per_day=150, concurrent_requests=4))
        script = [
            ([model, whole], 40),
            ([model, whole], 70),
            ([whole], 100),
            ([model], 60),
            ([whole], 10),
            ([whole], 1),
        ]
        async with started(limiter):
            rules = LocalLimits()
            for scopes, tokens in script:
                expected = Grant(scopes, tokens)
                rules.take(expected, time.time())
                grant = await ask(limiter, scopes, tokens)
                assert (grant.granted, grant.which) == (expected.granted, expected.which)
                if grant.granted:
                    left = grant.left_requests, grant.left_tokens
                    assert left == (expected.left_requests, expected.left_tokens) or limiter.healthy is False
                else:
                    assert grant.whose is expected.whose
                    assert abs(grant.wait_s - expected.wait_s) < 2 or grant.which == CONCURRENT

    asyncio.run(run())


def test_an_amount_of_any_size_is_counted_and_stops_nothing_else(server: RedisServer) -> None:
    async def run() -> None:
        limiter = sharing(server)()
        scope = Scope("rich", "", limits(cost_per_day=10**15, requests_per_minute=100))
        async with started(limiter):
            first = await ask(limiter, [scope], cost_nano=1)
            limiter.settle(first, 0, 0, 10**19)
            limiter.charge([scope], 7 * 10**19, time.time())
            await asyncio.sleep(0.05)
            assert not (await ask(limiter, [scope], cost_nano=1)).granted
            limiter.charge([scope], -(10**25), time.time())
            await asyncio.sleep(0.05)
            for _ in range(3):
                await ask(limiter, [scope])
            assert limiter.errors == 0
            assert limiter.local_total == 0

    asyncio.run(run())


def test_what_was_counted_by_a_clock_that_was_set_back_leaves_the_window_all_the_same(
    server: RedisServer,
) -> None:
    async def run() -> None:
        limiter = sharing(server)()
        link = RedisLink(server.url)
        scope = Scope("back", "", limits(tokens_per_minute=100, concurrent_requests=3))
        key = limiter._key("back", "")
        async with started(limiter):
            await link.start()
            await ask(limiter, [scope], 60)
            ahead = int(time.time()) + 86_400
            await link.ask(key, pack("DEL", key))
            await link.ask(key, pack("HSET", key, "3t", 60, "3p", ahead, f"3:{ahead % 61}", 60))
            await link.ask(key, pack("HSET", key + b":c", "a router that has died", f"2 {ahead * 1000}"))
            assert not (await ask(limiter, [scope], 41)).granted
            fields = (await link.ask(key, pack("HMGET", key, "3t", "3p")))[0]
            assert int(fields[0]) == 60
            assert abs(int(fields[1]) - time.time()) < 60, "in a minute it is free again"
            grant = await ask(limiter, [scope], 40)
            assert (grant.granted, grant.left_tokens) == (True, 0)
            await link.stop()

    asyncio.run(run())


def test_what_was_not_used_is_free_again_and_what_was_used_besides_is_not(opener: Open) -> None:
    async def run() -> None:
        limiter = opener()
        scope = Scope("b", "", limits(tokens_per_minute=100))
        async with started(limiter):
            first = await ask(limiter, [scope], 90)
            assert not (await ask(limiter, [scope], 20)).granted
            limiter.settle(first, 0, -60)
            limiter.settle(first, 0, -60)  # once only
            await asyncio.sleep(0.05)
            second = await ask(limiter, [scope], 60)
            assert second.granted
            limiter.settle(second, 0, 10)
            await asyncio.sleep(0.05)
            assert not (await ask(limiter, [scope], 1)).granted

    asyncio.run(run())


def test_money_is_held_against_a_day_and_a_month_and_put_right_by_what_it_was(opener: Open) -> None:
    async def run() -> None:
        limiter = opener()
        cent = 10_000_000
        model = Scope("m", "dear", limits(cost_per_day=300 * cent))
        whole = Scope("m", "", limits(cost_per_month=10**6 * 10**9, tokens_per_day=1000))
        async with started(limiter):
            first = await ask(limiter, [model, whole], 100, 200 * cent)
            assert first.granted
            refused = await ask(limiter, [model, whole], 100, 101 * cent)
            assert (refused.granted, refused.which, refused.whose) == (False, COST_DAY, model)
            assert 1200 < refused.wait_s <= 86_400 + 1440
            assert (await ask(limiter, [model], 1, 0)).granted  # what costs nothing is not held against it
            limiter.settle(first, 0, 0, -150 * cent)  # most of it was cached
            await asyncio.sleep(0.05)
            second = await ask(limiter, [model, whole], 100, 250 * cent)
            assert second.granted
            limiter.settle(second, 0, 700, 200 * cent)  # and its answer was long
            await asyncio.sleep(0.05)
            assert (await ask(limiter, [model], 1, 1)).which == COST_DAY
            assert (await ask(limiter, [model], 1, 0)).granted
            vast = await ask(limiter, [whole], 1, 10**6 * 10**9 - 500 * cent)  # exact, however large
            assert vast.granted
            assert (await ask(limiter, [whole], 1, 1)).which == COST_MONTH
            limiter.settle(vast, -1, -1, -vast.cost_nano)
            await asyncio.sleep(0.05)
            assert (await ask(limiter, [whole], 1, 1)).granted

    asyncio.run(run())


def test_three_routers_together_spend_what_one_may(server: RedisServer) -> None:
    async def run() -> None:
        routers = [opened() for opened in [sharing(server)] * 3]
        scope = Scope("n", "", limits(cost_per_day=10**9))
        async with started(*routers):
            grants = await asyncio.gather(
                *[ask(router, [scope], 5, 7_000_000) for router in routers for _ in range(100)]
            )
            assert sum(grant.granted for grant in grants) == 10**9 // 7_000_000
            for router, grant in zip([r for r in routers for _ in range(100)], grants, strict=True):
                if grant.granted:
                    router.settle(grant, 0, 0, -6_000_000)
            await asyncio.sleep(0.1)
            granted = 0
            for _ in range(2):
                more = await asyncio.gather(
                    *[ask(r, [scope], 5, 7_000_000) for r in routers for _ in range(50)]
                )
                granted += sum(grant.granted for grant in more)
            assert granted == (10**9 - 142 * 1_000_000) // 7_000_000

    asyncio.run(run())


def test_requests_under_way_free_their_places(opener: Open) -> None:
    async def run() -> None:
        limiter = opener()
        scope = Scope("c", "", limits(concurrent_requests=3))
        async with started(limiter):
            grants = [await ask(limiter, [scope]) for _ in range(5)]
            assert [grant.granted for grant in grants] == [True] * 3 + [False] * 2
            for grant in grants[:2]:
                limiter.settle(grant, 0, 0)
            await asyncio.sleep(0.05)
            assert [(await ask(limiter, [scope])).granted for _ in range(3)] == [True, True, False]

    asyncio.run(run())


def test_one_tick_is_one_call_a_tenant_and_one_write(server: RedisServer) -> None:
    async def run() -> None:
        limiter = sharing(server)()
        scope, other = (
            Scope("d", "", limits(requests_per_minute=7)),
            Scope("e", "", limits(requests_per_minute=7)),
        )
        async with started(limiter):
            grants = await asyncio.gather(*[ask(limiter, [one]) for _ in range(10) for one in (scope, other)])
            assert sum(grant.granted for grant in grants) == 14
            assert (limiter.ticks_total, limiter.calls_total, limiter.local_total) == (1, 2, 0)

    asyncio.run(run())


def test_three_routers_together_let_through_what_one_would(server: RedisServer) -> None:
    async def run() -> None:
        routers = [sharing_router() for sharing_router in [sharing(server)] * 3]
        scope = Scope("f", "", limits(requests_per_minute=1000, concurrent_requests=5000))
        async with started(*routers):
            granted = 0
            for _ in range(50):
                rounds = await asyncio.gather(
                    *[ask(router, [scope], 5) for router in routers for _ in range(20)]
                )
                granted += sum(grant.granted for grant in rounds)
            assert granted == 1000

    asyncio.run(run())


def test_the_places_of_a_router_that_died_are_free_after_a_while(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        monkeypatch.setattr("warmroute.adapters.tenants.limits_redis.LEASE_S", 0.2)
        opened = sharing(server)
        dead, alive = opened(), opened()
        scope = Scope("g", "", limits(concurrent_requests=2))
        async with started(alive):
            await dead.start()
            assert (await ask(dead, [scope])).granted
            assert (await ask(dead, [scope])).granted
            assert not (await ask(alive, [scope])).granted
            async with asyncio.timeout(60):
                while not (await ask(alive, [scope])).granted:
                    await asyncio.sleep(0.05)
            await dead.stop()

    asyncio.run(run())


def test_without_redis_each_has_its_share_and_tells_when_it_is_back() -> None:
    async def run() -> None:
        with RedisServer() as own:
            opened = sharing(own)
            limiter, other = opened(), opened()
            scope = Scope("h", "", limits(requests_per_minute=30))
            async with started(limiter, other):
                assert (await ask(limiter, [scope])).granted  # three routers are known of
                own.stop()
                async with asyncio.timeout(60):
                    while limiter.healthy:
                        await asyncio.sleep(0.01)
                grants = [await ask(limiter, [scope]) for _ in range(30)]
                assert sum(grant.granted for grant in grants) == 9  # a third, and one was granted before
                own.start()
                async with asyncio.timeout(60):
                    while not (limiter.healthy and other.healthy):
                        await asyncio.sleep(0.01)
                async with asyncio.timeout(60):
                    while (await ask(other, [scope])).left_requests > 20:
                        await asyncio.sleep(0.05)

    asyncio.run(run())


def test_a_silent_redis_delays_nobody_for_longer_than_the_deadline() -> None:
    async def run() -> None:
        with RedisServer() as own:
            limiter = sharing(own, deadline_s=0.05)()
            scope = Scope("i", "", limits(requests_per_minute=30))
            async with started(limiter):
                own.pause()
                try:
                    async with asyncio.timeout(30):
                        assert (await ask(limiter, [scope])).local
                finally:
                    own.resume()

    asyncio.run(run())


@pytest.mark.parametrize(
    "which", ["requests_per_minute", "tokens_per_day", "cost_per_month", "concurrent_requests"]
)
def test_while_redis_is_silent_nobody_takes_more_than_a_share_of_what_was_left(which: str) -> None:
    async def run() -> None:
        with RedisServer() as own:
            opened = sharing(own, deadline_s=0.05)
            routers = [opened(), opened(), opened()]
            limit = 60
            scope = Scope("j", "", limits(**{which: limit}))
            async with started(*routers):
                granted = 0
                for router, count in ((routers[0], 48), (routers[1], 1), (routers[2], 1)):  # far from even
                    for _ in range(count):
                        granted += (await ask(router, [scope], 1, 1)).granted
                assert granted >= 50
                for router in routers:
                    await ask(router, [scope], 1, 1)  # all know what is left
                own.pause()
                try:
                    async with asyncio.timeout(30):
                        grants = await asyncio.gather(
                            *[ask(router, [scope], 1, 1) for router in routers for _ in range(30)]
                        )
                finally:
                    own.resume()
                assert all(grant.local for grant in grants)
                alone = sum(grant.granted for grant in grants)
                assert 0 < granted + alone + 3 <= limit
                refused = next(grant for grant in grants if not grant.granted)
                assert refused.whose is scope
                assert refused.wait_s > 0

    asyncio.run(run())


def test_what_may_have_been_given_back_already_is_not_given_back_again() -> None:
    async def run() -> None:
        with RedisServer() as own:
            limiter = sharing(own, deadline_s=0.05)()
            scope = Scope("k", "", limits(tokens_per_minute=1000))
            link = RedisLink(own.url)
            key = limiter._key("k", "")
            async with started(limiter):
                await link.start()
                grants = [await ask(limiter, [scope], 100) for _ in range(5)]
                assert all(grant.granted for grant in grants)
                own.pause()  # it will read what is sent now, when nobody waits for the answer any more
                try:
                    for grant in grants[:4]:
                        limiter.settle(grant, 0, -90)
                    limiter.settle(grants[4], 0, 7)
                    await asyncio.sleep(0.05)
                    async with asyncio.timeout(60):
                        while limiter.healthy:
                            await ask(limiter, [scope], 0)
                finally:
                    own.resume()
                async with asyncio.timeout(60):
                    while not limiter.healthy or limiter._charges or limiter._flying:
                        await asyncio.sleep(0.02)
                total = int((await link.ask(key, pack("HGET", key, "3t")))[0])
                assert total in (500 - 360 + 7, 500 - 360 + 2 * 7), "as it was, or more"
                await link.stop()

    asyncio.run(run())


def test_an_answer_that_came_in_time_counts_though_the_loop_was_late() -> None:
    async def run() -> None:
        with RedisServer() as own:
            limiter = sharing(own, deadline_s=0.05)()
            scope = Scope("k", "", limits(requests_per_minute=30))
            loop = asyncio.get_running_loop()
            ours, theirs = socket.socketpair()
            with ours, theirs:

                def read() -> None:
                    ours.recv(1)
                    time.sleep(0.1)  # timers are due behind it before anything else is read

                async with started(limiter):
                    await ask(limiter, [scope])
                    loop.add_reader(ours, read)
                    for _ in range(3):
                        asked = asyncio.ensure_future(ask(limiter, [scope]))
                        for _ in range(3):  # until it is sent
                            await asyncio.sleep(0)
                        theirs.send(b"x")
                        assert not (await asked).local
                    loop.remove_reader(ours)

    uvloop.run(run())


def test_money_that_no_request_spent_counts_and_comes_back_where_it_was_counted(opener: Open) -> None:
    async def run() -> None:
        limiter = opener()
        scope = Scope("spender", "", limits(cost_per_day=100, requests_per_day=100))
        async with started(limiter):
            now_s = time.time()
            limiter.charge([scope], 90, now_s)
            await asyncio.sleep(0.05)
            assert not (await ask(limiter, [scope], 1, 20)).granted
            limiter.charge([scope], -50, now_s)
            limiter.charge(
                [scope], -1_000_000, now_s - 3 * 86_400.0
            )  # that has left the window, and its cost too
            await asyncio.sleep(0.05)
            assert (await ask(limiter, [scope], 1, 60)).granted
            assert not (await ask(limiter, [scope], 1, 1)).granted

    asyncio.run(run())
