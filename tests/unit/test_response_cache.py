"""Recorded responses through the data plane: what is asked again is answered without a replica. No sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.wire import ClientWire, ParsedAnswers, Wire
from warmroute.config.provider_caching import CachingConfig
from warmroute.config.schema import ResponseCacheConfig, ResponseRuleConfig, UsageConfig

CHATS = "/v1/chat/completions"
ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
CHAT = {
    "id": "c",
    "model": "m",
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "total_tokens": 6, "completion_tokens": 1},
}
STREAM = [
    b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]
SSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
Answer = tuple[int, dict[bytes, bytes], bytes]


class Asker:
    """One client, and the replica that answers it if it is asked."""

    def __init__(
        self, rules: tuple[ResponseRuleConfig, ...] = (ResponseRuleConfig(),), **settings: Any
    ) -> None:
        cache = ResponseCacheConfig(rules=rules, **settings.pop("cache", {}))
        self.wire = Wire(response_cache=cache, **settings)
        self.responses = self.wire.gateway.responses
        self.client = self.wire.connect()
        self._seen = 0

    async def ask(
        self,
        body: Any,
        *fields: str,
        path: str = CHATS,
        reply: bytes | list[bytes] | None = None,
        version: str = "1.1",
    ) -> tuple[Answer, bool]:
        """The answer, and whether the replica was asked."""
        if not self.wire.upstreams:
            self.wire.add_upstream()
        connection, transport = self.wire.upstreams[0]
        transport.written.clear()
        send(self.client, path, body, *fields, version=version)
        await settled()
        asked = bool(transport.written)
        if asked:
            if isinstance(reply, list):
                connection.data_received(SSE)
                for event in reply:
                    connection.data_received(b"%x\r\n%b\r\n" % (len(event), event))
                connection.data_received(b"0\r\n\r\n")
            else:
                connection.data_received(plain(CHAT) if reply is None else reply)
        await settled()
        answers = ParsedAnswers(self.client.output).answers
        assert len(answers) == self._seen + 1
        self._seen += 1
        status, found, body = answers[-1]
        return (status, dict(found), body), asked


def send(client: ClientWire, path: str, body: Any, *fields: str, version: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = "".join(f"{field}\r\n" for field in fields)
    head = f"POST {path} HTTP/{version}\r\nHost: r\r\n{lines}Content-Length: {len(data)}\r\n\r\n"
    client.feed(head.encode() + data)


def plain(body: Any, status: int = 200, lines: bytes = b"") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return head % (status, lines, len(data)) + data


async def settled() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def told(answer: Answer) -> bytes:
    return answer[1].get(b"x-warmroute-response-cache", b"")


def test_what_is_asked_again_is_answered_without_a_replica() -> None:
    async def test() -> None:
        asker = Asker()
        first, asked = await asker.ask(ASKED)
        assert (asked, told(first)) == (True, b"miss")
        again, asked = await asker.ask(ASKED)
        assert (asked, told(again), again[1][b"age"]) == (False, b"hit", b"0")
        assert again[2] == first[2]
        assert again[1][b"content-type"] == b"application/json"
        assert b"x-request-id" in again[1]
        assert b"x-warmroute-replica" not in again[1]
        assert asker.responses is not None
        assert asker.responses.requests == {"exact": 1, "semantic": 0, "miss": 1, "bypass": 0}
        assert asker.wire.at_rest()

    run(test)


def test_a_stream_is_given_again_event_by_event() -> None:
    async def test() -> None:
        asker = Asker()
        streamed = {**ASKED, "stream": True}
        first, _ = await asker.ask(streamed, reply=STREAM)
        again, asked = await asker.ask(streamed)
        assert not asked
        assert again[1][b"content-type"] == first[1][b"content-type"]
        assert again[1][b"transfer-encoding"] == b"chunked"
        assert again[2] == first[2] == b"".join(STREAM)
        assert asker.client.output.endswith(
            b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in STREAM) + b"0\r\n\r\n"
        )
        whole, asked = await asker.ask(ASKED)
        assert (asked, told(whole)) == (True, b"miss"), "a stream is no answer to who wants it whole"

    run(test)


def test_an_old_client_is_given_a_stream_without_chunks() -> None:
    async def test() -> None:
        asker = Asker()
        streamed = {**ASKED, "stream": True}
        await asker.ask(streamed, reply=STREAM)
        sent = len(asker.client.output)
        send(asker.client, CHATS, streamed, version="1.0")
        await settled()
        head, _, body = asker.client.output[sent:].partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert body == b"".join(STREAM)
        assert asker.client.transport.closed

    run(test)


@pytest.mark.parametrize(
    "other",
    [
        {**ASKED, "temperature": 0.0},
        {**ASKED, "user": "u", "metadata": {"a": "b"}, "prompt_cache_key": "k", "stream": False},
        dict(reversed(ASKED.items())),
        json.dumps(ASKED, indent=2).replace("Hello", "\\u0048ello").encode(),
    ],
)
def test_it_is_the_meaning_that_counts(other: Any) -> None:
    async def test() -> None:
        asker = Asker()
        await asker.ask(ASKED)
        assert told((await asker.ask(other))[0]) == b"hit"

    run(test)


@pytest.mark.parametrize(
    "other",
    [
        {**ASKED, "model": "tiny"},
        {**ASKED, "messages": [{"role": "user", "content": "Hello "}]},
        {**ASKED, "messages": [{"role": "system", "content": "x"}, *ASKED["messages"]]},
        {**ASKED, "max_tokens": 5},
        {**ASKED, "seed": 1},
        {**ASKED, "tools": [{"type": "function", "function": {"name": "f"}}]},
        {**ASKED, "cache_salt": "s"},
        {**ASKED, "anything_new": True},
    ],
)
def test_whatever_may_change_the_answer_counts(other: Any) -> None:
    async def test() -> None:
        asker = Asker()
        await asker.ask(ASKED)
        answer, asked = await asker.ask(other)
        assert (asked, told(answer)) == (True, b"miss")

    run(test)


@pytest.mark.parametrize(
    "body",
    [
        {**ASKED, "temperature": 0.7},
        {name: value for name, value in ASKED.items() if name != "temperature"},
        {**ASKED, "temperature": False},
        {**ASKED, "n": 2},
        {**ASKED, "kv_transfer_params": {"do_remote_decode": True}},
        {**ASKED, "tools": [{"type": "web_search"}]},
        {**ASKED, "web_search_options": {}},
        {**ASKED, "mcp_servers": [{"type": "url", "url": "http://x/y", "name": "z"}]},
        {
            **ASKED,
            "messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "f1"}]}],
        },
        {
            **ASKED,
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}
            ],
        },
    ],
)
def test_what_would_not_be_the_same_answer_is_never_kept(body: Any) -> None:
    async def test() -> None:
        asker = Asker()
        for _ in range(2):
            answer, asked = await asker.ask(body)
            assert (asked, told(answer)) == (True, b"bypass")

    run(test)


def test_sampled_requests_count_where_the_rule_says_so_and_seeded_ones_always() -> None:
    async def test() -> None:
        asker = Asker(rules=(ResponseRuleConfig(model="m", sampled=True), ResponseRuleConfig(model="tiny")))
        warm = {**ASKED, "temperature": 0.7}
        await asker.ask(warm)
        assert told((await asker.ask(warm))[0]) == b"hit"
        assert told((await asker.ask({**warm, "model": "tiny"}))[0]) == b"bypass"
        seeded = {**warm, "model": "tiny", "seed": 5}
        await asker.ask(seeded)
        assert told((await asker.ask(seeded))[0]) == b"hit"

    run(test)


def test_where_no_rule_fits_nothing_is_told_and_nothing_kept() -> None:
    async def test() -> None:
        asker = Asker(rules=(ResponseRuleConfig(model="tiny"), ResponseRuleConfig(tenant="a")))
        for _ in range(2):
            answer, asked = await asker.ask(ASKED)
            assert (asked, told(answer)) == (True, b"")
        assert Wire().gateway.special is False

    run(test)


def test_clients_say_what_they_want() -> None:
    async def test() -> None:
        asker = Asker()
        answer, _ = await asker.ask(ASKED, "Cache-Control: no-store")
        assert told(answer) == b"bypass"
        assert told((await asker.ask(ASKED))[0]) == b"miss", "and nothing was kept of it"
        assert told((await asker.ask(ASKED, "Cache-Control: no-store"))[0]) == b"bypass"
        new = plain({**CHAT, "id": "new"})
        answer, asked = await asker.ask(ASKED, "cache-control: private, No-Cache", reply=new)
        assert (asked, told(answer)) == (True, b"bypass")
        answer, _ = await asker.ask(ASKED, "Cache-Control: max-age=60")
        assert (told(answer), json.loads(answer[2])["id"]) == (b"hit", "new")
        assert told((await asker.ask(ASKED, "Cache-Control: max-age=0"))[0]) == b"miss"
        assert told((await asker.ask(ASKED, "Cache-Control: max-age=soon"))[0]) == b"miss"

    run(test)


@pytest.mark.parametrize(
    "reply",
    [
        plain({"error": {"message": "no"}}, 400),
        plain({**CHAT, "choices": [{"index": 0, "message": {}, "finish_reason": "abort"}]}),
        plain({**CHAT, "choices": []}),
        plain(b"no JSON"),
        plain(CHAT, lines=b"content-encoding: gzip\r\n"),
        plain({**CHAT, "pad": "x" * 5000}),
    ],
)
def test_what_is_no_good_answer_is_not_kept(reply: bytes) -> None:
    async def test() -> None:
        asker = Asker(cache={"response_bytes": 4000})
        await asker.ask(ASKED, reply=reply)
        answer, asked = await asker.ask(ASKED)
        assert (asked, told(answer)) == (True, b"miss")

    run(test)


@pytest.mark.parametrize(
    "events",
    [
        STREAM[:2],
        STREAM[1:1] + STREAM[2:],
        [STREAM[0], STREAM[2]],
        [STREAM[0], b'data: {"error":{"message":"broken"}}\n\n', STREAM[2]],
        [STREAM[0], STREAM[1].replace(b"stop", b"content_filter"), STREAM[2]],
    ],
)
def test_a_stream_that_is_not_whole_is_not_kept(events: list[bytes]) -> None:
    async def test() -> None:
        asker = Asker()
        streamed = {**ASKED, "stream": True}
        await asker.ask(streamed, reply=events)
        answer, asked = await asker.ask(streamed, reply=STREAM)
        assert (asked, told(answer)) == (True, b"miss")

    run(test)


def test_a_stream_that_breaks_is_not_kept() -> None:
    async def test() -> None:
        asker = Asker(max_attempts=1, failover=False)
        streamed = {**ASKED, "stream": True}
        connection, _ = asker.wire.add_upstream()
        send(asker.client, CHATS, streamed, version="1.1")
        await settled()
        connection.data_received(SSE + b"%x\r\n%b\r\n" % (len(STREAM[0]), STREAM[0]))
        connection.connection_lost(ConnectionResetError("reset"))
        await settled()
        assert asker.responses is not None
        assert asker.responses.kept == 0
        assert asker.wire.at_rest()

    run(test)


def test_a_stream_is_kept_though_its_client_closes_at_the_terminal_event() -> None:
    async def test() -> None:
        asker = Asker()
        streamed = {**ASKED, "stream": True}
        connection, _ = asker.wire.add_upstream()
        early = asker.wire.connect()
        send(early, CHATS, streamed, version="1.1")
        await settled()
        connection.data_received(SSE)
        for event in STREAM:
            connection.data_received(b"%x\r\n%b\r\n" % (len(event), event))
        early.lose()  # as the official clients do: the transfer's own end has not come yet
        await settled()
        assert asker.responses is not None
        assert asker.responses.kept == 1
        answer, asked = await asker.ask(streamed)
        assert (asked, told(answer), answer[2]) == (False, b"hit", b"".join(STREAM))
        assert asker.wire.at_rest()

    run(test)


@pytest.mark.parametrize("seen", [STREAM[:1], STREAM[:2]])
def test_a_stream_whose_client_leaves_before_its_end_is_not_kept(seen: list[bytes]) -> None:
    async def test() -> None:
        asker = Asker()
        connection, _ = asker.wire.add_upstream()
        early = asker.wire.connect()
        send(early, CHATS, {**ASKED, "stream": True}, version="1.1")
        await settled()
        connection.data_received(SSE)
        for event in seen:
            connection.data_received(b"%x\r\n%b\r\n" % (len(event), event))
        early.lose()
        await settled()
        assert asker.responses is not None
        assert asker.responses.kept == 0
        assert asker.wire.at_rest()

    run(test)


def test_keys_are_apart() -> None:
    async def test() -> None:
        asker = Asker()
        for name in ("Authorization: Bearer a", "Authorization: Bearer b", "X-Api-Key: c", "X-Other: none"):
            assert told((await asker.ask(ASKED, name))[0]) == b"miss", name
        for name in ("Authorization: Bearer a", "X-Api-Key: a"):
            assert told((await asker.ask(ASKED, name))[0]) == b"hit", name

    run(test)


def test_another_version_finds_nothing_of_before() -> None:
    async def test() -> None:
        one, two = Asker(), Asker(cache={"version": "2"})
        assert one.responses is not None
        assert two.responses is not None
        two.responses.store = one.responses.store
        await one.ask(ASKED)
        assert told((await two.ask(ASKED))[0]) == b"miss"

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "reply"),
    [
        (
            "/v1/completions",
            {"model": "m", "prompt": "x", "seed": 1},
            {"choices": [{"index": 0, "text": "y", "finish_reason": "length"}]},
        ),
        (
            "/v1/messages",
            {"model": "m", "max_tokens": 5, "temperature": 0, "messages": ASKED["messages"]},
            {"type": "message", "content": [], "stop_reason": "end_turn"},
        ),
        (
            "/v1/responses",
            {"model": "m", "input": "x", "temperature": 0, "store": False},
            {"object": "response", "status": "completed", "output": []},
        ),
    ],
)
def test_the_other_apis_have_it_too(path: str, body: Any, reply: Any) -> None:
    async def test() -> None:
        asker = Asker()
        first, _ = await asker.ask(body, path=path, reply=plain(reply))
        again, asked = await asker.ask(body, path=path)
        assert (told(first), told(again), asked) == (b"miss", b"hit", False)
        assert again[2] == first[2]

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "events"),
    [
        (
            "/v1/messages",
            {"model": "m", "max_tokens": 5, "temperature": 0, "messages": ASKED["messages"], "stream": True},
            [
                b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n',
                b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n',
                b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
            ],
        ),
        (
            "/v1/responses",
            {"model": "m", "input": "x", "temperature": 0, "store": False, "stream": True},
            [
                b'event: response.created\ndata: {"type":"response.created","response":{}}\n\n',
                b'event: response.completed\ndata: {"type":"response.completed","response":{"status":"completed"}}\n\n',
            ],
        ),
    ],
)
def test_their_streams_too(path: str, body: Any, events: list[bytes]) -> None:
    async def test() -> None:
        asker = Asker()
        await asker.ask(body, path=path, reply=events)
        again, asked = await asker.ask(body, path=path)
        assert (asked, again[2]) == (False, b"".join(events))

    run(test)


@pytest.mark.parametrize(
    "more",
    [{}, {"store": True}, {"previous_response_id": "resp_1"}, {"background": True}, {"prompt": {"id": "p1"}}],
)
def test_a_response_that_an_engine_keeps_is_not_recorded(more: Any) -> None:
    async def test() -> None:
        asker = Asker()
        body = {"model": "m", "input": "x", "temperature": 0, "store": False, **more}
        if not more:
            del body["store"]
        answer, _ = await asker.ask(body, path="/v1/responses", reply=plain({"status": "completed"}))
        assert told(answer) == b"bypass"

    run(test)


def test_who_wants_a_prompt_computed_and_no_answer_is_given_none() -> None:
    async def test() -> None:
        asker = Asker()
        answer = {"type": "message", "content": [], "stop_reason": "max_tokens", "usage": {}}
        for _ in range(2):
            found, asked = await asker.ask(
                {**ASKED, "max_tokens": 0}, path="/v1/messages", reply=plain(answer)
            )
            assert (asked, told(found)) == (True, b"bypass")

    run(test)


def test_a_client_that_leaves_while_it_is_looked_for_costs_nothing() -> None:
    async def test() -> None:
        asker = Asker()
        _, transport = asker.wire.add_upstream()
        send(asker.client, CHATS, ASKED, version="1.1")
        asker.client.lose()
        await settled()
        assert not transport.written
        assert asker.wire.at_rest()

    run(test)


def test_requests_behind_one_another_on_a_connection_are_answered_in_order() -> None:
    async def test() -> None:
        asker = Asker()
        await asker.ask(ASKED)
        sent = len(asker.client.output)
        for _ in range(3):
            send(asker.client, CHATS, ASKED, version="1.1")
        await settled()
        await settled()
        answers = ParsedAnswers(asker.client.output[sent:]).answers
        assert [dict(fields)[b"x-warmroute-response-cache"] for _, fields, _ in answers] == [b"hit"] * 3

    run(test)


def test_a_body_that_is_not_read_here_goes_to_a_replica_whatever_models_there_are() -> None:
    async def test() -> None:
        asker = Asker()
        answer, asked = await asker.ask(gzip.compress(json.dumps(ASKED).encode()), "Content-Encoding: gzip")
        assert (asked, answer[0]) == (True, 200)
        unnamed = {name: value for name, value in ASKED.items() if name != "model"}
        answer, asked = await asker.ask(unnamed)
        assert (asked, answer[0], json.loads(answer[2])["error"]["param"]) == (False, 400, "model")

    run(test)


def test_names_that_clients_make_up_are_not_remembered_at_any_length() -> None:
    async def test() -> None:
        asker = Asker()
        responses = asker.responses
        assert responses is not None
        for letter in "abc":
            assert responses.rule("t", letter * 10_000) is not None
        await asker.ask(ASKED)
        assert sum(len(model) for _, model in responses._known) == 1

    run(test)


def test_a_hit_earns_replicas_no_more_tries() -> None:
    async def test() -> None:
        asker = Asker()
        await asker.ask(ASKED)
        await asker.ask(ASKED)
        assert asker.wire.gateway.accounts.answered == 1

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "reply", "field", "interface"),
    [
        (CHATS, ASKED, CHAT, "X-Other: none", "openai"),
        (CHATS, ASKED, CHAT, "X-Warmroute-Usage: deepseek", "deepseek"),
        (
            "/v1/messages",
            {"model": "m", "max_tokens": 5, "temperature": 0, "messages": [{"role": "user", "content": "Hi"}]},
            {"id": "m", "type": "message", "role": "assistant", "content": [], "stop_reason": "end_turn",
             "usage": {"input_tokens": 5, "output_tokens": 1}},
            "X-Other: none",
            "anthropic",
        ),
    ],
)  # fmt: skip
def test_a_hit_is_counted_by_the_interface_that_was_asked(
    path: str, body: Any, reply: Any, field: str, interface: str
) -> None:
    async def test() -> None:
        asker = Asker(usage=UsageConfig(enabled=True), caching=CachingConfig(deepseek=True))
        _, asked = await asker.ask(body, field, path=path, reply=plain(reply))
        _, again = await asker.ask(body, field, path=path)
        assert (asked, again) == (True, False)
        admission = asker.wire.gateway.admission
        assert admission is not None
        assert admission.ledger is not None
        rows = {key[3]: counts[:2] for key, counts in admission.ledger.drain().items() if not key[4]}
        assert rows == {interface: [2, 2]}

    run(test)
