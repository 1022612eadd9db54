"""Several Redis servers as one registry: a Cluster, also while it changes, and a primary that Sentinels replace."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager

import pytest
import uvloop

from tests.support.redis_cluster import redis_cluster
from tests.support.redis_server import RedisServer
from tests.support.registry_calls import (
    PATIENT_S,
    find,
    holders,
    is_down,
    is_up,
    life,
    rungs_of,
    settled,
    shows,
    wait_until,
)
from warmroute.adapters.load_board.redis import RedisLoadBoard
from warmroute.adapters.registry.redis.registry import RedisRegistry
from warmroute.adapters.resp.commands import SLOTS, key_slot
from warmroute.core.types import FingerprintHash, ReplicaId


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RedisServer]]:
    with redis_cluster() as servers:
        yield servers


@asynccontextmanager
async def opened(url: str, lookup_deadline_s: float = PATIENT_S) -> AsyncIterator[RedisRegistry]:
    registry = RedisRegistry(url, lookup_deadline_s=lookup_deadline_s)
    await registry.start(lambda _: None)
    try:
        await is_up(registry)
        yield registry
    finally:
        await registry.stop()


def some_rungs(seed: int, count: int = 60) -> list[FingerprintHash]:
    rng = random.Random(seed)
    return [FingerprintHash(rng.getrandbits(64)) for _ in range(count)]


def test_a_cluster_keeps_rungs_of_all_its_nodes(cluster: list[RedisServer]) -> None:
    async def main() -> None:
        async with (
            opened(f"redis+cluster://127.0.0.1:{cluster[0].port}") as one,
            opened(f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster[2].port}") as other,
        ):
            rungs = some_rungs(1)
            one.touch(rungs, life(7), time.time())
            other.touch(rungs[:30], life(8), time.time())
            one.remember_response("resp_1", ReplicaId("a"))
            await asyncio.gather(settled(one), settled(other))
            for router in (one, other):
                assert [sorted(found or []) for found in await holders(router, rungs)] == [[7, 8]] * 30 + [
                    [7]
                ] * 30
            one.forget(rungs[:10], life(7))
            await settled(one)
            assert await holders(other, rungs[:10]) == [[8]] * 10

            async def found() -> bool:
                return await find(other, "resp_1") == "a"

            await wait_until(found)
            assert one.statistics()["errors_total"] == 0

    uvloop.run(main())


def test_a_prompt_that_everybody_shares_is_read_from_all_nodes(cluster: list[RedisServer]) -> None:
    def reads() -> list[int]:
        spent = [server.command("INFO", "commandstats") for server in cluster]
        return [int(row.get("cmdstat_get", {}).get("calls", 0)) for row in spent]

    async def main() -> None:
        async with opened(f"redis+cluster://127.0.0.1:{cluster[0].port}") as router:
            rungs = some_rungs(7, 18)
            router.touch(rungs, life(7), time.time())
            await settled(router)
            before = reads()
            for _ in range(700):  # more than may be on their way at once, well within the deadline
                assert await holders(router, rungs) == [[7]] * 18
            after = reads()
            asked = [now - then for now, then in zip(after, before, strict=True)]
            assert sum(asked) == 700 * 18
            assert max(asked) <= 700 * 12

    uvloop.run(main())


def test_load_notices_pass_through_a_cluster_and_follow_their_slot(cluster: list[RedisServer]) -> None:
    async def hear(board: RedisLoadBoard, notice: bytes, other: RedisLoadBoard) -> None:
        async with asyncio.timeout(60):
            while notice not in (await board.exchange(b"listening") or ()):
                await other.exchange(notice)
                await asyncio.sleep(0.02)

    async def main() -> None:
        one = RedisLoadBoard(f"redis+cluster://127.0.0.1:{cluster[0].port}")
        other = RedisLoadBoard(f"redis+cluster://127.0.0.1:{cluster[1].port}")
        await one.start()
        await other.start()
        await hear(one, b"before", other)
        slot = key_slot(b"w:load")
        names = [server.command("CLUSTER", "MYID") for server in cluster]
        source = next(index for index, server in enumerate(cluster) if slot in _slots(server))
        target = (source + 1) % 3
        cluster[source].command("DEL", "w:load")
        cluster[source].command("CLUSTER", "DELSLOTS", slot)
        for server in (cluster[target], cluster[source], cluster[3 - source - target]):
            server.command("CLUSTER", "SETSLOT", slot, "NODE", names[target])
        await hear(one, b"after", other)
        await hear(other, b"back", one)
        await one.stop()
        await other.stop()

    uvloop.run(main())


def test_a_slot_that_moves_is_followed(cluster: list[RedisServer]) -> None:
    async def main() -> None:
        async with opened(f"redis+cluster://127.0.0.1:{cluster[0].port}") as router:
            rung = FingerprintHash(12345)
            router.touch([rung], life(7), time.time())
            await settled(router)
            key = b"w:" + rung.to_bytes(8, "big")
            slot = key_slot(key)
            names = [server.command("CLUSTER", "MYID") for server in cluster]
            owners = [
                server.command("EXISTS", key) if key_slot(key) in _slots(server) else 0 for server in cluster
            ]
            source = owners.index(1)
            target = (source + 1) % 3
            cluster[target].command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
            cluster[source].command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
            cluster[source].command("MIGRATE", "127.0.0.1", cluster[target].port, key, 0, 1000)
            # The key has moved, the slot not yet: an ASK redirect, answered without Redis.
            await holders(router, [rung])
            for server in (cluster[target], cluster[source], cluster[3 - source - target]):
                server.command("CLUSTER", "SETSLOT", slot, "NODE", names[target])

            async def followed() -> bool:
                return len(cluster[target].command("GET", key)) == 20 and await holders(router, [rung]) == [
                    [7, 8]
                ]

            router.touch([rung], life(8), time.time())
            await wait_until(followed)
            assert router.healthy
            assert router.statistics()["evictions_total"] == 0

    uvloop.run(main())


def test_a_cluster_that_is_connected_but_down_is_said_to_be_and_answers_come_from_own_placements(
    cluster: list[RedisServer],
) -> None:
    """It lacks a slot and insists on all of them: every node is reached, and refuses every key."""

    async def main() -> None:
        async with opened(f"redis+cluster://127.0.0.1:{cluster[0].port}") as router:
            rungs = some_rungs(9)
            router.touch(rungs, life(7), time.time())
            await settled(router)
            slot = next(iter(_slots(cluster[0]) - {key_slot(b"w:secret"), key_slot(b"w:load")}))
            owner = cluster[0].command("CLUSTER", "MYID")
            for server in cluster:
                server.command("CONFIG", "SET", "cluster-require-full-coverage", "yes")
                server.command("CLUSTER", "DELSLOTS", slot)

            async def seen_down() -> bool:
                assert await holders(router, rungs) == [[7]] * 60
                return not router.healthy

            await wait_until(seen_down)
            assert all(b"cluster_state:fail" in server.command("CLUSTER", "INFO") for server in cluster)
            for _ in range(20):
                assert await holders(router, rungs) == [[7]] * 60
            cluster[0].command("CLUSTER", "ADDSLOTS", slot)
            for server in cluster[1:]:
                server.command("CLUSTER", "SETSLOT", slot, "NODE", owner)
            await is_up(router)
            assert await holders(router, rungs) == [[7]] * 60

    try:
        uvloop.run(main())
    finally:
        for server in cluster:
            server.command("CONFIG", "SET", "cluster-require-full-coverage", "no")


def test_a_value_of_another_type_in_a_cluster_is_nobody_and_is_replaced(cluster: list[RedisServer]) -> None:
    async def main() -> None:
        async with opened(f"redis+cluster://127.0.0.1:{cluster[0].port}") as router:
            rung = FingerprintHash(777)
            key = b"w:" + rung.to_bytes(8, "big")
            owner = next(server for server in cluster if key_slot(key) in _slots(server))
            owner.command("LPUSH", key, "what is this")
            assert await holders(router, [rung]) == [None]
            router.touch([rung], life(7), time.time())
            await settled(router)
            assert await holders(router, [rung]) == [[7]]
            assert router.healthy
            assert router.statistics()["reconnects_total"] == 0

    uvloop.run(main())


def test_a_lost_node_leaves_the_rest_of_the_cluster_in_use(cluster: list[RedisServer]) -> None:
    async def main() -> None:
        async with (
            opened(f"redis+cluster://127.0.0.1:{cluster[0].port},127.0.0.1:{cluster[1].port}", 0.5) as router,
            opened(f"redis+cluster://127.0.0.1:{cluster[0].port}", 0.5) as reader,
        ):
            rungs = some_rungs(2)
            router.touch(rungs, life(7), time.time())
            await settled(router)
            cluster[2].pause()
            try:
                for _ in range(10):
                    assert await holders(router, rungs) == [[7]] * 60

                async def the_rest() -> bool:
                    return 0 < (await holders(reader, rungs)).count(None) < 60

                await wait_until(the_rest)  # the reader knows only what the remaining nodes keep
            finally:
                cluster[2].resume()

            async def whole() -> bool:
                return router.healthy and reader.healthy and await holders(reader, rungs) == [[7]] * 60

            await wait_until(whole)

    uvloop.run(main())


def test_a_failover_by_sentinel_is_followed() -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(RedisServer())
        replica = stack.enter_context(RedisServer("--replicaof", "127.0.0.1", str(primary.port)))
        sentinel = stack.enter_context(
            RedisServer(
                sentinel=f"sentinel monitor fleet 127.0.0.1 {primary.port} 1\n"
                "sentinel down-after-milliseconds fleet 500\nsentinel failover-timeout fleet 2000"
            )
        )
        deadline_s = time.monotonic() + 60
        while b"master_link_status:up" not in _replication(replica) or not sentinel.command(
            "SENTINEL", "REPLICAS", "fleet"
        ):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)

        async def main() -> None:
            async with opened(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/fleet/0") as router:
                router.touch(rungs_of(1), life(7), time.time())
                await settled(router)
                assert primary.command("WAIT", 1, 60_000) == 1
                primary.kill()
                router.touch(rungs_of(2), life(8), time.time())

                async def back() -> bool:
                    assert await holders(router, rungs_of(1, 2)) == [[7], [8]]
                    return router.healthy

                await is_down(router)
                await wait_until(back)
                async with opened(f"redis://127.0.0.1:{replica.port}") as reader:
                    await shows(reader, rungs_of(1, 2), [[7], [8]])

        uvloop.run(main())


def test_a_replica_in_place_of_the_primary_is_not_written_to() -> None:
    """A demoted primary refuses the write; the registry reconnects, and loses no request meanwhile."""
    with RedisServer() as server, RedisServer() as other:

        async def main() -> None:
            async with opened(server.url) as router:
                server.command("REPLICAOF", "127.0.0.1", other.port)
                router.touch(rungs_of(1), life(7), time.time())
                await is_down(router)
                assert await holders(router, rungs_of(1)) == [[7]]
                server.command("REPLICAOF", "NO", "ONE")

                await is_up(router)

        uvloop.run(main())


def _replication(server: RedisServer) -> bytes:
    info = server.command("INFO", "replication")
    return (
        "\n".join(f"{name}:{value}" for name, value in info.items()).encode()
        if isinstance(info, dict)
        else info
    )


def _slots(server: RedisServer) -> set[int]:
    mine: set[int] = set()
    for line in _text(server.command("CLUSTER", "NODES")).splitlines():
        words = line.split(" ")
        if "myself" in words[2]:
            for part in words[8:]:
                if part[0] != "[":
                    first, _, last = part.partition("-")
                    mine.update(range(int(first), int(last or first) + 1))
    assert len(mine) < SLOTS
    return mine


def _text(answer: object) -> str:
    return answer.decode() if isinstance(answer, bytes) else str(answer)
