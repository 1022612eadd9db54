"""Requests held at different routers over one Redis: what one lets go, the others' requests go by. Real sockets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_dataplane_hold import Client, Gated, held
from tests.support.redis_server import RedisServer
from tests.support.router_thread import RouterThread, wait_until
from tests.support.scripted_upstream import ScriptedUpstream
from warmroute.config.schema import (
    Address,
    Config,
    FingerprintConfig,
    HoldConfig,
    LearningConfig,
    PolicyConfig,
    RegistryConfig,
    ReplicaConfig,
    UpstreamConfig,
)

ANY = Address("127.0.0.1:0")
BELIEVED_TOKENS_PER_S = 400.0
"""So slow that nobody is let go by the clock: the two first prompts are believed to take half a minute."""
SMALL = 40
"""Short prompts before them: held ones are looked up again as often as the mean of all takes, which is then 0.1 s."""
SHARED = "what both of them begin with " * 200


def body(content: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], "stream": True}


def config(redis: RedisServer, upstreams: list[ScriptedUpstream], most_held: int) -> Config:
    return Config(
        listen=ANY,
        admin=ANY,
        replicas=tuple(ReplicaConfig(url=upstream.url, id=upstream.id) for upstream in upstreams),
        policy=PolicyConfig(prefill_tokens_per_s=BELIEVED_TOKENS_PER_S),
        learning=LearningConfig(enabled=False),
        hold=HoldConfig(max_s=600.0, max_requests=most_held),
        upstream=UpstreamConfig(late_factor=0.0),  # the replicas are silent for as long as the test likes
        registry=RegistryConfig(url=redis.url, lookup_deadline_s=1.0),
        fingerprint=FingerprintConfig(secret="sixteen characters"),
    )


@pytest.fixture
def gated() -> Iterator[list[tuple[Gated, ScriptedUpstream]]]:
    with contextlib.ExitStack() as stack:
        replicas = []
        for _ in range(2):
            replica = Gated()
            replicas.append((replica, stack.enter_context(ScriptedUpstream(script=replica.script))))
        yield replicas
        for replica, _ in replicas:
            replica.permits.release(1000)


def received(upstreams: list[ScriptedUpstream]) -> int:
    return sum(len(upstream.received) for upstream in upstreams)


def holders(router: RouterThread) -> list[Any]:
    """What the router's held requests are known to be kept by."""
    hold = router.worker.gateway.hold
    assert hold is not None
    return [record for ticket in hold._queue._tickets for record in ticket.records or () if record]


@pytest.mark.timeout(180)
def test_a_held_request_goes_where_another_router_has_sent_its_prefix_meanwhile(
    gated: list[tuple[Gated, ScriptedUpstream]],
) -> None:
    upstreams = [upstream for _, upstream in gated]
    with RedisServer() as redis, contextlib.ExitStack() as stack:
        # The first router holds nobody.
        first, second = (
            stack.enter_context(RouterThread(config(redis, upstreams, most))) for most in (0, 100)
        )
        for router in (first, second):
            router.wait_ready(2)
        wait_until(lambda: all(router.worker.load_reports.routers == 1 for router in (first, second)))
        for replica, _ in gated:
            replica.permits.release(SMALL)
        assert [second.post("/v1/chat/completions", body(f"{n}"))[0] for n in range(SMALL)] == [200] * SMALL
        for replica, _ in gated:
            while replica.permits.acquire(blocking=False):
                pass
        before = [len(upstream.received) for upstream in upstreams]
        # Both replicas are busy, and the second router knows it: it holds a request.
        long = [Client(first, body(f"{word} " * 8000)) for word in ("apple", "pears")]
        wait_until(
            lambda: all(len(u.received) == count + 1 for u, count in zip(upstreams, before, strict=True))
        )
        wait_until(
            lambda: all(r.peer_awaited_tokens > 9000 for r in second.worker.gateway.fleet.replicas.values())
        )
        held_one = Client(second, body(SHARED + "a"))
        wait_until(lambda: held(second) == 1)
        assert not holders(second)
        # The first router sends one that begins alike, and the second gets to know of it.
        sent = Client(first, body(SHARED + "b"))
        wait_until(lambda: received(upstreams) == sum(before) + 3)
        wait_until(lambda: len(holders(second)) > 0)
        (home,) = [n for n, u in enumerate(upstreams) if len(u.received) == before[n] + 2]
        # That one is being computed, and the other replica comes free: the held request waits for its prefix.
        gated[home][0].permits.release(1)
        wait_until(lambda: sum(client.is_alive() for client in long) == 1)
        gated[1 - home][0].permits.release(1)
        wait_until(lambda: not any(client.is_alive() for client in long))
        gated[home][0].permits.release(1)
        wait_until(lambda: received(upstreams) == sum(before) + 4)
        for replica, _ in gated:
            replica.permits.release(1000)
        assert [client.wait() for client in (*long, sent, held_one)] == [200] * 4
        assert held_one.headers["x-warmroute-replica"] == sent.headers["x-warmroute-replica"]
        assert held_one.headers["x-warmroute-decision"] == "warm"
        for router in (first, second):
            router.assert_at_rest()
