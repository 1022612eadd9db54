"""Whatever happens, and however it is told: in the end discovery names what a list would say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any, Self

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.discovery_worlds import Report
from tests.support.fake_kubernetes import FakeCluster, endpoint, endpoint_slice
from tests.support.virtual_clock import VirtualClockLoop
from warmroute.adapters.discovery.kubernetes.answers import (
    ApiFailure,
    Change,
    Page,
    Status,
    WatchReader,
    read_page,
    refused,
)
from warmroute.adapters.discovery.kubernetes.api import Patience
from warmroute.adapters.discovery.kubernetes.discovery import KubernetesDiscovery
from warmroute.config.discovery_urls import KubernetesSource
from warmroute.ports import DiscoveryFailure, Member

RESYNC_S = 30.0
BOOKMARK_S = 7.0
PAGE_SLICES = 2

CONDITIONS: dict[str, tuple[dict[str, bool], bool | None]] = {
    "ready": ({"ready": True}, False),
    "unready": ({"ready": False}, None),
    "draining": ({"ready": False, "serving": True, "terminating": True}, True),
    "ending": ({"ready": False, "serving": False, "terminating": True}, None),
}
"""Conditions of an endpoint; whether it drains then, None for no member."""

slices = st.builds(
    lambda number, pods, pool: (f"s{number}", pods, pool),
    st.integers(0, 4),
    st.dictionaries(st.integers(0, 5), st.sampled_from(sorted(CONDITIONS)), max_size=4),
    st.sampled_from("xxxy"),
)
step = st.one_of(
    st.tuples(st.just("put"), slices),
    st.tuples(st.just("delete"), st.integers(0, 4)),
    st.tuples(st.just("forget"), st.none()),
    st.tuples(st.just("cut"), st.none()),
    st.tuples(st.just("fail"), st.sampled_from([401, 403, 410, 429, 500, 0])),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.1, 3.0, 40.0])),
)


class World(FakeCluster):
    """A cluster, and calls to it that never leave the process."""

    def __init__(self, pieces: list[int], in_stream: bool) -> None:
        super().__init__()
        self.failures: list[int] = []
        self.cuts = 0
        self.pieces = pieces
        self.in_stream = in_stream
        self.changed = asyncio.Event()
        self.on_change = self.changed.set

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    def _fail(self) -> None:
        if self.failures:
            code = self.failures.pop(0)
            if not code:
                raise ApiFailure(DiscoveryFailure.UNREACHABLE, "refused")
            raise refused(code, Status())

    async def pages(self, page_slices: int) -> AsyncGenerator[Page, None]:
        token = ""
        while True:
            await asyncio.sleep(0.01)
            self._fail()
            page = self.page("prod", "pool=x", PAGE_SLICES if page_slices else 0, token)
            if page is None:
                raise refused(410, Status())
            token = page["metadata"].get("continue", "")
            yield read_page(json.dumps(page).encode())
            if not token:
                return

    async def changes(self, version: str, timeout_s: float) -> AsyncGenerator[list[Change], None]:
        await asyncio.sleep(0.01)
        self._fail()
        reader, after, cuts = WatchReader(), int(version), self.cuts
        if after < self.oldest:
            if not self.in_stream:
                raise refused(410, Status())
            gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired"}}
            yield []
            list(reader.feed(json.dumps(gone).encode() + b"\n"))
        yield []
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        number = 0
        while loop.time() < end_s:
            events: list[dict[str, Any]] = self.events("prod", "pool=x", after)
            self.changed.clear()
            for event in events or [self.bookmark()]:
                after = int(event["object"]["metadata"]["resourceVersion"])
                rest = json.dumps(event).encode() + b"\n"
                while rest:
                    size = self.pieces[number % len(self.pieces)]
                    number += 1
                    piece, rest = rest[:size], rest[size:]
                    await asyncio.sleep(0)
                    if cuts != self.cuts:
                        raise ApiFailure(DiscoveryFailure.UNREACHABLE, "cut", broken=True)
                    if changes := list(reader.feed(piece)):
                        yield changes
            try:
                async with asyncio.timeout_at(min(end_s, loop.time() + BOOKMARK_S)):
                    while not self.changed.is_set() and cuts == self.cuts:
                        await asyncio.sleep(0.05)
            except TimeoutError:
                pass

    def there(self) -> dict[str, tuple[str, bool]]:
        """What a list says now: URL of each member, and whether it drains."""
        page = self.page("prod", "pool=x")
        assert page is not None
        found: dict[str, tuple[str, bool]] = {}
        for slice_ in page["items"]:
            for each in slice_["endpoints"]:
                name, address = each["targetRef"]["name"], each["addresses"][0]
                conditions = each["conditions"]
                (draining,) = (drains for given, drains in CONDITIONS.values() if given == conditions)
                if draining is not None:
                    known = found.get(name)
                    found[name] = (f"http://{address}:8000", draining and (known is None or known[1]))
        return found


histories = st.lists(step, min_size=1, max_size=30)
pieces_of = st.lists(st.integers(1, 400), min_size=1, max_size=5)


@given(histories, pieces_of, st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_history_ends_with_what_a_list_says(
    history: list[tuple[str, Any]], pieces: list[int], in_stream: bool, seed: int
) -> None:
    async def scenario(world: World) -> None:
        for step, value in history:
            await play(world, step, value)
        world.failures.clear()
        await asyncio.sleep(Patience().backoff_max_s + 1.0)

    run(scenario, pieces, in_stream, seed, resync_s=3600.0)


@given(histories, pieces_of, st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_what_went_without_an_event_is_gone_after_one_resync(
    history: list[tuple[str, Any]], pieces: list[int], number: int
) -> None:
    async def scenario(world: World) -> None:
        for step, value in history:
            await play(world, step, value)
        world.failures.clear()
        await play(world, "put", (f"s{number}", {0: "ready"}, "x"))
        await asyncio.sleep(Patience().backoff_max_s + 1.0)
        world.lose(f"s{number}")
        await asyncio.sleep(RESYNC_S + 1.0)

    run(scenario, pieces, False, number, resync_s=RESYNC_S)


def run(
    scenario: Callable[[World], Awaitable[None]],
    pieces: list[int],
    in_stream: bool,
    seed: int,
    resync_s: float,
) -> None:
    source = KubernetesSource("prod", selector="pool=x", port="http", resync_s=resync_s)

    async def main() -> None:
        world = World(pieces, in_stream)
        discovery = KubernetesDiscovery(source, lambda: world, Report(), Random(seed), Patience())
        seen: list[tuple[Member, ...]] = []

        async def follow() -> None:
            async for members in discovery.watch():
                seen.append(members)  # noqa: PERF401 - it never ends

        following = asyncio.create_task(follow())
        await scenario(world)
        assert not following.done()
        named = {member.replica_id: (member.url, member.draining) for member in seen[-1]}
        assert named == world.there()
        assert all(one != other for one, other in zip(seen, seen[1:], strict=False)), "only changes are named"
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main())


async def play(world: World, step: str, value: Any) -> None:
    match step:
        case "put":
            name, pods, pool = value
            endpoints = [
                endpoint(f"p{pod}", f"10.0.0.{pod}", **CONDITIONS[state][0]) for pod, state in pods.items()
            ]
            world.put(endpoint_slice(name, endpoints, labels={"pool": pool}))
        case "delete":
            world.delete(f"s{value}")
        case "forget":
            world.forget()
        case "cut":
            world.cuts += 1
        case "fail":
            world.failures.append(value)
        case "wait":
            await asyncio.sleep(value)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_no_bytes_of_a_watch_do_more_than_fail(noise: bytes, size: int) -> None:
    reader = WatchReader()
    line = noise + b"\n"
    with suppress(ApiFailure):
        for start in range(0, len(line), size):
            list(reader.feed(line[start : start + size]))
