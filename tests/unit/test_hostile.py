"""What a replica that was taken over, or a client that means harm, sends: nothing of it reaches anybody, or grows."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from tests.support.tenants import KeyedFleet, bearer, key_record
from tests.support.wire import ClientWire
from tests.support.wire_fleet import OK, WireFleet, plain
from warmroute.core.errors import ClientError
from warmroute.core.types import Api
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.upstream import MOST_BARREN_BYTES
from warmroute.dialects import parse

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = 16 * 1024


class Replica:
    """One that sends what it likes, to a client that waits."""

    def __init__(self) -> None:
        fleet = WireFleet(1, max_attempts=1)
        self.wire = fleet.wire
        self.client: ClientWire = self.wire.connect()
        body = json.dumps(CHAT).encode()
        self.client.feed(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        exchange = self.client.connection.exchange
        assert isinstance(exchange, Exchange)
        connection = exchange.connection
        assert connection is not None
        self.connection = connection

    def sends(self, data: bytes) -> bool:
        """Whether it may go on."""
        if not self.connection.closed:
            self.connection.data_received(data)
        return not self.connection.closed


ENDLESS = {
    "field": b"x-a: " + b"a" * PIECE,
    "fields": b"x-a: a\r\n" * (PIECE // 8),
    "interim answers": b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * (PIECE // 40),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_head_without_an_end_is_cut_off_and_the_client_told(name: str) -> None:
    replica = Replica()
    if name != "interim answers":
        assert replica.sends(b"HTTP/1.1 200 OK\r\n")
    piece = ENDLESS[name]
    pieces = 0
    while replica.sends(piece if name != "field" or not pieces else b"a" * PIECE):
        pieces += 1
        assert pieces * PIECE <= MOST_BARREN_BYTES + PIECE
    assert replica.client.output.startswith(b"HTTP/1.1 502 ")
    assert replica.wire.at_rest()


def test_trailers_without_an_end_are_cut_off() -> None:
    replica = Replica()
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    assert replica.sends(STREAM + b"%x\r\n%b\r\n0\r\n" % (len(event), event))
    pieces = 0
    while replica.sends(b"x-a: a\r\n" * (PIECE // 8)):
        pieces += 1
        assert pieces * PIECE <= MOST_BARREN_BYTES + PIECE
    assert replica.client.output.startswith(b"HTTP/1.1 200 ")
    assert b"x-a" not in replica.client.output
    assert replica.wire.at_rest()


def test_a_long_stream_in_small_chunks_is_no_endless_head() -> None:
    replica = Replica()
    assert replica.sends(STREAM)
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    for _ in range(MOST_BARREN_BYTES // 4 // len(b"38;\r\n")):
        for data in (b"%x" % len(event), b";" + b"e" * 12, b"\r\n", event, b"\r\n"):
            assert replica.sends(data)
    assert replica.sends(b"0\r\n\r\n") or replica.client.output.endswith(b"0\r\n\r\n")
    assert replica.client.output.endswith(b"0\r\n\r\n")


SPLITTING = {
    "bare CR": b"x-a: b\rx-evil: 1",
    "bare LF": b"x-a: b\nx-evil: 1",
    "NUL": b"x-a: b\0x-evil: 1",
    "blank in a name": b"x a: b",
    "two answers": b"content-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nx-evil: 1\r\ncontent-length: 0",
    "two lengths": b"content-length: 2\r\ncontent-length: 5",
    "folded": b"x-a: b\r\n x-evil: 1",
}


@pytest.mark.parametrize("name", SPLITTING)
def test_no_replica_makes_two_answers_of_one(name: str) -> None:
    replica = Replica()
    replica.sends(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % SPLITTING[name])
    replica.connection.connection_lost(None)
    output = replica.client.output
    assert output.count(b"HTTP/1.1 ") == 1
    head = output.partition(b"\r\n\r\n")[0]
    assert b"\nx-evil" not in head
    assert b"\rx-evil" not in head
    assert b"\0" not in head
    assert replica.wire.at_rest()


EVIL = "e\r\nx-evil: 1\r\n\r\n"


def test_no_name_of_a_tenant_key_or_model_becomes_a_header() -> None:
    record = replace(key_record("a", models=("m",)), id=EVIL, tenant=EVIL)
    fleet = KeyedFleet(records=[record])
    fleet.answer(0, plain(200, OK))
    outputs = []
    for model in ("m", EVIL):
        client, exchange = fleet.send(bearer("a"), {**CHAT, "model": model, "stream": False}, "/v1/messages")
        if exchange is not None and exchange.connection is not None:
            fleet.reply(exchange)
        outputs.append(client.output)
    assert [output[9:12] for output in outputs] == [b"200", b"403"]
    for output in outputs:
        assert b"\nx-evil" not in output


@pytest.mark.parametrize(
    "field",
    [
        b"x-request-id: a\tb",
        b"x-request-id: a\x80",
        b"x-request-id: " + b"a" * 4000,
        b"x-request-id: \xc4\x8d\xc4\x8ax-evil: 1",  # what some make of U+010D and U+010A in one byte each
        b"x-api-key: \xc4\x8d\xc4\x8ax-evil: 1",
        b"authorization: Bearer \xc4\x8d\xc4\x8ax-evil: 1",
        b"anthropic-version: \xc4\x8d\xc4\x8ax-evil: 1",
    ],
)
def test_what_a_client_says_of_itself_is_echoed_only_if_it_is_plain(field: bytes) -> None:
    fleet = KeyedFleet()
    _, head, _ = fleet.answered(field + b"\r\n")
    assert b"evil" not in head
    assert b"\x80" not in head
    assert b"a" * 200 not in head


DEEP = 200_000


@pytest.mark.parametrize("api", [Api.CHAT, Api.COMPLETIONS, Api.RESPONSES, Api.MESSAGES, Api.OTHER])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize(
    "field", [b"messages", b"prompt", b"input", b"system", b"tools", b"metadata", b"other"]
)
def test_nesting_without_an_end_is_refused_or_passed_on(api: Api, opening: bytes, field: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"
    nested = opening * DEEP + b"1" + closing * DEEP
    for body in (
        b'{"model":"m","%b":%b}' % (field, nested),
        b'{"model":"m","%b":%b' % (field, opening * DEEP),
    ):
        try:
            assert parse(api, body).model == "m"
        except ClientError as error:
            assert error.status == 400  # noqa: PT017 - either is right; anything else is not


def test_many_keys_and_many_messages_cost_no_more_than_their_bytes() -> None:
    keys = {f"k{number}": number for number in range(100_000)}
    same = b",".join([b'"a":1'] * 100_000)
    for body in (
        json.dumps({**CHAT, "metadata": keys}).encode(),
        b'{"model":"m","messages":[{"role":"user","content":"hi"}],%b}' % same,
        json.dumps({**CHAT, "messages": [{"role": "user", "content": ""}] * 100_000}).encode(),
    ):
        assert parse(Api.CHAT, body).model == "m"
