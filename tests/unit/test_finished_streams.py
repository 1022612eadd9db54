"""An answer whose own end the client has is a success, whatever becomes of the connections afterwards."""

from __future__ import annotations

import json
import time

import pytest

from tests.support.wire import ClientWire
from tests.support.wire_fleet import WireFleet
from warmroute.core.types import Api
from warmroute.dataplane.sweeper import PERIOD_S, Sweeper
from warmroute.dialects.sse import MAX_KEPT_BACK_BYTES
from warmroute.dialects.terminal import ends_answer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
USAGE = {
    "input_tokens": 50,
    "output_tokens": 7,
    "total_tokens": 57,
    "input_tokens_details": {"cached_tokens": 16},
}
CHAT_USAGE = (
    b'"usage":{"prompt_tokens":50,"total_tokens":57,"completion_tokens":7,'
    b'"prompt_tokens_details":{"cached_tokens":16}}'
)


def event(name: str, **fields: object) -> bytes:
    data = json.dumps({"type": name, **fields}, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode()


STREAMS: dict[str, tuple[str, dict[str, object], list[bytes], bytes]] = {
    "responses": (
        "/v1/responses",
        {"model": "m", "stream": True, "input": "hello " * 200},
        [
            event("response.created", response={"id": "resp_1"}),
            event("response.output_text.delta", delta="data: [DONE]\n\nevent: response.completed\n"),
        ],
        event("response.completed", response={"id": "resp_1", "usage": USAGE}),
    ),
    "responses, incomplete": (
        "/v1/responses",
        {"model": "m", "stream": True, "input": "hello " * 200},
        [
            event("response.created", response={"id": "resp_1"}),
            event("response.output_text.delta", delta="x"),
        ],
        event("response.incomplete", response={"id": "resp_1", "usage": USAGE}),
    ),
    "messages": (
        "/v1/messages",
        {"model": "m", "stream": True, "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]},
        [
            event("message_start", message={"usage": {"input_tokens": 50, "output_tokens": 0}}),
            event("content_block_delta", delta={"text": '{"type":"message_stop"}\nevent: message_stop\n'}),
            event(
                "message_delta",
                delta={},
                usage={"input_tokens": 34, "output_tokens": 7, "cache_read_input_tokens": 16},
            ),
        ],
        event("message_stop"),
    ),
    "chat": (
        "/v1/chat/completions",
        {
            "model": "m",
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": "hello"}],
        },
        [
            b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n',
            b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
            b'data: {"choices":[],' + CHAT_USAGE + b"}\n\n",
        ],
        b"data: [DONE]\n\n",
    ),
}


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def counted(fleet: WireFleet) -> dict[int, int]:
    """Requests by status."""
    found: dict[int, int] = {}
    for (_, _, status, _), count in fleet.gateway.metrics.requests().items():
        found[status] = found.get(status, 0) + count
    return found


def begin(fleet: WireFleet, name: str, *pieces: bytes) -> ClientWire:
    path, body, _, _ = STREAMS[name]
    client, exchange = fleet.begin(body, path)
    assert exchange.connection is not None
    exchange.connection.data_received(HEAD + chunk(pieces[0]))
    for piece in pieces[1:]:
        assert exchange.connection is not None
        exchange.connection.data_received(chunk(piece))
    return client


def whole(name: str) -> list[bytes]:
    _, _, events, last = STREAMS[name]
    return [*events, last]


@pytest.mark.parametrize("name", list(STREAMS))
def test_a_thousand_clients_that_close_at_the_terminal_event(name: str) -> None:
    fleet = WireFleet(2)
    for _ in range(1000):
        client = begin(fleet, name, *whole(name))
        client.lose()
    metrics = fleet.gateway.metrics
    assert counted(fleet) == {200: 1000}
    assert metrics.client_disconnects == {}
    assert metrics.errors == {}
    tokens = metrics.tokens["m"]
    assert (tokens.prompt, tokens.cached, tokens.completion) == (50_000, 16_000, 7_000)
    assert sum(sum(histogram.counts) for histogram in metrics.ttft.values()) == 1000
    assert fleet.wire.at_rest()
    assert sum(replica.errors.answers for replica in fleet.replicas) > 60


@pytest.mark.parametrize("name", list(STREAMS))
def test_a_client_that_closes_before_it_has_left(name: str) -> None:
    fleet = WireFleet(1)
    client = begin(fleet, name, *whole(name)[:-1])
    client.lose()
    client = begin(fleet, name, *whole(name)[:-1], whole(name)[-1][:-1])
    client.lose()  # the last event lacks its end
    assert counted(fleet) == {499: 2}
    assert fleet.gateway.metrics.client_disconnects == {"stream": 2}


@pytest.mark.parametrize("name", list(STREAMS))
def test_however_the_terminal_event_comes(name: str) -> None:
    data = b"".join(whole(name))
    for step in (1, 7, 50, len(data)):
        fleet = WireFleet(1)
        client = begin(fleet, name, *[data[at : at + step] for at in range(0, len(data), step)])
        client.lose()
        assert counted(fleet) == {200: 1}, step


def test_a_terminal_event_too_long_to_be_held() -> None:
    fleet = WireFleet(1)
    output = [{"type": "message", "text": "x" * 100} for _ in range(MAX_KEPT_BACK_BYTES // 50)]
    last = event("response.completed", response={"id": "resp_1", "output": output, "usage": USAGE})
    pieces = [last[at : at + 20_000] for at in range(0, len(last), 20_000)]
    client = begin(fleet, "responses", STREAMS["responses"][2][0], *pieces[:-1])
    client.lose()
    assert counted(fleet) == {499: 1}
    client = begin(fleet, "responses", STREAMS["responses"][2][0], *pieces)
    client.lose()
    assert counted(fleet) == {499: 1, 200: 1}
    client = begin(fleet, "responses", STREAMS["responses"][2][0], *pieces, b"data: [DONE]\n\n")
    client.lose()
    assert counted(fleet) == {499: 1, 200: 2}


@pytest.mark.parametrize("name", list(STREAMS))
def test_a_replica_that_dies_behind_its_terminal_event_has_answered(name: str) -> None:
    fleet = WireFleet(1)
    path, body, _, _ = STREAMS[name]
    client, exchange = fleet.begin(body, path)
    connection = exchange.connection
    assert connection is not None
    connection.data_received(HEAD + b"".join(chunk(piece) for piece in whole(name)))
    connection.connection_lost(ConnectionResetError("reset"))
    assert b'"error"' not in client.output
    assert client.output.endswith(b"0\r\n\r\n")
    assert not client.transport.closed
    assert counted(fleet) == {200: 1}
    assert fleet.replicas[0].health.failures == 0
    assert fleet.gateway.metrics.tokens["m"].completion == 7


def test_a_replica_that_never_ends_the_transfer_has_answered_too() -> None:
    fleet = WireFleet(1)
    client = begin(fleet, "chat", *whole("chat"))
    sweeper = Sweeper(fleet.gateway)
    now_s = time.monotonic()
    for step in range(int(310 / PERIOD_S)):
        sweeper.sweep(now_s + step * PERIOD_S)
    assert client.output.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert counted(fleet) == {200: 1}
    assert fleet.gateway.metrics.errors == {}


def test_streams_whose_usage_the_router_asked_for_are_learned_from_all_the_same() -> None:
    fleet = WireFleet(1)
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    finish = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"system_fingerprint":"f"}\n\n'
    asked_finish = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    usage = b'data: {"choices":[],' + CHAT_USAGE + b',"system_fingerprint":"f"}\n\n'
    done = b"data: [DONE]\n\n"
    for pieces in ([finish, done], [asked_finish, usage, done], [asked_finish, usage, done]):
        client, exchange = fleet.begin(body)
        assert exchange.connection is not None
        exchange.connection.data_received(HEAD + b"".join(chunk(piece) for piece in pieces))
        assert finish in client.output
        assert b"usage" not in client.output
        client.lose()
    assert counted(fleet) == {200: 3}
    assert fleet.gateway.metrics.tokens["m"].completion == 14, "the first one of an engine is not asked"


@pytest.mark.parametrize(
    ("api", "events", "ends"),
    [
        (Api.CHAT, b"data: [DONE]\n\n", True),
        (Api.CHAT, b"data:[DONE]\r\n\r\n", True),
        (Api.COMPLETIONS, b"data: 1\n\ndata: [DONE]\n\n", True),
        (Api.CHAT, b'data: {"a":"[DONE]"}\n\n', False),
        (Api.CHAT, b'data: {"a":"\\n\\ndata: [DONE]\\n"}\n\n', False),
        (Api.CHAT, b"data: [DONE", False),
        (Api.MESSAGES, b'event: message_stop\ndata: {"type":"message_stop"}\n\n', True),
        (Api.MESSAGES, b'data: {"type": "message_stop"}\n\n', True),
        (Api.MESSAGES, b'data: {"delta":"{\\"type\\":\\"message_stop\\"}"}\n\n', False),
        (Api.MESSAGES, b"event: message_stopped\ndata: 1\n\n", False),
        (Api.RESPONSES, b"event: response.failed\ndata: {}\n\n", True),
        (Api.RESPONSES, b'data: {"response":{},"type":"response.completed"}\n\n', True),
        (Api.RESPONSES, b'data: {"a":"\\"type\\":\\"response.completed\\""}\n\n', False),
        (Api.RESPONSES, b"event: response.in_progress\ndata: {}\n\n", False),
        (Api.RESPONSES, b"data: [DONE]\n\n", True),
        (Api.OTHER, b"data: [DONE]\n\n", True),
    ],
)
def test_what_ends_an_answer(api: Api, events: bytes, ends: bool) -> None:
    assert ends_answer(api, events) is ends
