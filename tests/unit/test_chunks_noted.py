"""What the data plane looks up, notes and takes back of prompts with chunks."""

from __future__ import annotations

import json

from tests.support.wire import Wire
from warmroute.config.schema import BlendConfig, HoldConfig
from warmroute.core.types import FingerprintHash
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.upstream import ReplicaConnection

FIRST = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'f\r\ndata: {"a":1}\n\n\r\n'
)
BLEND = BlendConfig(separator=" # # ", chunk_tokens=64)


def passage(name: str) -> str:
    return f"{name} " + name[0] * 600


class Sent:
    """A request that was sent to the wire's one replica."""

    def __init__(self, wire: Wire, path: str, **body: object) -> None:
        self.client = wire.connect()
        self.connection: ReplicaConnection = wire.add_upstream()[0]
        data = json.dumps({"model": "tiny", "stream": True, **body}).encode()
        self.client.feed(
            b"POST %b HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data)
        )
        exchange = self.client.connection.exchange
        assert isinstance(exchange, Exchange)
        assert exchange.shape is not None
        self.shape = exchange.shape

    @property
    def hashes(self) -> list[FingerprintHash]:
        return self.shape.chunks.hashes if self.shape.chunks is not None else []


def world(blend: BlendConfig = BLEND) -> Wire:
    return Wire(hold=HoldConfig(enabled=False), blend=blend)


def chat(wire: Wire, *texts: str) -> Sent:
    content = " # # ".join(texts)
    return Sent(wire, "/v1/chat/completions", messages=[{"role": "user", "content": content}])


def known(wire: Wire, keys: list[FingerprintHash]) -> list[bool]:
    records = wire.gateway.registry.lookup(keys, lambda _: None)
    assert records is not None
    return [record is not None for record in records]


def test_chunks_are_noted_with_the_rungs_and_found_in_another_order() -> None:
    wire = world()
    one = chat(wire, "be brief", passage("alpha"), passage("beta"))
    assert known(wire, one.hashes) == [True, True]
    one.connection.data_received(FIRST)
    two = chat(wire, "be verbose", passage("beta"), passage("gamma"), passage("alpha"))
    assert two.hashes[0] == one.hashes[1]
    assert two.hashes[2] == one.hashes[0]
    exchange = two.client.connection.exchange
    assert isinstance(exchange, Exchange)
    assert exchange.decision is not None
    chunk_tokens = 602 // 4
    assert abs(exchange.decision.predicted_tokens - 2 * 0.85 * chunk_tokens) < 10


def test_what_was_not_computed_is_taken_back_but_for_chunks_that_others_computed() -> None:
    wire = world()
    chat(wire, "be brief", passage("alpha")).connection.data_received(FIRST)
    two = chat(wire, "be verbose", passage("beta"), passage("alpha"))
    assert known(wire, two.shape.keys) == [True] * len(two.shape.keys)
    two.client.lose()
    assert known(wire, two.shape.rungs) == [False] * len(two.shape.rungs)
    assert known(wire, two.hashes) == [False, True]


def test_a_known_chunk_does_not_keep_a_prefix_that_was_not_computed() -> None:
    wire = world()
    chat(wire, passage("head"), passage("alpha")).connection.data_received(FIRST)
    two = chat(wire, passage("other"), passage("alpha"))
    assert two.shape.rungs
    two.client.lose()
    assert not any(known(wire, two.shape.rungs))


def test_token_ids_have_no_text_that_could_hold_a_separator() -> None:
    separator = [int.from_bytes(b" # #", "little")] * 2
    ids = [*separator, *range(1, 400)]
    sent = Sent(world(BlendConfig(separator=" # #", chunk_tokens=1)), "/v1/completions", prompt=ids)
    assert sent.shape.tokens_known
    assert sent.shape.chunks is None


def test_without_the_setting_no_prompt_has_chunks() -> None:
    sent = chat(world(BlendConfig()), "be brief", passage("alpha"), passage("beta"))
    assert sent.shape.chunks is None
    assert sent.shape.keys is sent.shape.rungs
