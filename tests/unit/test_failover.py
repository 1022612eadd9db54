"""Streams that break in the middle: gone on with at another replica, as one unbroken stream, or ended with an error."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tests.support.wire import ClientWire, ParsedAnswers
from tests.support.wire_fleet import WireFleet, plain
from warmroute.config.schema import QueueConfig, RetriesConfig, UpstreamConfig
from warmroute.core.fleet.fleet import ProbeFailed
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.sweeper import PERIOD_S, Sweeper

CHAT = {"model": "m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
DEAD = b'data: {"error":{"message":"EngineCore encountered an issue. See stack trace","code":500}}\n\n' + DONE


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(said: str, name: str, finish: str | None = None, role: str | None = None, **more: Any) -> bytes:
    delta: dict[str, Any] = {"content": said} if role is None else {"role": role, "content": said}
    chunk = {"id": name, "created": 1 if name == "one" else 2, "model": "m"}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    data = json.dumps({**chunk, "choices": choices, **more}, separators=(",", ":"))
    return f"data: {data}\n\n".encode()


def opening(name: str) -> bytes:
    return event("", name, role="assistant")


class Scene:
    def __init__(self, replicas: int = 2, **settings: Any) -> None:
        settings.setdefault("failover", True)
        self.fleet = WireFleet(replicas, ask_usage=False, **settings)

    def begin(self, body: dict[str, Any] = CHAT, *events: bytes) -> tuple[ClientWire, Exchange]:
        client, exchange = self.fleet.begin(body)
        self.send(
            exchange,
            HEAD + chunk(b"".join(events or (opening("one"), event("Hello", "one"), event(" w", "one")))),
        )
        return client, exchange

    @staticmethod
    def send(exchange: Exchange, data: bytes) -> None:
        assert exchange.connection is not None
        exchange.connection.data_received(data)

    @staticmethod
    def lose(exchange: Exchange) -> None:
        assert exchange.connection is not None
        exchange.connection.connection_lost(ConnectionResetError("reset"))

    @staticmethod
    def asked(exchange: Exchange) -> Any:
        """What the replica that has it now was asked."""
        assert exchange.connection is not None
        written = bytes(exchange.connection.transport.written)  # type: ignore[attr-defined]
        head, _, body = written.rpartition(b"\r\n\r\n")
        assert b"content-length: %d\r\n" % len(body) in head + b"\r\n"
        return json.loads(body)

    def outcomes(self) -> dict[str, int]:
        return self.fleet.gateway.metrics.failovers


def said(client: ClientWire) -> list[Any]:
    """Events that the client got, `[DONE]` as text; the stream was ended properly, once."""
    parsed = ParsedAnswers(client.output)
    assert parsed.complete == 1
    ((_, _, body),) = parsed.answers
    lines = [line[6:] for line in body.split(b"\n\n") if line.startswith(b"data: ")]
    return [line.decode() if line == b"[DONE]" else json.loads(line) for line in lines]


def text_of(events: list[Any]) -> str:
    return "".join(
        e["choices"][0]["delta"].get("content") or ""
        for e in events
        if isinstance(e, dict) and "choices" in e
    )


REST = opening("two") + event("orld", "two") + event("!", "two", "stop") + DONE


def assert_unbroken(client: ClientWire) -> None:
    events = said(client)
    assert events[-1] == "[DONE]"
    assert text_of(events) == "Hello world!"
    chunks = events[:-1]
    assert {(e["id"], e["created"]) for e in chunks} == {("one", 1)}
    assert sum("role" in e["choices"][0]["delta"] for e in chunks) == 1
    assert [e["choices"][0]["finish_reason"] for e in chunks if e["choices"][0]["finish_reason"]] == ["stop"]


def test_a_stream_whose_replica_dies_goes_on_at_another() -> None:
    scene = Scene()
    client, exchange = scene.begin()
    first = scene.fleet.replica_of(exchange)
    scene.send(exchange, chunk(event("lost", "one")[:20]))  # half an event never reached the client
    scene.lose(exchange)
    assert scene.fleet.replica_of(exchange) != first
    assert scene.asked(exchange) == {
        **CHAT,
        "max_tokens": 7,
        "messages": [*CHAT["messages"], {"role": "assistant", "content": "Hello w"}],  # type: ignore[misc]
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    scene.send(exchange, HEAD + chunk(REST) + b"0\r\n\r\n")
    assert_unbroken(client)
    assert exchange.attempts == 2
    assert scene.outcomes() == {"tried": 1, "completed": 1}
    assert scene.fleet.wire.at_rest()


def test_the_rest_is_asked_of_a_rank_by_its_number() -> None:
    scene = Scene()
    gateway = scene.fleet.gateway
    for replica in gateway.fleet.replicas.values():
        gateway.pool(replica).address += b"\r\nx-data-parallel-rank: 3"
    _, exchange = scene.begin()
    scene.lose(exchange)
    assert exchange.connection is not None
    written = bytes(exchange.connection.transport.written)  # type: ignore[attr-defined]
    assert written.count(b"x-data-parallel-rank: 3\r\n") == 1


@pytest.mark.parametrize("step", [1, 3, 40])
def test_however_the_rest_is_cut(step: int) -> None:
    scene = Scene()
    client, exchange = scene.begin()
    scene.lose(exchange)
    rest = HEAD + chunk(REST) + b"0\r\n\r\n"
    for at in range(0, len(rest), step):
        scene.send(exchange, rest[at : at + step])
    assert_unbroken(client)


@pytest.mark.parametrize("whole", [True, False])
def test_an_engine_that_says_that_it_died_is_not_passed_on(whole: bool) -> None:
    scene = Scene()
    client, exchange = scene.begin()
    scene.send(exchange, chunk(DEAD) + (b"0\r\n\r\n" if whole else b""))
    scene.send(exchange, HEAD + chunk(REST) + b"0\r\n\r\n")
    assert_unbroken(client)
    assert scene.fleet.wire.at_rest()


def test_an_engine_that_aborts_what_it_has_did_not_finish_it() -> None:
    scene = Scene()
    client, exchange = scene.begin()
    scene.send(exchange, chunk(event("", "one", "abort") + DONE) + b"0\r\n\r\n")
    scene.send(exchange, HEAD + chunk(REST) + b"0\r\n\r\n")
    assert_unbroken(client)


def test_a_second_death_is_made_good_too_once_the_first_replica_has_gone_on_for_a_while() -> None:
    scene = Scene(3)
    body = {**CHAT, "max_tokens": 90}
    client, exchange = scene.begin(body)
    scene.lose(exchange)
    scene.send(exchange, HEAD + chunk(opening("two") + b"".join(event("o", "two") for _ in range(20))))
    scene.lose(exchange)
    assert scene.asked(exchange)["messages"][-1]["content"] == "Hello w" + 20 * "o"
    assert scene.asked(exchange)["max_tokens"] == 90 - 22
    scene.send(exchange, HEAD + chunk(opening("three") + event("!", "three", "stop") + DONE) + b"0\r\n\r\n")
    assert text_of(said(client)) == "Hello w" + 20 * "o" + "!"
    assert scene.fleet.wire.at_rest()


def test_what_replicas_seem_to_die_of_is_not_given_to_a_third() -> None:
    scene = Scene(3)
    client, exchange = scene.begin()
    scene.lose(exchange)
    scene.send(exchange, HEAD + chunk(opening("two") + event("orld", "two")))
    scene.lose(exchange)
    events = said(client)
    assert events[-2]["error"]["code"] == "replica_lost"
    assert scene.outcomes() == {"tried": 1, "deadly": 1}
    assert scene.fleet.wire.at_rest()


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{}]},
        {"logprobs": True},
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"max_tokens": 2},
    ],
)
def test_what_cannot_go_on_ends_with_an_error_as_without(fields: dict[str, Any]) -> None:
    for failover in (True, False):
        scene = Scene(failover=failover)
        client, exchange = scene.begin({**CHAT, **fields})
        scene.lose(exchange)
        events = said(client)
        assert events[-2]["error"]["code"] == "replica_lost"
        assert events[-1] == "[DONE]"
        assert scene.fleet.wire.at_rest()


@pytest.mark.parametrize(
    "answer", [plain(400), plain(200), HEAD + chunk(b'data: {"error":{"message":"no"}}\n\n')]
)
def test_a_rest_that_cannot_follow_ends_with_an_error(answer: bytes) -> None:
    scene = Scene()
    client, exchange = scene.begin()
    scene.lose(exchange)
    scene.send(exchange, answer)
    events = said(client)
    assert text_of(events) == "Hello w"
    assert events[-2]["error"]["code"] == "replica_lost"
    assert scene.fleet.wire.at_rest()


def test_a_busy_replica_is_passed_over() -> None:
    scene = Scene(3)
    client, exchange = scene.begin()
    scene.lose(exchange)
    scene.send(exchange, plain(429))
    scene.send(exchange, HEAD + chunk(REST) + b"0\r\n\r\n")
    assert_unbroken(client)
    assert exchange.attempts == 3


def test_a_stream_that_lacks_its_end_alone_is_ended() -> None:
    scene = Scene()
    client, exchange = scene.begin(CHAT, opening("one"), event("Hello world!", "one", "stop"))
    scene.lose(exchange)
    assert_unbroken(client)
    assert scene.outcomes() == {"ended": 1}
    assert scene.fleet.wire.at_rest()


def test_without_its_usage_a_finished_stream_is_an_error_where_the_client_asked() -> None:
    scene = Scene()
    body = {**CHAT, "stream_options": {"include_usage": True}}
    client, exchange = scene.begin(body, opening("one"), event("Hi", "one", "stop"))
    scene.lose(exchange)
    assert said(client)[-2]["error"]["code"] == "replica_lost"


def test_a_client_that_leaves_while_the_rest_is_asked_for_ends_it() -> None:
    scene = Scene()
    client, exchange = scene.begin()
    scene.lose(exchange)
    assert exchange.connection is not None
    transport = exchange.connection.transport
    client.lose()
    assert transport.aborted  # type: ignore[attr-defined]
    assert scene.fleet.wire.at_rest()


def test_no_budget_no_failover() -> None:
    scene = Scene(retries=RetriesConfig(budget_ratio=0.0, budget_min=0, backoff_s=0.0))
    client, exchange = scene.begin()
    scene.lose(exchange)
    assert said(client)[-2]["error"]["code"] == "replica_lost"
    assert scene.outcomes() == {"refused": 1}


def test_a_stream_of_a_replica_whose_probes_are_silent_too_goes_on_elsewhere() -> None:
    scene = Scene(upstream=UpstreamConfig(late_min_s=2.0))
    client, exchange = scene.begin()
    sweeper = Sweeper(scene.fleet.gateway)
    now_s = time.monotonic()
    replica = exchange.decision.replica  # type: ignore[union-attr]
    old = exchange.connection
    for _ in range(6):
        now_s += PERIOD_S
        sweeper.sweep(now_s)
    assert exchange.connection is old, "it may be busy"
    assert replica.health.suspect
    scene.fleet.wire.worker.fleet.apply(ProbeFailed(replica.id, "timeout", time.time()))
    sweeper.sweep(now_s + PERIOD_S)
    assert exchange.connection is not old
    assert old is not None
    assert old.closed
    scene.send(exchange, HEAD + chunk(REST) + b"0\r\n\r\n")
    assert_unbroken(client)
    assert scene.fleet.wire.at_rest()


def test_who_waits_for_the_replica_goes_there_when_the_rest_begins() -> None:
    async def run() -> None:  # the queue's timer needs a loop
        scene = Scene(queue=QueueConfig(enabled=True))
        long = {**CHAT, "messages": [{"role": "user", "content": "word " * 4000}]}
        _, exchange = scene.begin(long)
        scene.lose(exchange)
        others = [
            scene.fleet.begin({**CHAT, "messages": [{"role": "user", "content": f"{name} " * 4000}]})[1]
            for name in ("other", "third")
        ]
        (waits,) = [other for other in others if other.connection is None]
        scene.send(exchange, HEAD + chunk(opening("two") + event("orld", "two")))
        assert waits.connection is not None

    asyncio.run(run())
