"""What a client gets before there is an answer: comments, with `headers.early` the head, and no false start."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from tests.support.wire import ClientWire, ParsedAnswers
from tests.support.wire_fleet import OK, WireFleet, plain
from warmroute.config.schema import HeadersConfig, UpstreamConfig
from warmroute.core.fleet.decision import RESERVED, STARTED
from warmroute.dataplane.attempt import OPENING_BYTES
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.sweeper import PERIOD_S, Sweeper

BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
HEAD = b"HTTP/1.1 200 OK\r\nserver: engine\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PING = b": keep-alive\n\n"
DATA = b'data: {"a":1}\n\n'
DONE = b"data: [DONE]\n\n"
ERROR = b'data: {"error":{"message":"CUDA out of memory"}}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def send(exchange: Exchange, data: bytes) -> None:
    assert exchange.connection is not None
    exchange.connection.data_received(data)


def break_off(exchange: Exchange) -> None:
    assert exchange.connection is not None
    exchange.connection.connection_lost(ConnectionResetError("reset"))


def body_of(client: ClientWire) -> bytes:
    ((_, _, body),) = ParsedAnswers(client.output).answers
    return body


def phase(exchange: Exchange) -> int:
    assert exchange.decision is not None
    return exchange.decision.phase


def test_comments_are_passed_on_and_are_no_first_byte() -> None:
    fleet = WireFleet(1)
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD + chunk(PING))
    assert client.output.endswith(chunk(PING))
    send(exchange, chunk(PING))
    assert phase(exchange) == RESERVED
    assert exchange.first_byte_s is None
    assert body_of(client) == PING + PING
    send(exchange, chunk(DATA))
    assert phase(exchange) == STARTED
    assert exchange.first_byte_s is not None
    send(exchange, chunk(PING) + chunk(DONE) + b"0\r\n\r\n")
    assert body_of(client) == PING + PING + DATA + PING + DONE
    assert fleet.wire.at_rest()


def test_the_time_to_the_first_token_is_that_of_the_first_event() -> None:
    fleet = WireFleet(1)
    _, exchange = fleet.begin(BODY)
    send(exchange, HEAD + chunk(PING))
    between_s = time.monotonic()
    send(exchange, chunk(DATA) + chunk(DONE) + b"0\r\n\r\n")
    assert exchange.first_byte_s is not None
    assert exchange.first_byte_s >= between_s


@pytest.mark.parametrize("step", range(1, 30))
def test_however_comments_are_cut(step: int) -> None:
    stream = b": ping\r\n\r\n:\n\n\n: data: no\n\n" + DATA + DONE
    fleet = WireFleet(1)
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD)
    for at in range(0, len(stream), step):
        began = at + step > stream.index(b"data: {")
        send(exchange, chunk(stream[at : at + step]))
        assert (phase(exchange) == STARTED) == began
    send(exchange, b"0\r\n\r\n")
    assert body_of(client) == stream


def test_a_death_in_prefill_behind_comments_is_made_good() -> None:
    fleet = WireFleet(2)
    client, exchange = fleet.begin(BODY)
    first = fleet.replica_of(exchange)
    send(exchange, HEAD + chunk(PING) + chunk(b": half"))
    break_off(exchange)
    assert fleet.replica_of(exchange) != first
    send(exchange, HEAD + chunk(PING))
    send(exchange, chunk(DATA) + chunk(DONE) + b"0\r\n\r\n")
    assert body_of(client) == PING + PING + DATA + DONE
    assert client.output.count(b"HTTP/1.1") == 1
    assert not client.transport.closed
    assert exchange.attempts == 2
    assert exchange.retried_after == f"10.0.0.{first + 1}:8000 lost", (
        "the access log says why there was another attempt"
    )
    assert fleet.wire.at_rest()


@pytest.mark.parametrize("asked", [True, False])
def test_usage_that_the_router_asks_for_stays_hidden_on_a_second_replica(asked: bool) -> None:
    fleet = WireFleet(2)
    finish = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":5,"total_tokens":6,"completion_tokens":1}}\n\n'
    stream = HEAD + chunk(finish) + (chunk(usage) if asked else b"") + chunk(DONE) + b"0\r\n\r\n"

    def asks(exchange: Exchange) -> bool:
        assert exchange.connection is not None
        written: bytearray = exchange.connection.transport.written  # type: ignore[attr-defined]
        found = b"include_usage" in written
        written.clear()
        return found

    for number in range(16 if asked else 0):  # both show how they end a stream
        _, exchange = fleet.begin({**BODY, "messages": [{"role": "user", "content": f"{number}"}]})
        send(exchange, stream if asks(exchange) else HEAD + chunk(finish) + chunk(DONE) + b"0\r\n\r\n")
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD + chunk(PING))
    break_off(exchange)
    assert asks(exchange) == asked
    send(exchange, stream)
    assert body_of(client) == PING + finish + DONE


@pytest.mark.parametrize("second", [plain(500), plain(200, OK), plain(429)], ids=["500", "no stream", "429"])
def test_what_cannot_follow_the_head_ends_the_stream_with_an_error(second: bytes) -> None:
    fleet = WireFleet(2)
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD + chunk(PING))
    break_off(exchange)
    send(exchange, second)
    body = body_of(client)
    assert body.startswith(PING)
    assert body.endswith(b"data: [DONE]\n\n")
    assert (
        json.loads(body[len(PING) :].split(b"\n\n")[0].removeprefix(b"data: "))["error"]["code"]
        == "replica_lost"
    )
    assert ParsedAnswers(client.output).complete == 1
    assert fleet.wire.at_rest()
    assert fleet.gateway.metrics.ttft == {} or not any(
        sum(histogram.counts) for histogram in fleet.gateway.metrics.ttft.values()
    )


def test_with_nobody_left_the_stream_ends_with_an_error() -> None:
    fleet = WireFleet(1)
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD + chunk(PING))
    break_off(exchange)
    assert b'"replica_failed"' in body_of(client)
    assert ParsedAnswers(client.output).complete == 1
    assert fleet.wire.at_rest()


def test_an_error_event_behind_comments_is_an_error_answer() -> None:
    dead = b'data: {"error":{"message":"EngineCore encountered an issue"}}\n\n'
    fleet = WireFleet(2)
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD + chunk(PING))
    send(exchange, chunk(PING + dead) + chunk(DONE) + b"0\r\n\r\n")
    send(exchange, HEAD + chunk(DATA) + chunk(DONE) + b"0\r\n\r\n")
    assert body_of(client) == PING + DATA + DONE
    client, exchange = fleet.begin({**BODY, "max_tokens": 3})
    send(exchange, HEAD + chunk(PING) + chunk(ERROR) + chunk(DONE) + b"0\r\n\r\n")
    assert body_of(client) == PING + ERROR + DONE, "one that blames nobody is the client's"


def test_a_client_that_leaves_behind_comments_left_during_prefill() -> None:
    fleet = WireFleet(1)
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD + chunk(PING))
    client.lose()
    assert fleet.gateway.metrics.client_disconnects == {"prefill": 1}
    assert fleet.wire.at_rest()


def test_comments_for_ever_are_no_answer() -> None:
    fleet = WireFleet(1, upstream=UpstreamConfig(first_byte_timeout_s=30.0, stream_idle_timeout_s=5.0))
    client, exchange = fleet.begin(BODY)
    sweeper = Sweeper(fleet.gateway)
    begun_s = time.monotonic()
    send(exchange, HEAD)
    for step in range(int(29 / PERIOD_S)):
        send(exchange, chunk(PING))
        sweeper.sweep(begun_s + step * PERIOD_S)
    assert b"error" not in client.output
    for step in range(4):
        sweeper.sweep(begun_s + 29 + step * PERIOD_S)
        if exchange.connection is not None:
            send(exchange, chunk(PING))
    assert b'"replica_timeout"' in client.output
    assert fleet.wire.at_rest()


# -- the events that open a response ----------------------------------------------------------------------------------

RESPONSE = {"model": "m", "stream": True, "input": "hello"}


def opens(name: str, number: int = 1) -> bytes:
    fields = {"type": name, "response": {"id": f"resp_{number}", "instructions": "be brief"}}
    return b"event: %b\ndata: %b\n\n" % (name.encode(), json.dumps(fields).encode())


OPENING = opens("response.created") + opens("response.in_progress")
DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"x"}\n\n'
COMPLETED = opens("response.completed")
RESPONSES = "/v1/responses"


def kept_by(fleet: WireFleet, response_id: str) -> str | None:
    found: list[str | None] = []
    fleet.gateway.registry.find_response(response_id, found.append)
    return found[0]


@pytest.mark.parametrize("step", [1, 7, 40, 1000])
@pytest.mark.parametrize(
    "before", [b"", PING, b": a\r\n\r\n"], ids=["at once", "behind a comment", "behind another"]
)
def test_events_that_open_a_response_wait_for_the_next(step: int, before: bytes) -> None:
    fleet = WireFleet(1)
    client, exchange = fleet.begin(RESPONSE, RESPONSES)
    send(exchange, HEAD)
    opening = before + OPENING
    for at in range(0, len(opening), step):
        send(exchange, chunk(opening[at : at + step]))
        assert phase(exchange) == RESERVED
        assert exchange.first_byte_s is None
    assert (body_of(client) if before else client.output) == before
    between_s = time.monotonic()
    send(exchange, chunk(DELTA))
    assert phase(exchange) == STARTED
    assert exchange.first_byte_s is not None
    assert exchange.first_byte_s >= between_s
    send(exchange, chunk(COMPLETED) + b"0\r\n\r\n")
    assert body_of(client) == opening + DELTA + COMPLETED
    assert kept_by(fleet, "resp_1") == fleet.replicas[0].id
    assert fleet.wire.at_rest()


def test_a_death_behind_the_opening_of_a_response_is_made_good() -> None:
    fleet = WireFleet(2)
    client, exchange = fleet.begin(RESPONSE, RESPONSES)
    first = fleet.replica_of(exchange)
    send(exchange, HEAD + chunk(OPENING))
    break_off(exchange)
    second = fleet.replica_of(exchange)
    assert second != first
    rest = opens("response.created", 2) + DELTA + opens("response.completed", 2)
    send(exchange, HEAD + chunk(rest) + b"0\r\n\r\n")
    assert body_of(client) == rest
    assert kept_by(fleet, "resp_2") == fleet.replicas[second].id
    assert kept_by(fleet, "resp_1") is None
    assert fleet.wire.at_rest()


def test_an_error_event_behind_the_opening_of_a_response_is_an_error_answer() -> None:
    fleet = WireFleet(2)
    client, exchange = fleet.begin(RESPONSE, RESPONSES)
    first = fleet.replica_of(exchange)
    dead = b'data: {"error":{"message":"EngineCore encountered an issue. See stack trace"}}\n\n'
    send(exchange, HEAD + chunk(OPENING + dead) + b"0\r\n\r\n")
    assert fleet.replica_of(exchange) != first
    send(exchange, HEAD + chunk(OPENING + DELTA + COMPLETED) + b"0\r\n\r\n")
    assert body_of(client) == OPENING + DELTA + COMPLETED
    assert fleet.wire.at_rest()


def test_comments_behind_the_opening_of_a_response_let_it_pass_and_are_no_first_byte() -> None:
    fleet = WireFleet(2)
    client, exchange = fleet.begin(RESPONSE, RESPONSES)
    first = fleet.replicas[fleet.replica_of(exchange)].id
    send(exchange, HEAD + chunk(OPENING + PING))
    assert body_of(client) == OPENING + PING
    assert phase(exchange) == RESERVED
    send(exchange, chunk(PING) + chunk(DELTA))
    assert phase(exchange) == STARTED
    send(exchange, chunk(COMPLETED) + b"0\r\n\r\n")
    assert body_of(client) == OPENING + PING + PING + DELTA + COMPLETED
    assert kept_by(fleet, "resp_1") == first
    assert fleet.wire.at_rest()


def test_what_opened_a_response_cannot_be_gone_on_with_once_it_was_passed_on() -> None:
    fleet = WireFleet(2)
    client, exchange = fleet.begin(RESPONSE, RESPONSES)
    send(exchange, HEAD + chunk(OPENING + PING))
    break_off(exchange)
    assert body_of(client).startswith(OPENING + PING)
    assert body_of(client).count(b"response.created") == OPENING.count(b"response.created")
    assert b"replica_failed" in body_of(client)
    assert exchange.attempts == 1
    assert fleet.wire.at_rest()


@pytest.mark.parametrize("stream", [OPENING, opens("response.created") + COMPLETED, OPENING[:30], DELTA])
def test_a_response_that_is_over_is_passed_on_whole(stream: bytes) -> None:
    fleet = WireFleet(1)
    client, exchange = fleet.begin(RESPONSE, RESPONSES)
    send(exchange, HEAD + chunk(stream) + b"0\r\n\r\n")
    assert body_of(client) == stream
    assert fleet.wire.at_rest()


def test_an_opening_too_long_to_be_held_is_passed_on() -> None:
    fleet = WireFleet(1)
    client, exchange = fleet.begin(RESPONSE, RESPONSES)
    long = b"event: response.created\ndata: {" + b"x" * OPENING_BYTES
    send(exchange, HEAD + chunk(long))
    assert phase(exchange) == STARTED
    send(exchange, chunk(b"}\n\n" + DELTA + COMPLETED) + b"0\r\n\r\n")
    assert body_of(client) == long + b"}\n\n" + DELTA + COMPLETED


def test_the_first_event_behind_the_opening_of_a_response_tells_when_its_prefill_was_over() -> None:
    fleet = WireFleet(1)
    moments = [1_800_000_000.0]
    fleet.gateway.clock = lambda: moments[0]
    _, exchange = fleet.begin({**RESPONSE, "input": "hello " * 5000}, RESPONSES)
    decision = exchange.decision
    assert decision is not None
    replica = decision.replica
    assert (decision.streams, replica.awaited_tokens) == (True, decision.uncached_tokens)
    moments[0] += 0.01
    send(exchange, HEAD + chunk(OPENING))
    assert replica.awaited_tokens == decision.uncached_tokens
    moments[0] += 2.0
    send(exchange, chunk(DELTA))
    assert decision.sample is not None
    assert decision.sample.end_s == moments[0]
    moments[0] += 1.0
    send(exchange, chunk(DELTA * 8 + COMPLETED) + b"0\r\n\r\n")
    assert decision.lasted_s == pytest.approx(1.0)
    assert replica.speed.count == 1
    assert fleet.wire.at_rest()


@pytest.mark.parametrize(
    ("fields", "stream"),
    [
        ({}, b"event: response.created\ndata: {" + b"x" * OPENING_BYTES),
        ({}, OPENING),
        ({"previous_response_id": "resp_0"}, OPENING + DELTA),
        ({"stream": False}, OPENING + DELTA),
    ],
    ids=["too long an opening", "nothing but an opening", "a history kept by the engine", "not a stream"],
)
def test_a_response_whose_prefill_has_no_audible_end_teaches_no_speed(
    fields: dict[str, object], stream: bytes
) -> None:
    fleet = WireFleet(1)
    moments = [1_800_000_000.0]
    fleet.gateway.clock = lambda: moments[0]
    fleet.gateway.registry.remember_response("resp_0", fleet.replicas[0].id)
    _, exchange = fleet.begin({**RESPONSE, "input": "hello " * 5000, **fields}, RESPONSES)
    decision = exchange.decision
    assert decision is not None
    moments[0] += 2.0
    send(exchange, HEAD + chunk(stream))
    moments[0] += 1.0
    send(exchange, b"0\r\n\r\n")
    assert decision.sample is None
    assert (decision.tells, decision.replica.speed.count) == (False, 0)
    assert fleet.wire.at_rest()


# -- the head alone ---------------------------------------------------------------------------------------------------


def early(replicas: int = 1) -> WireFleet:
    return WireFleet(replicas, headers=HeadersConfig(early=True))


def test_a_head_waits_for_the_first_event() -> None:
    fleet = WireFleet(1)
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD)
    assert client.output == b""


def test_an_early_head_comes_when_it_comes() -> None:
    fleet = early()
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD)
    assert client.output.startswith(b"HTTP/1.1 200 OK\r\nserver: engine\r\n")
    assert client.output.endswith(b"\r\n\r\n")
    assert b"x-warmroute-replica: " in client.output
    assert phase(exchange) == RESERVED
    send(exchange, chunk(DATA) + chunk(DONE) + b"0\r\n\r\n")
    assert body_of(client) == DATA + DONE
    assert fleet.wire.at_rest()


def test_a_reload_makes_heads_early() -> None:
    fleet = WireFleet(1)
    worker = fleet.wire.worker
    worker.gateway.configure(replace(worker.config, headers=HeadersConfig(early=True)), None)
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD)
    assert client.output.startswith(b"HTTP/1.1 200 OK\r\n")


def test_another_replica_goes_on_behind_an_early_head_of_a_stream() -> None:
    fleet = early(2)
    client, exchange = fleet.begin(BODY)
    send(exchange, HEAD)
    break_off(exchange)
    send(exchange, HEAD + chunk(DATA) + chunk(DONE) + b"0\r\n\r\n")
    assert client.output.count(b"HTTP/1.1") == 1
    assert body_of(client) == DATA + DONE


def test_any_other_answer_is_cut_off_behind_its_early_head() -> None:
    fleet = early(2)
    client, exchange = fleet.begin({**BODY, "stream": False})
    send(exchange, b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n")
    assert b"content-length: 500" in client.output
    break_off(exchange)
    assert client.transport.aborted
    assert exchange.attempts == 1
    assert fleet.wire.at_rest()


@pytest.mark.parametrize("status", [404, 429, 500, 503])
def test_heads_of_errors_are_never_early(status: int) -> None:
    fleet = early()
    client, exchange = fleet.begin(BODY)
    answer = plain(status)
    head, _, body = answer.partition(b"\r\n\r\n")
    send(exchange, head + b"\r\n\r\n")
    assert client.output == b""
    send(exchange, body)
    assert client.output.startswith(b"HTTP/1.1 %d " % status)


def test_a_whole_answer_is_as_without() -> None:
    fleet = early()
    assert fleet.ask({**BODY, "stream": False}) == (200, OK)
    client, exchange = fleet.begin(BODY)
    stream = DATA + DONE
    send(
        exchange,
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b"
        % (len(stream), stream),
    )
    assert body_of(client) == stream
    assert fleet.wire.at_rest()
