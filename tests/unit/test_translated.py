"""Google's API through the data plane: a chat goes to the replica, and Google's answer comes back. No sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from tests.support.tenants import KeyedFleet, bearer
from tests.support.wire import ClientWire, ParsedAnswers, Wire
from warmroute.config.schema import (
    AllowanceConfig,
    CachedContentsConfig,
    CorsConfig,
    PriceConfig,
    TenantConfig,
    UsageConfig,
)
from warmroute.dataplane.request import Request, RequestHead
from warmroute.dataplane.translated import TranslatedExchange, translated_for
from warmroute.dialects import coding

GENERATE = "/v1beta/models/m:generateContent"
STREAM = "/v1beta/models/m:streamGenerateContent"
ASKED = {"contents": [{"parts": [{"text": "Hello"}]}]}
USAGE = {
    "prompt_tokens": 5,
    "total_tokens": 6,
    "completion_tokens": 1,
    "prompt_tokens_details": {"cached_tokens": 2},
}
CHAT = {
    "id": "c",
    "model": "m",
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
SSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.fixture
def wire() -> Wire:
    return Wire(cached_contents=CachedContentsConfig(enabled=True))


def send(
    client: ClientWire, target: str, body: Any, *fields: str, method: str = "POST", version: str = "1.1"
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = "".join(f"{field}\r\n" for field in fields)
    head = f"{method} {target} HTTP/{version}\r\nHost: r\r\n{lines}Content-Length: {len(data)}\r\n\r\n"
    client.feed(head.encode() + data)


def sent(wire: Wire) -> tuple[bytes, dict[str, Any]]:
    """Head and body of the one request that the replica has."""
    head, _, body = bytes(wire.upstreams[0][1].written).partition(b"\r\n\r\n")
    return head, json.loads(body)


def plain(status: int, body: Any) -> bytes:
    data = json.dumps(body).encode()
    return (
        b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\nx-own: kept\r\ncontent-length: %d\r\n\r\n%b"
        % (
            status,
            len(data),
            data,
        )
    )


def reply(wire: Wire, data: bytes) -> None:
    wire.upstreams[0][0].data_received(data)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(**fields: Any) -> bytes:
    return chunk(b"data: " + json.dumps({"id": "c", "model": "m", **fields}).encode() + b"\n\n")


def answers(client: ClientWire) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    return [(status, dict(fields), body) for status, fields, body in ParsedAnswers(client.output).answers]


def test_a_question_goes_as_a_chat_and_comes_back_as_googles(wire: Wire) -> None:
    client = wire.connect()
    wire.add_upstream()
    send(
        client,
        GENERATE,
        ASKED,
        "X-Goog-Api-Key: secret",
        "X-Session-Id: s",
        "Accept-Encoding: gzip",
        "X-Trace: t",
    )
    head, body = sent(wire)
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert body == {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    assert b"authorization: Bearer secret" in head
    assert b"x-trace: t" in head
    assert b"accept-encoding" not in head
    assert b"x-goog-api-key" not in head
    reply(wire, plain(200, CHAT))
    ((status, fields, answer),) = answers(client)
    assert status == 200
    assert fields[b"content-type"].startswith(b"application/json")
    assert fields[b"x-own"] == b"kept"
    assert fields[b"x-warmroute-replica"] == b"10.0.0.1:8000"
    assert json.loads(answer)["candidates"][0]["content"]["parts"] == [{"text": "Hi"}]
    assert json.loads(answer)["usageMetadata"]["cachedContentTokenCount"] == 2
    assert wire.at_rest()


def test_the_connection_serves_the_next_request(wire: Wire) -> None:
    client = wire.connect()
    wire.add_upstream()
    send(client, GENERATE, ASKED)
    reply(wire, plain(200, CHAT))
    wire.upstreams[0][1].written.clear()
    send(client, "/v1/models/m:generateContent", ASKED)
    reply(wire, plain(200, CHAT))
    assert [status for status, _, _ in answers(client)] == [200, 200]
    assert not client.transport.closed


@pytest.mark.parametrize("ending", ["%0d%0acontent-length:%200", "%0ax:1", "%00", "%7f"])
def test_a_key_in_the_query_cannot_write_header_lines(wire: Wire, ending: str) -> None:
    client = wire.connect()
    _, upstream = wire.add_upstream()
    send(client, f"{GENERATE}?key=secret{ending}", ASKED)
    assert not upstream.written
    ((status, _, body),) = answers(client)
    assert status == 400
    assert json.loads(body)["error"]["details"][0]["reason"] == "INVALID_KEY"
    send(client, f"{GENERATE}?key=a%2Bsecret", ASKED)
    assert b"authorization: Bearer a+secret\r\n" in sent(wire)[0]


@pytest.mark.parametrize("alt", ["?alt=sse", ""])
def test_a_stream_comes_event_by_event(wire: Wire, alt: str) -> None:
    client = wire.connect()
    wire.add_upstream()
    send(client, STREAM + alt, ASKED)
    assert sent(wire)[1]["stream_options"] == {"include_usage": True}
    reply(wire, SSE + event(choices=[{"index": 0, "delta": {"content": "He"}}]))
    assert client.output.count(b'"text":"He"') == 1
    reply(wire, event(choices=[{"index": 0, "delta": {"content": "llo"}}]))
    assert client.output.count(b'"text":"llo"') == 1
    reply(wire, event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    reply(wire, event(choices=[], usage=USAGE) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    ((status, fields, body),) = answers(client)
    assert status == 200
    if alt:
        assert fields[b"content-type"] == b"text/event-stream"
        items = [json.loads(one.removeprefix(b"data: ")) for one in body.split(b"\r\n\r\n")[:-1]]
    else:
        items = json.loads(body)
    assert len(items) == 3
    assert items[-1]["candidates"][0]["finishReason"] == "STOP"
    assert items[-1]["usageMetadata"]["promptTokenCount"] == 5
    assert not client.transport.closed
    assert wire.at_rest()


def test_an_old_clients_stream_ends_with_the_connection(wire: Wire) -> None:
    client = wire.connect()
    wire.add_upstream()
    send(client, STREAM, ASKED, version="1.0")
    reply(wire, SSE + event(choices=[{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]))
    reply(wire, chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    head, _, body = client.output.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert len(json.loads(body)) == 1
    assert client.transport.closed


def test_a_stream_whose_replica_dies_ends_with_googles_error(wire: Wire) -> None:
    client = wire.connect()
    wire.add_upstream()
    send(client, STREAM + "?alt=sse", ASKED)
    reply(wire, SSE + event(choices=[{"index": 0, "delta": {"content": "x"}}]))
    wire.upstreams[0][0].connection_lost(ConnectionResetError("reset"))
    ((_, _, body),) = answers(client)
    last = json.loads(body.split(b"\r\n\r\n")[-2].removeprefix(b"data: "))
    assert last["error"]["status"] == "UNAVAILABLE"
    assert last["error"]["details"][0]["reason"] == "REPLICA_LOST"
    assert wire.at_rest()


def test_an_answer_that_breaks_is_an_error_not_a_silence(wire: Wire) -> None:
    client = wire.connect()
    wire.add_upstream()
    send(client, GENERATE, ASKED)
    reply(wire, b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    wire.upstreams[0][0].connection_lost(ConnectionResetError("reset"))
    ((status, _, body),) = answers(client)
    assert status == 502
    assert json.loads(body)["error"]["status"] == "UNAVAILABLE"
    assert wire.at_rest()


def test_a_client_that_leaves_ends_the_replicas_work(wire: Wire) -> None:
    client = wire.connect()
    _, upstream = wire.add_upstream()
    send(client, STREAM, ASKED)
    client.lose()
    assert upstream.closed
    assert wire.at_rest()


def test_a_client_that_reads_slowly_holds_the_replica_back(wire: Wire) -> None:
    client = wire.connect()
    _, upstream = wire.add_upstream()
    send(client, STREAM, ASKED)
    reply(wire, SSE + event(choices=[{"index": 0, "delta": {"content": "x"}}]))
    client.connection.pause_writing()
    assert not upstream.reading
    client.connection.resume_writing()
    assert upstream.reading


def test_an_engines_error_is_told_in_googles_form(wire: Wire) -> None:
    client = wire.connect()
    wire.add_upstream()
    send(client, GENERATE, ASKED)
    reply(
        wire,
        plain(400, {"error": {"message": "too long", "type": "BadRequestError", "param": None, "code": 400}}),
    )
    ((status, _, body),) = answers(client)
    assert (status, json.loads(body)["error"]["message"]) == (400, "too long")


@pytest.mark.parametrize(
    ("target", "method", "body", "status", "name"),
    [
        (GENERATE, "POST", b"no JSON", 400, "INVALID_ARGUMENT"),
        (GENERATE, "POST", {"contents": []}, 400, "INVALID_ARGUMENT"),
        ("/v1beta/models/m:embedContent", "POST", ASKED, 501, "UNIMPLEMENTED"),
        ("/v1beta/nothing", "POST", {}, 404, "NOT_FOUND"),
        ("/v1/../models:x", "GET", b"", 404, "NOT_FOUND"),
        ("/v1/cache/%2e%2e", "POST", {}, 404, "NOT_FOUND"),
        ("/v1beta/cachedContents", "PUT", {}, 405, "INVALID_ARGUMENT"),
    ],
)
def test_the_routers_own_errors_are_googles(
    wire: Wire, target: str, method: str, body: Any, status: int, name: str
) -> None:
    client = wire.connect()
    send(client, target, body, method=method)
    ((told, _, answer),) = answers(client)
    assert told == status
    error = json.loads(answer)["error"]
    assert (error["code"], error["status"]) == (status, name)
    assert wire.at_rest()


def test_what_does_nothing_is_named_in_the_answers_head(wire: Wire) -> None:
    client = wire.connect()
    wire.add_upstream()
    send(client, GENERATE, {**ASKED, "safetySettings": [{"category": "X", "threshold": "Y"}]})
    reply(wire, plain(200, CHAT))
    assert answers(client)[0][1][b"x-warmroute-ignored"] == b"safetySettings"


def test_tokens_are_counted_by_the_engine(wire: Wire) -> None:
    client = wire.connect()
    wire.add_upstream()
    send(client, "/v1beta/models/m:countTokens", ASKED)
    head, body = sent(wire)
    assert head.startswith(b"POST /tokenize ")
    assert body["messages"] == [{"role": "user", "content": "Hello"}]
    reply(wire, plain(200, {"count": 7, "max_model_len": 100, "tokens": [1]}))
    assert json.loads(answers(client)[0][2]) == {"totalTokens": 7}


def test_a_page_may_ask_whether_it_may_call() -> None:
    cors = CorsConfig(allowed_origins=("https://page",))
    wire = Wire(cached_contents=CachedContentsConfig(enabled=True), cors=cors)
    client = wire.connect()
    send(
        client, GENERATE, b"", "Origin: https://page", "Access-Control-Request-Method: POST", method="OPTIONS"
    )
    ((status, fields, _),) = answers(client)
    assert (status, fields[b"access-control-allow-origin"]) == (200, b"https://page")
    wire.add_upstream()
    send(client, GENERATE, ASKED, "Origin: https://page")
    reply(wire, plain(200, CHAT))
    assert answers(client)[1][1][b"access-control-allow-origin"] == b"https://page"


def test_chats_without_a_content_go_as_they_came(wire: Wire) -> None:
    client = wire.connect()
    wire.add_upstream()
    body = b'{"model":"m","messages":[{"role":"user","content":"\\"cached_content\\""}],  "seed":1}'
    send(client, "/v1/chat/completions", body)
    assert bytes(wire.upstreams[0][1].written).endswith(body)


@pytest.mark.parametrize("name", [5, {"name": "cachedContents/x"}, ["x"], False])
def test_a_chat_is_not_answered_without_the_content_that_it_names_wrongly(name: object) -> None:
    async def test() -> None:
        wire = Wire(cached_contents=CachedContentsConfig(enabled=True))
        client = wire.connect()
        _, upstream = wire.add_upstream()
        messages = [{"role": "user", "content": "x"}]
        chat = {"model": "m", "messages": messages, "cachedContent": "", "cached_content": name}
        send(client, "/v1/chat/completions", chat)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not upstream.written
        ((status, _, body),) = answers(client)
        assert (status, json.loads(body)["error"]["param"]) == (400, "cached_content")
        assert wire.at_rest()

    asyncio.run(test())


@pytest.mark.parametrize(
    "shown", ["X-Api-Key: mine", "Authorization: Bearer mine", "X-Goog-Api-Key: mine", "x-api-key:  mine "]
)
def test_contents_are_the_keys_whichever_way_it_is_shown(shown: str) -> None:
    async def test() -> None:
        wire = Wire(cached_contents=CachedContentsConfig(enabled=True))
        client = wire.connect()
        wire.add_upstream()
        chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        send(client, "/v1/caches", chat, shown)
        await settled()
        reply(wire, plain(200, CHAT))
        for asker in (shown, "Authorization: Bearer mine", "X-Api-Key: yours", "X-Other: none"):
            await settled()
            send(client, "/v1/caches", b"", asker, method="GET")
        await settled()
        seen = [json.loads(body).get("data") for _, _, body in answers(client)[1:]]
        assert [len(rows) for rows in seen] == [1, 1, 0, 0]

    asyncio.run(test())


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_content_that_is_refused_with_a_status_of_nobodys_is_answered() -> None:
    async def test() -> None:
        wire = Wire(cached_contents=CachedContentsConfig(enabled=True))
        client = wire.connect()
        wire.add_upstream()
        messages = [{"role": "user", "content": "x"}]
        send(client, "/v1/caches", {"model": "m", "messages": messages})
        for _ in range(3):
            await asyncio.sleep(0)
        reply(wire, plain(499, {"error": {"message": "left", "code": 499}}))
        for _ in range(3):
            await asyncio.sleep(0)
        ((status, _, body),) = answers(client)
        assert status == 400
        assert "left" in json.loads(body)["error"]["message"]

    asyncio.run(test())


def test_a_model_with_a_colon_in_its_name_keeps_its_card(wire: Wire) -> None:
    client = wire.connect()
    caches = wire.gateway.caches
    assert caches is not None
    for method, target, translated in (
        (b"GET", b"/v1/models/m:8b", False),
        (b"POST", b"/v1/models/m:8b:generateContent", True),
        (b"GET", b"/v1/models/m:generateContent", True),
    ):
        request = Request(RequestHead(method, target, [], keep_alive=True, minor_version=1), b"", 0.0)
        exchange = translated_for(wire.gateway, caches, client.connection, request)
        assert isinstance(exchange, TranslatedExchange) is translated, target


def test_switched_off_nothing_of_it_is_there() -> None:
    wire = Wire()
    client = wire.connect()
    send(client, GENERATE, ASKED)
    ((status, _, body),) = answers(client)
    assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_endpoint")


def test_nothing_is_decoded_for_who_shows_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def counted(name: bytes, body: bytes, most_bytes: int) -> bytes:
        decoded.append(len(body))
        return gzip.decompress(body)

    monkeypatch.setattr(coding, "decoded", counted)
    fleet = KeyedFleet(cached_contents=CachedContentsConfig(enabled=True))
    body = gzip.compress(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode())

    def ask(fields: bytes) -> ClientWire:
        client = fleet.wire.connect()
        client.feed(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\n%bContent-Encoding: gzip\r\nContent-Length: %d"
            b"\r\n\r\n%b" % (fields, len(body), body)
        )
        return client

    ((status, _, _),) = answers(ask(b""))
    assert (status, decoded) == (401, [])
    client = ask(bearer("a"))
    exchange = client.connection.exchange
    assert exchange is not None
    fleet.reply(exchange)
    ((status, _, _),) = answers(client)
    assert status == 200
    assert decoded


def test_storage_is_money_that_limits_count_and_deleting_gives_the_rest_back() -> None:
    async def test() -> None:
        fleet = KeyedFleet(
            TenantConfig(id="a", limits=AllowanceConfig(cost_per_day=1.0)),
            cached_contents=CachedContentsConfig(enabled=True),
            usage=UsageConfig(enabled=True, prices=(PriceConfig(model="*", prompt=0.001, storage=1e6),)),
        )
        wire = fleet.wire
        wire.add_upstream()
        key = bearer("a").decode().strip()
        chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
        client = wire.connect()
        send(client, "/v1/caches", chat, key)
        await settled()
        reply(wire, plain(200, CHAT))
        await settled()
        send(client, "/v1/chat/completions", chat, key)
        await settled()
        (made, refused) = answers(client)
        assert (made[0], refused[0]) == (200, 429)
        assert json.loads(refused[2])["error"]["code"] == "budget_exceeded"
        send(client, f"/v1/caches/{json.loads(made[2])['id']}", b"", key, method="DELETE")
        await settled()
        send(client, "/v1/chat/completions", chat, key)
        await settled()
        assert len(answers(client)) == 3, "it is on its way to the replica"

    asyncio.run(test())
