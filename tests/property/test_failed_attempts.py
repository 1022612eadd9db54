"""What is noted, counted and learnt of requests that came to nothing or to little, over a wire without sockets."""

from __future__ import annotations

import asyncio
import json

from tests.support.wire import Wire

BUSY = b'{"error":{"message":"The engine is currently busy and cannot accept new requests."}}'


def ask(wire: Wire, text: str) -> list[object]:
    """Send a prompt to a replica that refuses it; what the registry then has of its rungs."""
    wire.drop_upstreams()
    connection, _ = wire.add_upstream()
    client = wire.connect()
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": text}]}).encode()
    client.feed(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    exchange = client.connection.exchange
    assert exchange is not None
    assert exchange.shape is not None
    rungs = exchange.shape.rungs
    assert rungs
    connection.data_received(
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(BUSY), BUSY)
    )
    assert b"503" in client.output[:20]
    assert wire.at_rest()
    found = wire.gateway.registry.lookup(rungs, lambda _: None)
    assert found is not None
    return list(found)


def test_a_prompt_that_was_refused_is_not_noted() -> None:
    assert not any(ask(Wire(), "x" * 3000))


def test_what_was_noted_before_an_attempt_stays() -> None:
    wire = Wire()
    client = wire.connect()
    connection, _ = wire.add_upstream()
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x" * 3000}]}).encode()
    client.feed(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    assert all(ask(wire, "x" * 3000))


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST = b'f\r\ndata: {"a":1}\n\n\r\n'


def test_what_was_noted_while_a_request_was_held_stays() -> None:
    async def scenario() -> None:
        wire = Wire()
        connections = [wire.add_upstream()[0] for _ in range(3)]
        bodies = [
            json.dumps(
                {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": text * 60_000}]}
            ).encode()
            for text in "xyy"
        ]
        clients = [wire.connect() for _ in bodies]
        for client, body in zip(clients, bodies, strict=True):
            length = len(body)
            client.feed(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b"
                % (length, body)
            )
        hold = wire.gateway.hold
        assert hold is not None
        assert hold.waiting == 2
        exchange = clients[2].connection.exchange
        assert exchange is not None
        assert exchange.shape is not None
        rungs = exchange.shape.rungs
        for number in (0, 1):
            (connection,) = [c for c in connections if c.exchange is clients[number].connection.exchange]
            connection.data_received(HEAD + FIRST)
            assert hold.waiting == 1 - number
        assert exchange.decision is not None
        assert exchange.decision.predicted_tokens > 0
        (connection,) = [c for c in connections if c.exchange is exchange]
        connection.data_received(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(BUSY), BUSY)
        )
        found = wire.gateway.registry.lookup(rungs, lambda _: None)
        assert found is not None
        assert all(found)
        hold.stop()

    asyncio.run(scenario())


def test_bytes_of_a_stream_that_its_client_left_are_counted() -> None:
    wire = Wire()
    connection, _ = wire.add_upstream()
    client = wire.connect()
    body = json.dumps(
        {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    ).encode()
    client.feed(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    exchange = client.connection.exchange
    assert exchange is not None
    connection.data_received(HEAD + FIRST)
    client.lose()
    assert exchange.body_bytes == 15
    assert wire.at_rest()


def test_a_batch_teaches_no_speed_by_what_one_of_its_prompts_had_cached() -> None:
    wire = Wire()
    now_s = 1000.0
    wire.gateway.clock = lambda: now_s
    (replica,) = wire.worker.fleet.replicas.values()
    client = wire.connect()
    usage = b'{"prompt_tokens":16000,"total_tokens":16016,"completion_tokens":16,'
    usage += b'"prompt_tokens_details":{"cached_tokens":900}}'
    for number in range(20):
        connection, _ = wire.add_upstream()
        prompts = [f"{number} {part} " + "x" * 4000 for part in range(16)]
        options = {"include_usage": True}
        body = json.dumps(
            {"model": "m", "stream": True, "stream_options": options, "prompt": prompts}
        ).encode()
        client.feed(
            b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        now_s += 0.2
        connection.data_received(HEAD + FIRST)
        now_s += 1.1
        last = b'data: {"choices":[],"usage":' + usage + b"}\n\n"
        connection.data_received(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))
        wire.drop_upstreams()
    assert replica.prefill_tokens_per_s < 20_000
    assert wire.at_rest()
