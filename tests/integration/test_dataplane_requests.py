"""What clients send: framing, limits, pipelining, malformed and hostile input. Raw sockets against a real router."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.support.router_thread import RouterThread, read_answer, running
from tests.support.scripted_upstream import ScriptedUpstream
from warmroute.config.schema import Address, Config, LimitsConfig, ReplicaConfig

ANY = Address("127.0.0.1:0")
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as started:
        yield started


@pytest.fixture(scope="module")
def router(upstream: ScriptedUpstream) -> Iterator[RouterThread]:
    limits = LimitsConfig(header_bytes=4096, body_bytes=4 << 20)
    config = Config(listen=ANY, admin=ANY, replicas=(ReplicaConfig(url=upstream.url),), limits=limits)
    with running(config, 1) as started:
        yield started


@pytest.fixture(scope="module")
def impatient(upstream: ScriptedUpstream) -> Iterator[RouterThread]:
    """A router that waits for nobody. The others' patience outlasts any busy machine."""
    limits = LimitsConfig(header_timeout_s=1.0, body_timeout_s=1.0, idle_timeout_s=2.0)
    config = Config(listen=ANY, admin=ANY, replicas=(ReplicaConfig(url=upstream.url),), limits=limits)
    with running(config, 1) as started:
        yield started


@pytest.fixture(autouse=True)
def _nothing_stuck(router: RouterThread, upstream: ScriptedUpstream) -> Iterator[None]:
    upstream.received.clear()
    yield
    router.assert_at_rest()
    status, _, _ = router.post("/v1/chat/completions", json.loads(BODY))
    assert status == 200, "other clients notice nothing"


def head(extra: bytes = b"", length: int | None = None, version: bytes = b"1.1") -> bytes:
    size = len(BODY) if length is None else length
    return b"POST /v1/chat/completions HTTP/%b\r\nHost: r\r\nContent-Length: %d\r\n%b\r\n" % (
        version,
        size,
        extra,
    )


def exchange(router: RouterThread, data: bytes, *, close: bool = True) -> bytes:
    """Send bytes, then read until the router closes (`Connection: close` is up to the caller)."""
    with router.connect() as sock:
        sock.sendall(data)
        return read_answer(sock)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def test_a_body_is_forwarded_byte_for_byte(router: RouterThread, upstream: ScriptedUpstream) -> None:
    odd = b'{ "model":"m",\n "messages":[{"content":"h\\u00e9llo","role":"user"}], "unknown": 1.0e0 }'
    answer = exchange(router, head(b"Connection: close\r\n", len(odd)) + odd)
    assert status_of(answer) == 200
    assert upstream.received[0].body == odd


def test_a_chunked_body_arrives_with_a_length_and_without_trailers(
    router: RouterThread, upstream: ScriptedUpstream
) -> None:
    half = len(BODY) // 2
    chunks = b"%x;ext=1\r\n%b\r\n%x\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (
        half,
        BODY[:half],
        len(BODY) - half,
        BODY[half:],
    )
    answer = exchange(
        router,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        + chunks,
    )
    assert status_of(answer) == 200
    received = upstream.received[0]
    assert received.body == BODY
    assert received.header(b"content-length") == b"%d" % len(BODY)
    assert received.header(b"transfer-encoding") is None
    assert received.header(b"x-trailer") is None


@pytest.mark.parametrize("size", [1, 7, 100, 65536])
def test_a_request_may_arrive_in_pieces_of_any_size(
    router: RouterThread, upstream: ScriptedUpstream, size: int
) -> None:
    data = head(b"Connection: close\r\n") + BODY
    with router.connect() as sock:
        for start in range(0, len(data), size):
            sock.sendall(data[start : start + size])
        assert status_of(read_answer(sock)) == 200
    assert upstream.received[0].body == BODY


def test_a_long_body_is_read_in_place_and_the_next_request_follows_on_the_connection(
    router: RouterThread, upstream: ScriptedUpstream
) -> None:
    long = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 2_000_000}]}).encode()
    with router.connect() as sock:
        sock.sendall(head(length=len(long)) + long + head(b"Connection: close\r\n") + BODY)
        answer = read_answer(sock)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert [len(received.body) for received in upstream.received] == [len(long), len(BODY)]
    assert upstream.received[0].body == long


def test_pipelined_requests_are_answered_in_order(router: RouterThread, upstream: ScriptedUpstream) -> None:
    ids = [b"one", b"two", b"three"]
    data = b"".join(head(b"X-Request-Id: %b\r\n" % name) + BODY for name in ids[:2])
    data += head(b"X-Request-Id: three\r\nConnection: close\r\n") + BODY
    answer = exchange(router, data)
    order = [line.split(b": ")[1] for line in answer.split(b"\r\n") if line.startswith(b"x-request-id")]
    assert order == ids
    assert [received.header(b"x-request-id") for received in upstream.received] == ids


def test_many_pipelined_local_requests_do_not_recurse(router: RouterThread) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: r\r\n\r\n"
    answer = exchange(
        router, head() + BODY + request * 3000 + b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    assert answer.count(b'{"status":"ok"}') == 3001


def test_http_1_0_closes_unless_it_asks_to_stay(router: RouterThread) -> None:
    answer = exchange(router, head(version=b"1.0") + BODY)
    assert status_of(answer) == 200
    assert b"connection: close" in answer
    with router.connect() as sock:
        sock.sendall(head(b"Connection: keep-alive\r\n", version=b"1.0") + BODY)
        first = sock.recv(65536)
        assert b"connection: keep-alive" in first
        sock.sendall(head(version=b"1.0") + BODY)
        assert status_of(read_answer(sock)) == 200


def test_expect_100_continue_is_honoured(router: RouterThread) -> None:
    with router.connect() as sock:
        sock.sendall(head(b"Expect: 100-continue\r\nConnection: close\r\n"))
        assert sock.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(BODY)
        assert status_of(read_answer(sock)) == 200


def test_a_body_behind_another_request_is_asked_for_after_that_one_s_answer(router: RouterThread) -> None:
    """Before: never, and the client waited for its own patience to end."""
    local = b"GET /health HTTP/1.1\r\nHost: r\r\n\r\n"
    asking = head(b"Expect: 100-continue\r\nConnection: close\r\n")
    for before in (head() + BODY, local, (head() + BODY) * 2 + local):
        with router.connect() as sock:
            sock.sendall(before + asking)
            answer = b""
            while not answer.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
                piece = sock.recv(65536)
                assert piece, answer
                answer += piece
            assert answer.count(b"HTTP/1.1 200 OK") == before.count(b"HTTP/1.1\r\n")
            sock.sendall(BODY)
            assert status_of(read_answer(sock)) == 200


def test_a_body_is_asked_for_once_though_an_upgrade_is_offered(router: RouterThread) -> None:
    offer = b"Expect: 100-continue\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    with router.connect() as sock:
        sock.sendall(head(offer))
        assert sock.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(BODY)
        assert status_of(sock.recv(65536)) == 200


def test_expect_is_not_honoured_for_a_body_that_is_too_large(router: RouterThread) -> None:
    answer = exchange(router, head(b"Expect: 100-continue\r\n", 5 << 20))
    assert status_of(answer) == 413


def test_head_of_models_has_a_length_and_no_body(router: RouterThread) -> None:
    answer = exchange(router, b"HEAD /v1/models HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n")
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200 OK")
    assert b"content-length: " in headers
    assert b"content-length: 0" not in headers
    assert body == b""


def test_an_offered_upgrade_is_ignored_and_the_body_is_not_lost(
    router: RouterThread, upstream: ScriptedUpstream
) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQA\r\n"
    with router.connect() as sock:
        sock.sendall(head(offer) + BODY)
        assert status_of(sock.recv(65536)) == 200
    assert upstream.received[0].body == BODY
    assert upstream.received[0].header(b"upgrade") is None


def test_hop_by_hop_headers_stay_behind_and_the_others_travel(
    router: RouterThread, upstream: ScriptedUpstream
) -> None:
    extra = (
        b"Connection: close, X-Secret-Hop\r\nX-Secret-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
        b"Authorization: Bearer k\r\ntraceparent: 00-1-2-01\r\nX-Forwarded-For: 10.0.0.1\r\n"
        b"X-Custom: a\r\nX-Custom: b\r\n"
    )
    assert status_of(exchange(router, head(extra) + BODY)) == 200
    received = upstream.received[0]
    for gone in (b"connection", b"x-secret-hop", b"keep-alive", b"te"):
        assert received.header(gone) is None, gone
    assert received.header(b"authorization") == b"Bearer k"
    assert received.header(b"traceparent") == b"00-1-2-01"
    assert received.header(b"x-forwarded-for") == b"10.0.0.1, 127.0.0.1"
    assert [value for name, value in received.headers if name == b"x-custom"] == [b"a", b"b"]
    assert received.header(b"host") == upstream.id.encode()


def test_a_request_id_is_passed_on_or_made(router: RouterThread, upstream: ScriptedUpstream) -> None:
    answer = exchange(router, head(b"X-Request-Id: mine-1\r\nConnection: close\r\n") + BODY)
    assert b"x-request-id: mine-1\r\n" in answer
    answer = exchange(router, head(b"X-Request-Id: bad id with blanks\r\nConnection: close\r\n") + BODY)
    made = upstream.received[1].header(b"x-request-id")
    assert made is not None
    assert len(made) == 24
    assert b"x-request-id: %b\r\n" % made in answer


REFUSED = {
    "two lengths": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "conflicting lengths": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\n"
    b"Content-Length: 50\r\n\r\n{}",
    "length and chunks": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n",
    "chunks and length": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 2\r\n\r\n0\r\n\r\n",
    "another coding": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity coding": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: identity\r\n\r\n{}",
    "bad chunk size": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"xyz\r\n{}\r\n0\r\n\r\n",
    "huge chunk size": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"fffffffffffffffff\r\n{}\r\n",
    "bare LF in the head": b"POST /v1/completions HTTP/1.1\nHost: r\nContent-Length: 2\n\n{}",
    "bare LF in chunks": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n",
    "signed length": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Length: +2\r\n\r\n{}",
    "blank before the colon": b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nContent-Length : 2\r\n\r\n{}",
    "folded header": b"GET /health HTTP/1.1\r\nHost: r\r\nX: 1\r\n  2\r\n\r\n",
    "null in a header": b"GET /health HTTP/1.1\r\nHost: r\x00\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another version": b"GET /health HTTP/3.7\r\nHost: r\r\n\r\n",
    "target in no form": b"GET health HTTP/1.1\r\nHost: r\r\n\r\n",
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: r\r\n\r\n",
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_read_safely_is_refused_and_the_connection_closed(
    router: RouterThread, upstream: ScriptedUpstream, name: str
) -> None:
    answer = exchange(router, REFUSED[name])
    assert 400 <= status_of(answer) < 500, answer
    assert answer.count(b"HTTP/1.1") == 1, "nothing that follows is taken for a request"
    assert b"connection: close" in answer
    assert upstream.received == []


def test_headers_over_the_limit_are_431(router: RouterThread) -> None:
    assert status_of(exchange(router, head(b"X-Large: %b\r\n" % (b"a" * 5000)) + BODY)) == 431
    assert status_of(exchange(router, b"GET /health HTTP/1.1\r\nX-Endless: " + b"a" * 100_000)) == 431
    assert status_of(exchange(router, b"GET /%b HTTP/1.1\r\n\r\n" % (b"a" * 5000))) == 431


def test_bodies_over_the_limit_are_413(router: RouterThread) -> None:
    assert status_of(exchange(router, head(length=5 << 20))) == 413


def test_a_client_that_is_still_sending_reads_why_it_was_refused(router: RouterThread) -> None:
    """Before: the connection was reset, and the refusal with it."""
    status, _, body = router.post("/v1/chat/completions", b" " * (6 << 20))
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")
    chunk = b"%x\r\n%b\r\n" % (1 << 20, b"a" * (1 << 20))
    with router.connect() as sock:
        sock.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 8
        )
        assert status_of(sock.recv(65536)) == 413


def test_a_slow_head_and_a_slow_body_are_408(impatient: RouterThread) -> None:
    with impatient.connect() as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
        assert status_of(read_answer(sock)) == 408
    with impatient.connect() as sock:
        sock.sendall(head(length=100) + b"{")
        assert status_of(read_answer(sock)) == 408
    with impatient.connect() as sock:
        sock.sendall(head(length=150_000) + b"{" * 50_000)
        assert status_of(read_answer(sock)) == 408


def test_an_idle_connection_is_closed_without_an_answer(impatient: RouterThread) -> None:
    with impatient.connect() as sock:
        started = time.monotonic()
        assert read_answer(sock) == b""
        assert time.monotonic() - started > 1.0


def test_a_client_that_leaves_in_the_middle_of_its_request_leaves_nothing_behind(
    router: RouterThread,
) -> None:
    for data in (b"POST /v1", head(length=100) + b"{", head(length=1_000_000) + b"{" * 50_000):
        with router.connect() as sock:
            sock.sendall(data)
            time.sleep(0.02)
    router.assert_at_rest()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/metrics", 404),
        ("POST", "/reset_prefix_cache", 403),
        ("POST", "/v1/load_lora_adapter", 403),
        ("POST", "/v1/%6coad_lora_adapter/", 403),
        ("POST", "/flush_cache", 404),
        ("POST", "/v1/../reset_prefix_cache", 404),
        ("GET", "/v1/realtime", 426),
    ],
)
def test_only_known_endpoints_are_reached(
    router: RouterThread, upstream: ScriptedUpstream, method: str, path: str, status: int
) -> None:
    answer = exchange(router, f"{method} {path} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n".encode())
    assert status_of(answer) == status
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
    assert upstream.received == []


BAD_BODIES: dict[str, bytes] = {
    "malformed": b'{"model": "m", "messages": [',
    "no messages": b'{"model":"m"}',
    "invalid UTF-8": b'{"model":"m","messages":[{"role":"user","content":"\xff\xfe"}]}',
    "deep nesting": b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":'
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}",
    "empty body": b"",
}


@pytest.mark.parametrize("name", list(BAD_BODIES))
def test_a_bad_body_is_a_400_that_says_what_is_wrong(
    router: RouterThread, upstream: ScriptedUpstream, name: str
) -> None:
    status, headers, body = router.post("/v1/chat/completions", BAD_BODIES[name])
    assert status == 400
    assert headers["content-type"] == "application/json"
    error = json.loads(body)["error"]
    assert error["code"]
    assert error["message"]
    assert upstream.received == []


LEFT_TO_ENGINES: dict[str, bytes] = {
    "not an object": b"[]",
    "wrong type of messages": b'{"model":"m","messages":"hello"}',
    "wrong type of model": b'{"model":5,"messages":[{"role":"user","content":"x"}]}',
    "no model": b'{"messages":[{"role":"user","content":"x"}]}',
    "empty messages": b'{"model":"m","messages":[]}',
    "max_tokens as text": b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":"64"}',
    "stream as text": b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":"true"}',
    "stream as a number": b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":0}',
    "session_id as a number": b'{"model":"m","messages":[{"role":"user","content":"x"}],"session_id":4711}',
    "reasoning as a list": b'{"model":"m","messages":[{"role":"assistant","content":"x","reasoning_content":["a"]}]}',
    "NaN": b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    "lone surrogate": b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}',
    "byte order mark": b'\xef\xbb\xbf{"model":"m","messages":[{"role":"user","content":"x"}]}',
    "UTF-16": '{"model":"m","messages":[{"role":"user","content":"x"}]}'.encode("utf-16"),
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/embeddings"])
@pytest.mark.parametrize("name", list(LEFT_TO_ENGINES))
def test_what_an_engine_may_take_reaches_it_byte_for_byte(
    router: RouterThread, upstream: ScriptedUpstream, name: str, path: str
) -> None:
    status, _, _ = router.post(path, LEFT_TO_ENGINES[name])
    assert status == 200
    assert upstream.received[0].body == LEFT_TO_ENGINES[name]


def test_an_unknown_model_is_a_404_in_the_shape_of_its_api(router: RouterThread) -> None:
    body = {"model": "nope", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    status, _, answer = router.post("/v1/chat/completions", body)
    assert (status, json.loads(answer)["error"]["code"]) == (404, "model_not_found")
    status, _, answer = router.post("/v1/messages", body)
    assert status == 404
    assert json.loads(answer)["type"] == "error"
    assert json.loads(answer)["error"]["type"] == "not_found_error"


def test_a_hundred_thousand_messages_pass(router: RouterThread, upstream: ScriptedUpstream) -> None:
    messages = [{"role": "user", "content": "x"}] * 100_000
    status, _, _ = router.post("/v1/chat/completions", {"model": "m", "messages": messages})
    assert status == 200
    assert len(json.loads(upstream.received[0].body)["messages"]) == 100_000
