"""What a verdict on a replica means for the requests that it has already: nothing, unless it is shown to be dead."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.support.wire import ClientWire, Wire
from warmroute.config.schema import UpstreamConfig
from warmroute.core.fleet.fleet import ProbeFailed, ProbeSucceeded
from warmroute.core.health.health import FailureReason, ReplicaState
from warmroute.core.types import Incarnation
from warmroute.dataplane.sweeper import DEAD_SILENCE_S, PERIOD_S, Sweeper
from warmroute.dataplane.upstream import ReplicaConnection

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST = b'f\r\ndata: {"a":1}\n\n\r\n'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
LIMITS = UpstreamConfig(first_byte_timeout_s=600.0, stream_idle_timeout_s=300.0)


class Scene:
    """Requests under way, and time that passes as the sweeper sees it."""

    def __init__(self, replicas: int = 1) -> None:
        self.wire = Wire(replicas=replicas, upstream=LIMITS)
        self.sweeper = Sweeper(self.wire.gateway)
        self.now_s = time.monotonic()
        self.sweeper.sweep(self.now_s)

    def ask(self, text: str = "hello", stream: bool = False) -> tuple[ClientWire, ReplicaConnection]:
        for number in range(len(self.wire.replicas)):
            self.wire.add_upstream(number)
        client = self.wire.connect()
        body = json.dumps(
            {"model": "m", "stream": stream, "messages": [{"role": "user", "content": text}]}
        ).encode()
        client.feed(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        exchange = client.connection.exchange
        assert exchange is not None
        connection = exchange.connection
        assert connection is not None
        return client, connection

    def pass_time(self, seconds: float) -> None:
        """As the sweeper does: twice a second."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(self.now_s + PERIOD_S, until_s)
            self.sweeper.sweep(self.now_s)

    def probe_fails(self, number: int = 0, *, refused: bool = False) -> None:
        replica = self.wire.replicas[number]
        self.wire.worker.fleet.apply(ProbeFailed(replica.id, "refused" if refused else "x", time.time()))


@pytest.mark.parametrize("stream", [False, True])
def test_a_replica_whose_probes_fail_while_it_computes_keeps_what_it_has(stream: bool) -> None:
    scene = Scene()
    client, connection = scene.ask(stream=stream)
    if stream:
        connection.data_received(HEAD + FIRST)
    for _ in range(5):
        scene.probe_fails()
    assert scene.wire.replicas[0].state is ReplicaState.EJECTED
    scene.pass_time(290.0)
    connection.data_received(b"0\r\n\r\n" if stream else PLAIN)
    assert b"error" not in client.output
    assert client.output.endswith(b"0\r\n\r\n" if stream else b"{}")
    assert scene.wire.at_rest()


def test_two_replicas_whose_probes_fail_answer_everybody() -> None:
    scene = Scene(2)
    asked = [scene.ask(f"{number}") for number in range(2)]
    for number in range(2):
        scene.probe_fails(number)
        scene.probe_fails(number)
    asked += [scene.ask(f"later {number}") for number in range(2)]
    scene.pass_time(60.0)
    for client, connection in asked:
        connection.data_received(PLAIN)
        assert client.output.endswith(b"\r\n\r\n{}")


def test_failed_requests_eject_for_new_ones_and_leave_old_ones_alone() -> None:
    scene = Scene()
    client, connection = scene.ask()
    for _ in range(3):
        scene.wire.gateway.replica_failed(scene.wire.replicas[0], FailureReason.TIMEOUT)
    assert scene.wire.replicas[0].state is ReplicaState.EJECTED
    scene.pass_time(500.0)
    connection.data_received(PLAIN)
    assert client.output.endswith(b"{}")


@pytest.mark.parametrize("how", ["refused request", "refused probe", "another life"])
def test_a_request_that_a_dead_replica_holds_open_is_given_up_at_once(how: str) -> None:
    scene = Scene()
    client, _ = scene.ask()
    scene.pass_time(100.0)  # a long prefill: being silent so far is no fault
    if how == "refused request":
        scene.wire.gateway.fleet.report_failure(
            scene.wire.replicas[0], FailureReason.REFUSED, scene.wire.gateway.clock()
        )
    elif how == "refused probe":
        scene.probe_fails(refused=True)
    else:
        scene.wire.restart()
    scene.pass_time(DEAD_SILENCE_S - 0.5)
    assert client.output == b""
    scene.pass_time(2.0)
    assert client.output.startswith(b"HTTP/1.1 504 ")
    assert scene.wire.at_rest()


def test_a_life_that_is_only_guessed_to_be_another_kills_nothing() -> None:
    """An engine that does not say when it began, and whose `/health` was 503 while it computed."""
    scene = Scene()
    client, connection = scene.ask()
    replica = scene.wire.replicas[0]
    scene.wire.worker.fleet.apply(
        ProbeSucceeded(replica.id, Incarnation(77), ["m"], None, None, time.time(), life_told=False)
    )
    scene.pass_time(60.0)
    connection.data_received(PLAIN)
    assert client.output.endswith(b"{}")


def test_a_replica_that_refused_once_and_answers_again_is_not_dead() -> None:
    scene = Scene()
    client, connection = scene.ask()
    scene.probe_fails(refused=True)
    scene.pass_time(DEAD_SILENCE_S - 0.5)
    scene.wire.worker.fleet.apply(
        ProbeSucceeded(scene.wire.replicas[0].id, Incarnation(1), None, None, None, time.time())
    )
    scene.pass_time(60.0)
    scene.probe_fails(refused=True)
    scene.pass_time(DEAD_SILENCE_S - 0.5)  # counted anew
    connection.data_received(PLAIN)
    assert client.output.endswith(b"{}")


def test_time_outs_say_nothing_of_a_replica_that_answers_others_meanwhile() -> None:
    scene = Scene()
    replica = scene.wire.replicas[0]
    overlong = [scene.ask(f"long {number}")[0] for number in range(3)]
    scene.pass_time(300.0)
    other, connection = scene.ask("short")
    connection.data_received(PLAIN)
    assert other.output.endswith(b"{}")
    scene.pass_time(301.0)
    assert all(client.output.startswith(b"HTTP/1.1 504 ") for client in overlong)
    assert replica.state is ReplicaState.READY
    assert replica.health.failures == 0


def test_time_outs_of_a_replica_that_answers_nobody_eject_it() -> None:
    async def scenario() -> None:
        scene = Scene()
        for number in range(3):
            scene.ask(f"long {number}")
        scene.pass_time(601.0)
        assert scene.wire.replicas[0].state is ReplicaState.EJECTED

    asyncio.run(scenario())
