"""A registry whose Redis dies, hangs, loses its data or refuses: nobody waits past the deadline, nobody fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from tests.support.redis_server import RedisServer, free_port
from tests.support.registry_calls import (
    PATIENT_S,
    find,
    holders,
    is_down,
    is_up,
    life,
    look,
    rungs_of,
    settled,
    shows,
    wait_until,
)
from tests.support.tcp_proxy import TcpProxy
from warmroute.adapters.registry.redis.registry import RedisRegistry
from warmroute.core.types import ReplicaId


@asynccontextmanager
async def router_on(
    url: str, secrets: list[bytes] | None = None, *, lookup_deadline_s: float = PATIENT_S, away: bool = False
) -> AsyncIterator[RedisRegistry]:
    registry = RedisRegistry(url, lookup_deadline_s=lookup_deadline_s)
    await registry.start((secrets if secrets is not None else []).append)
    try:
        if not away:
            await is_up(registry)
        yield registry
    finally:
        await registry.stop()


def test_a_killed_redis_costs_nothing_and_comes_back_by_itself_with_what_was_placed_meanwhile() -> None:
    async def main(server: RedisServer) -> None:
        secrets: list[bytes] = []
        async with router_on(server.url, secrets) as one, router_on(server.url) as other:
            one.touch(rungs_of(1, 2), life(7), time.time())
            await settled(one)
            assert not one.apart
            server.kill()
            await is_down(one)
            assert one.apart, "nobody hears of what it places now"
            assert one.lookup(rungs_of(1), print) is not None, "answers at once while down"
            assert await holders(one, rungs_of(1, 2, 3)) == [[7], [7], None]
            one.touch(rungs_of(3), life(8), time.time())
            one.forget(rungs_of(2), life(7))
            assert await holders(one, rungs_of(1, 2, 3)) == [[7], None, [8]]
            server.start()
            await is_up(one)
            await is_up(other)
            assert not one.apart
            assert await holders(one, rungs_of(1, 2, 3)) == [[7], None, [8]], (
                "its own, though Redis lost them"
            )
            await shows(other, rungs_of(3), [[8]])  # placed during the outage, written after it
            one.touch(rungs_of(1), life(7), time.time())
            await settled(one)
            assert await holders(other, rungs_of(1)) == [[7]], "what Redis lost is written again when used"
            assert len(set(secrets)) == 1, "the secret outlives the outage"
            figures = one.statistics()
            assert figures["reconnects_total"] == 1
            assert figures["lookup_timeouts_total"] == 0

    with RedisServer() as server:
        uvloop.run(main(server))


def test_lookups_in_flight_when_redis_dies_are_answered_locally() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url) as registry:
            registry.touch(rungs_of(1), life(7), time.time())
            await settled(registry)
            server.pause()
            answers = [asyncio.ensure_future(holders(registry, rungs_of(1))) for _ in range(10)]
            await asyncio.sleep(0.001)
            server.kill()
            assert await asyncio.gather(*answers) == [[[7]]] * 10

    with RedisServer() as server:
        uvloop.run(main(server))


def test_a_hanging_redis_delays_a_lookup_by_the_deadline_and_is_given_up_after_a_few() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url, lookup_deadline_s=0.005) as registry:
            registry.touch(rungs_of(1), life(7), time.time())
            await settled(registry)
            server.pause()
            lookups = 0
            while registry.healthy:
                assert await holders(registry, rungs_of(1)) == [[7]]
                lookups += 1
                assert lookups < 50
            assert registry.lookup(rungs_of(1), print) is not None
            server.resume()
            await is_up(registry)
            assert await holders(registry, rungs_of(1)) == [[7]]

    with RedisServer() as server:
        uvloop.run(main(server))


def test_a_short_hang_costs_timeouts_but_not_the_connection_and_late_replies_reach_nobody() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url, lookup_deadline_s=0.2) as registry, router_on(server.url) as other:
            for number in range(10):
                other.touch(rungs_of(number), life(number), time.time())
            await settled(other)
            server.pause()
            assert (
                await asyncio.gather(*[holders(registry, rungs_of(number)) for number in range(10)])
                == [[None]] * 10
            )
            assert registry.statistics()["lookup_timeouts_total"] == 10
            server.resume()
            for number in range(10):
                await shows(registry, rungs_of(number), [[number]])
            assert registry.statistics()["reconnects_total"] == 0

    with RedisServer() as server:
        uvloop.run(main(server))


def test_an_idle_router_notices_a_hanging_redis_too() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url) as registry:
            server.pause()
            await is_down(registry)

    with RedisServer() as server:
        uvloop.run(main(server))


def test_responses_are_found_when_redis_hangs() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url, lookup_deadline_s=0.005) as registry:
            registry.remember_response("mine", ReplicaId("a"))
            server.pause()
            assert await find(registry, "mine") == "a"
            assert await find(registry, "unknown") is None

    with RedisServer() as server:
        uvloop.run(main(server))


def test_starting_does_not_wait_for_redis_and_connects_when_it_appears() -> None:
    async def main(server: RedisServer) -> None:
        secrets: list[bytes] = []
        async with router_on(server.url, secrets, away=True) as registry:
            assert not registry.healthy
            assert secrets == []
            registry.touch(rungs_of(1), life(7), time.time())
            server.start()
            await is_up(registry)
            assert len(secrets) == 1
            async with router_on(server.url) as other:
                await shows(other, rungs_of(1), [[7]])

    server = RedisServer(port=free_port())
    try:
        uvloop.run(main(server))
    finally:
        server.__exit__(None, None, None)


def test_a_slow_redis_is_not_waited_for_and_is_used_again_when_it_is_fast(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(server: RedisServer) -> None:
        caplog.set_level("INFO", "warmroute.registry")
        async with (
            TcpProxy(server.port) as proxy,
            router_on(server.url) as other,
            router_on(f"redis://127.0.0.1:{proxy.port}", lookup_deadline_s=0.05) as registry,
        ):
            other.touch(rungs_of(1), life(7), time.time())
            registry.touch(rungs_of(2), life(8), time.time())
            await asyncio.gather(settled(other), settled(registry))
            await shows(registry, rungs_of(1, 2), [[7], [8]])
            proxy.delay_s = 0.2
            while registry.healthy:
                await look(registry, rungs_of(1, 2))
            for _ in range(100):
                at_once = registry.lookup(rungs_of(1, 2), print)
                assert at_once is not None
                assert [record and record[0][0] for record in at_once] == [None, 8], "its own placements"
            figures = registry.statistics()
            assert (figures["breaker_open"], figures["lookups_skipped_total"]) == (1, 100)
            registry.touch(rungs_of(3), life(9), time.time())
            await shows(other, rungs_of(3), [[9]])  # what is slow is still told
            proxy.delay_s = 0.0
            await is_up(registry)
            await shows(registry, rungs_of(1, 2), [[7], [8]])
            figures = registry.statistics()
            assert (figures["breaker_open"], figures["reconnects_total"]) == (0, 0)

    with RedisServer() as server:
        uvloop.run(main(server))
    said = [line.getMessage().split(" ")[0] for line in caplog.records]
    assert [event for event in said if event in ("registry_slow", "registry_in_time")] == [
        "registry_slow",
        "registry_in_time",
    ]


def test_a_connection_cut_in_the_middle_of_replies_answers_every_lookup_once() -> None:
    async def main(server: RedisServer) -> None:
        async with (
            TcpProxy(server.port) as proxy,
            router_on(f"redis://127.0.0.1:{proxy.port}") as registry,
        ):
            registry.touch(rungs_of(1, 2, 3), life(7), time.time())
            await settled(registry)
            for cut in (1, 9, 25):
                await is_up(registry)
                connections = proxy.accepted
                proxy.cut_after_bytes = cut
                answers = await asyncio.gather(*[holders(registry, rungs_of(1, 2, 3)) for _ in range(5)])
                assert answers == [[[7], [7], [7]]] * 5
                while proxy.cut_after_bytes is not None:
                    await look(registry, rungs_of(1))
                async with asyncio.timeout(60):
                    while proxy.accepted == connections:
                        await asyncio.sleep(0.01)

    with RedisServer() as server:
        uvloop.run(main(server))


def test_a_redis_that_pauses_its_clients_is_not_waited_for() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url, lookup_deadline_s=0.005) as registry:
            registry.touch(rungs_of(1), life(7), time.time())
            await settled(registry)
            server.command("CLIENT", "PAUSE", 1500, "ALL")
            while registry.healthy:
                assert await holders(registry, rungs_of(1)) == [[7]]
            at_once = registry.lookup(rungs_of(1), print)
            assert at_once is not None
            assert at_once[0] is not None
            await is_up(registry)
            assert await holders(registry, rungs_of(1)) == [[7]]

    with RedisServer() as server:
        uvloop.run(main(server))


def test_a_wrong_password_is_said_and_the_right_one_is_taken_by_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(server: RedisServer) -> None:
        url = f"redis://:two-of-them@127.0.0.1:{server.port}"
        async with router_on(url, away=True) as registry:
            assert not registry.healthy
            registry.touch(rungs_of(1), life(7), time.time())
            assert await holders(registry, rungs_of(1)) == [[7]]
            server.command("CONFIG", "SET", "requirepass", "two-of-them")
            await is_up(registry)

    with RedisServer("--requirepass", "one-of-them", client={"password": "one-of-them"}) as server:
        uvloop.run(main(server))
    (said,) = [line for line in caplog.records if line.getMessage() == "registry_down"]
    assert "WRONGPASS" in str(vars(said))
    assert "two-of-them" not in str(vars(said))


def test_a_redis_that_is_full_from_the_start_is_read_once_it_holds_the_secret() -> None:
    async def main(server: RedisServer) -> None:
        secrets: list[bytes] = []
        async with router_on(server.url, secrets) as one:
            one.touch(rungs_of(1), life(7), time.time())
            await settled(one)
            server.command("CONFIG", "SET", "maxmemory", "1")
            async with router_on(server.url, secrets) as late:
                assert await holders(late, rungs_of(1)) == [[7]]
                assert len(set(secrets)) == 1

    with RedisServer() as server:
        uvloop.run(main(server))


def test_a_flush_is_noticed_what_is_our_own_counts_on_and_the_secret_stays_the_same() -> None:
    async def main(server: RedisServer) -> None:
        secrets: list[bytes] = []
        async with router_on(server.url, secrets) as registry:
            registry.touch(rungs_of(1), life(7), time.time())
            await settled(registry)
            server.command("FLUSHALL")
            async with asyncio.timeout(60):
                while not server.command("EXISTS", "w:secret"):
                    await asyncio.sleep(0.01)
            await shows(registry, rungs_of(1), [[7]])
            registry.touch(rungs_of(1), life(7), time.time())
            await settled(registry)
            async with router_on(server.url, secrets) as other:
                await shows(other, rungs_of(1), [[7]])
            assert len(set(secrets)) == 1
            assert registry.healthy

    with RedisServer() as server:
        uvloop.run(main(server))


def test_values_of_other_types_under_our_keys_are_nobody_and_are_replaced() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url) as registry:
            for number in range(3):
                server.command("LPUSH", b"w:" + number.to_bytes(8, "big"), "what is this")
            assert await look(registry, rungs_of(0, 1, 2)) == [None] * 3
            registry.touch(rungs_of(1), life(7), time.time())
            registry.forget(rungs_of(2), life(7))
            await settled(registry)
            assert await holders(registry, rungs_of(0, 1, 2)) == [None, [7], None]
            assert registry.healthy

    with RedisServer() as server:
        uvloop.run(main(server))


def test_a_full_redis_refuses_writes_and_lookups_go_on_with_what_is_known_here() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url) as registry:
            registry.touch(rungs_of(1), life(7), time.time())
            await settled(registry)
            server.command("CONFIG", "SET", "maxmemory", "1")
            registry.touch(rungs_of(2), life(8), time.time())
            await settled(registry)
            assert await holders(registry, rungs_of(1, 2)) == [[7], [8]]
            assert registry.statistics()["errors_total"] >= 1
            assert registry.healthy
            assert registry.apart, "it can read, and nobody reads what it places"
            registry._clock = lambda: time.time() - 3600.0
            assert not registry.apart, "a clock set back must not make that last an hour"

    with RedisServer() as server:
        uvloop.run(main(server))


def test_a_redis_of_any_size_is_written_to_for_the_whole_idle_time() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url) as registry:

            async def has_seen_the_size() -> bool:
                return registry.statistics()["bytes"] > 0

            await wait_until(has_seen_the_size)
            registry._note_size(20_000_000, 3 << 30)
            registry.touch(rungs_of(1), life(7), time.time())
            await settled(registry)
            assert registry.statistics()["evictions_total"] == 0
            assert server.command("PTTL", b"w:" + (1).to_bytes(8, "big")) > 1_800_000 - 60_000

    with RedisServer() as server:
        uvloop.run(main(server))


def test_a_redis_that_is_full_forgets_the_longest_unused_under_its_own_policy() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url) as registry:
            for number in range(200):
                first = number * 100
                registry.touch(rungs_of(*range(first, first + 100)), life(7), time.time())
                await settled(registry)
            assert registry.statistics()["evictions_total"] == 0
            assert registry.statistics()["errors_total"] == 0
            assert 0 < server.command("DBSIZE") < 20_000
            assert server.command("EXISTS", "w:secret") == 1

    with RedisServer() as server:
        used = int(server.command("INFO", "memory")["used_memory"])
        server.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        server.command("CONFIG", "SET", "maxmemory", used + 1_500_000)
        uvloop.run(main(server))


def test_a_foreign_value_under_our_key_is_nobody_known_and_is_replaced() -> None:
    async def main(server: RedisServer) -> None:
        async with router_on(server.url) as registry:
            server.command("SET", b"w:" + (5).to_bytes(8, "big"), "what is this")
            assert await look(registry, rungs_of(5)) == [None]
            registry.touch(rungs_of(5), life(7), time.time())
            await settled(registry)
            assert await holders(registry, rungs_of(5)) == [[7]]

    with RedisServer() as server:
        uvloop.run(main(server))


def test_the_loss_and_the_return_of_redis_are_one_log_line_each(caplog: pytest.LogCaptureFixture) -> None:
    async def main(server: RedisServer) -> None:
        caplog.set_level("INFO", "warmroute.registry")
        async with router_on(server.url) as registry:
            server.kill()
            async with asyncio.timeout(60):
                while "registry_down" not in caplog.text:  # said when it could not be reached again
                    await asyncio.sleep(0.01)
            for _ in range(100):
                await look(registry, rungs_of(1))
            server.start()
            await is_up(registry)

    with RedisServer() as server:
        uvloop.run(main(server))
    lines = [record.getMessage().split(" ")[0] for record in caplog.records]
    if (
        lines[0] == "registry_down"
    ):  # a machine so busy that the first connection took longer than the start waits
        del lines[0]
    assert lines == ["registry_up", "registry_down", "registry_up"]
