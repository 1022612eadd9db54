"""`bytes_out` of the access log: the body bytes that the client was sent, whoever wrote them."""

from __future__ import annotations

import json

import pytest

from tests.support.wire import ClientWire, ParsedAnswers, Wire
from warmroute.telemetry.access_log import AccessEntry

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'data: {"a":1}\n\n'


class Kept:
    """Stands for the access log."""

    def __init__(self) -> None:
        self.entries: list[AccessEntry] = []

    def write(self, entry: AccessEntry, members: bytes = b"") -> None:
        self.entries.append(entry)


def asked(wire: Wire, body: bytes, method: bytes = b"POST") -> tuple[ClientWire, Kept]:
    kept = wire.gateway.accounts.access_log = Kept()  # type: ignore[assignment]
    client = wire.connect()
    client.feed(
        b"%b /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b"
        % (method, len(body), body)
    )
    return client, kept  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("body", "method", "status"),
    [(b"no json", b"POST", 400), (b"", b"DELETE", 405)],
)
def test_an_error_of_the_router_s_own_is_counted(body: bytes, method: bytes, status: int) -> None:
    wire = Wire(replicas=1)
    client, kept = asked(wire, body, method)
    ((answered, _, sent),) = ParsedAnswers(client.output).answers
    assert answered == status
    (entry,) = kept.entries
    assert (entry.status, entry.bytes_out) == (status, len(sent))
    assert entry.bytes_out > 20


def test_the_error_event_that_ends_a_broken_stream_is_counted_with_the_rest() -> None:
    wire = Wire(replicas=1)
    wire.add_upstream(0)
    body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    client, kept = asked(wire, body)
    exchange = client.connection.exchange
    assert exchange is not None
    connection = exchange.connection
    assert connection is not None
    connection.data_received(STREAM + b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
    connection.connection_lost(None)
    ((_, _, sent),) = ParsedAnswers(client.output).answers
    assert sent.startswith(EVENT)
    assert b"replica_lost" in sent
    assert [entry.bytes_out for entry in kept.entries] == [len(sent)]
