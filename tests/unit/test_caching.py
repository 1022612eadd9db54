"""The providers' caching interfaces on the request path: what replicas are sent, what clients get, what is promised."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.recorded import RECORDED, path_for
from tests.support.wire import ParsedAnswers, Wire
from warmroute.config.provider_caching import CacheMinimumConfig, CachingConfig
from warmroute.config.schema import HeadersConfig
from warmroute.core.types import Api
from warmroute.dialects.usage_told import UsageTold

ALL = CachingConfig(openai=True, anthropic=True, deepseek=True)
EPHEMERAL = {"type": "ephemeral"}
LONG = "word " * 2000
NAMES = [
    name
    for name in RECORDED
    if name.startswith(("chat", "message")) and not name.startswith(("message_count", "chat_stream_engine"))
]


class OneReplica:
    """A wire with one replica, and one request after the other on it."""

    def __init__(self, caching: CachingConfig = ALL, **settings: Any) -> None:
        self.wire = Wire(caching=caching, ask_usage=False, **settings)
        self.sent: list[tuple[bytes, bytes]] = []
        """Head and body of each request, as the replica got it."""

    def ask(
        self,
        body: bytes | dict[str, Any],
        answer: bytes = RECORDED["message"],
        path: bytes = b"/v1/messages",
        fields: bytes = b"",
        cuts: list[int] | None = None,
    ) -> bytes:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        client = self.wire.connect()
        self.wire.drop_upstreams()
        connection, transport = self.wire.add_upstream()
        client.feed(
            b"POST %b HTTP/1.1\r\nHost: r\r\n%bContent-Length: %d\r\n\r\n%b" % (path, fields, len(data), data)
        )
        head, _, sent = bytes(transport.written).partition(b"\r\n\r\n")
        if head:
            self.sent.append((head, sent))
            places = sorted({cut % len(answer) for cut in cuts or ()} | {0, len(answer)})
            for start, end in zip(places, places[1:], strict=False):
                connection.data_received(answer[start:end])
        assert self.wire.at_rest()
        return client.output

    @property
    def promises(self) -> Any:
        assert self.wire.gateway.caching is not None
        return self.wire.gateway.caching.promises


def parsed(output: bytes) -> tuple[int, bytes]:
    answers = ParsedAnswers(output)
    assert answers.complete == 1
    ((status, _, body),) = answers.answers
    return status, body


def marked(text: str = LONG, mark: Any = EPHEMERAL, **fields: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": text, "cache_control": mark}],
        "messages": [{"role": "user", "content": "Hi"}],
        **fields,
    }


@pytest.mark.parametrize("early", [False, True])
@given(st.sampled_from(NAMES), st.lists(st.integers(0, 5000), max_size=8))
def test_answers_are_told_alike_however_they_arrive(early: bool, name: str, cuts: list[int]) -> None:
    answer = RECORDED[name]
    fleet = OneReplica(headers=HeadersConfig(early=early))
    path = path_for(name)
    api = Api.MESSAGES if path == b"/v1/messages" else Api.CHAT
    if api is Api.MESSAGES:
        body = marked()
    else:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    fields = b"X-Warmroute-Usage: DeepSeek\r\n"
    status, got = parsed(fleet.ask(body, answer, path, fields, cuts))
    ((_, _, plain),) = ParsedAnswers(answer).answers
    told = UsageTold(api, openai=True, deepseek=True)
    assert status == 200
    assert got == (told.events(plain) if b"event-stream" in answer else told.whole(plain))
    assert (got != plain) is (b"details" in plain or b"cache_read" in plain)


def test_errors_pass_as_they_are() -> None:
    answer = RECORDED["error_message_wrong_type"]
    ((status, _, plain),) = ParsedAnswers(answer).answers
    assert parsed(OneReplica().ask(marked(), answer)) == (status, plain)


def test_a_coded_answer_passes_as_it_is() -> None:
    plain = RECORDED["message"].partition(b"\r\n\r\n")[2]
    coded = gzip.compress(plain)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-type: application/json\r\n"
    answer = head + b"content-length: %d\r\n\r\n%b" % (len(coded), coded)
    for cuts in ([], [150]):
        assert parsed(OneReplica().ask(marked(), answer, cuts=cuts)) == (200, coded)


def test_usage_that_the_router_asked_for_itself_stays_hidden() -> None:
    wire = Wire(caching=ALL)
    outputs = []
    for answer in (RECORDED["chat_stream"], RECORDED["chat_stream_asked"]):
        connection, transport = wire.add_upstream()
        client = wire.connect()
        body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
        client.feed(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        asked = b"include_usage" in transport.written
        connection.data_received(answer)
        outputs.append((asked, parsed(client.output)[1]))
        wire.drop_upstreams()
    (first, plain), (second, hidden) = outputs
    assert (first, second) == (False, True)
    assert b'"usage"' not in hidden
    assert b"[DONE]" in hidden
    assert plain.count(b"data:") == hidden.count(b"data:")


# -- what replicas are sent -----------------------------------------------------------------------------------------


def test_a_body_is_sent_as_it_came_unless_something_in_it_must_change() -> None:
    fleet = OneReplica()
    body = json.dumps(marked()).encode()
    fleet.ask(body)
    retained = b'{"model":"m", "prompt_cache_retention":"24h","messages":[{"role":"user","content":"Hi"}]}'
    fleet.ask(retained, RECORDED["chat"], b"/v1/chat/completions")
    assert [sent for _, sent in fleet.sent] == [body, retained]


def test_a_prewarm_is_sent_as_one_token_and_answered_as_none() -> None:
    fleet = OneReplica()
    status, got = parsed(fleet.ask(marked(max_tokens=0)))
    head, sent = fleet.sent[0]
    assert b"content-length: %d" % len(sent) in head
    assert json.loads(sent) == marked(max_tokens=1)
    answer = json.loads(got)
    assert (status, answer["content"], answer["usage"]["output_tokens"]) == (200, [], 0)
    assert "cache_creation" in answer["usage"]
    plain = {"model": "m", "max_tokens": 0, "messages": [{"role": "user", "content": "Hi"}]}
    assert json.loads(parsed(fleet.ask(plain))[1])["content"] == []


@pytest.mark.parametrize(
    "more",
    [
        {"stream": True},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"tool_choice": {"type": "tool", "name": "t"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
    ],
)
def test_a_prewarm_is_refused_with_what_makes_no_sense_with_it(more: dict[str, Any]) -> None:
    fleet = OneReplica()
    status, got = parsed(fleet.ask(marked(max_tokens=0, **more)))
    assert (status, json.loads(got)["error"]["type"]) == (400, "invalid_request_error")
    assert json.loads(got)["error"]["message"].startswith("max_tokens: 0 is not supported with")
    assert not fleet.sent


def test_a_body_that_only_the_lax_reader_understands_is_left_to_the_engine() -> None:
    fleet = OneReplica()
    body = json.dumps(marked(max_tokens=0)).encode("utf-16")
    fleet.ask(body)
    assert fleet.sent[0][1] == body


def test_a_coded_body_can_be_read_and_not_changed() -> None:
    fleet = OneReplica()
    coding = b"Content-Encoding: gzip\r\n"
    fleet.ask(gzip.compress(json.dumps(marked()).encode()), fields=coding)
    assert len(fleet.promises) == 1
    status, _ = parsed(fleet.ask(gzip.compress(json.dumps(marked(max_tokens=0)).encode()), fields=coding))
    assert status == 415


def test_fields_are_taken_out_for_engines_that_refuse_them() -> None:
    fleet = OneReplica(CachingConfig(openai=True, openai_strip_fields=True))
    part = {"type": "text", "text": "Hé"}
    mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    plain = {"model": "m", "seed": 12345678901234567890, "messages": [{"role": "user", "content": [part]}]}
    asked = {
        **plain,
        "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "explicit"},
        "messages": [{"role": "user", "content": [{**part, **mark}]}],
    }
    fleet.ask(asked, RECORDED["chat"], b"/v1/chat/completions")
    fleet.ask(json.dumps(plain).encode(), RECORDED["chat"], b"/v1/chat/completions")
    assert json.loads(fleet.sent[0][1]) == plain
    assert fleet.sent[1][1] == json.dumps(plain).encode()
    item = {
        "model": "m",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "x", **mark}]}],
    }
    fleet.ask(item, RECORDED["response"], b"/v1/responses")
    assert b"prompt_cache" not in fleet.sent[2][1]


# -- where it goes --------------------------------------------------------------------------------------------------


def ring_keys(caching: CachingConfig, *bodies: dict[str, Any]) -> list[int]:
    wire = Wire(caching=caching)
    keys = []
    for fields in bodies:
        body = json.dumps({"model": "m", **fields}).encode()
        wire.add_upstream()
        client = wire.connect()
        client.feed(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        exchange = client.connection.exchange
        assert exchange is not None
        assert exchange.shape is not None
        keys.append(exchange.shape.ring_key)
        client.lose()
    return keys


def said(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": text}, {"role": "user", "content": "Hi"}], **fields}


def test_a_cache_key_is_joined_with_how_the_prompt_begins() -> None:
    turn = said("a" * 2000, prompt_cache_key="k")
    later = {**turn, "messages": [*turn["messages"], {"role": "user", "content": "And?"}]}
    other = said("b" * 2000, prompt_cache_key="k")
    unnamed = said("a" * 2000)
    on = ring_keys(ALL, turn, later, other, unnamed, {**turn, "prompt_cache_key": "l"})
    assert on[0] == on[1]
    assert len({on[0], on[2], on[3], on[4]}) == 4
    off = ring_keys(CachingConfig(anthropic=True), turn, later, other)
    assert off[0] == off[1] == off[2]
    session = said("a" * 2000, session_id="k")
    assert len(set(ring_keys(ALL, session, {**other, **{"prompt_cache_key": None, "session_id": "k"}}))) == 1


def places(key: str, requests: int) -> list[str]:
    """Where so many at once with one cache key go, on four replicas."""
    wire = Wire(caching=ALL, replicas=4)
    found = []
    body = json.dumps({"model": "m", **said("short", prompt_cache_key=key)}).encode()
    for _ in range(requests):
        for number in range(4):
            wire.add_upstream(number)
        client = wire.connect()
        client.feed(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        exchange = client.connection.exchange
        assert exchange is not None
        assert exchange.decision is not None
        found.append(str(exchange.decision.replica.id))
    return found


def test_a_hot_cache_key_spreads_over_more_replicas_always_in_the_same_order() -> None:
    orders = []
    for key in ("a", "b", "c", "d", "e"):
        order, again = (tuple(dict.fromkeys(places(key, 16))) for _ in range(2))
        assert len(order) == 4
        assert order == again
        orders.append(order)
    assert len(set(orders)) > 1


# -- what is promised -----------------------------------------------------------------------------------------------


def test_a_breakpoint_is_promised_once_a_replica_has_computed_it() -> None:
    fleet = OneReplica()
    fleet.ask(marked(), RECORDED["error_message_wrong_type"])
    assert len(fleet.promises) == 0
    fleet.ask(marked())
    (promise,) = fleet.promises.live(0.0)
    assert promise.ttl_s == 300.0
    assert promise.tokens == pytest.approx(2500, rel=0.05)
    registry: Any = fleet.wire.worker.registry
    assert all(registry._kept[rung] == promise.until_s for rung in promise.rungs)
    records = registry.read(promise.rungs)
    assert all(record is not None and record[-1][0] == 1 for record in records)


def test_what_is_too_short_is_not_promised_and_models_may_differ() -> None:
    short = "word " * 300
    fleet = OneReplica(
        CachingConfig(anthropic=True, anthropic_minimums=(CacheMinimumConfig(model="tiny", tokens=100),))
    )
    got = parsed(fleet.ask(marked(short)))[1]
    assert "cache_creation" not in json.loads(got)["usage"]
    assert len(fleet.promises) == 0
    fleet.ask({**marked(short), "model": "tiny"})
    assert len(fleet.promises) == 1
    openai = OneReplica(CachingConfig(openai=True, openai_minimum_tokens=3000))
    openai.ask(said(LONG, model="m", prompt_cache_retention="24h"), RECORDED["chat"], b"/v1/chat/completions")
    assert len(openai.promises) == 0


def turns(count: int, size: int = 1) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": f"turn {n} " * size} for n in range(count)]


def test_a_read_within_twenty_blocks_renews_a_promise_and_one_beyond_does_not() -> None:
    fleet = OneReplica()
    long = {**marked(), "cache_control": {"type": "ephemeral", "ttl": "1h"}, "system": LONG}
    fleet.ask({**long, "messages": turns(1)})
    (promise,) = fleet.promises.live(0.0)
    promise.until_s -= 1000.0
    behind_s = promise.until_s
    fleet.ask({**long, "messages": turns(21)})
    assert promise.until_s == behind_s
    fleet.ask({**long, "messages": turns(20)})
    assert promise.until_s > behind_s + 900.0


def test_scopes_and_tenants_have_promises_of_their_own() -> None:
    fleet = OneReplica()
    fleet.ask(marked(cache_salt="a"), fields=b"Authorization: Bearer one\r\n")
    fleet.ask(marked(cache_salt="b"), fields=b"Authorization: Bearer two\r\n")
    one, two = fleet.promises.live(0.0)
    assert one.key != two.key
    assert one.tenant != two.tenant
    assert one.tenant.startswith("key:")
    assert "one" not in one.tenant
    assert one.rungs != two.rungs


def test_a_keys_promises_are_its_own_whichever_way_it_is_shown() -> None:
    fleet = OneReplica()
    for shown in (b"X-Api-Key: one", b"Authorization: Bearer one", b"X-Api-Key: two", b"X-Other: one"):
        fleet.ask(marked(), fields=shown + b"\r\n")
    found = [promise.tenant for promise in fleet.promises.live(0.0)]
    assert len(found) == len(set(found)) == 3
    assert "" in found


def test_openais_lifetimes_are_kept_by_the_registry_as_long_as_the_longest() -> None:
    fleet = OneReplica()
    mark = {"prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
    content = [{"type": "text", "text": LONG, **mark}, {"type": "text", "text": LONG}]
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    fleet.ask(body, RECORDED["chat"], b"/v1/chat/completions")
    half, whole = sorted(fleet.promises.live(0.0), key=lambda promise: len(promise.rungs))
    assert (half.ttl_s, whole.ttl_s) == (43_200.0, 1800.0)
    registry: Any = fleet.wire.worker.registry
    kept = [registry._kept[rung] for rung in whole.rungs]
    assert kept == [half.until_s] * len(half.rungs) + [whole.until_s] * (len(whole.rungs) - len(half.rungs))


def test_where_nothing_is_switched_on_nothing_is_there() -> None:
    wire = Wire()
    assert wire.gateway.caching is None
    fleet = OneReplica(CachingConfig(deepseek=True, deepseek_tenants=("*",)))
    fleet.ask({"model": "m", "max_tokens": 9, "messages": turns(1), "cache_control": 5})
    _, got = parsed(fleet.ask(said("x", model="m"), RECORDED["chat"], b"/v1/chat/completions"))
    usage = json.loads(got)["usage"]
    assert usage["prompt_cache_hit_tokens"] == 0
    assert "cache_write_tokens" not in usage["prompt_tokens_details"]
