"""Discovery against a real kube-apiserver: the contract that all sources keep, and what only the real one does.

Skipped with one line where its programs are not there; part of `make e2e-k8s`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract import test_discovery as contract
from tests.support.discovery_worlds import HURRIED, KubernetesWorld, Report, endpoint_of, kubernetes
from tests.support.fake_kubernetes import endpoint_slice
from tests.support.kube_apiserver import ROUTER, ApiServer, lacking
from warmroute.adapters.discovery.kubernetes.access import Access
from warmroute.config.discovery_urls import KubernetesSource
from warmroute.ports import Discovery, DiscoveryFailure, DiscoveryReport, Member

if (missing := lacking()) is not None:
    pytest.skip(f"discovery against a real API server {missing}", allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SCENARIOS: dict[str, Callable[[Any], None]] = {
    name: test for name, test in vars(contract).items() if name.startswith("test_")
}
NUMBERS = itertools.count()
UNHURRIED = dataclasses.replace(HURRIED, connect_s=30.0, answer_s=30.0, page_s=30.0, silence_s=60.0)
"""A real server takes its time, the more so while it starts."""


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer() as running:
        yield running


class ApiServerWorld(KubernetesWorld):
    """EndpointSlices in a namespace of its own, read with the rights that docs/discovery.md names."""

    def __init__(self, server: ApiServer, *verbs: str) -> None:
        self.server = server
        self.space = f"n{next(NUMBERS)}"
        self.token = ROUTER
        self._verbs = verbs or ("list", "watch")
        self._members: tuple[Member, ...] = ()
        self._up = True

    async def start(self) -> None:
        await asyncio.to_thread(self.server.namespace, self.space, *self._verbs)

    async def stop(self) -> None:
        if not self._up:
            await self.mend()
        await asyncio.sleep(0.1)  # sockets of TLS close a moment after their connections

    def discovery(self, report: DiscoveryReport) -> Discovery:
        def access() -> Access:
            return Access(self.server.url, self.space, self.token, self.server.tls)

        source = KubernetesSource(self.space, "vllm", port="http")
        return kubernetes(source, self.server.url, report, patience=UNHURRIED, access=access)

    async def name(self, *members: Member) -> None:
        self._members = members
        if self._up:
            await asyncio.to_thread(self._put)

    async def fail(self) -> None:
        self._up = False
        await asyncio.to_thread(self.server.kill)

    async def mend(self) -> None:
        await asyncio.to_thread(self.server.start)
        self._up = True
        await asyncio.to_thread(self._put)

    def _put(self) -> None:
        for start in (0, 2):
            rows = map(endpoint_of, self._members[start : start + 2])
            self.server.put_slice(self.space, endpoint_slice(f"vllm-{start}", rows))


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_the_contract_of_all_sources(server: ApiServer, scenario: str) -> None:
    def play(played: contract.Scenario) -> None:
        asyncio.run(contract.played(ApiServerWorld(server), played))

    SCENARIOS[scenario](play)


def test_versions_that_the_server_forgot_are_listed_anew_without_a_word(server: ApiServer) -> None:
    async def scenario(world: contract.World, report: Report) -> None:
        a, b, c = world.candidates
        await world.name(a)
        async with contract.watching(world.discovery(report)) as seen:
            await contract.until_named(seen, a)
            following = asyncio.create_task(anext(seen))
            await world.fail()
            await world.mend()  # its cache of past changes is gone
            for members in ((a, b), (b, c)):
                await world.name(*members)
                await asyncio.to_thread(server.compact)
            async with asyncio.timeout(contract.PATIENCE_S):
                members = await following
            if contract.plain(members) != contract.plain((b, c)):
                await contract.until_named(seen, b, c)

    asyncio.run(contract.played(ApiServerWorld(server), scenario))


@pytest.mark.parametrize(
    ("verbs", "token", "failure", "said"),
    [
        (("get",), ROUTER, DiscoveryFailure.FORBIDDEN, "endpointslices"),
        (("list",), ROUTER, DiscoveryFailure.FORBIDDEN, "watch"),
        (("list", "watch"), "no-such-token", DiscoveryFailure.UNAUTHORIZED, "Unauthorized"),
    ],
    ids=["no right to list", "no right to watch", "a bad token"],
)
def test_a_refusal_says_what_is_missing(
    server: ApiServer, verbs: tuple[str, ...], token: str, failure: DiscoveryFailure, said: str
) -> None:
    async def scenario(world: contract.World, report: Report) -> None:
        assert isinstance(world, ApiServerWorld)
        world.token = token

        async def follow() -> None:
            async for _ in world.discovery(report).watch():
                pass

        following = asyncio.create_task(follow())
        async with asyncio.timeout(contract.PATIENCE_S):
            while not report.failures:
                await asyncio.sleep(0.01)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert report.failures[0][0] is failure
        assert said in report.failures[0][1]

    asyncio.run(contract.played(ApiServerWorld(server, *verbs), scenario))


def test_a_list_of_many_slices_is_read_in_pages(server: ApiServer) -> None:
    async def scenario(world: contract.World, report: Report) -> None:
        assert isinstance(world, ApiServerWorld)
        members = [Member(f"p-{number:03}", f"http://10.1.0.{number}:8000") for number in range(120)]  # type: ignore[arg-type]
        for number, member in enumerate(members):
            one = endpoint_slice(f"s-{number:03}", [endpoint_of(member)])
            await asyncio.to_thread(server.put_slice, world.space, one)
        async with contract.watching(world.discovery(report)) as seen:
            await contract.until_named(seen, *members)

    asyncio.run(contract.played(ApiServerWorld(server), scenario))
