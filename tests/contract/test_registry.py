"""One suite over every backend of the port `Registry`; then what only a shared backend promises."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import uvloop

from tests.support.redis_server import RedisServer, free_port
from tests.support.registry_calls import (
    PATIENT_S,
    find,
    holders,
    is_up,
    life,
    look,
    rungs_of,
    settled,
    shows,
    wait_until,
)
from warmroute.adapters.registry.memory import MemoryRegistry
from warmroute.adapters.registry.redis.registry import RedisRegistry
from warmroute.core.types import FingerprintHash, ReplicaId
from warmroute.ports import Registry

Opener = Callable[..., Any]
_namespaces = count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@asynccontextmanager
async def started(registry: Registry, *, away: bool = False) -> AsyncIterator[Any]:
    secrets: list[bytes] = []
    await registry.start(secrets.append)
    try:
        if not away:
            await is_up(registry)
        yield registry
    finally:
        await registry.stop()


@pytest.fixture(params=["memory", "redis", "redis away"])
def opened(request: pytest.FixtureRequest) -> Opener:
    """Opens a fresh registry of each backend; the third one's server does not exist."""
    if request.param == "memory":
        return lambda **settings: started(MemoryRegistry(**_alone(settings)))
    if request.param == "redis":
        running: RedisServer = request.getfixturevalue("server")
        return lambda **settings: started(
            RedisRegistry(
                running.url,
                namespace=f"n{next(_namespaces)}",
                lookup_deadline_s=PATIENT_S,
                **_local(settings),
            )
        )
    url = f"redis://127.0.0.1:{free_port()}"

    return lambda **settings: started(RedisRegistry(url, **_local(settings)), away=True)


def _local(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the bound under the name that it has beside a Redis, which has its own."""
    return {"local_entries" if name == "max_entries" else name: value for name, value in settings.items()}


def _alone(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without what only a shared backend has to be told."""
    return {name: value for name, value in settings.items() if name != "keeps_s"}


def run(main: Coroutine[Any, Any, None]) -> None:
    uvloop.run(main)


def test_an_unknown_rung_has_no_record(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            assert await look(registry, rungs_of(1, 2)) == [None, None]
            assert await look(registry, []) == []

    run(main())


def test_a_placement_is_visible_to_its_own_process_at_once(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            now_s = time.time()
            registry.touch(rungs_of(1, 2, 3), life(7), now_s)
            records = await look(registry, rungs_of(1, 2, 3, 4))
            assert [record and record[-1][0] for record in records] == [7, 7, 7, None]
            assert records[0][-1][1] == pytest.approx(now_s, abs=0.11)

    run(main())


def test_a_placement_stays_visible_once_it_is_written(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            registry.touch(rungs_of(1, 2), life(7), time.time())
            await settled(registry)
            assert await holders(registry, rungs_of(1, 2)) == [[7], [7]]

    run(main())


def test_holders_stand_in_order_of_use_most_recent_last(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            now_s = time.time()
            for number, ago_s in ((1, 100.0), (2, 90.0), (3, 80.0), (1, 0.0)):
                registry.touch(rungs_of(5), life(number), now_s - ago_s)
            assert await holders(registry, rungs_of(5)) == [[2, 3, 1]]
            await settled(registry)
            assert await holders(registry, rungs_of(5)) == [[2, 3, 1]]

    run(main())


def test_at_most_sixteen_holders_are_kept_the_most_recent_ones(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            now_s = time.time()
            for number in range(1, 21):
                registry.touch(rungs_of(5), life(number), now_s - 100 + number)
            await settled(registry)
            assert await holders(registry, rungs_of(5)) == [list(range(5, 21))]

    run(main())


def test_forgetting_removes_only_that_incarnation_and_at_once(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            registry.touch(rungs_of(1, 2, 3), life(7), time.time() - 1)
            registry.touch(rungs_of(1, 2), life(8), time.time())
            await settled(registry)
            registry.forget(rungs_of(2, 3), life(7))
            assert await holders(registry, rungs_of(1, 2, 3)) == [[7, 8], [8], None]
            await settled(registry)
            assert await holders(registry, rungs_of(1, 2, 3)) == [[7, 8], [8], None]

    run(main())


def test_forgetting_what_was_noted_until_then_leaves_what_was_noted_since(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:

            async def who() -> list[list[int]]:
                return [sorted(found or ()) for found in await holders(registry, rungs_of(1, 2, 3))]

            now_s = time.time()
            registry.touch(rungs_of(1, 2, 3), life(7), now_s - 20)
            registry.touch(rungs_of(1, 2, 3), life(8), now_s - 20)
            registry.touch(rungs_of(1), life(7), now_s)
            for _ in range(2):
                registry.forget(rungs_of(1, 2), life(7), now_s - 10)
                assert await who() == [[7, 8], [8], [7, 8]]
                await asyncio.sleep(0.05)
                assert await who() == [[7, 8], [8], [7, 8]]
            registry.forget(rungs_of(1, 2, 3), life(7), now_s)
            assert await who() == [[8], [8], [8]]
            await asyncio.sleep(0.05)
            assert await who() == [[8], [8], [8]]

    run(main())


def test_a_forgotten_holder_can_come_back_at_once(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            registry.touch(rungs_of(1), life(7), time.time())
            registry.forget(rungs_of(1), life(7))
            registry.touch(rungs_of(1), life(7), time.time())
            assert await holders(registry, rungs_of(1)) == [[7]]
            await settled(registry)
            assert await holders(registry, rungs_of(1)) == [[7]]

    run(main())


def test_a_record_nobody_touches_expires(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=1.0) as registry:
            noted_s = time.monotonic()
            registry.touch(rungs_of(1), life(7), time.time())
            while await holders(registry, rungs_of(1)) == [[7]]:
                assert time.monotonic() - noted_s < 30
                await asyncio.sleep(0.02)
            assert await holders(registry, rungs_of(1)) == [None]
            assert time.monotonic() - noted_s > 0.8

    run(main())


def test_a_shorter_idle_time_applies_to_what_is_noted_already(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=600.0) as registry:
            registry.touch(rungs_of(1), life(7), time.time() - 60.0)
            registry.touch(rungs_of(2), life(7), time.time())
            await settled(registry)
            assert await holders(registry, rungs_of(1, 2)) == [[7], [7]]
            registry.expire_after(50.0)
            assert registry.statistics()["idle_s"] == 50.0
            assert await holders(registry, rungs_of(1, 2)) == [None, [7]]

    run(main())


def test_a_longer_idle_time_applies_to_what_is_noted_from_then_on(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=0.3) as registry:
            registry.expire_after(60.0)
            noted_s = time.monotonic()
            registry.touch(rungs_of(1), life(7), time.time())
            await settled(registry)
            while time.monotonic() - noted_s < 0.5:
                assert await holders(registry, rungs_of(1)) == [[7]]
                await asyncio.sleep(0.05)
            assert await holders(registry, rungs_of(1)) == [[7]]

    run(main())


def test_a_shorter_idle_time_lets_records_expire_by_themselves(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=600.0) as registry:
            registry.expire_after(0.5)
            registry.touch(rungs_of(1), life(7), time.time())
            await settled(registry)
            await shows(registry, rungs_of(1), [None])

    run(main())


def test_responses_are_kept_whatever_becomes_of_records(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=600.0) as registry:
            registry.expire_after(0.001)
            registry.remember_response("resp_1", ReplicaId("a"))
            registry.touch(rungs_of(1), life(7), time.time())
            await shows(registry, rungs_of(1), [None])
            assert await find(registry, "resp_1") == "a"

    run(main())


def test_what_is_kept_outlives_the_idle_time_whoever_touches_it(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=0.5, keeps_s=3600.0) as registry:
            now_s = time.time()
            registry.touch(rungs_of(4), life(7), now_s)
            registry.keep(rungs_of(1, 2), life(7), now_s - 60.0, now_s + 3000.0)
            await settled(registry)
            registry.touch(rungs_of(1), life(8), now_s - 50.0)
            await settled(registry)
            await shows(registry, rungs_of(4), [None])
            assert await holders(registry, rungs_of(2)) == [[7]]
            (both,) = await holders(registry, rungs_of(1))
            assert both is not None
            assert both[-1] == 8

    run(main())


def test_what_is_kept_is_forgotten_when_its_time_has_come(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=0.1, keeps_s=3600.0) as registry:
            now_s = time.time()
            registry.keep(rungs_of(1), life(7), now_s, now_s + 1.0)
            while time.time() < now_s + 0.7:
                assert await holders(registry, rungs_of(1)) == [[7]]
                await asyncio.sleep(0.05)
            await shows(registry, rungs_of(1), [None])

    run(main())


def test_what_is_kept_can_be_withdrawn(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=600.0, keeps_s=3600.0) as registry:
            now_s = time.time()
            registry.keep(rungs_of(1, 2), life(7), now_s, now_s + 3000.0)
            await settled(registry)
            registry.forget(rungs_of(1), life(7))
            assert await holders(registry, rungs_of(1, 2)) == [None, [7]]
            await settled(registry)
            assert await holders(registry, rungs_of(1, 2)) == [None, [7]]

    run(main())


def test_what_one_owner_notes_pushes_out_nothing_of_anothers(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=600.0, max_entries=1000, most_owned=200) as registry:
            now_s = time.time()
            quiet = [rungs_of(*range(number, number + 10)) for number in range(10_000, 10_100, 10)]
            for rungs in quiet:
                registry.touch(rungs, life(7), now_s, "quiet")
            flood = [rungs_of(*range(number, number + 10)) for number in range(20_000, 30_000, 10)]
            for rungs in flood:
                registry.touch(rungs, life(8), now_s, "noisy")
                registry.touch(quiet[0], life(7), now_s, "quiet")
            await settled(registry)
            for rungs in quiet:
                assert await holders(registry, rungs) == [[7]] * 10
            assert await holders(registry, flood[-1]) == [[8]] * 10
            found = [await holders(registry, rungs) for rungs in flood]
            assert 100 <= sum(one is not None for each in found for one in each) <= 210

    run(main())


def test_who_is_alone_has_all(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=600.0, max_entries=4000, most_owned=100) as registry:
            now_s = time.time()
            for number in range(0, 1500, 10):
                registry.touch(rungs_of(*range(number, number + 10)), life(8), now_s, "only")
            await settled(registry)
            assert await holders(registry, rungs_of(*range(1500))) == [[8]] * 1500

    run(main())


def test_an_idle_time_that_is_none_is_refused(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=60.0) as registry:
            for idle_s in (0.0, -1.0):
                with pytest.raises(ValueError, match="positive"):
                    registry.expire_after(idle_s)
            assert registry.statistics()["idle_s"] == 60.0

    run(main())


def test_a_holder_expires_by_itself_while_others_keep_the_record(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=1.0) as registry:
            first_s = time.monotonic()
            registry.touch(rungs_of(1), life(7), time.time())
            found: list[int] | None = [7]
            while found != [8]:
                used_s = time.monotonic()
                assert used_s - first_s < 30, found
                registry.touch(rungs_of(1), life(8), time.time())
                (found,) = await holders(registry, rungs_of(1))
                now_s = time.monotonic()
                if now_s - first_s < 0.8:
                    assert found == [7, 8]
                elif now_s - used_s < 0.5:  # else the machine stood still
                    assert found in ([7, 8], [8])
                await settled(registry)

    run(main())


def test_records_read_twice_in_one_answer_are_one_object(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            registry.touch(rungs_of(*range(40)), life(7), time.time())
            registry.touch(rungs_of(*range(20)), life(8), time.time() + 1)
            for _ in range(2):
                records = await look(registry, rungs_of(*range(40)))
                assert len({id(record) for record in records}) == 2
                await settled(registry)

    run(main())


def test_answers_are_not_mixed_up_between_lookups_of_one_tick(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            for number in range(50):
                registry.touch(rungs_of(number), life(number + 100), time.time())
            await settled(registry)
            asked = [rungs_of(*range(start, start + 1 + start % 4)) for start in range(40)]
            answers = await asyncio.gather(*[holders(registry, rungs) for rungs in asked])
            assert answers == [[[rung + 100] for rung in rungs] for rungs in asked]

    run(main())


def test_a_failing_callback_costs_nobody_else_their_answer(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            reported: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

            def broken(_: object) -> None:
                raise ValueError("mine")

            answered_at_once = registry.lookup(rungs_of(1), broken) is not None
            assert await look(registry, rungs_of(2)) == [None]
            assert [str(context["exception"]) for context in reported] == (
                [] if answered_at_once else ["mine"]
            )

    run(main())


def test_two_hundred_thousand_random_rungs_stay_within_the_bound(opened: Opener) -> None:
    async def main() -> None:
        rng = random.Random(3)
        async with opened(max_entries=20_000) as registry:
            for number in range(4_000):
                registry.touch(
                    [FingerprintHash(rng.getrandbits(64)) for _ in range(50)], life(1), time.time()
                )
                if not number % 100:
                    await asyncio.sleep(0.005)

            def entries() -> float:
                figures = registry.statistics()
                return figures.get("local_entries", figures["entries"])

            async def given_up() -> bool:
                figures = registry.statistics()
                gone = figures["evictions_total"] + figures.get("local_evictions_total", 0.0)
                return gone >= 150_000 and entries() >= 5_000

            await wait_until(given_up)
            assert entries() <= 20_000

    run(main())


def test_a_response_is_found_again_and_an_unknown_one_is_not(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            registry.remember_response("resp_1", ReplicaId("10.0.0.1:8000"))
            assert await find(registry, "resp_1") == "10.0.0.1:8000"
            assert await find(registry, "resp_2") is None
            assert await find(registry, "\ud800" * 100_000) is None

    run(main())


def test_a_response_expires(opened: Opener) -> None:
    async def main() -> None:
        async with opened(idle_s=0.2) as registry:
            registry.remember_response("resp_1", ReplicaId("a"))

            async def forgotten() -> bool:
                return await find(registry, "resp_1") is None

            await wait_until(forgotten)

    run(main())


def test_statistics_count_what_happens(opened: Opener) -> None:
    async def main() -> None:
        async with opened() as registry:
            registry.touch(rungs_of(1), life(7), time.time())
            await look(registry, rungs_of(1))
            await settled(registry)
            figures = registry.statistics()
            for name in ("entries", "bytes", "lookup_timeouts_total", "lookup_seconds_total", "errors_total"):
                assert figures[name] >= 0
            assert figures["lookups_total"] == 1
            assert figures["writes_total"] == 1 - figures.get("down", 0)

    run(main())


def test_the_secret_has_sixteen_bytes_and_memory_and_redis_know_it_at_start(server: RedisServer) -> None:
    async def main() -> None:
        registries: list[Registry] = [MemoryRegistry(), RedisRegistry(server.url, namespace="secret-1")]
        for registry in registries:
            secrets: list[bytes] = []
            await registry.start(secrets.append)
            await is_up(registry)
            await registry.stop()
            assert [len(secret) for secret in secrets] == [16]

    run(main())


def patient(server: RedisServer, namespace: str) -> RedisRegistry:
    return RedisRegistry(server.url, namespace=namespace, lookup_deadline_s=PATIENT_S)


@asynccontextmanager
async def two_routers(server: RedisServer) -> AsyncIterator[tuple[RedisRegistry, RedisRegistry]]:
    namespace = f"n{next(_namespaces)}"
    async with started(patient(server, namespace)) as one, started(patient(server, namespace)) as other:
        yield one, other


def test_two_routers_agree_on_the_secret(server: RedisServer) -> None:
    async def main() -> None:
        secrets: list[bytes] = []
        registries = [RedisRegistry(server.url, namespace="secret-2") for _ in range(2)]
        await asyncio.gather(*[registry.start(secrets.append) for registry in registries])
        await asyncio.gather(*[is_up(registry) for registry in registries])
        await asyncio.gather(*[registry.stop() for registry in registries])
        assert len(secrets) == 2
        assert len(set(secrets)) == 1

    run(main())


def test_a_second_router_sees_a_record(server: RedisServer) -> None:
    async def main() -> None:
        async with two_routers(server) as (one, other):
            for number in range(10):
                one.touch(rungs_of(number), life(7), time.time())
                await shows(other, rungs_of(number), [[7]])

    run(main())


def test_a_record_survives_the_router_that_wrote_it(server: RedisServer) -> None:
    async def main() -> None:
        async with started(patient(server, "survivor")) as one:
            one.touch(rungs_of(1, 2), life(7), time.time())
            one.remember_response("resp_1", ReplicaId("a"))
        async with started(patient(server, "survivor")) as other:
            assert await holders(other, rungs_of(1, 2)) == [[7], [7]]
            assert await find(other, "resp_1") == "a"

    run(main())


def test_two_routers_that_note_one_rung_keep_both_holders(server: RedisServer) -> None:
    async def main() -> None:
        async with two_routers(server) as (one, other):
            rungs = rungs_of(*range(100))
            one.touch(rungs, life(7), time.time())
            other.touch(rungs, life(8), time.time())
            await asyncio.gather(settled(one), settled(other))
            for router in (one, other):
                assert all(sorted(found or []) == [7, 8] for found in await holders(router, rungs))

    run(main())


def test_a_holder_forgotten_by_one_router_is_forgotten_by_the_other_and_can_return(
    server: RedisServer,
) -> None:
    async def main() -> None:
        async with two_routers(server) as (one, other):
            one.touch(rungs_of(1), life(7), time.time())
            await settled(one)
            other.forget(rungs_of(1), life(7))
            await settled(other)
            assert await holders(one, rungs_of(1)) == [None]
            one.touch(rungs_of(1), life(7), time.time())
            await settled(one)
            assert await holders(other, rungs_of(1)) == [[7]]

    run(main())


def test_one_router_cannot_withdraw_what_another_has_noted_since(server: RedisServer) -> None:
    async def main() -> None:
        async with two_routers(server) as (one, other):
            now_s = time.time()
            one.touch(rungs_of(1, 2), life(7), now_s - 20)
            await asyncio.sleep(0.05)
            other.touch(rungs_of(1), life(7), now_s)
            await asyncio.sleep(0.05)
            one.forget(rungs_of(1, 2), life(7), now_s - 10)
            await asyncio.sleep(0.05)
            for router in (one, other):
                assert await holders(router, rungs_of(1, 2)) == [[7], None]

    run(main())


def test_a_hot_prompt_is_written_once(server: RedisServer) -> None:
    async def main() -> None:
        async with two_routers(server) as (one, _):
            now_s = time.time()
            for step in range(20):
                await look(one, rungs_of(1, 2))
                one.touch(rungs_of(1, 2), life(7), now_s + 0.01 * step)
                await settled(one)
            assert one.statistics()["writes_total"] == 1

    run(main())


def test_the_server_keeps_records_for_the_idle_time_in_effect_when_they_were_noted(
    server: RedisServer,
) -> None:
    async def main() -> None:
        namespace = f"n{next(_namespaces)}"
        async with started(RedisRegistry(server.url, namespace=namespace, idle_s=3600.0)) as registry:
            kept_ms = []
            for number, idle_s in enumerate((3600.0, 400.0, 1200.0)):
                registry.expire_after(idle_s)
                registry.touch(rungs_of(number), life(7), time.time())
                await settled(registry)
                kept_ms.append(server.command("PTTL", registry._commands.rung_key(FingerprintHash(number))))
            expected = (3_600_000, 400_000, 1_200_000)
            assert all(most - 60_000 < ms <= most for ms, most in zip(kept_ms, expected, strict=True))

    run(main())


def test_a_script_flush_on_the_server_loses_no_write(server: RedisServer) -> None:
    async def main() -> None:
        async with two_routers(server) as (one, other):
            server.command("SCRIPT", "FLUSH")
            one.touch(rungs_of(1), life(7), time.time())
            await settled(one)
            assert await holders(other, rungs_of(1)) == [[7]]
            assert one.statistics()["errors_total"] == 0

    run(main())


def test_an_owner_that_has_too_much_keeps_what_its_prompts_begin_with(opened: Opener) -> None:
    async def run() -> None:
        async with opened(idle_s=600.0, max_entries=4000, most_owned=100) as registry:
            registry.touch(rungs_of(1), life(1), time.time(), "other")
            shared = rungs_of(*range(100, 110))
            for number in range(60):
                own = rungs_of(*range(1000 + 20 * number, 1010 + 20 * number))
                registry.touch(shared + own, life(7), time.time(), "one")
                await settled(registry)
                assert await holders(registry, shared + own) == [[7]] * 20, number

    uvloop.run(run())
