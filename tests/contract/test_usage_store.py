"""One suite over every place that sums up what tenants used, and over the way there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.support.redis_server import RedisServer
from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.link import RedisLink
from warmroute.adapters.tenants.usage_memory import MemoryUsage
from warmroute.adapters.tenants.usage_redis import RedisUsage
from warmroute.ports import UsageStore
from warmroute.service.accounting import Accounting, as_csv
from warmroute.tasks import Tasks
from warmroute.tenants.prices import Price
from warmroute.tenants.usage import COST, COUNTERS, Ledger, Row

BUCKET_S = 3600
NOW_S = 1_800_000_000 // BUCKET_S * BUCKET_S
Open = Callable[[], UsageStore]
_namespaces = count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def in_redis(server: RedisServer) -> Open:
    namespace, routers = f"u{next(_namespaces)}", count()
    return lambda: RedisUsage(
        RedisLink(server.url),
        router=f"r{next(routers)}",
        bucket_s=BUCKET_S,
        keep_s=86_400,
        namespace=namespace,
    )


@pytest.fixture(params=["memory", "redis"])
def opener(request: pytest.FixtureRequest) -> Open:
    return (
        in_redis(request.getfixturevalue("server"))
        if request.param == "redis"
        else lambda: MemoryUsage(86_400)
    )


def row(value: int) -> list[int]:
    return [value + index for index in range(len(COUNTERS))]


def test_rows_are_added_up_by_bucket_and_once_for_each_number(opener: Open) -> None:
    async def run() -> None:
        store = opener()
        await store.start()
        big = [10**15] * len(COUNTERS)
        assert await store.add(
            NOW_S, {("a", "k", "m", "openai", ""): row(1), ("a", "k", "n", "google", ""): big}, 1
        )
        assert await store.add(NOW_S, {("a", "k", "m", "openai", ""): row(100)}, 1)
        assert await store.add(
            NOW_S, {("a", "k", "m", "openai", ""): row(5), ("a", "k", "n", "google", ""): row(0)}, 2
        )
        assert await store.add(NOW_S + BUCKET_S, {("b", "k", "m/ü", "other", ""): row(7)}, 3)
        found = list(await store.read(NOW_S, NOW_S + 2 * BUCKET_S))
        assert found == [
            (NOW_S, ("a", "k", "m", "openai", ""), [a + b for a, b in zip(row(1), row(5), strict=True)]),
            (NOW_S, ("a", "k", "n", "google", ""), [a + b for a, b in zip(big, row(0), strict=True)]),
            (NOW_S + BUCKET_S, ("b", "k", "m/ü", "other", ""), row(7)),
        ]
        assert await store.read(NOW_S + BUCKET_S, NOW_S + BUCKET_S) == []
        await store.stop()

    asyncio.run(run())


def test_sums_of_money_are_exact_whatever_their_length_and_sign(opener: Open) -> None:
    figures = [
        2**53 + 1,
        1,
        -(10**18) - 7,
        10**18,
        7,
        999_999_999_999,
        1,
        -(2**53) - 2,
        -1,
        3 * 10**22 + 5,
        -(10**22),
    ]
    figures += [-(10**22), -(10**22), 10**12, -(10**12), -5, 10**15, -1]

    async def run() -> None:
        store = opener()
        await store.start()
        total = 0
        for number, figure in enumerate(figures, 1):
            total += figure
            assert await store.add(NOW_S, {("a", "k", "m", "openai", ""): [figure] * len(COUNTERS)}, number)
            ((_, _, counts),) = await store.read(NOW_S, NOW_S + 1)
            assert list(counts) == [total] * len(COUNTERS)
        await store.stop()

    asyncio.run(run())


def test_many_rows_go_in_parts_and_arrive_in_full(opener: Open) -> None:
    async def run() -> None:
        store = opener()
        await store.start()
        assert await store.add(NOW_S, {("t", f"k{n}", "m", "openai", ""): row(n) for n in range(1203)}, 1)
        assert len(await store.read(NOW_S, NOW_S + 1)) == 1203
        await store.stop()

    asyncio.run(run())


def used(ledger: Ledger, tenant: str, model: str, prompt: int) -> None:
    row = Row((tenant, "k", model, "openai", ""))
    ledger.begin(row)
    ledger.end(row, False, True, prompt, 1, 2, 0.5, 0.25)


def test_a_report_adds_up_what_is_asked_for(opener: Open) -> None:
    async def run() -> None:
        now_s = float(NOW_S)
        ledger = Ledger({("m", ""): Price(1000, 0, 0)})
        tasks = Tasks()
        accounting = Accounting(ledger, opener(), tasks, bucket_s=BUCKET_S, clock=lambda: now_s)
        await accounting.start()
        used(ledger, "a", "m", 11)
        used(ledger, "=b", "m", 21)
        await accounting.flush()
        now_s += BUCKET_S
        used(ledger, "a", "n", 31)
        end_s = NOW_S + 2 * BUCKET_S
        rows = await accounting.report(from_s=NOW_S, to_s=end_s, by=("tenant",), bucket_s=0)
        assert [(one["tenant"], one["requests"], one["prompt_tokens"]) for one in rows] == [
            ("=b", 1, 21),
            ("a", 2, 42),
        ]
        assert rows[1]["prefill_saved_s"] == 1.0
        assert rows[0]["cost"] == 20 / 1e6
        by_hour = await accounting.report(
            from_s=NOW_S, to_s=end_s, by=("tenant", "model"), bucket_s=BUCKET_S, tenant="a"
        )
        assert [(one["from_s"], one["model"]) for one in by_hour] == [(NOW_S, "m"), (NOW_S + BUCKET_S, "n")]
        lines = as_csv(rows).splitlines()
        assert lines[0].startswith("from_s,to_s,tenant,begun,requests")
        assert ",'=b," in lines[1]
        assert accounting.totals["a"][COUNTERS.index("prompt_tokens")] == 42
        assert accounting.totals["a"][COST] == 10_000
        await accounting.stop()
        await tasks.stop()

    asyncio.run(run())


def test_a_long_report_leaves_the_event_loop_to_others(opener: Open) -> None:
    async def run() -> None:
        store = opener()
        tasks = Tasks()
        accounting = Accounting(Ledger({}), store, tasks, bucket_s=BUCKET_S, clock=lambda: float(NOW_S))
        await accounting.start()
        sizes = [0, 3000, 0, 0, 1, 2, 0, 1200, 1200, 1200, *[0] * 8, 7]
        for number, size in enumerate(sizes):
            rows = {(f"t{n % 3}", f"k{n}", "m", "openai", ""): row(1) for n in range(size)}
            if rows:
                assert await store.add(NOW_S + number * BUCKET_S, rows, number + 1)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        running = asyncio.ensure_future(others())
        end_s = NOW_S + len(sizes) * BUCKET_S
        for reading in (
            accounting.report(from_s=NOW_S, to_s=end_s, by=("tenant",), bucket_s=0),
            accounting.savings(from_s=NOW_S, to_s=end_s),
        ):
            turns = 0
            found: list[dict[str, object]] = await reading  # type: ignore[assignment]
            assert sum([one["requests"] for one in found]) == 2 * sum(sizes)  # type: ignore[misc]
            assert turns >= sum(sizes) // 1000
        running.cancel()
        await accounting.stop()
        await tasks.stop()

    asyncio.run(run())


def test_what_may_not_have_arrived_is_sent_again_and_counted_once() -> None:
    async def run() -> None:
        with RedisServer() as own:
            opened = in_redis(own)
            store = opened()
            ledger = Ledger({})
            tasks = Tasks()
            accounting = Accounting(ledger, store, tasks, bucket_s=BUCKET_S, clock=lambda: float(NOW_S))
            await accounting.start()
            used(ledger, "a", "m", 5)
            assert await accounting.flush()
            own.pause()  # it will read what is sent now, and answer too late
            used(ledger, "a", "m", 5)
            assert not await accounting.flush()
            own.resume()
            async with asyncio.timeout(60):
                while not await accounting.flush():
                    await asyncio.sleep(0.02)
            other = opened()
            await other.start()
            ((_, _, counts),) = await other.read(NOW_S, NOW_S + 1)
            assert counts[:2] == [2, 2]
            assert counts[COUNTERS.index("prompt_tokens")] == 10
            await other.stop()
            await accounting.stop()
            await tasks.stop()

    asyncio.run(run())


def test_rows_of_routers_from_before_there_were_interfaces_are_read_beside_the_others(
    server: RedisServer,
) -> None:
    async def run() -> None:
        store = RedisUsage(
            RedisLink(server.url), router="new", bucket_s=BUCKET_S, keep_s=86_400, namespace="mixed"
        )
        await store.start()
        assert await store.add(NOW_S, {("a", "k", "m", "google", ""): row(1)}, 1)
        link = RedisLink(server.url)
        await link.start()
        key = b"mixed:{usage}:%d" % NOW_S
        await link.ask(key, pack("HSET", key, "a\x1fk\x1fm", "7 7 0 0 70"))
        found = {key: list(counts) for _, key, counts in await store.read(NOW_S, NOW_S + 1)}
        assert found["a", "k", "m", "google", ""] == row(1)
        assert found["a", "k", "m", "", ""] == [7, 7, 0, 0, 70] + [0] * (len(COUNTERS) - 5)
        await link.stop()
        await store.stop()

    asyncio.run(run())


def test_a_row_that_another_version_wrote_takes_columns_that_it_did_not_have(server: RedisServer) -> None:
    async def run() -> None:
        opener = in_redis(server)
        old, new = opener(), opener()
        for store in (old, new):
            await store.start()
        key = ("a", "k", "m", "openai", "")
        assert await old.add(NOW_S, {key: row(1)[:10]}, 1)
        assert await new.add(NOW_S, {key: row(100)}, 1)
        assert await old.add(NOW_S, {key: row(1)[:10]}, 2)
        ((_, _, counts),) = await new.read(NOW_S, NOW_S + 1)
        assert list(counts) == [
            value + 2 * (1 + index) * (index < 10) for index, value in enumerate(row(100))
        ]
        for store in (old, new):
            await store.stop()

    asyncio.run(run())


def test_a_redis_that_runs_full_drops_records_and_no_sums() -> None:
    async def run() -> None:
        full = ("--maxmemory", "4mb", "--maxmemory-policy", "volatile-lru")
        with RedisServer(*full) as own:
            store = in_redis(own)()
            await store.start()
            buckets = [NOW_S + BUCKET_S * index for index in range(50)]
            for number, bucket_s in enumerate(buckets, 1):
                assert await store.add(bucket_s, {("a", "k", "m", "openai", ""): row(1)}, number)
            link = RedisLink(own.url)
            await link.start()
            for at in range(0, 20_000, 1000):
                records = [pack("SET", f"w:{at + n}", "x" * 200, "EX", 3600) for n in range(1000)]
                await link.ask(b"w", b"".join(records), len(records))
            (left,) = await link.ask(b"w", pack("DBSIZE"))
            assert left < 15_000, "it ran full"
            found = await store.read(NOW_S, buckets[-1] + 1)
            assert [start for start, _, _ in found] == buckets
            await link.stop()
            await store.stop()

    asyncio.run(run())


def test_sums_are_kept_for_their_time_and_not_for_longer(server: RedisServer) -> None:
    async def run() -> None:
        store = in_redis(server)()
        await store.start()
        now_s = int(time.time()) // BUCKET_S * BUCKET_S
        hours = [now_s - 50 * BUCKET_S, now_s - 26 * BUCKET_S, now_s - 24 * BUCKET_S, now_s]
        for number, bucket_s in enumerate(hours, 1):
            assert await store.add(bucket_s, {("a", "k", "m", "openai", ""): row(1)}, number)
        found = await store.read(hours[0], now_s + 1)
        assert [start for start, _, _ in found] == hours[2:], "kept for a day, and as long as a bucket is"
        # A router whose clock is far ahead takes nothing out.
        assert await store.add(now_s + 1000 * BUCKET_S, {("a", "k", "m", "openai", ""): row(1)}, 5)
        found = await store.read(hours[0], now_s + 1)
        assert [start for start, _, _ in found] == hours[2:]
        await store.stop()

    asyncio.run(run())
