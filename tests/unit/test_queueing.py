"""Requests in the fleet's queue on their way through the router: who waits, who is refused, what is charged."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import pytest

from tests.support.tenants import KEYS, KeyedFleet, bearer, key_record
from tests.support.wire import ClientWire
from tests.support.wire_fleet import WireFleet, plain
from warmroute.config.schema import KeysConfig, QueueConfig, TenantConfig, UsageConfig
from warmroute.core.holding.shares import MOST_FLOWS
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.queueing import SEARCHED_BYTES, Queueing
from warmroute.tenants.tenant import Priority

ONE = QueueConfig(enabled=True, max_under_way=1)
"""One request at a time on each replica."""


def in_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The queue's timer needs one."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))  # type: ignore[arg-type]

    return run


def queueing_of(fleet: WireFleet) -> Queueing:
    queueing = fleet.gateway.queueing
    assert queueing is not None
    return queueing


def keyed(queue: QueueConfig = ONE, **priorities: Priority) -> KeyedFleet:
    records = [key_record(name, priority=priorities.get(name)) for name in ("a", "b")]
    return KeyedFleet(TenantConfig(id="a"), TenantConfig(id="b", weight=2.0), records=records, queue=queue)


def sent(fleet: KeyedFleet, name: str, *arguments: Any, **named: Any) -> tuple[ClientWire, Exchange]:
    client, exchange = fleet.send(bearer(name), *arguments, **named)
    assert exchange is not None
    return client, exchange


def waits(exchange: Exchange) -> bool:
    return exchange.connection is None and exchange._ticket is not None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/tokenize"])
@in_a_loop
async def test_requests_for_every_route_wait_for_a_replica_to_come_free(path: str) -> None:
    fleet = keyed()
    _, first = sent(fleet, "a")
    client, second = sent(fleet, "b", path=path, body={"model": "m", "messages": [], "input": "x"})
    assert waits(second)
    assert queueing_of(fleet).waiting() == {"interactive": 0, "default": 1, "batch": 0}
    fleet.reply(first)
    assert second.connection is not None
    fleet.reply(second)
    assert client.output.startswith(b"HTTP/1.1 200")
    assert fleet.wire.at_rest()
    assert sum(queueing_of(fleet).waiting().values()) == 0


@in_a_loop
async def test_who_is_urgent_goes_first_whatever_says_so() -> None:
    fleet = WireFleet(1, queue=ONE)
    _, running = fleet.begin("runs")
    ways: list[dict[str, Any]] = [
        {"service_tier": "flex"},
        {},
        {"service_tier": "priority"},
        {"priority": -3},
        {"priority": 9},
    ]
    exchanges = []
    for number, fields in enumerate(ways):
        body = {"model": "m", "messages": [{"role": "user", "content": f"q{number}"}], **fields}
        exchanges.append(fleet.begin(body)[1])
    assert queueing_of(fleet).waiting() == {"interactive": 2, "default": 1, "batch": 2}
    order = []
    while running is not None:
        fleet.reply(running)
        going = [exchange for exchange in exchanges if exchange.connection is not None]
        running = going[0] if going else None  # type: ignore[assignment]
        if going:
            order.append(exchanges.index(running))
            exchanges[order[-1]] = going[0]
            if len(order) == len(ways):
                fleet.reply(running)
                break
    assert set(order[:2]) == {2, 3}
    assert order[2] == 1
    assert set(order[3:]) == {0, 4}


@pytest.mark.parametrize(
    ("own", "asked", "level"),
    [
        (Priority.BATCH, b"interactive", 2),
        (Priority.DEFAULT, b"batch", 2),
        (Priority.INTERACTIVE, b"default", 1),
        (Priority.INTERACTIVE, b"nonsense", 0),
        (None, b"interactive", 1),
    ],
)
@in_a_loop
async def test_nobody_asks_for_more_than_the_class_of_its_key(
    own: Priority | None, asked: bytes, level: int
) -> None:
    fleet = keyed(**({} if own is None else {"b": own}))
    sent(fleet, "a")
    _, exchange = fleet.send(bearer("b") + b"X-Warmroute-Priority: " + asked + b"\r\n")
    assert exchange is not None
    assert exchange._ticket.level == level  # type: ignore[union-attr]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@in_a_loop
async def test_a_refusal_has_the_shape_of_the_called_api_and_says_when_to_come_back(path: str) -> None:
    fleet = keyed(QueueConfig(enabled=True, max_under_way=1, max_requests=1))
    sent(fleet, "a")
    _, waiting = sent(fleet, "a")
    client, _ = fleet.send(bearer("a"), path=path)
    head, _, body = client.output.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"\r\nretry-after: " in head
    error = json.loads(body)["error"]
    if path == "/v1/messages":
        assert error["type"] == "overloaded_error"
    else:
        assert error["code"] == "overloaded"
    assert waits(waiting)
    assert queueing_of(fleet).refused() == {"interactive": 0, "default": 1, "batch": 0}


@in_a_loop
async def test_another_tenant_s_request_takes_the_place_of_one_that_sends_too_much() -> None:
    fleet = keyed(QueueConfig(enabled=True, max_under_way=1, max_requests=2))
    sent(fleet, "a")
    noisy = [sent(fleet, "a") for _ in range(2)]
    _, quiet = sent(fleet, "b")
    assert waits(quiet)
    assert noisy[1][0].output.startswith(b"HTTP/1.1 503")
    assert waits(noisy[0][1])


@in_a_loop
async def test_a_request_s_own_timeout_refuses_it_in_time() -> None:
    fleet = keyed()
    _, first = sent(fleet, "a")
    client, exchange = fleet.send(bearer("b") + b"X-Request-Timeout: 20ms\r\n")
    assert exchange is not None
    assert waits(exchange)
    async with asyncio.timeout(60):
        while not client.output:
            await asyncio.sleep(0.005)
    assert client.output.startswith(b"HTTP/1.1 504")
    assert b'"deadline_exceeded"' in client.output
    fleet.reply(first)
    assert fleet.wire.at_rest()


@in_a_loop
async def test_a_client_that_leaves_the_line_leaves_nothing_behind() -> None:
    fleet = keyed()
    _, first = sent(fleet, "a")
    client, exchange = sent(fleet, "b")
    assert waits(exchange)
    client.lose()
    assert sum(queueing_of(fleet).waiting().values()) == 0
    fleet.reply(first)
    assert fleet.wire.at_rest()
    assert fleet.served == [0]


@in_a_loop
async def test_a_tenant_is_charged_what_its_answers_say_and_nothing_twice() -> None:
    fleet = keyed(QueueConfig(enabled=True, max_under_way=1, cached_token=0.5, output_token=2.0))
    _, first = sent(fleet, "a")
    _, second = sent(fleet, "b")
    fleet.reply(first)
    fleet.reply(second)
    told = queueing_of(fleet).shares.untold(10)
    # 11 tokens of prompt, 3 of them cached, and 1 of output, whether it waited or not.
    assert sorted(tokens for _, tokens in told) == [11, 11]
    assert fleet.wire.at_rest()


@pytest.mark.parametrize("waits_first", [False, True])
@in_a_loop
async def test_a_tenant_that_leaves_before_the_end_is_charged_what_it_was_passed_on(
    waits_first: bool,
) -> None:
    fleet = keyed()
    if waits_first:
        _, first = sent(fleet, "b")
    client, exchange = sent(fleet, "a", {"model": "m", "stream": True, "messages": []})
    if waits_first:
        fleet.reply(first)
    assert exchange.connection is not None
    event = b'data: {"choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
    exchange.connection.data_received(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(1000):
        exchange.connection.data_received(b"%x\r\n%b\r\n" % (len(event), event))
    client.lose()
    told = dict(queueing_of(fleet).shares.untold(10))
    assert told[queueing_of(fleet).flow_of(fleet.admission.keyring.find(KEYS["a"])).key] > 900
    assert fleet.wire.at_rest()


@pytest.mark.parametrize("set_by_s", [3600.0, -3600.0])
@in_a_loop
async def test_who_waits_while_the_clock_is_set_waits_on(set_by_s: float) -> None:
    fleet = keyed()
    gateway, hold = fleet.gateway, fleet.gateway.hold
    assert hold is not None
    _, first = sent(fleet, "a")
    client, second = sent(fleet, "b")
    was = gateway.clock
    gateway.clock = hold._clock = lambda: was() + set_by_s
    hold.release(gateway.clock())
    _, third = sent(fleet, "b")
    hold.release(gateway.clock())
    assert waits(second)
    assert waits(third)
    for one in (second, third):
        assert one._ticket is not None
        assert 29.0 < one._ticket.deadline_s - gateway.clock() <= 30.0  # type: ignore[attr-defined]
    fleet.reply(first)
    assert 0.0 <= second.held_s < 10.0
    fleet.reply(second)
    fleet.reply(third)
    assert client.output.startswith(b"HTTP/1.1 200")
    assert fleet.wire.at_rest()


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
@in_a_loop
async def test_a_stored_response_that_is_read_again_is_no_more_work_and_no_more_tokens(method: str) -> None:
    fleet = keyed()
    replica = fleet.replicas[0].id
    fleet.gateway.registry.remember_response("resp_1", replica)
    body = b'{"id":"resp_1","output":[],"pad":"%b","usage":{"input_tokens":900,"output_tokens":50,"total_tokens":950}}'
    for answer in (
        plain(200, body % (b"x" * 5000)),
        plain(200, b'{"id":"resp_1","pad":"%b"}' % (b"x" * 5000)),
    ):
        fleet.answer(0, answer)
        path = "/v1/responses/resp_1" + ("/cancel" if method == "POST" else "")
        status, _, _ = fleet.answered(bearer("a"), path=path, method=method)
        assert status == 200
    assert queueing_of(fleet).shares.untold(10) == []
    assert all(
        tokens.prompt == tokens.completion == 0 for tokens in fleet.wire.worker.metrics.tokens.values()
    )
    assert fleet.wire.at_rest()


@in_a_loop
async def test_there_is_no_queue_unless_there_are_tenants_or_it_is_asked_for() -> None:
    assert WireFleet(1).gateway.queueing is None
    assert KeyedFleet().gateway.queueing is None
    assert KeyedFleet(TenantConfig(id="a")).gateway.queueing is not None
    off = QueueConfig(enabled=False)
    assert KeyedFleet(TenantConfig(id="a"), queue=off).gateway.queueing is None


@in_a_loop
async def test_the_first_tenants_that_a_reload_brings_make_a_queue() -> None:
    fleet = KeyedFleet(queue=QueueConfig(max_under_way=1))
    worker, gateway = fleet.wire.worker, fleet.gateway
    assert gateway.queueing is None
    long = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x" * 400_000}]}
    _, first = sent(fleet, "a", long)
    _, held = sent(fleet, "b", long)
    assert waits(held)
    before = gateway.hold
    worker.reload(
        dataclasses.replace(worker.config, tenants=(TenantConfig(id="a"), TenantConfig(id="b", weight=2.0)))
    )
    assert gateway.hold is not before
    assert held.connection is not None, "who was held is let go"
    _, third = sent(fleet, "b")
    assert waits(third)
    assert third._ticket.flow.weight == 2.0  # type: ignore[union-attr]
    client, _ = sent(fleet, "a")
    assert queueing_of(fleet).waiting()["default"] == 2
    assert b'warmroute_queue_refused_total{class="default"} 0' in worker._exposition.render("")[0]
    client.lose()
    for exchange in (first, held, third):
        fleet.reply(exchange)
    shares = worker.load_reports._shares
    assert shares is queueing_of(fleet).shares
    assert len(shares.untold(10)) == 2
    worker.reload(dataclasses.replace(worker.config, tenants=()))
    assert gateway.queueing is not None, "it stays"
    assert fleet.wire.at_rest()


@pytest.mark.parametrize("settings", [{"queue": QueueConfig(enabled=False)}, {"keys": KeysConfig()}])
@in_a_loop
async def test_no_reload_makes_a_queue_that_is_not_wanted_or_knows_nobody(settings: dict[str, Any]) -> None:
    fleet = WireFleet(
        1, usage=UsageConfig(enabled=True), **{"keys": KeysConfig(url="/nowhere/keys"), **settings}
    )
    worker = fleet.wire.worker
    worker.reload(dataclasses.replace(worker.config, tenants=(TenantConfig(id="a"),)))
    assert fleet.gateway.queueing is None


@in_a_loop
async def test_a_long_body_is_searched_at_its_beginning_and_its_end() -> None:
    fleet = WireFleet(1, queue=ONE)
    fleet.begin("runs")
    long = "x" * (3 * SEARCHED_BYTES)
    _, exchange = fleet.begin({"model": "m", "prompt": long, "priority": 5}, path="/v1/completions")
    assert exchange._ticket.level == 2  # type: ignore[union-attr]


@in_a_loop
async def test_what_nobody_in_particular_was_served_is_known_also_where_it_was_forgotten() -> None:
    queueing = queueing_of(keyed())
    before = queueing.flow_of(None)
    for key in range(1, MOST_FLOWS + 1):
        queueing.shares.charge(queueing.shares.flow(key, 1.0), 1.0, 0.0)
    assert not before.known
    after = queueing.flow_of(None)
    assert after.known
    assert after is queueing.shares.flow(0, 1.0)
