"""Discovery by DNS, against a server that answers by UDP and TCP."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from random import Random

from tests.support.discovery_worlds import HURRIED_DNS, Report
from tests.support.fake_dns import FakeDns
from warmroute.adapters.discovery.dns import EMPTY_ANSWERS, DnsDiscovery, DnsPatience
from warmroute.config.discovery_urls import DnsSource, Pool
from warmroute.ports import DiscoveryFailure, Member

NAME = "vllm.prod.svc."


class Watched:
    def __init__(self, source: DnsSource, server: FakeDns, patience: DnsPatience) -> None:
        self.server = server
        self.report = Report()
        self.discovery = DnsDiscovery(source, self.report, Random(1), patience)
        self.members: tuple[Member, ...] | None = None
        self.seen = 0

    async def follow(self) -> None:
        async for members in self.discovery.watch():
            self.members = members
            self.seen += 1

    async def named(self, *ids: str) -> None:
        await until(
            lambda: self.members is not None and [member.replica_id for member in self.members] == [*ids]
        )


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


def play(
    scenario: Callable[[Watched], Awaitable[None]],
    *,
    srv: bool = False,
    interval_s: float = 0.02,
    patience: DnsPatience = HURRIED_DNS,
    pool: Pool | None = None,
    **zone: list[str],
) -> Watched:
    async def run() -> Watched:
        server = FakeDns()
        server.zone = {(NAME, kind): records for kind, records in zone.items()}
        await server.start()
        try:
            source = DnsSource(
                NAME,
                0 if srv else 8000,
                srv=srv,
                interval_s=interval_s,
                nameserver=("127.0.0.1", server.port),
                pool=pool or Pool(),
            )
            watched = Watched(source, server, patience)
            following = asyncio.create_task(watched.follow())
            await scenario(watched)
            assert not following.done()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            return watched
        finally:
            server.stop()

    return asyncio.run(run())


def test_addresses_are_named_in_order_with_what_the_url_says_of_them() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.named("10.0.0.1:8000", "10.0.0.2:8000")
        assert watched.members is not None
        member = watched.members[0]
        assert (member.url, member.zone, member.models) == ("https://10.0.0.1:8000", "z", {"m"})

    play(scenario, A=["10.0.0.2", "10.0.0.1"], pool=Pool(frozenset({"m"}), "z", "https"))


def test_ipv6_addresses_count_where_there_are_no_others() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.named("[fd00::1]:8000")
        watched.server.zone[NAME, "A"] = ["10.0.0.1"]
        await watched.named("10.0.0.1:8000")

    play(scenario, AAAA=["fd00::1"])


def test_an_alias_is_followed_and_a_long_answer_read_by_tcp() -> None:
    async def scenario(watched: Watched) -> None:
        watched.server.truncates = True
        watched.server.zone = {
            (NAME, "CNAME"): ["elsewhere."],
            ("elsewhere.", "A"): [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(60)],
        }
        await until(lambda: watched.members is not None and len(watched.members) == 60)

    play(scenario, patience=dataclasses.replace(HURRIED_DNS, answer_s=10.0))


def test_srv_records_of_the_lowest_priority_name_targets_and_ports() -> None:
    async def scenario(watched: Watched) -> None:
        await watched.named("vllm-0.vllm:8000", "vllm-1.vllm:8001")
        assert watched.members is not None
        assert watched.members[0].url == "http://vllm-0.vllm:8000"
        watched.server.zone[NAME, "SRV"] = ["0 0 0 ."]
        await watched.named()

    records = ["1 9 8000 VLLM-0.vllm.", "1 1 8001 vllm-1.vllm.", "2 1 8000 spare.vllm."]
    play(scenario, srv=True, SRV=records)


def test_a_failure_of_either_kind_keeps_the_last_answer_and_is_told() -> None:
    async def scenario(watched: Watched) -> None:
        report, server = watched.report, watched.server
        await watched.named("10.0.0.1:8000")
        server.rcode = "SERVFAIL"
        server.zone = {}
        await until(lambda: len(report.failures) >= 2)
        assert report.failures[0][0] is DiscoveryFailure.SERVER
        assert "SERVFAIL" in report.failures[0][1]
        server.silent = True
        await until(lambda: report.failures[-1][0] is DiscoveryFailure.TIMEOUT)
        assert "did not answer for 'vllm.prod.svc.' within 0.3 s" in report.failures[-1][1]
        assert watched.seen == 1
        server.zone = {(NAME, "A"): ["10.0.0.2"]}
        server.silent, server.rcode = False, "NOERROR"
        await watched.named("10.0.0.2:8000")

    play(scenario, A=["10.0.0.1"])


def test_a_name_that_does_not_exist_is_a_failure_that_keeps_the_last_answer() -> None:
    async def scenario(watched: Watched) -> None:
        report, server = watched.report, watched.server
        await until(lambda: len(report.failures) >= 2)
        assert watched.seen == 0, "nobody is named before the name was there"
        server.zone = {(NAME, "A"): ["10.0.0.1"]}
        await watched.named("10.0.0.1:8000")
        server.zone, told = {}, len(report.failures)
        await until(lambda: len(report.failures) > told + 2 * EMPTY_ANSWERS)
        assert watched.seen == 1
        assert {failure for failure, _ in report.failures} == {DiscoveryFailure.NOT_FOUND}
        assert "'vllm.prod.svc.' does not exist, says DNS (" in report.failures[-1][1]

    play(scenario)


def test_records_that_vanish_for_a_moment_are_kept() -> None:
    async def scenario(watched: Watched) -> None:
        server = watched.server
        await watched.named("10.0.0.1:8000")
        zone = server.zone
        server.zone = {(NAME, "TXT"): ['"no address"']}
        asked = len(server.questions)
        await until(lambda: len(server.questions) > asked)
        server.zone = zone
        await until(lambda: len(server.questions) > asked + 2 * EMPTY_ANSWERS + 2)
        assert watched.seen == 1
        server.zone = {(NAME, "TXT"): ['"no address"']}
        await watched.named()
        assert "has no AAAA record" in watched.report.problems[-1]
        assert not watched.report.failures

    # Slow enough that one question can be told from the next.
    play(scenario, interval_s=0.2, patience=DnsPatience(min_interval_s=0.2), A=["10.0.0.1"])


def test_the_ttl_says_when_to_ask_again_between_a_second_and_the_interval() -> None:
    def interval_s(ttl_s: int, interval_s: float) -> float:
        from warmroute.adapters.discovery.dns import _Found

        discovery = DnsDiscovery(
            DnsSource(NAME, 1, interval_s=interval_s), Report(), Random(1), DnsPatience()
        )
        return discovery._interval_s(_Found((("10.0.0.1", 1),), float(ttl_s)), doubtful=False)

    assert [interval_s(ttl_s, 10.0) for ttl_s in (0, 5, 300)] == [1.0, 5.0, 10.0]
    assert interval_s(300, 0.5) == 0.5
