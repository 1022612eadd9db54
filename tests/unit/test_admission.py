"""Who comes in and who does not, what replicas see of it, and what is counted of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.tenants import KEYS, KeyedFleet, SlowLimiter, bearer, key_record, tenant
from tests.support.wire_fleet import BREAKS, OK, plain
from warmroute.config.schema import (
    AllowanceConfig,
    HealthConfig,
    IsolationConfig,
    KeysConfig,
    ModelAllowanceConfig,
    PriceConfig,
    TenantConfig,
    UsageConfig,
)
from warmroute.core.fleet.fleet import ProbeSucceeded
from warmroute.core.types import RequestShape
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.outcome import Outcome
from warmroute.dialects.lax import LAX_BYTES
from warmroute.ports import Claims
from warmroute.tenants.limits import COST_DAY
from warmroute.tenants.usage import BEGUN, COST, COUNTERS, FAILED, REQUESTS

PATHS = ("/v1/chat/completions", "/v1/embeddings", "/v1/unknown/thing", "/v1/models", "/load", "/version")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fields", [b"", b"Authorization: Bearer wrong\r\n", b"x-api-key: wrong\r\n"])
def test_without_a_known_key_nothing_is_answered_and_nothing_reaches_a_replica(
    path: str, fields: bytes
) -> None:
    fleet = KeyedFleet()
    status, head, body = fleet.answered(fields, path=path, method="GET" if "e" == path[-1] else "POST")
    assert status in (401, 405)
    if status == 401:
        assert b"www-authenticate: bearer" in head
        assert json.loads(body)["error"]["code"] in ("missing_api_key", "invalid_api_key")
    assert fleet.served == []
    assert b"wrong" not in body


def test_probes_need_no_key() -> None:
    fleet = KeyedFleet()
    assert fleet.answered(path="/health", method="GET")[0] == 200
    status, _, body = fleet.answered(path="/ready", method="GET")
    assert (status, json.loads(body)["reason"]) == (503, "starting"), "answered: nothing listens in this test"


def test_refusals_have_the_shape_of_the_called_api() -> None:
    fleet = KeyedFleet()
    status, head, body = fleet.answered(path="/v1/messages")
    assert status == 401
    answer = json.loads(body)
    assert (answer["type"], answer["error"]["type"]) == ("error", "authentication_error")
    assert b"request-id: " in head


@pytest.mark.parametrize(
    "fields", [bearer("a"), b"X-Api-Key: " + KEYS["a"] + b"\r\n", bearer("a") + b"x-api-key: z\r\n"]
)
def test_replicas_see_the_routers_key_in_place_of_the_clients(fields: bytes) -> None:
    fleet = KeyedFleet()
    client, exchange = fleet.send(fields)
    assert exchange is not None
    assert exchange.connection is not None
    sent = bytes(exchange.connection.transport.written).lower()  # type: ignore[attr-defined]
    assert KEYS["a"].lower() not in sent
    assert b"x-api-key" not in sent
    assert sent.count(b"authorization: ") == 1
    assert b"authorization: bearer canary-upstream\r\n" in sent
    fleet.reply(exchange)
    assert client.output.startswith(b"HTTP/1.1 200")


def test_without_a_key_of_its_own_the_router_sends_replicas_none() -> None:
    fleet = KeyedFleet(keys=KeysConfig(url="/nowhere/keys"))
    _, exchange = fleet.send(bearer("a"))
    assert exchange is not None
    assert exchange.connection is not None
    assert b"authorization" not in bytes(exchange.connection.transport.written).lower()  # type: ignore[attr-defined]


def test_probes_key_is_the_upstreams_unless_another_is_set() -> None:
    fleet = KeyedFleet(keys=KeysConfig(url="/nowhere/keys"), health=HealthConfig(api_key="canary-health"))
    assert fleet.gateway.upstream_authorization == b"Bearer canary-health"
    assert fleet.answered(bearer("a"), path="/v1/models", method="GET")[0] == 200


def test_after_a_reload_replicas_are_sent_the_key_that_they_take_now() -> None:
    async def run() -> None:
        fleet = KeyedFleet(keys=KeysConfig(url="/nowhere/keys"), health=HealthConfig(api_key="canary-old"))
        worker = fleet.wire.worker
        clients = [fleet.wire.connect(), fleet.wire.connect()]
        for key in (b"canary-old", b"canary-old", b"canary-new", b"canary-new"):
            if key == b"canary-new":
                health = HealthConfig(api_key="canary-new")
                worker.reload(dataclasses.replace(worker.config, health=health))
            for client in (*clients, fleet.wire.connect()):
                _, exchange = fleet.send(bearer("a"), client=client)
                assert exchange is not None
                assert exchange.connection is not None
                sent = bytes(exchange.connection.transport.written)  # type: ignore[attr-defined]
                assert sent.count(b"authorization: Bearer ") == 1
                assert b"authorization: Bearer %b\r\n" % key in sent
                fleet.reply(exchange)

    asyncio.run(run())


def test_a_revoked_key_is_refused_on_a_connection_that_was_let_in() -> None:
    fleet = KeyedFleet()
    client = fleet.wire.connect()
    for known in (True, True, False):
        if not known:
            fleet.use([key_record("b")])
        before = len(client.output)
        _, exchange = fleet.send(bearer("a"), client=client)
        if exchange is not None:
            fleet.reply(exchange)
        assert client.output[before:].startswith(b"HTTP/1.1 200" if known else b"HTTP/1.1 401")


def test_an_expired_key_is_refused_also_where_its_head_is_known() -> None:
    fleet = KeyedFleet(records=[key_record("a", expires_s=time.time() + 1000)])
    client = fleet.wire.connect()
    for _ in range(2):
        _, exchange = fleet.send(bearer("a"), client=client)
        assert exchange is not None
        fleet.reply(exchange)
    clock = fleet.admission._clock
    fleet.admission._clock = lambda: clock() + 1001
    before = len(client.output)
    fleet.send(bearer("a"), client=client)
    assert b"expired_api_key" in client.output[before:]


def test_before_the_keys_are_read_everybody_is_asked_to_come_again() -> None:
    fleet = KeyedFleet(records=[])
    fleet.admission.keys_known = False
    status, head, body = fleet.answered(bearer("a"))
    assert (status, json.loads(body)["error"]["code"]) == (503, "keys_unknown")
    assert b"retry-after: 1" in head


def test_a_key_uses_its_own_models_only_and_is_shown_no_others() -> None:
    fleet = KeyedFleet(records=[key_record("a", models=("tiny",)), key_record("b")])
    status, _, body = fleet.answered(bearer("a"))
    assert (status, json.loads(body)["error"]["code"]) == (403, "model_not_allowed")
    assert fleet.answered(bearer("a"), {"model": "m", "input": "x"}, path="/v1/embeddings")[0] == 403
    shown = json.loads(fleet.answered(bearer("a"), path="/v1/models", method="GET")[2])
    assert [card["id"] for card in shown["data"]] == ["tiny"]
    assert fleet.answered(bearer("a"), path="/v1/models/tiny", method="GET")[0] == 200
    assert len(json.loads(fleet.answered(bearer("b"), path="/v1/models", method="GET")[2])["data"]) == 3
    messages = fleet.answered(
        bearer("a"),
        {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]},
        path="/v1/messages",
    )
    assert json.loads(messages[2])["error"]["type"] == "permission_error"


class SlowTokens:
    """Judges when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Callable[[Claims | str], None]] = []

    def verify(self, token: bytes, done: Callable[[Claims | str], None]) -> None:
        self.asked.append(done)


def test_models_are_shown_as_its_own_to_a_token_that_had_to_be_waited_for() -> None:
    fleet = KeyedFleet(TenantConfig(id="a", models=("tiny",)))
    tokens = SlowTokens()
    fleet.admission._tokens = tokens  # type: ignore[assignment]
    client, _ = fleet.send(b"Authorization: Bearer eyJ.a.b\r\n", path="/v1/models", method="GET")
    assert client.output == b""
    tokens.asked.pop()(Claims("a", None, 9e9))
    assert [card["id"] for card in json.loads(client.output.partition(b"\r\n\r\n")[2])["data"]] == ["tiny"]


EMBEDS = b'{"model":"m","input":"x"}'
MULTIPART = b"multipart/form-data; boundary=B"


def form(*parts: tuple[bytes, bytes]) -> bytes:
    fields = [b'--B\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % part for part in parts]
    return b"".join(fields) + b"--B--\r\n"


HIDDEN: dict[str, tuple[bytes, tuple[bytes, ...]]] = {
    "plain": (EMBEDS, (b"application/json",)),
    "no type": (EMBEDS, ()),
    "no type, behind a blank": (b" \n" + EMBEDS, ()),
    "no type, in UTF-16": (EMBEDS.decode().encode("utf-16"), ()),
    "two types": (b" " + EMBEDS, (b"application/json", b"text/plain")),
    "long, with what JSON has not": (
        b'{"x":NaN,"y":"%b",' % (b"z" * LAX_BYTES) + EMBEDS[1:],
        (b"application/json",),
    ),
    "the last field of a form": (form((b"model", b"tiny"), (b"model", b"m")), (MULTIPART,)),
    "between two files": (form((b"f", b"x" * 10**5), (b"model", b"m"), (b"f", b"x" * 10**5)), (MULTIPART,)),
    "two boundaries": (form((b"model", b"m")), (MULTIPART + b"; boundary=A",)),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_model_is_not_hidden_from_the_router(kind: str) -> None:
    body, types = HIDDEN[kind]
    lines = b"".join([b"Content-Type: %b\r\n" % one for one in types])
    whisper = TenantConfig(
        id="b", model_limits=(ModelAllowanceConfig(model="m", limits=AllowanceConfig(requests_per_day=1)),)
    )
    fleet = KeyedFleet(whisper, records=[key_record("a", models=("tiny",)), key_record("b")])
    for name, most in (("a", 0), ("b", 1)):
        answers = []
        for _ in range(2):
            client = fleet.wire.connect()
            client.feed(
                b"POST /v1/embeddings HTTP/1.1\r\nHost: r\r\n%b%bContent-Length: %d\r\n\r\n%b"
                % (bearer(name), lines, len(body), body)
            )
            exchange = client.connection.exchange
            if exchange is not None:
                fleet.reply(exchange)
            answers.append(int(client.output[9:12]))
        assert answers.count(200) <= most, answers
        assert set(answers) <= {200, 400, 403, 429}
    assert fleet.wire.at_rest()


def test_a_request_that_names_no_model_is_for_the_only_one_there_is() -> None:
    prices = (PriceConfig(model="bge", prompt=10.0),)
    one = TenantConfig(
        id="a", model_limits=(ModelAllowanceConfig(model="bge", limits=AllowanceConfig(requests_per_day=1)),)
    )
    fleet = KeyedFleet(one, usage=UsageConfig(enabled=True, prices=prices))
    replica = fleet.replicas[0]
    for names, status in ((("bge", "other"), 200), (("bge",), 200), (("bge",), 429)):
        models = {name: {"id": name} for name in names}
        fleet.wire.worker.fleet.apply(
            ProbeSucceeded(replica.id, replica.incarnation, models, None, None, time.time(), True)
        )
        assert fleet.answered(bearer("a"), {"input": "x"}, path="/v1/embeddings")[0] == status
    ledger = fleet.admission.ledger
    assert ledger is not None
    rows = {key[2]: (counts[REQUESTS], counts[COST]) for key, counts in ledger.drain().items()}
    assert rows == {"": (1, 0), "bge": (2, 80_000)}


def test_what_is_no_json_and_says_nothing_of_itself_goes_its_way() -> None:
    fleet = KeyedFleet()
    client = fleet.wire.connect()
    client.feed(b"POST /v1/unknown HTTP/1.1\r\nHost: r\r\n%bContent-Length: 3\r\n\r\n\xff\x00x" % bearer("a"))
    assert client.connection.exchange is not None
    fleet.reply(client.connection.exchange)
    assert client.output.startswith(b"HTTP/1.1 200")


# -- limits ---------------------------------------------------------------------------------------------------------


def test_what_is_over_a_limit_is_refused_with_when_to_come_back() -> None:
    fleet = KeyedFleet(tenant(requests_per_minute=2))
    first, head, _ = fleet.answered(bearer("a"))
    assert first == 200
    assert b"x-ratelimit-limit-requests: 2\r\nx-ratelimit-remaining-requests: 1\r\n" in head
    assert fleet.answered(bearer("a"))[0] == 200
    status, head, body = fleet.answered(bearer("a"))
    error = json.loads(body)["error"]
    assert (status, error["code"], error["type"]) == (429, "rate_limit_exceeded", "requests")
    retry_s = int(head.partition(b"retry-after: ")[2].partition(b"\r\n")[0])
    assert 1 < retry_s <= 61
    assert head.count(b"retry-after") == 1
    assert b"x-ratelimit-remaining-requests: 0" in head
    assert fleet.answered(bearer("b"))[0] == 200
    assert fleet.wire.at_rest()


def test_anthropics_clients_are_told_under_anthropics_names() -> None:
    fleet = KeyedFleet(tenant(tokens_per_minute=1000))
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    fleet.answer(0, plain(200, b'{"id":"x","usage":{"input_tokens":5,"output_tokens":2}}'))
    _, head, _ = fleet.answered(bearer("a"), body, path="/v1/messages")
    assert b"anthropic-ratelimit-tokens-limit: 1000\r\n" in head
    reset = head.partition(b"anthropic-ratelimit-tokens-reset: ")[2].partition(b"\r\n")[0].decode().upper()
    assert time.strptime(reset, "%Y-%m-%dT%H:%M:%SZ")


def test_an_estimate_is_taken_and_what_the_answer_tells_is_kept() -> None:
    fleet = KeyedFleet(tenant(tokens_per_minute=1000))
    text = "x" * 2000  # about 500 tokens, and the answer says 11 + 1
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    client, exchange = fleet.send(bearer("a"), body)
    assert exchange is not None
    assert exchange.grant is not None
    assert 400 < exchange.grant.tokens < 700
    fleet.reply(exchange)
    client, exchange = fleet.send(bearer("a"), body)
    assert exchange is not None
    assert exchange.grant is not None
    assert exchange.grant.left_tokens == 1000 - 12 - exchange.grant.tokens
    fleet.reply(exchange)
    assert b"x-ratelimit-remaining-tokens: %d\r\n" % exchange.grant.left_tokens in client.output


def _short(count: int) -> str:
    return str(count)[:3] + f"e{len(str(abs(count))) - 1}"


@pytest.mark.parametrize("prompt", [11, -(10**9), 10**9, 10**30, 10**400], ids=_short)
@pytest.mark.parametrize("completion", [1, -(10**9), 10**9, 10**30, 10**400], ids=_short)
def test_a_replica_neither_gives_a_tenant_what_it_has_not_nor_takes_all_that_it_has(
    prompt: int, completion: int
) -> None:
    fleet = KeyedFleet(
        tenant(tokens_per_minute=1000, cost_per_day=1000),
        usage=UsageConfig(enabled=True, prices=(PriceConfig(model="*", prompt=1.0, output=1.0),)),
    )
    told = b'{"id":"c","choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}' % (
        prompt,
        completion,
    )
    fleet.answer(0, plain(200, told))
    client, exchange = fleet.send(bearer("a"))
    assert exchange is not None
    assert exchange.grant is not None
    estimate = exchange.grant.tokens
    fleet.reply(exchange)
    assert client.output.startswith(b"HTTP/1.1 200")
    _, exchange = fleet.send(bearer("a"))
    assert exchange is not None, "it is not refused for what a replica says"
    assert exchange.grant is not None
    believed = (prompt, completion) == (11, 1)
    assert exchange.grant.left_tokens == 1000 - estimate - (12 if believed else estimate)
    fleet.reply(exchange)
    ledger = fleet.admission.ledger
    assert ledger is not None
    ((_, counts),) = ledger.drain().items()
    counted = dict(zip(COUNTERS, counts, strict=True))
    assert counted["unreported"] == (0 if believed else 2)
    assert 0 < counted["prompt_tokens"] < 100
    assert fleet.wire.at_rest()


def test_what_no_limit_ever_lets_through_is_no_matter_of_waiting() -> None:
    fleet = KeyedFleet(tenant(tokens_per_minute=50), tenant("b", prompt_tokens=50))
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 2000}]}
    for name in "ab":
        status, head, answer = fleet.answered(bearer(name), body)
        assert (status, json.loads(answer)["error"]["code"]) == (413, "prompt_too_large")
        assert b"retry-after" not in head


def test_a_request_that_no_replica_was_asked_for_costs_nothing() -> None:
    fleet = KeyedFleet(tenant(requests_per_minute=2, tokens_per_minute=10_000))
    caller = fleet.admission.keyring.find(KEYS["a"])
    assert caller is not None
    standing = fleet.admission.standing(caller, "m")
    grant = fleet.admission.admit(standing, 700)
    limiter: Any = fleet.admission._limiter
    sums = next(iter(limiter.own._sums.values()))
    assert [*sums.used(time.time())] == [1, 0, 700, 0, 0, 0, 1]
    outcome = Outcome(ClientSide(), b"1")
    outcome.standing, outcome.grant, outcome.shape = standing, grant, RequestShape("m", prompt_tokens=700)
    fleet.admission.finished(outcome, 503, None, None, time.time(), None)
    assert [*sums.used(time.time())] == [0] * 7


PRICES = (PriceConfig(model="m", prompt=10.0, cached=1.0, output=100.0), PriceConfig(model="*"))
COST_NANO = 8 * 10_000 + 3 * 1_000 + 1 * 100_000
"""Of each answer of the fleet's, by these prices."""


def spender(cost_per_day: float) -> KeyedFleet:
    """A router whose tenant may spend so much."""
    return KeyedFleet(
        TenantConfig(id="a", limits=AllowanceConfig(cost_per_day=cost_per_day)),
        usage=UsageConfig(enabled=True, prices=PRICES),
        keys=KeysConfig(url="/nowhere/keys"),
    )


def test_money_is_taken_by_estimate_and_settled_by_what_the_answer_cost() -> None:
    fleet = spender(2.05 * COST_NANO / 1e9)
    assert [fleet.answered(bearer("a"))[0] for _ in range(3)] == [200, 200, 429]
    limiter: Any = fleet.admission._limiter
    sums = next(iter(limiter.own._sums.values()))
    assert sums.used(time.time())[COST_DAY] == 2 * COST_NANO
    status, head, body = fleet.answered(bearer("a"))
    error = json.loads(body)["error"]
    assert (status, error["code"], error["type"]) == (429, "budget_exceeded", "insufficient_quota")
    assert 1 <= int(head.split(b"retry-after: ")[1].split(b"\r\n")[0]) <= 86_400 + 1440
    status, head, body = fleet.answered(bearer("a") + b"anthropic-version: 2023-06-01\r\n")
    assert (status, json.loads(body)["error"]["type"]) == (429, "rate_limit_error")
    assert b"retry-after: " in head
    assert fleet.admission.refused["budget_exceeded"] == 3
    assert fleet.answered(bearer("b"))[0] == 200


def test_what_costs_nothing_is_not_held_against_money_and_what_costs_too_much_never_comes_in() -> None:
    fleet = spender(1e-9)
    status, _, body = fleet.answered(bearer("a"))
    assert (status, json.loads(body)["error"]["code"]) == (413, "budget_exceeded")
    caller = fleet.admission.keyring.find(KEYS["a"])
    assert caller is not None
    grant = fleet.admission.admit(fleet.admission.standing(caller, "free"), 700)
    assert grant is not None
    assert (grant.granted, grant.cost_nano) == (True, 0)


def slow(fleet: KeyedFleet) -> SlowLimiter:
    limiter = SlowLimiter()
    fleet.admission.use_limiter(limiter)
    return limiter


def test_a_request_waits_for_its_limits_and_goes_on() -> None:
    fleet = KeyedFleet(tenant(requests_per_minute=2))
    limiter = slow(fleet)
    client, exchange = fleet.send(bearer("a"))
    assert exchange is not None
    assert exchange.connection is None
    limiter.decide(True)
    assert exchange.connection is not None
    fleet.reply(exchange)
    assert client.output.startswith(b"HTTP/1.1 200")
    assert b"x-ratelimit-remaining-requests: 7" in client.output
    assert len(limiter.settled) == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/responses"])
def test_a_request_that_its_limits_refuse_late_never_reaches_a_replica(path: str) -> None:
    fleet = KeyedFleet(tenant(requests_per_minute=2))
    limiter = slow(fleet)
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "input": "x"}
    if path == "/v1/responses":
        body = {"model": "m", "input": "x", "previous_response_id": "resp_1"}
    client, exchange = fleet.send(bearer("a"), body, path=path)
    assert exchange is not None
    assert exchange.connection is None
    limiter.decide(False)
    assert client.output.startswith(b"HTTP/1.1 429")
    assert b"retry-after: 13\r\n" in client.output
    assert limiter.settled == []
    assert fleet.wire.at_rest()


def test_a_grant_that_comes_when_the_client_has_left_is_given_back() -> None:
    fleet = KeyedFleet(tenant(requests_per_minute=2))
    limiter = slow(fleet)
    client, _ = fleet.send(bearer("a"))
    client.lose()
    limiter.decide(True)
    ((requests, tokens),) = limiter.settled
    assert requests == -1
    assert tokens <= 0
    assert fleet.wire.at_rest()


def test_whatever_ends_a_request_settles_its_grant_once() -> None:
    fleet = KeyedFleet(tenant(concurrent_requests=1), replicas=1)
    limiter: Any = fleet.admission._limiter
    for answer in (plain(200, OK), plain(500), plain(400), BREAKS):
        fleet.answer(0, answer)
        fleet.answered(bearer("a"))
        assert next(iter(limiter.own._sums.values())).under_way == 0
    client, exchange = fleet.send(bearer("a"))
    assert exchange is not None
    client.lose()
    assert next(iter(limiter.own._sums.values())).under_way == 0


STREAMS = {
    "/v1/chat/completions": b'data: {"id":"chatcmpl-%d","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"%b"},"logprobs":null,"finish_reason":null}]}\n\n',
    "/v1/completions": b'data: {"id":"cmpl-%d","object":"text_completion","created":1,"model":"m","choices":[{"index":'
    b'0,"text":"%b","logprobs":null,"finish_reason":null}]}\n\n',
    "/v1/messages": b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":'
    b'"text_delta","text":"%b"}}\n\n',
    "/v1/responses": b'event: response.output_text.delta\ndata: {"content_index":0,"sequence_number":%d,"delta":"%b",'
    b'"item_id":"msg_1","logprobs":[],"output_index":0,"type":"response.output_text.delta"}\n\n',
}
"""An event with one token, as engines write it."""


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("together", [1, 7])
@pytest.mark.parametrize("leaves", [True, False])
def test_a_stream_that_ends_without_its_usage_counts_by_what_was_passed_on(
    path: str, together: int, leaves: bool
) -> None:
    prices = (PriceConfig(model="*", prompt=1.0, output=1.0),)
    fleet = KeyedFleet(
        tenant(tokens_per_minute=1000, cost_per_day=1), usage=UsageConfig(enabled=True, prices=prices)
    )
    asked = {
        "messages": [{"role": "user", "content": "hi"}],
        "prompt": "hi",
        "input": "hi",
        "max_tokens": 500,
    }
    client, exchange = fleet.send(bearer("a"), {"model": "m", "stream": True, **asked}, path)
    assert exchange is not None
    assert exchange.grant is not None
    assert exchange.connection is not None
    estimate, connection = exchange.grant.tokens, exchange.connection
    connection.data_received(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for number in range(200 // together):
        events = b"".join([STREAMS[path] % (number, b" word"[: 2 + at % 4]) for at in range(together)])
        connection.data_received(b"%x\r\n%b\r\n" % (len(events), events))
    if leaves:
        client.lose()
    else:
        connection.data_received(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    ledger = fleet.admission.ledger
    assert ledger is not None
    ((_, counts),) = ledger.drain().items()
    counted = dict(zip(COUNTERS, counts, strict=True))
    assert 150 <= counted["output_tokens"] <= 300
    assert (counted["failed"], counted["unreported"]) == ((1, 0) if leaves else (0, 1))
    _, exchange = fleet.send(bearer("a"))
    assert exchange is not None
    assert exchange.grant is not None
    left = 1000 - estimate - counted["output_tokens"] - exchange.grant.tokens
    assert exchange.grant.left_tokens == left
    fleet.reply(exchange)
    assert fleet.wire.at_rest()


def test_who_leaves_before_an_answer_has_begun_takes_none_of_it() -> None:
    fleet = KeyedFleet(usage=UsageConfig(enabled=True))
    client, exchange = fleet.send(bearer("a"), {"model": "m", "stream": True, "messages": []})
    assert exchange is not None
    client.lose()
    ledger = fleet.admission.ledger
    assert ledger is not None
    ((_, counts),) = ledger.drain().items()
    assert dict(zip(COUNTERS, counts, strict=True))["output_tokens"] == 0


# -- accounts -------------------------------------------------------------------------------------------------------


def test_what_is_counted_is_what_the_answers_said() -> None:
    prices = (PriceConfig(model="m", prompt=10.0, cached=1.0, output=100.0),)
    fleet = KeyedFleet(usage=UsageConfig(enabled=True, prices=prices))
    for name in "aab":
        assert fleet.answered(bearer(name))[0] == 200  # 11 prompt tokens, 3 of them cached, 1 of output
    assert fleet.answered(b"")[0] == 401
    ledger = fleet.admission.ledger
    assert ledger is not None
    rows = ledger.drain()
    assert set(rows) == {("a", "id-a", "m", "openai", ""), ("b", "id-b", "m", "openai", "")}
    row = dict(zip(COUNTERS, rows["a", "id-a", "m", "openai", ""], strict=True))
    assert row["prefill_saved_us"] > 0
    assert {k: row[k] for k in ("begun", "requests", "failed", "unreported")} == {
        "begun": 2, "requests": 2, "failed": 0, "unreported": 0
    }  # fmt: skip
    assert (row["prompt_tokens"], row["cached_tokens"], row["output_tokens"]) == (22, 6, 2)
    assert row["cost_nano"] == 2 * (8 * 10_000 + 3 * 1_000 + 1 * 100_000)
    assert ledger.drain() == {}


def test_what_is_under_way_has_begun_and_what_failed_cost_nothing() -> None:
    prices = (PriceConfig(model="*", prompt=1.0),)
    fleet = KeyedFleet(usage=UsageConfig(enabled=True, prices=prices))
    fleet.send(bearer("a"))
    ledger = fleet.admission.ledger
    assert ledger is not None
    ((key, row),) = ledger.drain().items()
    assert (key, row[BEGUN], row[REQUESTS]) == (("a", "id-a", "m", "openai", ""), 1, 0)
    fleet.answer(0, plain(400))
    assert fleet.answered(bearer("a"))[0] == 400
    ((_, row),) = ledger.drain().items()
    assert (row[BEGUN], row[REQUESTS], row[FAILED], row[COST]) == (1, 1, 1, 0)


@pytest.mark.parametrize("interface", ["any", "openai"])
def test_a_model_that_has_a_price_costs_it_whoever_lists_it(interface: Any) -> None:
    prices = (
        PriceConfig(model="*", prompt=1.0),
        PriceConfig(model="adapter", prompt=1000.0, interface=interface),
        PriceConfig(model="other", prompt=1000.0, interface="google"),
    )
    fleet = KeyedFleet(tenant(cost_per_day=1), usage=UsageConfig(enabled=True, prices=prices))
    caller = fleet.admission.keyring.find(KEYS["a"])
    assert caller is not None
    for model, name, cost_nano in (("adapter", "adapter", 100_000_000), ("other", "", 100_000)):
        standing = fleet.admission.standing(caller, model)
        assert standing.row.key[2] == name
        grant = fleet.admission.admit(standing, 100)
        assert grant is not None
        assert grant.cost_nano == cost_nano


def test_names_of_models_that_nobody_serves_do_not_fill_the_accounts() -> None:
    fleet = KeyedFleet(usage=UsageConfig(enabled=True))
    caller = fleet.admission.keyring.find(KEYS["a"])
    ledger = fleet.admission.ledger
    assert caller is not None
    assert ledger is not None
    for number in range(5):
        fleet.admission.admit(fleet.admission.standing(caller, f"junk{number}"), 1)
    assert set(ledger.drain()) == {("a", "id-a", "", "openai", "")}


# -- apart in the cache ---------------------------------------------------------------------------------------------


def sent_body(
    fleet: KeyedFleet, name: str, body: dict[str, Any], path: str = "/v1/chat/completions"
) -> dict[str, Any]:
    _, exchange = fleet.send(bearer(name), body, path=path)
    assert exchange is not None
    assert exchange.connection is not None
    written = bytes(exchange.connection.transport.written)  # type: ignore[attr-defined]
    head, _, data = written.partition(b"\r\n\r\n")
    assert int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) == len(data)
    fleet.reply(exchange)
    found: dict[str, Any] = json.loads(data)
    return found


def test_each_tenant_has_a_salt_of_its_own_which_no_client_can_choose() -> None:
    fleet = KeyedFleet(TenantConfig(id="a"), TenantConfig(id="b"), isolation=IsolationConfig(enabled=True))
    fleet.wire.worker.tenancy.use_secret(b"s" * 16)
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    of_a, of_b = (sent_body(fleet, name, body)["cache_salt"] for name in "ab")
    assert of_a != of_b
    assert sent_body(fleet, "a", body)["cache_salt"] == of_a
    forged = sent_body(fleet, "b", {**body, "cache_salt": of_a})["cache_salt"]
    assert forged not in (of_a, of_b)
    others = {
        "/v1/completions": {"model": "m", "prompt": "hi"},
        "/v1/responses": {"model": "m", "input": "hi"},
    }
    for path, other in others.items():
        assert sent_body(fleet, "a", other, path)["cache_salt"] == of_a
    kept = {**sent_body(fleet, "a", body)}
    del kept["cache_salt"]
    assert kept == body


def test_tenants_of_a_group_share_their_salt_and_their_fingerprints() -> None:
    fleet = KeyedFleet(
        TenantConfig(id="a", group="g"),
        TenantConfig(id="b", group="g"),
        isolation=IsolationConfig(enabled=True),
    )
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 4000}]}
    shapes = []
    for name in "ab":
        _, exchange = fleet.send(bearer(name), body)
        assert exchange is not None
        assert exchange.shape is not None
        shapes.append(exchange.shape.rungs)
        fleet.reply(exchange)
    assert shapes[0] == shapes[1] != []


def test_without_isolation_bodies_go_on_as_they_came_and_tenants_share_fingerprints() -> None:
    fleet = KeyedFleet()
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 4000}]}
    assert sent_body(fleet, "a", body) == body
    _, exchange = fleet.send(bearer("b"), body)
    assert exchange is not None
    assert exchange.decision is not None
    assert exchange.decision.kind == "warm"


def test_apart_one_tenants_prompt_is_never_predicted_for_another() -> None:
    fleet = KeyedFleet(isolation=IsolationConfig(enabled=True), replicas=2)
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 4000}]}
    sent_body(fleet, "a", body)
    for name, known in (("b", False), ("a", True)):
        _, exchange = fleet.send(bearer(name), body)
        assert exchange is not None
        assert exchange.decision is not None
        assert (exchange.decision.expected_tokens > 0) is known
        fleet.reply(exchange)


def test_a_coded_body_cannot_be_set_apart_and_is_refused() -> None:
    fleet = KeyedFleet(isolation=IsolationConfig(enabled=True))
    import gzip

    data = gzip.compress(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode())
    client = fleet.wire.connect()
    client.feed(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\n%bContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
        % (bearer("a"), len(data), data)
    )
    assert client.output.startswith(b"HTTP/1.1 415")
