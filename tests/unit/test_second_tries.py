"""Requests that are late: asked of a second replica beside the first, which answers first is passed on."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tests.support.wire import ClientWire, FakeTransport, ParsedAnswers
from tests.support.wire_fleet import OK, LivePool, WireFleet, plain
from warmroute.config.schema import QueueConfig, RetriesConfig, UpstreamConfig
from warmroute.core.fleet.fleet import ProbeFailed, ReplicaRemoved
from warmroute.core.health.health import ReplicaState
from warmroute.core.types import Api
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.sweeper import PERIOD_S, Sweeper
from warmroute.dataplane.upstream import Asker, ReplicaConnection
from warmroute.dialects.usage_request import ASKS

STREAM = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DATA = b'data: {"a":1}\n\n'
DONE = b"data: [DONE]\n\n"
LATE_S = 3.0


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ANSWER = HEAD + chunk(DATA) + chunk(DONE) + b"0\r\n\r\n"


class Scene:
    """A fleet, and time that passes as the sweeper sees it."""

    def __init__(self, replicas: int = 3, **settings: Any) -> None:
        settings.setdefault("upstream", UpstreamConfig(late_max_s=LATE_S))
        self.fleet = WireFleet(replicas, **settings)
        self.sweeper = Sweeper(self.fleet.gateway)
        self.now_s = time.monotonic()

    def pass_time(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s = min(self.now_s + PERIOD_S, until_s)
            self.sweeper.sweep(self.now_s)

    def until_asked(self, exchange: Exchange, most_s: float = LATE_S + 1.0) -> None:
        """Until a second replica is asked: what is sent counts from the real time, which does not pass."""
        until_s = self.now_s + most_s
        while exchange.second is None and self.now_s < until_s:
            self.pass_time(PERIOD_S)

    def late(
        self, body: dict[str, Any] = STREAM
    ) -> tuple[ClientWire, Exchange, FakeTransport, FakeTransport]:
        """A request that was asked of a second replica, and the connections of both tries."""
        client, exchange = self.fleet.begin(body)
        first = exchange.connection
        self.until_asked(exchange)
        second = exchange.second
        assert second is not None
        assert first is not None
        assert second.connection is not None
        assert exchange.connection is first
        return client, exchange, first.transport, second.connection.transport  # type: ignore[return-value]

    def count(self, name: str) -> dict[str, int]:
        counts: dict[str, int] = getattr(self.fleet.gateway.metrics, name)
        return counts


def deliver(transport: FakeTransport, exchange: Exchange, data: bytes) -> None:
    """Bytes on the connection of either try."""
    for connection in (exchange.connection, exchange.second.connection if exchange.second else None):
        if connection is not None and connection.transport is transport:
            connection.data_received(data)
            return
    raise AssertionError("no such connection")


@pytest.mark.parametrize("answer", [ANSWER, plain(200, OK)], ids=["stream", "whole"])
def test_the_second_replica_answers_where_the_first_is_silent(answer: bytes) -> None:
    scene = Scene()
    client, exchange, first, second = scene.late()
    silent = scene.fleet.replica_of(exchange)
    deliver(second, exchange, answer)
    assert ParsedAnswers(client.output).complete == 1
    assert first.aborted
    assert not second.closed
    assert exchange.attempts == 2
    assert exchange.retried_after == f"10.0.0.{silent + 1}:8000 silence"
    assert scene.count("second_tries") == scene.count("second_wins") == {"silence": 1}
    assert silent not in scene.fleet.holders(exchange), "it has computed nothing"
    assert scene.fleet.wire.at_rest()


def test_the_second_try_names_the_rank_of_its_server() -> None:
    scene = Scene()
    gateway = scene.fleet.gateway
    for replica in gateway.fleet.replicas.values():
        gateway.pool(replica).address += b"\r\nx-data-parallel-rank: 3"
    _, _, first, second = scene.late()
    for transport in (first, second):
        assert bytes(transport.written).count(b"x-data-parallel-rank: 3\r\n") == 1


def test_the_first_replica_answers_after_all_and_the_second_is_aborted() -> None:
    scene = Scene()
    client, exchange, first, second = scene.late()
    deliver(first, exchange, ANSWER)
    assert ParsedAnswers(client.output).complete == 1
    assert second.aborted
    assert not first.closed
    assert scene.count("second_wins") == {}
    assert scene.count("second_wasted_tokens")["silence"] > 0
    assert scene.fleet.wire.at_rest()


@pytest.mark.parametrize("step", [1, 7, 50])
def test_however_the_second_answer_is_cut(step: int) -> None:
    scene = Scene()
    client, exchange, _, second = scene.late()
    answer = HEAD + chunk(b": keep-alive\n\n") + chunk(DATA) + chunk(DONE) + b"0\r\n\r\n"
    for at in range(0, len(answer), step):
        deliver(second, exchange, answer[at : at + step])
    ((status, _, body),) = ParsedAnswers(client.output).answers
    assert (status, body) == (200, b": keep-alive\n\n" + DATA + DONE)
    assert scene.fleet.wire.at_rest()


def test_comments_of_the_second_do_not_win() -> None:
    scene = Scene()
    client, exchange, first, second = scene.late()
    deliver(second, exchange, HEAD + chunk(b": keep-alive\n\n"))
    assert client.output == b""
    deliver(first, exchange, ANSWER)
    assert second.aborted
    assert ParsedAnswers(client.output).complete == 1


@pytest.mark.parametrize(
    "error", [plain(500), plain(429), plain(400), HEAD + chunk(b'data: {"error":{}}\n\n')]
)
def test_an_error_of_the_second_leaves_the_first_alone(error: bytes) -> None:
    scene = Scene()
    client, exchange, first, second = scene.late()
    deliver(second, exchange, error)
    assert exchange.second is None
    assert client.output == b""
    deliver(first, exchange, ANSWER)
    assert ParsedAnswers(client.output).complete == 1
    assert scene.fleet.wire.at_rest()


def test_the_second_goes_on_alone_when_the_first_breaks() -> None:
    scene = Scene()
    client, exchange, first, second = scene.late()
    assert exchange.connection is not None
    exchange.connection.connection_lost(ConnectionResetError("reset"))
    assert exchange.second is None
    assert exchange.connection is not None
    assert exchange.connection.transport is second
    exchange.connection.data_received(ANSWER)
    assert ParsedAnswers(client.output).complete == 1
    assert exchange.attempts == 2, "nothing was asked a third time"
    assert scene.fleet.wire.at_rest()


def test_a_client_that_leaves_ends_both_tries() -> None:
    scene = Scene()
    client, _, first, second = scene.late()
    client.lose()
    assert first.aborted
    assert second.aborted
    assert scene.fleet.wire.at_rest()


def test_a_second_that_is_silent_too_is_followed_by_a_third() -> None:
    scene = Scene()
    client, exchange, first, second = scene.late()
    scene.pass_time(PERIOD_S)
    assert first.aborted
    third = exchange.second
    assert third is not None
    assert exchange.connection is not None
    assert exchange.connection.transport is second
    assert exchange.attempts == 3
    scene.pass_time(60.0)
    assert exchange.attempts == 3, "max_attempts"
    exchange.connection.data_received(ANSWER)
    assert ParsedAnswers(client.output).complete == 1
    assert scene.fleet.wire.at_rest()


def test_a_silent_replica_is_ejected_by_the_first_probe_that_it_does_not_answer() -> None:
    scene = Scene()
    _, exchange, _, _ = scene.late()
    replica = exchange.decision.replica  # type: ignore[union-attr]
    scene.fleet.gateway.suspect(replica)
    assert replica.state is ReplicaState.READY
    scene.fleet.wire.worker.fleet.apply(ProbeFailed(replica.id, "timeout", time.time()))
    assert replica.state is ReplicaState.EJECTED


def test_a_whole_answer_is_asked_for_again_only_where_probes_are_silent_too_or_others_were_faster() -> None:
    scene = Scene(upstream=UpstreamConfig(late_min_s=1.0, late_max_s=LATE_S))
    body = {**STREAM, "stream": False}
    _, exchange = scene.fleet.begin(body)
    scene.pass_time(120.0)
    assert exchange.second is None, "how long an answer gets is not known"
    for _ in range(2):
        replica = exchange.decision.replica  # type: ignore[union-attr]
        scene.fleet.wire.worker.fleet.apply(ProbeFailed(replica.id, "timeout", time.time()))
    scene.until_asked(exchange)
    assert exchange.second is not None
    other = Scene()
    other.fleet.gateway.plain_s = 2.0
    _, exchange = other.fleet.begin(body)
    other.pass_time(7.5)
    assert exchange.second is None
    other.pass_time(2.0)
    assert exchange.second is not None


def test_a_replica_that_others_hear_of_has_more_time() -> None:
    scene = Scene(replicas=2)
    _, exchange = scene.fleet.begin(STREAM)
    assert exchange.decision is not None
    pool = scene.fleet.gateway.pool(exchange.decision.replica)
    for _ in range(11):
        pool.heard_s = scene.now_s
        scene.pass_time(1.0)
    assert exchange.second is None
    pool.heard_s = scene.now_s
    scene.until_asked(exchange, 2.0)
    assert exchange.second is not None
    assert exchange.decision.replica.health.failures == 0


def test_without_budget_or_another_replica_a_late_request_waits_as_before() -> None:
    for scene in (
        Scene(replicas=1),
        Scene(retries=RetriesConfig(budget_ratio=0.0, budget_min=0, backoff_s=0.0)),
    ):
        client, exchange = scene.fleet.begin(STREAM)
        scene.pass_time(100.0)
        assert exchange.second is None
        assert exchange.connection is not None
        exchange.connection.data_received(ANSWER)
        assert ParsedAnswers(client.output).complete == 1
    assert scene.fleet.gateway.retry_budget.refused > 0


def test_hedging_asks_sooner_and_only_where_something_was_predicted() -> None:
    settings = RetriesConfig(hedge=True, hedge_min_s=1.0, backoff_s=0.0)
    scene = Scene(retries=settings, upstream=UpstreamConfig(late_max_s=60.0))
    _, exchange = scene.fleet.begin(STREAM)
    scene.pass_time(10.0)
    assert exchange.second is None, "nothing was predicted"
    scene = Scene(retries=settings)
    _, exchange = scene.fleet.begin(STREAM)
    exchange.expected_s = 0.6
    scene.pass_time(1.0)
    assert exchange.second is None
    scene.until_asked(exchange, 1.0)
    assert exchange.second is not None
    assert scene.count("second_tries") == {"hedge": 1}


def test_a_stream_in_which_only_comments_come_is_idle() -> None:
    scene = Scene(upstream=UpstreamConfig(stream_idle_timeout_s=10.0))
    client, exchange = scene.fleet.begin(STREAM)
    connection = exchange.connection
    assert connection is not None
    connection.data_received(HEAD + chunk(DATA))
    for _ in range(9):
        connection.data_received(chunk(b": keep-"))
        connection.data_received(chunk(b"alive\n\n"))
        scene.pass_time(1.0)
    assert b"error" not in client.output
    connection.data_received(chunk(DATA))
    for _ in range(12):
        if not connection.closed:
            connection.data_received(chunk(b": keep-alive\n\n"))
        scene.pass_time(1.0)
    ((_, _, body),) = ParsedAnswers(client.output).answers
    assert body.endswith(DONE)
    assert json.loads(body.split(b"\n\n")[-3][6:])["error"]["code"] == "replica_timeout"


def test_a_second_try_that_is_dropped_makes_room_for_who_waits_at_once() -> None:
    async def run() -> None:  # the queue's timer needs a loop
        scene = Scene(2, queue=QueueConfig(enabled=True, max_under_way=1))
        _, exchange, first, _ = scene.late()
        _, waits = scene.fleet.begin(STREAM)
        assert waits.connection is None
        deliver(first, exchange, HEAD + chunk(DATA))
        assert exchange.second is None
        assert waits.connection is not None
        deliver(first, exchange, chunk(DONE) + b"0\r\n\r\n")

    asyncio.run(run())


def test_a_replica_that_left_while_it_answered_is_counted_under_other() -> None:
    fleet = WireFleet(2)
    client, exchange = fleet.begin(STREAM)
    assert exchange.decision is not None
    replica = exchange.decision.replica
    fleet.wire.worker.fleet.apply(ReplicaRemoved(replica.id))
    fleet.wire.worker._replica_removed(replica.id)
    connection = exchange.connection
    assert connection is not None
    connection.data_received(ANSWER)
    assert ParsedAnswers(client.output).complete == 1
    assert {place for _, place in fleet.gateway.metrics.places} == {"other"}


class SlowPool(LivePool):
    """Connects when it is told to."""

    def connect(self, exchange: Asker) -> None:
        pass


@pytest.mark.parametrize("fails", [False, True])
def test_a_connection_for_the_first_try_that_comes_when_the_second_has_answered_is_of_no_use(
    fails: bool,
) -> None:
    scene = Scene()
    for replica in scene.fleet.replicas:
        scene.fleet.gateway.usage_support(replica, Api.CHAT).verdict = ASKS
    client, exchange, first, second = scene.late()
    refused = scene.fleet.replica_of(exchange)
    scene.fleet._put(SlowPool, scene.fleet.replicas[refused])
    deliver(first, exchange, plain(400, b'{"error":"stream_options?"}', b"Connection: close\r\n"))
    assert exchange.connection is None, "it is asked anew, without them"
    deliver(second, exchange, HEAD + chunk(DATA))
    answering = exchange.connection
    assert answering is not None
    if fails:
        exchange.connect_failed("connection refused", refused=True)
    else:
        fresh = ReplicaConnection(scene.fleet.gateway.pools[scene.fleet.replicas[refused]])
        fresh.connection_made(FakeTransport())
        exchange.connected(fresh)
    assert exchange.connection is answering
    deliver(second, exchange, chunk(DONE) + b"0\r\n\r\n")
    assert ParsedAnswers(client.output).complete == 1
    assert exchange.attempts == 2
    assert scene.fleet.wire.at_rest()
