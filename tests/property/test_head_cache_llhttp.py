"""The head cache never disagrees with llhttp: with it and without it the router reads the same requests."""

from __future__ import annotations

import re

import httptools
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.wire import REPLICA, Wire
from warmroute.config.schema import LimitsConfig
from warmroute.dataplane.head_cache import HeadCache
from warmroute.dataplane.request import Fields, RequestHead

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
LINES = [
    b"Host: r",
    b"Content-Type: application/json",
    b"content-length: %d" % len(BODY),
    b"Content-Length: %d" % len(BODY),
    b"Content-Length: %d" % len(BODY),
    b"Content-Length: 0",
    b"Content-Length: 5",
    b"Content-Length: 00%d" % len(BODY),
    b"Content-Length:  7",
    b"Content-Length: 7 ",
    b"Content-Length:7",
    b"CONTENT-LENGTH: 7",
    b"content-Length: 7",
    b"Content-Length: +7",
    b"Content-Length: 0x7",
    b"Content-Length: 99999999999999999999999",
    b"X-Content-Length: 3",
    b"X: Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: X-Hop",
    b"X-Hop: 1",
    b"X-Request-Id: abc",
    b"X-Session-Id: s",
    b"Expect: 100-continue",
    b"Upgrade: h2c\r\nConnection: Upgrade",
    b" folded: 1",
    b"Bad Name: 1",
    b"X: \x00",
    b"X: a\rb",
    b"X: a\nContent-Length: 9",
]
TAILS = [
    BODY,
    BODY,
    BODY,
    BODY * 2,
    b"",
    b"hello",
    b"0\r\n\r\n",
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    b"\r\n",
]
FIRST_LINES = [
    b"POST /v1/chat/completions HTTP/1.1",
    b"POST /v1/chat/completions HTTP/1.1",
    b"POST /v1/completions?x=1 HTTP/1.1",
    b"POST /v1/chat/completions HTTP/1.0",
    b"GET /health HTTP/1.1",
    b"POST http://h/v1/chat/completions HTTP/1.1",
    b"CONNECT /v1/models HTTP/1.1",
    b"\r\nPOST /v1/chat/completions HTTP/1.1",
]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    lines = [
        draw(st.sampled_from(FIRST_LINES)),
        *draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=5)),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + draw(st.sampled_from(TAILS))


@st.composite
def mutated(draw: st.DrawFn, plain: st.SearchStrategy[bytes]) -> bytes:
    """A request with a few bytes changed, dropped or doubled."""
    data = bytearray(draw(plain))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        width = draw(st.integers(0, 3))
        piece = draw(
            st.sampled_from([b"", b"0", b"1", b"\r\n", b"\r", b"\n", b" ", b":", b"\x00", b"C", b"9"])
        )
        data[at : at + width] = piece
    return bytes(data)


REQUESTS = mutated(requests())


class Verdict:
    """What llhttp says of one read: the first request in it, if it is complete."""

    def __init__(self, data: bytes) -> None:
        self.fields: Fields = []
        self.url = b""
        self.body = b""
        self.heads = 0
        self.complete = 0
        self.head: RequestHead | None = None
        self.upgrade = False
        self.error = False
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.error = True

    def on_url(self, url: bytes) -> None:
        if not self.heads:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.heads:
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.heads += 1
        if self.heads == 1:
            parser = self._parser
            self.upgrade = parser.should_upgrade()
            self.head = RequestHead(
                parser.get_method(),
                self.url,
                self.fields,
                keep_alive=parser.should_keep_alive(),
                minor_version=0 if parser.get_http_version() == "1.0" else 1,
            )

    def on_body(self, piece: bytes) -> None:
        if self.heads == 1:
            self.body += piece

    def on_message_complete(self) -> None:
        self.complete += 1

    @property
    def lengths(self) -> list[bytes]:
        return [value for name, value in self.fields if name == b"content-length"]


def keep_as_a_connection_would(cache: HeadCache, data: bytes) -> None:
    verdict = Verdict(data)
    head = verdict.head
    if head is None or verdict.upgrade or not verdict.lengths or int(verdict.lengths[0]) == 0:
        return
    cache.keep(data, head)


def assert_found_as_read(cache: HeadCache, data: bytes) -> bool:
    known = cache.find(data)
    for other in cache._heads.values():  # a connection may have found any of them last
        assert other is known or other.measure(data)[0] < 0
    if known is None:
        return False
    body_at, length = known.measure(data)
    if body_at < 0:
        return False
    head = known.head
    verdict = Verdict(data)
    assert verdict.head is not None, "llhttp does not accept this head"
    for name in RequestHead.__slots__:
        assert getattr(head, name) == getattr(verdict.head, name), name
    assert not verdict.upgrade
    assert [int(value) for value in verdict.lengths] == [length]
    assert not any(name == b"transfer-encoding" for name, _ in verdict.fields)
    assert verdict.body == data[body_at : body_at + length]
    return True


@settings(max_examples=400, deadline=None)
@given(st.lists(REQUESTS, min_size=1, max_size=4), REQUESTS)
def test_what_the_cache_finds_is_what_llhttp_reads(kept: list[bytes], asked: bytes) -> None:
    cache = HeadCache()
    for data in kept:
        keep_as_a_connection_would(cache, data)
    for data in (*kept, asked):
        assert_found_as_read(cache, data)


@settings(max_examples=300, deadline=None)
@given(requests(), st.data())
def test_what_the_cache_finds_in_a_mutation_of_a_kept_head_is_what_llhttp_reads(
    kept: bytes, data: st.DataObject
) -> None:
    cache = HeadCache()
    keep_as_a_connection_would(cache, kept)
    for _ in range(4):
        assert_found_as_read(cache, data.draw(mutated(st.just(kept))))


def test_a_plain_head_is_found_again_with_another_length() -> None:
    cache = HeadCache()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\nX: y\r\n\r\n"
    keep_as_a_connection_would(cache, head % 5 + b"hello")
    for length in (0, 1, 12, 123456):
        assert assert_found_as_read(cache, head % length + b"x" * length)
    assert not assert_found_as_read(cache, head.replace(b"X: y", b"X: z") % 5 + b"hello")


def test_no_other_spelling_of_a_length_is_found_where_llhttp_reads_it_otherwise() -> None:
    cache = HeadCache()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %b\r\n\r\n"
    keep_as_a_connection_would(cache, head % b"5" + b"hello")
    body = b"x" * 5000
    for spelling in b"+5|-5| 5|5 |05|0x5|1_0|5,5|5.0|1e2||\xb2|5\n|5\t|99999999999|4294967301|5\r".split(
        b"|"
    ):
        assert_found_as_read(cache, head % spelling + body)


SMUGGLED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(REQUESTS | st.just(SMUGGLED), min_size=1, max_size=4),
    st.lists(st.integers(0, 400), max_size=6),
    st.booleans(),
)
@example([b"POST /v1/x HTTP/1.1\r\nHost: r\r\nX: ", SMUGGLED], [], True)
@example([b"POST /v1/x HTTP/1.1\r\nContent-Length: 400\r\n\r\n", SMUGGLED, SMUGGLED], [], True)
@example([b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", SMUGGLED], [], True)
@example([b"\r", SMUGGLED], [], True)
@example([b"\n", SMUGGLED, SMUGGLED], [], True)
@example([SMUGGLED + b"POST /v1/x HTTP/1.1\r\nX: ", SMUGGLED], [], True)
def test_with_and_without_the_cache_a_connection_sends_and_answers_the_same(
    requests: list[bytes], cuts: list[int], at_requests: bool
) -> None:
    stream = b"".join(requests)
    reads = requests if at_requests else []
    if not at_requests:
        marks = sorted({cut for cut in cuts if cut < len(stream)} | {0, len(stream)})
        reads = [stream[a:b] for a, b in zip(marks, marks[1:], strict=False)]
    assert run(reads, cached=True) == run(reads, cached=False)


WIRE = Wire(LimitsConfig(header_bytes=4096, body_bytes=1 << 20), explain=False)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}"
_MADE_ID = re.compile(rb"[0-9a-f]{24}")


def run(reads: list[bytes], *, cached: bool) -> tuple[bytes, bytes, bool]:
    """What a client's reads bring to the replica and back; warm means that every head is in the cache already."""
    wire = WIRE
    gateway = wire.gateway
    gateway.heads = HeadCache()
    if cached:
        for data in (SMUGGLED, *reads):
            wire.add_upstream()
            client = wire.connect()
            client.feed(data)
            client.lose()
    wire.drop_upstreams()
    connection, transport = wire.add_upstream()
    client = wire.connect()
    for data in reads:
        if not cached:
            gateway.heads = HeadCache()
        client.feed(data)
        while connection.exchange is not None:
            connection.data_received(ANSWER)
        if client.transport.closed:
            break
    result = (
        _MADE_ID.sub(b"ID", bytes(transport.written)),
        _MADE_ID.sub(b"ID", client.output),
        client.transport.closed,
    )
    client.lose()
    assert wire.at_rest()
    assert connection.exchange is None
    assert REPLICA in wire.worker.fleet.replicas
    return result


def test_a_body_over_the_limit_is_refused_behind_a_known_head_too() -> None:
    wire = Wire(LimitsConfig(body_bytes=2000))
    client = wire.connect()
    for size in (100, 100, 5000):
        connection, transport = wire.add_upstream()
        body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % (b"x" * size)
        client.feed(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        if size == 100:
            connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            assert client.output.endswith(b"{}")
            wire.drop_upstreams()
    assert not transport.written
    assert client.output.rpartition(b"HTTP/1.1 ")[2].startswith(b"413")
    assert wire.at_rest()
