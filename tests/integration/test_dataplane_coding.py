"""Content codings in both directions: forwarded as they came, read where the router has to, never held back."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Iterator

import pytest
import zstandard

from tests.support.router_thread import RouterThread, running
from tests.support.scripted_upstream import Connection, Received, ScriptedUpstream, chunk, plain
from warmroute.config.schema import Address, Config, LimitsConfig, ReplicaConfig

ANY = Address("127.0.0.1:0")
PROMPT = "The quick brown fox jumps over the lazy dog. " * 40
ANSWER = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "choices": [],
        "usage": {
            "prompt_tokens": 450,
            "total_tokens": 455,
            "completion_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 444},
        },
    },
    separators=(",", ":"),
).encode()
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncontent-encoding: gzip\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Coder(ScriptedUpstream):
    """Compresses what it answers where the client says that it takes it."""

    def _answer(self, connection: Connection, received: Received) -> bool:
        if not received.line.startswith(b"POST"):
            return super()._answer(connection, received)
        self.received.append(received)
        body = received.body
        if received.header(b"content-encoding") == b"gzip":
            body = gzip.decompress(body)
        coded = b"gzip" in (received.header(b"accept-encoding") or b"")
        if b'"stream": true' in body or b'"stream":true' in body:
            self._stream(connection, asked=b"include_usage" in body, coded=coded)
        elif coded:
            packed = gzip.compress(ANSWER)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
            connection.send(head + b"content-length: %d\r\n\r\n" % len(packed) + packed)
        else:
            connection.send(plain(ANSWER))
        return True

    def _stream(self, connection: Connection, *, asked: bool, coded: bool) -> None:
        packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        events = [
            b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n',
            b'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        ]
        if asked:
            events.append(b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":1}}\n\n')
        events.append(b"data: [DONE]\n\n")
        connection.send(STREAM_HEAD if coded else STREAM_HEAD.replace(b"content-encoding: gzip\r\n", b""))
        for event in events:
            connection.send(
                chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH) if coded else event)
            )
        connection.send((chunk(packer.flush()) if coded else b"") + b"0\r\n\r\n")


@pytest.fixture(scope="module")
def upstreams() -> Iterator[list[Coder]]:
    with Coder() as one, Coder() as two:
        yield [one, two]


@pytest.fixture
def router(upstreams: list[Coder]) -> Iterator[RouterThread]:
    replicas = tuple(ReplicaConfig(url=upstream.url, id=upstream.id) for upstream in upstreams)
    limits = LimitsConfig(body_bytes=100_000)
    with running(Config(listen=ANY, admin=ANY, replicas=replicas, limits=limits), 2) as started:
        yield started
        started.assert_at_rest()


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": PROMPT}], **fields}).encode()


def test_events_of_a_coded_stream_are_passed_on_as_they_come() -> None:
    """The replica goes on only when the client has read what there is: held back, it would never end."""

    def script(upstream: ScriptedUpstream, connection: Connection, received: Received) -> bool:
        packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        connection.send(STREAM_HEAD)
        for number in range(20):
            event = packer.compress(b"data: %d\n\n" % number) + packer.flush(zlib.Z_SYNC_FLUSH)
            connection.send(chunk(event))
            assert go_on.acquire(timeout=60), "the client has not seen this event"
        connection.send(chunk(packer.flush()) + b"0\r\n\r\n")
        return True

    go_on = threading.Semaphore(0)
    with ScriptedUpstream(script=script) as upstream:
        config = Config(listen=ANY, admin=ANY, replicas=(ReplicaConfig(url=upstream.url),))
        with running(config, 1) as router, router.connect() as sock:
            data = body(stream=True)
            sock.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nAccept-Encoding: gzip\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
            )
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(65536)
            rest = head.partition(b"\r\n\r\n")[2]
            assert b"content-encoding: gzip" in head.lower()
            unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
            seen = b""
            for number in range(20):
                while b"data: %d\n\n" % number not in seen:
                    while b"\r\n" not in rest or len(rest) < int(rest.partition(b"\r\n")[0], 16) + 4:
                        rest += sock.recv(65536)
                    size, _, rest = rest.partition(b"\r\n")
                    seen += unpacker.decompress(rest[: int(size, 16)])
                    rest = rest[int(size, 16) + 2 :]
                go_on.release()


def stream(router: RouterThread, **headers: str) -> bytes:
    status, told, answer = router.post("/v1/chat/completions", body(stream=True), headers)
    assert status == 200
    return gzip.decompress(answer) if told.get("content-encoding") == "gzip" else answer


def test_a_coded_stream_is_what_the_replica_sends_unasked(
    router: RouterThread, upstreams: list[Coder]
) -> None:
    """Usage that the router asked for could not be taken out of it: it asks anew without, and never again."""
    for _ in range(4):
        plain_one = stream(router)
        assert b"usage" not in plain_one
    asked = [b"include_usage" in received.body for up in upstreams for received in up.received]
    assert any(asked), "streams that can be read are asked"
    for upstream in upstreams:
        upstream.received.clear()
    assert stream(router, **{"Accept-Encoding": "gzip"}) == plain_one
    assert [b"include_usage" in r.body for up in upstreams for r in up.received] == [True, False]
    for _ in range(3):
        assert stream(router, **{"Accept-Encoding": "gzip"}) == plain_one
    assert sum(b"include_usage" in r.body for up in upstreams for r in up.received) == 1


def test_usage_is_read_in_a_coded_answer(router: RouterThread) -> None:
    before = metric(router, "warmroute_cached_tokens_total")
    status, headers, answer = router.post("/v1/chat/completions", body(), {"Accept-Encoding": "gzip"})
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert gzip.decompress(answer) == ANSWER
    assert metric(router, "warmroute_cached_tokens_total") - before == 444


def metric(router: RouterThread, name: str) -> float:
    text = router.call(lambda: router.worker._exposition.render(""))[0].decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


@pytest.mark.parametrize(
    ("coding", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstandard.compress), ("identity", bytes)],
)
def test_a_coded_request_goes_where_its_plain_text_would_and_as_it_came(
    router: RouterThread, upstreams: list[Coder], coding: str, encode: type[bytes]
) -> None:
    _, home, _ = router.post("/v1/chat/completions", body())
    for upstream in upstreams:
        upstream.received.clear()
    data = encode(body())
    status, headers, _ = router.post("/v1/chat/completions", data, {"Content-Encoding": coding})
    assert status == 200
    assert headers["x-warmroute-decision"] == "warm"
    assert headers["x-warmroute-replica"] == home["x-warmroute-replica"]
    received = next(received for upstream in upstreams for received in upstream.received)
    assert received.body == data
    assert received.header(b"content-encoding") == coding.encode()


def test_a_coded_stream_request_is_not_changed(router: RouterThread, upstreams: list[Coder]) -> None:
    for upstream in upstreams:
        upstream.received.clear()
    data = gzip.compress(body(stream=True))
    for _ in range(4):
        assert router.post("/v1/chat/completions", data, {"Content-Encoding": "gzip"})[0] == 200
    assert {received.body for upstream in upstreams for received in upstream.received} == {data}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/embeddings", "/invocations"])
def test_what_cannot_be_read_is_refused_with_what_can(router: RouterThread, path: str) -> None:
    status, headers, answer = router.post(path, b"\x0b\x02", {"Content-Encoding": "br"})
    assert (status, headers["accept-encoding"]) == (415, "gzip, deflate, zstd")
    assert json.loads(answer)["error"]["code"] == "unsupported_content_coding"
    assert router.post(path, b"{}", {"Content-Encoding": "gzip"})[0] == 400
    bomb = gzip.compress(b'{"model":"m"}' + b" " * 200_000)
    status, _, answer = router.post(path, bomb, {"Content-Encoding": "gzip"})
    assert (status, json.loads(answer)["error"]["code"]) == (413, "body_too_large")
