"""Sources of members with a hand in what they name, for the contract suite of discovery: one `World` a backend."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Protocol

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.fake_dns import FakeDns
from tests.support.fake_kubernetes import FakeKubernetes, endpoint, endpoint_slice
from tests.support.redis_server import RedisServer
from warmroute.adapters.discovery.dns import DnsDiscovery, DnsPatience
from warmroute.adapters.discovery.kubernetes.access import Access
from warmroute.adapters.discovery.kubernetes.api import Api, Patience
from warmroute.adapters.discovery.kubernetes.discovery import KubernetesDiscovery
from warmroute.adapters.discovery.kubernetes.slices import selector_of
from warmroute.adapters.discovery.redis import RedisDiscovery
from warmroute.adapters.discovery.static import StaticDiscovery
from warmroute.config.discovery_urls import DnsSource, KubernetesSource
from warmroute.core.types import ReplicaId
from warmroute.ports import Discovery, DiscoveryFailure, DiscoveryReport, Member


class World(Protocol):
    """One backend. Used within one event loop: `start`, anything, `stop`."""

    candidates: Sequence[Member]
    """At least three members as the source would name them, each with id and URL of its own."""
    drains: bool
    """Whether the source can name a member as draining."""
    fails: bool
    """Whether the source can fail."""

    async def start(self) -> None:
        """Bring up what the source reads; it names nobody yet."""

    async def stop(self) -> None:
        """Take it down."""

    def discovery(self, report: DiscoveryReport) -> Discovery:
        """The adapter under test, with short times."""

    async def name(self, *members: Member) -> None:
        """From now on the source names exactly these, each one of `candidates` or such a one draining."""

    async def fail(self) -> None:
        """From now on the source cannot be read."""

    async def mend(self) -> None:
        """It can again."""


class Report:
    """Remembers what a source reports."""

    def __init__(self) -> None:
        self.successes = 0
        self.failures: list[tuple[DiscoveryFailure, str]] = []
        self.problems: list[str] = []
        """Each that is news, `` where it ended."""

    def succeeded(self) -> None:
        self.successes += 1

    def failed(self, failure: DiscoveryFailure, detail: str, retry_in_s: float) -> None:
        self.failures.append((failure, detail))

    def noticed(self, problem: str) -> None:
        if problem != (self.problems[-1] if self.problems else ""):
            self.problems.append(problem)


class StaticWorld:
    """Members that the settings name."""

    candidates = tuple(Member(ReplicaId(name), f"http://{name}:8000") for name in "abc")
    drains = True
    fails = False

    def __init__(self) -> None:
        self._members: tuple[Member, ...] = ()
        self._watched: list[StaticDiscovery] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def discovery(self, report: DiscoveryReport) -> Discovery:
        static = StaticDiscovery(self._members)
        self._watched.append(static)
        return static

    async def name(self, *members: Member) -> None:
        self._members = members
        for static in self._watched:
            static.change(members)

    async def fail(self) -> None:
        raise NotImplementedError

    async def mend(self) -> None:
        raise NotImplementedError


class KubernetesWorld:
    """EndpointSlices of a Service in a fake API server, two endpoints a slice."""

    candidates = tuple(
        Member(ReplicaId(f"vllm-{name}"), f"http://10.0.0.{number}:8000")
        for number, name in enumerate("abc", start=1)
    )
    drains = True
    fails = True

    def __init__(self) -> None:
        self.fake = FakeKubernetes()

    async def start(self) -> None:
        await self.fake.start()

    async def stop(self) -> None:
        await self.fake.stop()

    def discovery(self, report: DiscoveryReport) -> Discovery:
        return kubernetes(KubernetesSource("prod", "vllm", port="http"), self.fake.url, report)

    async def name(self, *members: Member) -> None:
        for start in (0, 2):
            self.fake.put(endpoint_slice(f"vllm-{start}", map(endpoint_of, members[start : start + 2])))

    async def fail(self) -> None:
        await self.fake.stop()

    async def mend(self) -> None:
        await self.fake.start()


HURRIED = Patience(
    connect_s=5.0, answer_s=5.0, page_s=5.0, silence_s=5.0, backoff_min_s=0.02, backoff_max_s=0.1
)
"""For servers that answer at once."""


def kubernetes(
    source: KubernetesSource,
    server: str,
    report: DiscoveryReport,
    *,
    patience: Patience = HURRIED,
    access: Callable[[], Access] | None = None,
) -> KubernetesDiscovery:
    """The adapter for a fake server."""
    known = Access(server, "prod", "token")
    connect = partial(Api, access or (lambda: known), source.namespace, selector_of(source), patience)
    return KubernetesDiscovery(source, connect, report, Random(1), patience)


def endpoint_of(member: Member) -> dict[str, object]:
    """The endpoint of a slice that makes this member."""
    address = member.url.removeprefix("http://").rpartition(":")[0]
    leaving = member.draining
    return endpoint(str(member.replica_id), address, ready=not leaving, serving=True, terminating=leaving)


class DnsWorld:
    """Addresses of a name in a DNS server."""

    candidates: Sequence[Member] = tuple(
        Member(ReplicaId(f"10.0.0.{number}:8000"), f"http://10.0.0.{number}:8000") for number in (1, 2, 3)
    )
    drains = False
    fails = True

    def __init__(self) -> None:
        self.server = FakeDns()

    async def start(self) -> None:
        await self.server.start()

    async def stop(self) -> None:
        self.server.stop()

    def _source(self) -> DnsSource:
        return DnsSource("vllm.prod.svc.", 8000)

    def discovery(self, report: DiscoveryReport) -> Discovery:
        source = dataclasses.replace(
            self._source(), interval_s=0.02, nameserver=("127.0.0.1", self.server.port)
        )
        return DnsDiscovery(source, report, Random(1), HURRIED_DNS)

    async def name(self, *members: Member) -> None:
        hosts = [member.url.removeprefix("http://").rpartition(":")[0] for member in members]
        self.server.zone = {("vllm.prod.svc.", "A"): hosts} if hosts else {("vllm.prod.svc.", "TXT"): ['"x"']}

    async def fail(self) -> None:
        self.server.rcode = "SERVFAIL"

    async def mend(self) -> None:
        self.server.rcode = "NOERROR"


class SrvWorld(DnsWorld):
    """SRV records in a DNS server that sometimes does not answer at all."""

    candidates = tuple(
        Member(ReplicaId(f"vllm-{number}.vllm.prod.svc:8000"), f"http://vllm-{number}.vllm.prod.svc:8000")
        for number in (0, 1, 2)
    )

    def _source(self) -> DnsSource:
        return DnsSource("_http._tcp.vllm.prod.svc.", srv=True)

    async def name(self, *members: Member) -> None:
        hosts = [member.url.removeprefix("http://").rpartition(":")[0] for member in members]
        records = [f"0 10 8000 {host}." for host in hosts]
        name = "_http._tcp.vllm.prod.svc."
        self.server.zone = {(name, "SRV"): records} if records else {(name, "TXT"): ['"x"']}

    async def fail(self) -> None:
        self.server.silent = True

    async def mend(self) -> None:
        self.server.silent = False


HURRIED_DNS = DnsPatience(answer_s=0.3, min_interval_s=0.02, backoff_min_s=0.02, backoff_max_s=0.1)
"""For servers that answer at once."""


class RedisWorld:
    """Agents' records in a real Redis, written as docs/replica-agent.md says, by nobody's code but this."""

    candidates = tuple(Member(ReplicaId(name), f"http://{name}:8000") for name in "abc")
    drains = True
    fails = True

    INTERVAL_S = 0.5

    def __init__(self) -> None:
        self.server = RedisServer()
        self._members: tuple[Member, ...] = ()
        self._up = False
        self._beating: asyncio.Task[None] | None = None
        self._writing = threading.Lock()

    async def start(self) -> None:
        await self.mend()
        self._beating = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        assert self._beating is not None
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        await asyncio.to_thread(self.server.__exit__, None, None, None)

    def discovery(self, report: DiscoveryReport) -> Discovery:
        return RedisDiscovery(self.server.url, namespace="w", report=report, read_s=0.5)

    async def name(self, *members: Member) -> None:
        left = {member.replica_id for member in self._members} - {member.replica_id for member in members}
        gone = [member for member in self._members if member.replica_id in left]
        self._members = members
        if self._up:
            await asyncio.to_thread(self._write, gone)

    async def fail(self) -> None:
        self._up = False
        await asyncio.to_thread(self.server.kill)

    async def mend(self) -> None:
        await asyncio.to_thread(self.server.start)
        self._up = True
        await asyncio.to_thread(self._write, [])

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.INTERVAL_S / 2)
            if self._up:
                with contextlib.suppress(redis.RedisError):
                    await asyncio.to_thread(self._write, [])

    def _write(self, gone: Sequence[Member]) -> None:
        lives_ms = int(self.INTERVAL_S * 4000)
        # One at a time, or a beat that began earlier would bring back who is withdrawn here.
        client = redis.Redis(port=self.server.port, socket_timeout=30.0, retry=Retry(NoBackoff(), 0))
        with self._writing, client:
            for member in gone:
                client.delete(f"w:member:{member.replica_id}")
                client.zrem("w:members", member.replica_id)
                client.publish("w:members", self._text(member, "gone"))
            for member in self._members:
                text = self._text(member, "draining" if member.draining else "ready")
                seconds, micros = client.time()
                client.set(f"w:member:{member.replica_id}", text, px=lives_ms)
                client.zadd("w:members", {member.replica_id: seconds * 1000 + micros // 1000 + lives_ms})
                client.publish("w:members", text)

    def _text(self, member: Member, state: str) -> str:
        told = {"format": 1, "id": member.replica_id, "url": member.url, "state": state}
        return json.dumps(
            {**told, "interval_s": self.INTERVAL_S, "models": ["m"], "running": 0, "waiting": 0}
        )


WORLDS: dict[str, type[World]] = {
    "static": StaticWorld,
    "kubernetes": KubernetesWorld,
    "dns": DnsWorld,
    "dns+srv": SrvWorld,
    "redis": RedisWorld,
}
