"""What agents write and routers read, through real servers of every kind: each half meets the other only here."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tests.integration.test_redis_access import make_certificates, tls_server
from tests.support.discovery_worlds import Report
from tests.support.redis_cluster import redis_cluster
from tests.support.redis_server import RedisServer
from warmroute.adapters.discovery.redis import RedisDiscovery
from warmroute.ports import DiscoveryFailure, Member
from warmroute_replica.agent.announcer import Announcer
from warmroute_replica.agent.record import Record, State
from warmroute_replica.agent.redis_url import parse_redis_url

PATIENCE_S = 60.0
AGENT_RIGHTS = (
    "~w:member* &w:members +auth +eval +get +set +del +time +zadd +zrem +zremrangebyscore +publish".split()
)
ROUTER_RIGHTS = (
    "~w:member* &w:members +auth +select +role +subscribe +ping +time +zrevrangebyscore +get".split()
)


class Speaker:
    """An agent's part in Redis, saying what the test says."""

    def __init__(
        self, url: str, replica_id: str = "a", *, agent: str = "1-a", incarnation: float | None = 1.0
    ) -> None:
        self.record = Record(
            id=replica_id,
            url=f"http://{agent}:8000",
            agent=agent,
            state=State.READY,
            interval_s=0.2,
            models=("m",),
            adapters=("m-lora",),
            incarnation=incarnation,
            zone="z",
            labels={"gpu": "none"},
            running=1,
            waiting=2,
        )
        self.announcer = Announcer(parse_redis_url(url), "w", lambda: self.record, random.Random(1))
        self._task: asyncio.Task[None] | None = None

    def say(self, **changes: Any) -> None:
        fields = {name: getattr(self.record, name) for name in Record.__dataclass_fields__}
        self.record = Record(**{**fields, **changes})
        self.announcer.changed()

    async def __aenter__(self) -> Speaker:
        self._task = asyncio.create_task(self.announcer.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def end(self, *, goodbye: bool = True) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.say(state=State.GONE)
            if goodbye:
                await self.announcer.withdraw()
            else:
                await self.announcer._disconnect()


class Listener:
    """A router's part: what it knows, kept current."""

    def __init__(self, url: str) -> None:
        self.report = Report()
        self.loads: dict[str, tuple[int | None, int | None]] = {}
        self.seen: list[tuple[Member, ...]] = []
        self._discovery = RedisDiscovery(
            url, namespace="w", report=self.report, on_load=self._load, read_s=0.3
        )

    def _load(self, replica_id: str, running: int | None, waiting: int | None) -> None:
        self.loads[replica_id] = running, waiting

    @property
    def states(self) -> dict[str, bool]:
        """Whether each drains, by id."""
        return {str(member.replica_id): member.draining for member in (self.seen or [()])[-1]}

    async def follow(self) -> None:
        async with aclosing(cast(Any, self._discovery.watch())) as watched:
            async for members in watched:
                self.seen.append(members)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Listener]:
    listener = Listener(url)
    task = asyncio.create_task(listener.follow())
    try:
        yield listener
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def meet(agent_url: str, router_url: str) -> None:
    """An agent comes, changes and goes; a router follows."""
    async with listening(router_url) as router:
        await until(lambda: bool(router.seen))
        async with Speaker(agent_url) as agent, Speaker(agent_url, "b", agent="1-b") as other:
            await until(lambda: router.states == {"a": False, "b": False})
            (member,) = [m for m in router.seen[-1] if m.replica_id == "a"]
            assert (member.url, member.zone, member.labels) == ("http://1-a:8000", "z", {"gpu": "none"})
            assert member.models == {"m", "m-lora"}
            agent.say(running=5)
            await until(lambda: router.loads["a"] == (5, 2))
            agent.say(state=State.DRAINING)
            await until(lambda: router.states == {"a": True, "b": False})
            await agent.end()
            await until(lambda: router.states == {"b": False})
            assert other.announcer.errors == 0
        await until(lambda: router.states == {})
        assert router.report.failures == []
        assert "" not in router.report.problems


def play(scenario: Awaitable[None]) -> None:
    async def main() -> None:
        await scenario

    asyncio.run(main())


def test_users_with_just_the_documented_rights_are_enough() -> None:
    users = ("--user", "agent", "on", ">a", *AGENT_RIGHTS)
    with RedisServer(*users, "--user", "router", "on", ">r", *ROUTER_RIGHTS) as server:
        play(meet(f"redis://agent:a@127.0.0.1:{server.port}", f"redis://router:r@127.0.0.1:{server.port}/0"))


def test_tls_and_a_socket_file_work(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    with tls_server(tmp_path, clients_sign_in=True) as server:
        url = f"rediss://127.0.0.1:{server.port}/1?ssl_ca_certs={tmp_path / 'ca.crt'}"
        url += f"&ssl_certfile={tmp_path / 'end.crt'}&ssl_keyfile={tmp_path / 'end.key'}"
        play(meet(url, url))
    path = tmp_path / "redis.sock"
    with RedisServer("--unixsocket", str(path), "--requirepass", "word", client={"password": "word"}):
        play(meet(f"unix://:word@{path}?db=2", f"unix://:word@{path}?db=2"))


def test_a_cluster_works_whoever_asks_which_node() -> None:
    with redis_cluster() as servers:
        one, other, third = (server.port for server in servers)
        play(meet(f"redis+cluster://127.0.0.1:{one}", f"redis+cluster://127.0.0.1:{other},127.0.0.1:{third}"))


def test_the_primary_that_sentinels_name_is_used() -> None:
    with RedisServer() as primary:
        rule = f"sentinel monitor main 127.0.0.1 {primary.port} 1"
        with RedisServer(sentinel=rule) as sentinel:
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main"
            play(meet(url, url))


def test_who_falls_silent_expires_but_never_the_last_ones() -> None:
    async def scenario() -> None:
        with RedisServer() as server:
            async with (
                listening(server.url) as router,
                Speaker(server.url) as a,
                Speaker(server.url, "b", agent="1-b") as b,
            ):
                await until(lambda: set(router.states) == {"a", "b"})
                await a.end(goodbye=False)
                await until(lambda: set(router.states) == {"b"})
                await b.end(goodbye=False)
                await until(lambda: any("fell silent" in problem for problem in router.report.problems))
                assert set(router.states) == {"b"}, "that all engines died at once is less probable"
                async with Speaker(server.url, "c", agent="1-c"):
                    await until(lambda: set(router.states) == {"c"})
                    await until(lambda: router.report.problems[-1] == "")

    play(scenario())


def test_a_redis_that_restarts_empty_loses_nobody() -> None:
    async def scenario() -> None:
        with RedisServer() as server:
            async with listening(server.url) as router, Speaker(server.url) as a, Speaker(server.url, "b"):
                await until(lambda: set(router.states) == {"a", "b"})
                beats = a.announcer.heartbeats
                server.kill()
                await until(lambda: a.announcer.healthy is False and bool(router.report.failures))
                server.start()
                await until(lambda: a.announcer.heartbeats > beats + 2)
                server.command("FLUSHALL")
                beats = a.announcer.heartbeats
                await until(lambda: a.announcer.heartbeats > beats + 6)
                assert all({m.replica_id for m in seen} == {"a", "b"} for seen in router.seen[-1:])
                full = [{str(m.replica_id) for m in seen} for seen in router.seen]
                grown = full.index({"a", "b"})
                assert all(ids == {"a", "b"} for ids in full[grown:]), "nobody left in between"

    play(scenario())


def test_of_two_agents_with_one_id_the_one_with_the_newer_engine_is_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        with RedisServer() as server, caplog.at_level(logging.INFO, "warmroute_replica"):
            async with (
                listening(server.url) as router,
                Speaker(server.url, agent="9-old", incarnation=1.0) as old,
            ):
                await until(lambda: [m.url for m in (router.seen or [()])[-1]] == ["http://9-old:8000"])
                async with Speaker(server.url, agent="1-new", incarnation=2.0) as new:
                    await until(lambda: old.announcer.displaced_by == "http://1-new:8000")
                    await until(lambda: "replica_id_taken" in [r.message for r in caplog.records])
                    assert [m.url for m in router.seen[-1]] == ["http://1-new:8000"]
                    assert new.announcer.displaced_by is None
                    held = json.loads(server.command("GET", "w:member:a"))
                    assert held["incarnation"] == 2.0
                await until(lambda: [m.url for m in router.seen[-1]] == ["http://9-old:8000"])
                assert old.announcer.displaced_by is None

    play(scenario())
    said = [record.message for record in caplog.records]
    assert said.count("replica_id_taken") == said.count("replica_id_free") == 1


def test_an_agent_that_is_refused_says_what_is_missing_and_comes_in_once_it_may(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        with RedisServer("--user", "agent", "on", ">a", "~w:*") as server:
            url = f"redis://agent:a@127.0.0.1:{server.port}"
            with caplog.at_level(logging.INFO, "warmroute_replica"):
                async with Speaker(url) as agent:
                    await until(lambda: agent.announcer.errors >= 2)
                    server.command("ACL", "SETUSER", "agent", *AGENT_RIGHTS)
                    await until(lambda: agent.announcer.healthy is True)
                async with Speaker(f"redis://agent:wrong@127.0.0.1:{server.port}") as agent:
                    await until(lambda: agent.announcer.errors >= 2)

    play(scenario())
    down = [record.fields for record in caplog.records if record.message == "redis_down"]
    assert len(down) == 2, "each said once"
    assert "+eval" in down[0]["hint"]
    assert "password" in down[1]["hint"]
    assert "wrong@" not in caplog.text


def test_a_router_that_is_refused_says_which_rights_it_needs() -> None:
    async def scenario() -> None:
        with RedisServer("--user", "router", "on", ">r", "~w:*") as server:
            async with listening(f"redis://router:r@127.0.0.1:{server.port}") as router:
                await until(lambda: bool(router.report.failures))
            async with listening(f"redis://router:wrong@127.0.0.1:{server.port}") as stranger:
                await until(lambda: bool(stranger.report.failures))
        failure, detail = router.report.failures[0]
        assert failure is DiscoveryFailure.FORBIDDEN
        assert "+subscribe" in detail
        assert stranger.report.failures[0][0] is DiscoveryFailure.UNAUTHORIZED
        assert "wrong@" not in stranger.report.failures[0][1]

    play(scenario())
