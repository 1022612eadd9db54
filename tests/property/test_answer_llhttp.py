"""An answer that is read without a parser is read exactly as llhttp reads it, or left to llhttp."""

from __future__ import annotations

import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from warmroute.dataplane.answer import AnswerCache, from_fields, read_whole

LINES = [
    b"date: Sat, 21 Nov 2026 19:43:35 GMT",
    b"Server: uvicorn",
    b"Content-Type: application/json",
    b"content-type: text/event-stream; charset=utf-8",
    b"content-type: x/y; of=text/event-stream",
    b"Content-Length: 2",
    b"content-length: 2",
    b"content-length: 02",
    b"content-length: 2 ",
    b"content-length:\t2",
    b"content-length: +2",
    b"content-length:",
    b"content-length: 2\x0b",
    b"content-length: 2, 2",
    b"content-length: " + b"0" * 5000 + b"2",
    b"Connection: keep-alive",
    b"Connection: close",
    b"connection: X-Hop",
    b"Connection: upgrade\r\nUpgrade: h2c",
    b"proxy-connection: close",
    b"X-Hop: 1",
    b"Keep-Alive: 5",
    b"transfer-encoding: chunked",
    b"x-request-id: a",
    b"Set-Cookie: a=b",
    b"set-cookie: c=\xc3\xbc",
    b" folded: 1",
    b"\tfolded",
    b"bad name: 1",
    b"name : 1",
    b": 1",
    b"no colon",
    b"x: \x00",
    b"x: a\rset-cookie: b",
    b"x: a\nset-cookie: b",
    b"x:",
    b"x:   y  ",
]
STATUS = [
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/1.1 404 Not Found",
    b"HTTP/1.1 2000 OK",
    b"HTTP/1.1 2 0 OK",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 101 Switching",
    b"HTTP/1.1 099 X",
    b"HTTP/1.1 999 X",
    b"HTTP/1.0 200 OK",
    b"http/1.1 200 OK",
    b"HTTP/1.1  200 OK",
    b"\r\nHTTP/1.1 200 OK",
]
BODIES = [b"{}", b"{}", b"{}", b"", b"{", b"{}{}", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"\r\n"]


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    lines = [draw(st.sampled_from(STATUS)), *draw(st.lists(st.sampled_from(LINES), max_size=5))]
    if draw(st.booleans()):
        lines.append(b"content-length: 2")
    data = bytearray(b"\r\n".join(lines) + b"\r\n\r\n" + draw(st.sampled_from(BODIES)))
    for _ in range(draw(st.integers(0, 1))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b"\r", b"\n", b" ", b"\x00", b"\x7f", b":", b"2", b"\r\n", b"\x80"])
        )
    return bytes(data)


class Verdict:
    """What llhttp says of the bytes."""

    def __init__(self, data: bytes) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.begun = 0
        self.complete = 0
        self.parser = httptools.HttpResponseParser(self)
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.complete += 1
        self.status = self.parser.get_status_code()
        self.keep_alive = self.parser.should_keep_alive()


def lower_names(lines: bytes) -> list[tuple[bytes, bytes]]:
    fields = [line.partition(b":") for line in lines.split(b"\r\n") if line]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in fields]


@settings(max_examples=2000, deadline=None)
@given(answers())
def test_an_answer_read_whole_is_what_llhttp_reads(data: bytes) -> None:
    whole = read_whole(data)
    if whole is None:
        return
    head, body = whole
    verdict = Verdict(data)
    assert (verdict.begun, verdict.complete) == (1, 1)
    assert verdict.keep_alive
    assert verdict.body == body
    judged = from_fields(verdict.status, verdict.fields)
    assert head.status == judged.status
    assert head.length_bytes == judged.length_bytes == len(body)
    assert head.event_stream == judged.event_stream
    assert lower_names(head.lines) == lower_names(judged.lines)


def test_a_plain_answer_needs_no_parser() -> None:
    whole = read_whole(
        b"HTTP/1.1 200 OK\r\nDate: x\r\nX-Own: 1\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert whole is not None
    assert whole[0].lines == b"Date: x\r\nX-Own: 1\r\n"
    assert whole[1] == b"{}"


def test_fields_that_the_replica_names_in_connection_stay_behind() -> None:
    head = from_fields(200, [(b"x-hop", b"1"), (b"connection", b"keep-alive, X-Hop"), (b"x", b"2")])
    assert head.lines == b"x: 2\r\n"


def meaning(data: bytes, read: object) -> object:
    whole = read(data)  # type: ignore[operator]
    if whole is None:
        return None
    head, body = whole
    return head.status, head.lines, head.length_bytes, head.event_stream, body


@given(st.lists(answers(), min_size=1, max_size=8))
def test_a_head_found_again_means_what_it_meant_when_it_was_read(several: list[bytes]) -> None:
    cache = AnswerCache()
    for data in several + several:
        assert meaning(data, cache.read) == meaning(data, read_whole)


def test_an_id_or_a_length_of_another_kind_is_read_anew() -> None:
    cache = AnswerCache()
    plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-request-id: %b\r\n\r\n{}"
    for value in (b"a-1", b"b-2", b"a\x00", b"a\nset-cookie: b", b"", b"a b", b"\xff"):
        assert meaning(plain % value, cache.read) == meaning(plain % value, read_whole)
    for length in (b"2", b"02", b"3", b"x", b"2 ", b"", b"+2"):
        data = b"HTTP/1.1 200 OK\r\ncontent-length: %b\r\n\r\n{}" % length
        assert meaning(data, cache.read) == meaning(data, read_whole)
