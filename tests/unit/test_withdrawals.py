"""What was noted in the registry at dispatch is taken back where no prompt was computed, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.wire import ClientWire, Wire
from warmroute.config.schema import HoldConfig
from warmroute.core.types import Records
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.upstream import ReplicaConnection

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST = STREAM + b'f\r\ndata: {"a":1}\n\n\r\n'


class Sent:
    """A request that was sent to the wire's one replica."""

    def __init__(self, wire: Wire, *texts: str, stream: bool = True) -> None:
        self.client: ClientWire = wire.connect()
        self.connection: ReplicaConnection = wire.add_upstream()[0]
        messages = [{"role": "user", "content": text} for text in texts]
        body = json.dumps({"model": "tiny", "stream": stream, "messages": messages}).encode()
        self.client.feed(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        exchange = self.client.connection.exchange
        assert isinstance(exchange, Exchange)
        assert exchange.shape is not None
        assert self.connection.exchange is exchange
        self.exchange = exchange
        self.rungs = exchange.shape.rungs
        assert self.rungs

    def leave(self) -> None:
        """The client closes."""
        self.client.lose()

    def time_out(self) -> None:
        """The replica was silent for too long."""
        self.exchange.time_out()

    def begin(self) -> None:
        """The first event comes."""
        self.connection.data_received(FIRST)


class World:
    """One router whose clock stands until it is moved."""

    def __init__(self) -> None:
        self.wire = Wire(hold=HoldConfig(enabled=False))
        self.now_s = 1_800_000_000.0
        self.wire.gateway.clock = lambda: self.now_s

    def send(self, *texts: str, after_s: float = 0.0, stream: bool = True) -> Sent:
        self.now_s += after_s
        return Sent(self.wire, *texts, stream=stream)

    def known(self, sent: Sent) -> int:
        """How many leading rungs of a prompt somebody is noted for."""
        records = self.wire.gateway.registry.lookup(sent.rungs, lambda _: None)
        assert records is not None
        return depth(records)


def depth(records: Records) -> int:
    known = [record is not None for record in records]
    assert known == sorted(known, reverse=True), "what is known of a prompt begins at its beginning"
    return sum(known)


ENDS: list[Callable[[Sent], None]] = [Sent.leave, Sent.time_out]


def test_what_an_engine_has_begun_stays_noted_though_its_client_leaves() -> None:
    """An engine ends the step that it is at, and keeps what it has computed."""
    world = World()
    sent = world.send("x" * 4000)
    world.now_s += 0.1
    sent.leave()
    assert world.known(sent) == len(sent.rungs)
    assert world.wire.at_rest()


def test_a_prompt_behind_a_longer_one_has_not_begun_when_its_client_leaves() -> None:
    world = World()
    first = world.send("x" * 40_000)
    second = world.send("y" * 4000, after_s=0.1)
    world.now_s += 0.2
    second.leave()
    assert world.known(second) == 0
    assert world.known(first) == len(first.rungs)


def test_an_answer_that_comes_whole_was_begun_long_before_its_client_leaves() -> None:
    world = World()
    sent = world.send("x" * 4000, stream=False)
    world.now_s += 20.0
    sent.leave()
    assert world.known(sent) == len(sent.rungs)


def test_nothing_is_believed_of_a_replica_that_was_silent_when_its_client_left() -> None:
    world = World()
    for _ in range(8):  # so that its speed is known
        one = world.send("w" * 4000)
        world.now_s += 0.2
        one.begin()
    sent = world.send("x" * 4000)
    world.now_s += 600.0
    sent.leave()
    assert world.known(sent) == 0


@pytest.mark.parametrize("end", ENDS)
def test_a_prompt_that_was_given_up_in_its_prefill_is_not_noted(end: Callable[[Sent], None]) -> None:
    world = World()
    sent = world.send("x" * 4000)
    assert world.known(sent) == len(sent.rungs)
    end(sent)
    assert world.known(sent) == 0
    assert world.wire.at_rest()


@pytest.mark.parametrize("end", ENDS)
def test_a_prompt_that_was_given_up_later_stays_noted(end: Callable[[Sent], None]) -> None:
    world = World()
    sent = world.send("x" * 4000)
    sent.begin()
    end(sent)
    assert world.known(sent) == len(sent.rungs)


@pytest.mark.parametrize(
    ("end", "after_s"),
    [(Sent.leave, 0.0), *((Sent.time_out, after_s) for after_s in (0.0, 0.1, 0.3, 5.0))],
)
def test_what_another_request_has_computed_meanwhile_stays_noted(
    end: Callable[[Sent], None], after_s: float
) -> None:
    world = World()
    first = world.send("s" * 4000, "a" * 4000)
    second = world.send("s" * 4000, "b" * 4000, after_s=after_s)
    shared = sum(a == b for a, b in zip(first.rungs, second.rungs, strict=True))
    assert 0 < shared < len(first.rungs)
    second.begin()
    end(first)
    assert world.known(first) == shared
    assert world.known(second) == len(second.rungs)


@pytest.mark.parametrize("end", ENDS)
def test_what_another_request_computes_afterwards_is_noted_again(end: Callable[[Sent], None]) -> None:
    world = World()
    first = world.send("s" * 4000, "a" * 4000)
    second = world.send("s" * 4000, "b" * 4000)
    end(first)
    assert world.known(first) == 0
    second.begin()
    assert world.known(second) == len(second.rungs)
    assert world.known(first) < len(first.rungs)


def test_all_of_a_burst_may_leave_but_one() -> None:
    world = World()
    burst = [world.send("s" * 4000, after_s=0.02) for _ in range(6)]
    burst[3].begin()
    for sent in burst[:3] + burst[4:]:
        sent.leave()
    assert world.known(burst[0]) == len(burst[0].rungs)
