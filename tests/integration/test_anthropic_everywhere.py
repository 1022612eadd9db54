"""Whoever speaks Anthropic's API gets its errors and its `request-id`, wherever the call goes. Raw sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.router_thread import RouterThread, read_answer, running
from tests.support.scripted_upstream import (
    SSE_HEAD,
    Connection,
    Received,
    ScriptedUpstream,
    answer_ok,
    chunk,
    plain,
)
from warmroute.config.schema import Address, Config, LimitsConfig, ReplicaConfig

ANY = Address("127.0.0.1:0")
MESSAGE = b'{"model":"m","max_tokens":4,"messages":[{"role":"user","content":"x"}]}'
NOBODY = MESSAGE.replace(b'"m"', b'"nobody"')
VERSION = b"Anthropic-Version: 2023-06-01\r\n"


class KeepsNothing(ScriptedUpstream):
    """A replica that has no response when the router asks for one."""

    def _answer(self, connection: Connection, received: Received) -> bool:
        if received.line.startswith(b"GET /v1/responses/"):
            connection.send(plain(b'{"error":{"message":"no such response"}}', b"404 Not Found"))
            return True
        return super()._answer(connection, received)


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with KeepsNothing() as started:
        yield started


@pytest.fixture(scope="module")
def router(upstream: ScriptedUpstream) -> Iterator[RouterThread]:
    limits = LimitsConfig(header_bytes=4096, body_bytes=100_000, buffered_body_bytes=1 << 20)
    config = Config(listen=ANY, admin=ANY, replicas=(ReplicaConfig(url=upstream.url),), limits=limits)
    with running(config, 1) as started:
        yield started


@pytest.fixture(autouse=True)
def _as_it_was(upstream: ScriptedUpstream, router: RouterThread) -> Iterator[None]:
    upstream.script = answer_ok
    yield
    router.assert_at_rest()


def request(line: bytes, body: bytes = b"", fields: bytes = b"", *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"%b HTTP/1.1\r\nHost: r\r\nConnection: close\r\nContent-Length: %d\r\n%b\r\n%b" % (
        line,
        size,
        fields,
        body,
    )


def answered(router: RouterThread, data: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    with router.connect() as sock:
        sock.sendall(data)
        head, _, body = read_answer(sock).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return int(status.split(" ")[1]), fields, body


def values(fields: list[tuple[str, str]], name: str) -> list[str]:
    return [value for key, value in fields if key == name]


ERRORS = [
    (request(b"GET /nothing", fields=VERSION), 404, "not_found_error"),
    (request(b"POST /elsewhere", MESSAGE, VERSION), 404, "not_found_error"),
    (request(b"GET /v1/chat/completions", fields=VERSION), 405, "invalid_request_error"),
    (request(b"GET /v1/models/nobody", fields=VERSION), 404, "not_found_error"),
    (request(b"POST /v1/chat/completions", NOBODY, VERSION), 404, "not_found_error"),
    (request(b"POST /v1/embeddings", NOBODY, VERSION), 404, "not_found_error"),
    (request(b"GET /v1/responses/none_such", fields=VERSION), 404, "not_found_error"),
    (request(b"POST /v1/messages", NOBODY), 404, "not_found_error"),
    (request(b"POST /v1/messages", b"{"), 400, "invalid_request_error"),
    (request(b"GET /v1/messages"), 405, "invalid_request_error"),
    (request(b"POST /v1/messages", fields=VERSION, length=200_000), 413, "request_too_large"),
    (request(b"POST /v1/messages", length=200_000), 413, "request_too_large"),
    (
        request(b"POST /v1/messages", fields=VERSION + b"X-Long: %b\r\n" % (b"x" * 9000)),
        431,
        "invalid_request_error",
    ),
    (
        b"POST /v1/messages HTTP/1.1\r\nHost: r\r\n" + VERSION + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        400,
        "invalid_request_error",
    ),
    (
        b"GET /v1/models HTTP/1.1\r\n" + VERSION + b"Host: r\r\nno colon\r\n\r\n",
        400,
        "invalid_request_error",
    ),
    (b"POST /v1/messages HTTP/1.1\r\nHost: r\r\nno colon\r\n\r\n", 400, "invalid_request_error"),
]


@pytest.mark.parametrize(("data", "status", "kind"), ERRORS)
def test_every_error_of_the_router_is_one_of_anthropics(
    router: RouterThread, data: bytes, status: int, kind: str
) -> None:
    seen, fields, body = answered(router, data)
    error = json.loads(body)
    assert (seen, error["type"], error["error"]["type"]) == (status, "error", kind)
    assert values(fields, "request-id") == values(fields, "x-request-id") == [error["request_id"]]


@pytest.mark.parametrize(("data", "status", "kind"), [row for row in ERRORS if VERSION in row[0]])
def test_without_their_header_it_is_openais_where_the_path_is(
    router: RouterThread, data: bytes, status: int, kind: str
) -> None:
    data = data.replace(VERSION, b"").replace(b"POST /v1/messages ", b"POST /v1/completions ")
    seen, fields, body = answered(router, data)
    assert seen == status
    assert set(json.loads(body)) == {"error"}
    assert values(fields, "request-id") == []
    assert len(values(fields, "x-request-id")) == 1


@pytest.mark.parametrize(
    "data",
    [
        request(b"POST /v1/messages", MESSAGE),
        request(b"POST /v1/messages", MESSAGE, VERSION),
        request(b"POST /v1/messages/count_tokens", MESSAGE),
        request(b"POST /v1/chat/completions", MESSAGE, VERSION),
        request(b"GET /v1/models", fields=VERSION),
        request(b"GET /health", fields=VERSION),
    ],
)
def test_every_answer_names_the_request_as_their_clients_look_for_it(
    router: RouterThread, data: bytes
) -> None:
    status, fields, _ = answered(router, data)
    assert status == 200
    (request_id,) = values(fields, "request-id")
    assert values(fields, "x-request-id") == [request_id]
    mine = data.replace(b"Host: r\r\n", b"Host: r\r\nX-Request-Id: mine-1\r\n")
    _, fields, _ = answered(router, mine)
    assert values(fields, "request-id") == values(fields, "x-request-id") == ["mine-1"]


def test_what_the_replica_calls_it_is_not_doubled(router: RouterThread, upstream: ScriptedUpstream) -> None:
    def whole(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(plain(b"{}").replace(b"content-type", b"Request-Id: req_replica\r\ncontent-type"))
        return True

    def streamed(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        head = SSE_HEAD.replace(b"content-type", b"request-id: req_replica\r\ncontent-type")
        connection.send(head + chunk(b"event: ping\ndata: {}\n\n") + chunk(b""))
        return True

    for script in (whole, streamed):
        upstream.script = script
        for line in (b"POST /v1/messages", b"POST /v1/chat/completions"):
            status, fields, _ = answered(router, request(line, MESSAGE))
            assert (status, values(fields, "request-id")) == (200, ["req_replica"])


def test_a_broken_stream_ends_in_their_error_wherever_it_went(
    router: RouterThread, upstream: ScriptedUpstream
) -> None:
    def broken(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(SSE_HEAD + chunk(b'data: {"x":1}\n\n'))
        return False

    upstream.script = broken
    body = MESSAGE[:-1] + b',"stream":true}'
    _, fields, answer = answered(router, request(b"POST /v1/complete", body, VERSION))
    assert b"event: error\ndata: " in answer
    error = json.loads(answer.partition(b"event: error\ndata: ")[2].partition(b"\n")[0])
    assert (error["type"], [error["request_id"]]) == ("error", values(fields, "request-id"))
