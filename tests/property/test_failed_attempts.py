"""What the registry is told of attempts that came to nothing, over a wire without sockets."""

from __future__ import annotations

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
    wire.add_upstream()
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "x" * 3000}]}).encode()
    client.feed(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    client.lose()
    assert all(ask(wire, "x" * 3000))
