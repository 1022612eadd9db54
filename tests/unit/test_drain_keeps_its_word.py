"""A drain closes no connection whose client was told that it stays open and may be sending just now."""

from __future__ import annotations

import json

from tests.support.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST = b'f\r\ndata: {"a":1}\n\n\r\n'


def test_a_stream_that_began_before_the_drain_leaves_its_connection_open_for_one_more_request() -> None:
    wire = Wire()
    connection, _ = wire.add_upstream()
    client = wire.connect()
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    client.feed(request)
    connection.data_received(HEAD + FIRST)
    assert b"connection: close" not in client.output.lower()
    wire.gateway.draining = True
    connection.data_received(b"0\r\n\r\n")
    assert not client.transport.closed
    client.feed(request)
    connection.data_received(HEAD + FIRST + b"0\r\n\r\n")
    assert client.output.lower().count(b"connection: close") == 1
    assert client.transport.closed
    assert wire.at_rest()
