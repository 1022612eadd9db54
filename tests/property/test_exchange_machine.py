"""Clients, replicas and connections that end at any step of any request: afterwards every counter is at rest.

The real data plane over transports that are plain objects. Rules send requests, answer them in pieces, break either
side of it, let replicas die, come back, leave and fall silent; at the end everybody goes, and nothing may be left over:
nothing in flight, held, buffered or connected, no request that made the router fail, no client with more answers than
it asked for, and none with bytes that are no HTTP.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import httptools
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.wire import ClientWire, FakeTransport, ParsedAnswers, Wire
from warmroute.config.schema import LimitsConfig
from warmroute.core.fleet.fleet import DrainStarted, ProbeFailed, ProbeSucceeded, ReplicaRemoved
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.pool import Pool
from warmroute.dataplane.sweeper import Sweeper
from warmroute.dataplane.upstream import ReplicaConnection

REPLICAS = 3
PATHS = (
    b"/v1/chat/completions",
    b"/v1/completions",
    b"/v1/messages",
    b"/v1/responses",
    b"/v1/unknown",
    b"/health",
)
MODELS: dict[str, Any] = {"m": {"id": "m"}}
LONG = "long " * 14_000
"""A prompt that is held while another is computed, and whose body is counted."""

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(status: int, body: bytes, fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status, fields, len(body), body,
    )  # fmt: skip


BUSY = b'{"error":{"message":"The engine is currently busy and cannot accept new requests."}}'
PIECES = (
    SSE,
    SSE + chunk(b": keep-alive\n\n"),
    SSE + chunk(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'),
    chunk(b'data: {"choices":[{"delta":{"content":"b"}}]}\n\n'),
    chunk(b'data: {"choi'),
    chunk(b": keep-alive\n\n"),
    chunk(b'data: {"error":{"message":"EngineCore died","code":500}}\n\n'),
    chunk(b"data: [DONE]\n\n"),
    b"0\r\n\r\n",
    whole(200, b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}'),
    whole(200, b"{}", b"Connection: close\r\n"),
    whole(429, b"{}", b"Retry-After: 1\r\n"),
    whole(500, b'{"error":{"message":"EngineCore encountered an issue."}}'),
    whole(500, b"{}"),
    whole(503, BUSY),
    whole(404, b'{"error":{"message":"The model `m` does not exist."}}'),
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"not HTTP at all\r\n\r\n",
)


def prompt(path: bytes, text: str) -> dict[str, Any]:
    if path == b"/v1/completions":
        return {"prompt": text}
    if path == b"/v1/responses":
        return {"input": text}
    return {"messages": [{"role": "user", "content": text}]}


class PendingPool(Pool):
    """Connections come when the test says so."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.asked: list[Exchange] = []

    def connect(self, exchange: Any) -> None:
        self.asked.append(exchange)


class Crashes(logging.Handler):
    """Errors that the router logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.getMessage()} {record.exc_info}")


class ExchangeMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.crashes = Crashes()
        logging.getLogger("warmroute").addHandler(self.crashes)
        self.step(self.build)

    def step(self, do: Callable[[], Any]) -> Any:
        """In an event loop, which timers need; then everything that it has called."""

        async def inside() -> Any:
            result = do()
            await asyncio.sleep(0)
            return result

        return self.loop.run_until_complete(inside())

    def build(self) -> None:
        self.wire = Wire(LimitsConfig(buffered_body_bytes=2_000_000), replicas=REPLICAS)
        self.gateway = self.wire.gateway
        self.sweeper = Sweeper(self.gateway)
        self.clients: list[ClientWire] = []
        self.sent: dict[ClientWire, int] = {}
        self.pools: list[PendingPool] = []
        self.made: list[tuple[ReplicaConnection, FakeTransport]] = []
        self.told: set[FakeTransport] = set()
        self.left: set[int] = set()
        for replica in self.wire.replicas:
            pool = PendingPool(
                replica.url,
                tasks=self.gateway.tasks,
                tls=None,
                size=2,
                keepalive_s=60.0,
                connect_timeout_s=1.0,
            )
            self.gateway.pools[replica] = pool
            self.pools.append(pool)

    def turn(self) -> None:
        """What the event loop does between reads: whoever was closed hears that the connection is gone."""
        for connection, transport in self.made:
            if transport.closed and transport not in self.told:
                self.told.add(transport)
                connection.connection_lost(None)
        for client in list(self.clients):
            if client.transport.closed and client.transport not in self.told:
                self.told.add(client.transport)
                client.connection.connection_lost(None)
                self.clients.remove(client)

    def pick(self, of: list[Any], index: int) -> Any:
        return of[index % len(of)]

    def live(self) -> list[tuple[ReplicaConnection, FakeTransport]]:
        return [(one, transport) for one, transport in self.made if not transport.closed]

    # -- clients ------------------------------------------------------------------------------------------------

    @rule()
    def client_connects(self) -> None:
        if len(self.clients) < 6:
            client = self.step(self.wire.connect)
            self.clients.append(client)
            self.sent[client] = 0

    @precondition(lambda self: self.clients)
    @rule(
        client=st.integers(0, 5),
        path=st.sampled_from(PATHS[:1] * 4 + PATHS),
        stream=st.booleans(),
        long=st.sampled_from([False, False, True]),
        shared=st.booleans(),
        model=st.sampled_from(["m", "m", "m", "none"]),
        cut=st.sampled_from([0, 0, 0, 1, 40]),
    )
    def client_asks(
        self, client: int, path: bytes, stream: bool, long: bool, shared: bool, model: str, cut: int
    ) -> None:
        side = self.pick(self.clients, client)
        text = ("same " if shared else f"{client} ") + (LONG if long else "hello")
        body = json.dumps(
            {"model": model, "stream": stream, "max_tokens": 5, **prompt(path, text)}
        ).encode()  # fmt: skip
        data = b"POST %b HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)
        self.sent[side] += 1
        if cut:  # the rest never comes, or is what the next request says
            data = data[: len(data) - cut]
        self.step(lambda: side.feed(data))
        self.step(self.turn)

    @precondition(lambda self: self.clients)
    @rule(client=st.integers(0, 5))
    def client_leaves(self, client: int) -> None:
        side = self.pick(self.clients, client)
        self.step(side.transport.abort)
        self.step(self.turn)

    @precondition(lambda self: self.clients)
    @rule(client=st.integers(0, 5), slow=st.booleans())
    def client_reads_slowly_or_on(self, client: int, slow: bool) -> None:
        side = self.pick(self.clients, client)
        if not side.transport.closed:
            self.step(side.connection.pause_writing if slow else side.connection.resume_writing)
            self.step(self.turn)

    # -- replicas -----------------------------------------------------------------------------------------------

    @precondition(lambda self: any(pool.asked for pool in self.pools))
    @rule(which=st.integers(0, 9), how=st.sampled_from(["stands", "stands", "stands", "refused", "late"]))
    def connection_is_made_or_not(self, which: int, how: str) -> None:
        pool = self.pick([pool for pool in self.pools if pool.asked], which)
        self.step(lambda: self.settle(pool, how))
        self.step(self.turn)

    def settle(self, pool: PendingPool, how: str) -> None:
        exchange = pool.asked.pop(0)
        if how != "stands":
            exchange.connect_failed(how, refused=how == "refused")
            return
        connection, transport = ReplicaConnection(pool), FakeTransport()
        connection.connection_made(transport)
        pool.all.add(connection)
        self.made.append((connection, transport))
        exchange.connected(connection)

    @precondition(lambda self: self.live())
    @rule(which=st.integers(0, 20), piece=st.sampled_from(PIECES), more=st.sampled_from((b"", *PIECES)))
    def replica_answers(self, which: int, piece: bytes, more: bytes) -> None:
        connection, transport = self.pick(self.live(), which)
        if transport.reading:
            self.step(lambda: connection.data_received(piece + more))
            self.step(self.turn)

    @precondition(lambda self: any(one.exchange is not None for one, _ in self.live()))
    @rule(which=st.integers(0, 20), tokens=st.integers(0, 3))
    def replica_answers_well(self, which: int, tokens: int) -> None:
        connection, transport = self.pick([row for row in self.live() if row[0].exchange is not None], which)
        data = SSE + PIECES[3] * tokens + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        if transport.reading and not connection.answered:
            self.step(lambda: connection.data_received(data))
            self.step(self.turn)

    @precondition(lambda self: self.live())
    @rule(which=st.integers(0, 20), reset=st.booleans())
    def connection_breaks(self, which: int, reset: bool) -> None:
        connection, transport = self.pick(self.live(), which)
        self.told.add(transport)
        transport.closed = True
        self.step(lambda: connection.connection_lost(ConnectionResetError("reset") if reset else None))
        self.step(self.turn)

    @rule(number=st.integers(0, REPLICAS - 1))
    def replica_dies(self, number: int) -> None:
        pool = self.pools[number]
        for connection, transport in self.live():
            if connection in pool.all:
                self.told.add(transport)
                transport.closed = True
                self.step(lambda one=connection: one.connection_lost(ConnectionResetError("reset")))
        while pool.asked:
            self.step(lambda: self.settle(pool, "refused"))
        self.step(self.turn)

    @rule(number=st.integers(0, REPLICAS - 1), how=st.sampled_from(["well", "restarted", "silent", "drains"]))
    def replica_is_probed(self, number: int, how: str) -> None:
        if number in self.left:
            return
        replica = self.wire.replicas[number]
        fleet = self.wire.worker.fleet
        life = replica.incarnation
        assert life is not None
        match how:
            case "well":
                event = ProbeSucceeded(replica.id, life, MODELS, None, None, time.time(), life_told=True)
                self.step(lambda: fleet.apply(event))
            case "restarted":
                self.step(lambda: self.wire.restart(number))
            case "silent":
                self.step(lambda: fleet.apply(ProbeFailed(replica.id, "x", time.time())))
            case "drains":
                self.step(lambda: fleet.apply(DrainStarted(replica.id)))
        self.step(self.turn)

    @rule(number=st.just(REPLICAS - 1))
    def replica_leaves_the_fleet(self, number: int) -> None:
        if number not in self.left:
            self.left.add(number)
            replica = self.wire.replicas[number]
            self.step(lambda: self.wire.worker.fleet.apply(ReplicaRemoved(replica.id)))
            self.step(self.gateway.drop_pools)
            self.step(self.turn)

    # -- time ---------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 5.0, 20.0, 100.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.step(lambda: self.sweeper.sweep(time.monotonic() + seconds))
        hold = self.gateway.hold
        if hold is not None and hold.waiting:
            self.step(lambda: hold.release(time.time() + seconds))
        self.step(self.turn)

    @invariant()
    def the_fleet_is_consistent(self) -> None:
        assert not self.crashes.seen
        self.wire.worker.fleet.validate()
        flying = sum(replica.in_flight for replica in self.wire.replicas)
        exchanges = sum(side.exchange is not None for side in self.gateway.connections)  # type: ignore[attr-defined]
        assert flying <= exchanges

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.end()
        finally:
            logging.getLogger("warmroute").removeHandler(self.crashes)
            self.loop.close()

    def end(self) -> None:
        answers = {side: bytes(side.transport.written) for side in self.sent}
        for side in list(self.clients):
            self.step(side.transport.abort)
        self.step(self.turn)
        for pool in self.pools:
            while pool.asked:  # what was asked for comes when nobody wants it any more
                self.step(lambda pool=pool: self.settle(pool, "stands"))
        self.step(self.turn)
        hold = self.gateway.hold
        assert hold is not None
        assert hold.waiting == 0
        self.step(hold.stop)
        assert self.wire.at_rest(), [(one.in_flight, one.waiting_tokens) for one in self.wire.replicas]
        assert not self.gateway.connections
        for pool in self.pools:
            assert all(connection.exchange is None for connection in pool.all)
            assert pool.all == set(pool.idle)
        for side, sent in self.sent.items():
            read = answered(answers[side])
            assert read <= sent, f"{read} answers to {sent} requests"
        assert sum(self.gateway.metrics.requests().values()) >= sum(
            answered(answer) for answer in answers.values()
        )


def answered(output: bytes) -> int:
    """Whole answers in what was written to one client; what was written must be HTTP as far as it goes."""
    try:
        return ParsedAnswers(output).complete
    except httptools.HttpParserError as error:
        raise AssertionError(f"{error}: {output[-300:]!r}") from error


ExchangeMachine.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
test_exchange_machine = ExchangeMachine.TestCase
