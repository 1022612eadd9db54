"""Requests held in the router: let go when a replica can begin, never lost, never in the way. Real sockets."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.router_thread import RouterThread, running, wait_until
from tests.support.scripted_upstream import SSE_HEAD, Connection, Received, ScriptedUpstream, chunk
from tests.support.sim_fleet import SimProcess
from warmroute.config.schema import Address, Config, HoldConfig, LearningConfig, PolicyConfig, ReplicaConfig
from warmroute.core.fleet.events import ReplicaRemoved
from warmroute.core.types import ReplicaId

ANY = Address("127.0.0.1:0")
SLOW = PolicyConfig(prefill_tokens_per_s=50.0)
"""Each of the prompts below is believed to take a minute: nobody is let go by the clock."""
HOLD = HoldConfig(max_s=600.0)


class Gated:
    """A replica that begins an answer only when it is let: one permit a request."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)

    def script(self, _upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(SSE_HEAD)
        if not self.permits.acquire(timeout=120):
            return False
        connection.send(chunk(b'data: {"n":1}\n\n') + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return True


class Client(threading.Thread):
    """One streamed request, sent at once; `status` and `headers` once it is answered."""

    def __init__(self, router: RouterThread, asked: str | dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._router = router
        self._body = body(asked) if isinstance(asked, str) else asked
        self.status = 0
        self.start()

    def run(self) -> None:
        self.status, self.headers, self.answer = self._router.post("/v1/chat/completions", self._body)

    def wait(self) -> int:
        """The answer's status."""
        self.join(60)
        return self.status


def body(text: str) -> dict[str, Any]:
    content = f"{text} " + f"{text[::-1]} word " * 1500
    return {"model": "m", "messages": [{"role": "user", "content": content}], "stream": True}


def config(*upstreams: ScriptedUpstream, hold: HoldConfig = HOLD) -> Config:
    return Config(
        listen=ANY,
        admin=ANY,
        replicas=tuple(ReplicaConfig(url=upstream.url, id=upstream.id) for upstream in upstreams),
        policy=SLOW,
        learning=LearningConfig(enabled=False),
        hold=hold,
    )


def held(router: RouterThread) -> int:
    hold = router.worker.gateway.hold
    return hold.waiting if hold is not None else 0


def in_flight(router: RouterThread) -> int:
    replicas = router.worker.gateway.fleet.replicas.values()
    return sum(router.call(lambda: [replica.in_flight for replica in replicas]))


def fill(router: RouterThread, upstreams: list[ScriptedUpstream]) -> list[Client]:
    """Two prompts for each replica: more than it computes in a step, so that whoever comes next is held."""
    clients: list[Client] = []
    while held(router) == 0:
        clients.append(Client(router, f"first {len(clients)}"))
        sent = len(clients)
        wait_until(lambda sent=sent: in_flight(router) + held(router) == sent)
        assert sent <= 2 * len(upstreams) + 2
    return clients


def explained(router: RouterThread, asked: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(router.admin_url + "/explain", json.dumps(asked).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@pytest.fixture
def gated() -> Iterator[tuple[Gated, ScriptedUpstream]]:
    replica = Gated()
    with ScriptedUpstream(script=replica.script) as upstream:
        yield replica, upstream
        replica.permits.release(1000)


def test_a_held_request_is_sent_when_the_one_before_it_begins(gated: tuple[Gated, ScriptedUpstream]) -> None:
    replica, upstream = gated
    with running(config(upstream), 1) as router:
        clients = fill(router, [upstream])
        wait_until(lambda: len(upstream.received) == len(clients) - 1)
        assert explained(router, body("other"))["would_be_held"] is True
        assert explained(router, body("other"))["held_requests"] == 1
        replica.permits.release(1)
        wait_until(lambda: len(upstream.received) == len(clients))
        replica.permits.release(1000)
        assert [client.wait() for client in clients] == [200] * len(clients)
        router.assert_at_rest()
        assert held(router) == 0
        metrics = router.call(lambda: router.worker.metrics.hold.counts)
        assert sum(metrics) == 1
        assert explained(router, body("other"))["would_be_held"] is False


def test_a_client_that_leaves_while_held_leaves_nothing_behind(gated: tuple[Gated, ScriptedUpstream]) -> None:
    replica, upstream = gated
    with running(config(upstream), 1) as router:
        clients = fill(router, [upstream])
        data = json.dumps(body("gone")).encode()
        with router.connect() as sock:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n" % len(data)
            sock.sendall(head + data)
            wait_until(lambda: held(router) == 2)
        wait_until(lambda: held(router) == 1)
        replica.permits.release(1000)
        assert [client.wait() for client in clients] == [200] * len(clients)
        router.assert_at_rest()
        assert len(upstream.received) == len(clients), "the one that left was never sent"
        assert router.call(lambda: router.worker.metrics.client_disconnects) == {"held": 1}


def test_requests_held_for_a_replica_that_dies_are_answered_by_another() -> None:
    dying, living = Gated(), Gated()
    with ScriptedUpstream(script=dying.script) as first, ScriptedUpstream(script=living.script) as second:
        with running(config(first, second), 2) as router:
            clients = fill(router, [first, second])
            clients += [Client(router, f"held {number}") for number in range(4)]
            wait_until(lambda: held(router) == 5)
            first.stop()
            living.permits.release(1000)
            assert [client.wait() for client in clients] == [200] * len(clients)
            router.assert_at_rest()
            assert held(router) == 0


def test_held_requests_are_refused_when_no_replica_is_left(gated: tuple[Gated, ScriptedUpstream]) -> None:
    replica, upstream = gated
    with running(config(upstream), 1) as router:
        clients = fill(router, [upstream])
        router.call(lambda: router.worker.fleet.apply(ReplicaRemoved(ReplicaId(upstream.id))))
        assert clients[-1].wait() == 503
        replica.permits.release(1000)
        assert [client.wait() for client in clients[:-1]] == [200] * (len(clients) - 1)
        assert held(router) == 0


def test_held_requests_are_answered_while_the_router_drains(gated: tuple[Gated, ScriptedUpstream]) -> None:
    replica, upstream = gated
    router = RouterThread(config(upstream))
    router.__enter__()
    try:
        router.wait_ready(1)
        clients = fill(router, [upstream])
    finally:
        stopping = threading.Thread(target=router.__exit__)
        stopping.start()
    wait_until(lambda: router.worker.gateway.draining)
    replica.permits.release(1000)
    stopping.join(60)
    assert [client.wait() for client in clients] == [200] * len(clients)


def test_nobody_is_held_where_holding_is_off(gated: tuple[Gated, ScriptedUpstream]) -> None:
    replica, upstream = gated
    with running(config(upstream, hold=HoldConfig(enabled=False)), 1) as router:
        clients = [Client(router, f"a {number}") for number in range(6)]
        wait_until(lambda: len(upstream.received) == 6)
        assert explained(router, body("other"))["would_be_held"] is False
        replica.permits.release(1000)
        assert [client.wait() for client in clients] == [200] * 6


def test_a_burst_is_answered_whole() -> None:
    with SimProcess("--model", "m", "--speed", "2", ports=2) as sims:
        replicas = tuple(ReplicaConfig(url=url, id=url[7:]) for url in sims.urls)
        with running(Config(listen=ANY, admin=ANY, replicas=replicas), 2) as router:
            clients = [Client(router, f"burst {number}") for number in range(60)]
            assert [client.wait() for client in clients] == [200] * 60
            assert all(client.answer.endswith(b"data: [DONE]\n\n") for client in clients)
            router.assert_at_rest()
            assert held(router) == 0
            assert sum(router.call(lambda: router.worker.metrics.hold.counts)) > 0
