"""Replicas that answer with errors: no prompt counts as held there, the odd one is found out, none by one client."""

from __future__ import annotations

import pytest

from tests.support.wire_fleet import OK, WireFleet, plain
from warmroute.config.schema import HealthConfig, PolicyConfig
from warmroute.core.health.health import FailureReason, ReplicaState

BROKEN = plain(500, b'{"error":{"message":"CUDA out of memory"}}')
EVENTS = b'data: {"error":{"message":"CUDA out of memory"}}\n\ndata: [DONE]\n\n'
BROKEN_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (
    len(EVENTS),
    EVENTS,
)
SYSTEM = "You are an assistant. " * 300


def ask_many(fleet: WireFleet, count: int, system: str = "") -> list[int]:
    """Distinct questions, a probe after every tenth, as under some traffic."""
    statuses = []
    for number in range(count):
        statuses.append(fleet.ask(f"{system} question {number} {len(fleet.served)}")[0])
        if number % 10 == 9:
            fleet.probe()
    return statuses


@pytest.mark.parametrize(
    "broken",
    [BROKEN, plain(401), plain(403), plain(404), BROKEN_STREAM],
    ids=["500", "401", "403", "404", "stream"],
)
@pytest.mark.parametrize("policy", ["prefix-cost", "round-robin"])
def test_one_of_four_answers_errors_to_everything(broken: bytes, policy: str) -> None:
    fleet = WireFleet(4, policy=PolicyConfig(name=policy))  # type: ignore[arg-type]
    fleet.answer(0, broken)
    ask_many(fleet, 60)
    errors = fleet.served.count(0)
    assert errors >= 3
    while fleet.served.count(0) < 10:
        ask_many(fleet, 10)
    clients: list[bytes] = []
    fleet.scripts[0] = lambda _: clients.append(b"") or broken  # type: ignore[func-returns-value]
    statuses = ask_many(fleet, 500)
    failed = sum(status != 200 for status in statuses)
    if broken == BROKEN_STREAM:
        failed = 0  # told by the answers
    assert failed < 10, "under 2 % after its first ten errors"
    assert len(clients) <= 52, "one trial a probe"
    fleet.answer(0, plain(200, OK))
    fleet.probe()
    fleet.served.clear()
    assert set(ask_many(fleet, 40)) == {200}
    assert fleet.replicas[0].state is ReplicaState.READY
    assert fleet.served.count(0) > 4
    assert fleet.wire.at_rest()


def test_a_stream_of_one_error_event_reaches_few_clients() -> None:
    fleet = WireFleet(4)
    fleet.answer(0, BROKEN_STREAM)
    bodies = [fleet.ask(f"question {number}")[1] for number in range(200)]
    assert sum(b"out of memory" in body for body in bodies) <= 3


def test_users_of_one_system_prompt_do_not_all_go_where_it_fails() -> None:
    """120 of 120 did: what was noted at dispatch drew the next one."""
    fleet = WireFleet(4)
    fleet.answer(0, BROKEN)
    for system in range(8):
        assert ask_many(fleet, 30, f"{system} " + SYSTEM).count(500) <= 3, system


def test_a_client_s_retry_reaches_another_replica() -> None:
    fleet = WireFleet(4, health=HealthConfig(failures=1000))
    for number in range(3):
        fleet.answer(number, BROKEN)
    for number in range(20):
        prompt = f"{number} " + SYSTEM
        _, exchange = fleet.begin(prompt)
        while not exchange.attempts or exchange.decision is not None:
            fleet.reply(exchange)
        assert fleet.holders(exchange) <= {3}, "only who computed it holds it"


@pytest.mark.parametrize("status", [400, 401, 404, 413, 429, 500, 503])
def test_an_error_answer_leaves_no_record_and_takes_none_away(status: int) -> None:
    fleet = WireFleet(1)
    fleet.answer(0, plain(status))
    _, exchange = fleet.begin(SYSTEM)
    assert fleet.holders(exchange) == {0}, "siblings of a burst find it"
    fleet.reply(exchange)
    assert fleet.holders(exchange) == set()
    fleet.answer(0, plain(200, OK))
    assert fleet.ask(SYSTEM)[0] == 200
    fleet.answer(0, plain(status))
    fleet.ask(SYSTEM)
    assert fleet.holders(exchange) == {0}, "it was computed once"


def test_a_client_that_leaves_before_the_first_byte_leaves_no_record() -> None:
    fleet = WireFleet(1)
    client, exchange = fleet.begin(SYSTEM)
    client.lose()
    assert fleet.holders(exchange) == set()
    assert fleet.wire.at_rest()


def test_a_client_that_leaves_a_stream_leaves_what_was_computed() -> None:
    fleet = WireFleet(1)
    client, exchange = fleet.begin(SYSTEM)
    assert exchange.connection is not None
    exchange.connection.data_received(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        b'f\r\ndata: {"a":1}\n\n\r\n'
    )
    client.lose()
    assert fleet.holders(exchange) == {0}


def test_a_time_out_leaves_no_record() -> None:
    fleet = WireFleet(1)
    _, exchange = fleet.begin(SYSTEM)
    exchange.time_out()
    assert fleet.holders(exchange) == set()


def test_of_a_burst_the_one_that_was_answered_keeps_the_record() -> None:
    fleet = WireFleet(1)
    _, first = fleet.begin(SYSTEM + "a")
    _, second = fleet.begin(SYSTEM + "b")
    fleet.answer(0, BROKEN)
    fleet.reply(first)
    fleet.answer(0, plain(200, OK))
    fleet.reply(second)
    assert fleet.holders(second) == {0}


def test_a_burst_that_failed_leaves_nothing_whoever_relied_on_whom() -> None:
    now_s = 1_800_000_000.0
    fleet = WireFleet(1)
    fleet.gateway.clock = lambda: now_s
    fleet.answer(0, BROKEN)
    _, first = fleet.begin(SYSTEM + "a")
    now_s += 5.0  # later than what is noted already is left alone
    _, second = fleet.begin(SYSTEM + "b")
    fleet.reply(first)
    fleet.reply(second)
    assert fleet.holders(first) == fleet.holders(second) == set()


def test_one_client_s_bad_requests_eject_nobody() -> None:
    """They share a prefix, so they all go to one replica, and fail wherever they go."""
    fleet = WireFleet(4)
    for number in range(4):
        fleet.scripts[number] = lambda sent: BROKEN if b"bad tool" in sent else plain(200, OK)
    bad = tried = 0
    for number in range(100):
        before = len(fleet.served)
        assert fleet.ask(SYSTEM + f"bad tool {number}")[0] == 500
        tried += len(fleet.served) - before
        bad += 1
        assert fleet.ask(f"good {number}")[0] == 200
        assert all(replica.state is ReplicaState.READY for replica in fleet.replicas)
        assert all(replica.health.failures == 0 for replica in fleet.replicas)
    assert tried < 1.5 * bad, "now and then one is put before another replica"


def test_errors_that_blame_the_request_are_never_tried_again() -> None:
    fleet = WireFleet(4)
    for number in range(4):
        fleet.answer(number, plain(400))
    assert set(fleet.statuses([f"{number}" for number in range(40)])) == {400}
    assert len(fleet.served) == 40


def test_an_error_of_the_only_replica_is_the_client_s() -> None:
    fleet = WireFleet(1)
    fleet.answer(0, BROKEN)
    assert fleet.statuses([f"{number}" for number in range(20)]) == [500] * 20
    assert fleet.replicas[0].state is ReplicaState.READY


def test_where_all_err_alike_nobody_is_ejected_and_little_is_tried_twice() -> None:
    fleet = WireFleet(4)
    for number in range(4):
        fleet.answer(number, BROKEN)
    assert set(fleet.statuses([f"{number}" for number in range(200)])) == {500}
    assert all(replica.state is ReplicaState.READY for replica in fleet.replicas)
    assert len(fleet.served) < 240


def test_a_third_of_one_replica_s_answers_are_errors() -> None:
    fleet = WireFleet(4)
    count = 0

    def flaky(_: bytes) -> bytes:
        nonlocal count
        count += 1
        return plain(200, OK) if count % 3 else BROKEN

    fleet.scripts[0] = flaky
    ask_many(fleet, 100)
    assert ask_many(fleet, 400).count(500) < 8
    assert fleet.served.count(0) > 30, "it is used all the same"


def test_a_trial_that_errs_costs_no_client_and_ejects_again() -> None:
    fleet = WireFleet(2)
    fleet.answer(0, BROKEN)
    ask_many(fleet, 40)
    replica = fleet.replicas[0]
    for _ in range(5):
        fleet.probe()
        assert replica.state is ReplicaState.PROBING
        assert replica.health.reason is FailureReason.ERROR
        assert set(fleet.statuses([f"{number} {len(fleet.served)}" for number in range(20)])) == {200}
        assert replica.state is ReplicaState.EJECTED


# -- load that is shed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shed",
    [plain(429), plain(503, b"The engine is currently busy"), plain(503, fields=b"Retry-After: 1\r\n")],
    ids=["429", "busy", "retry-after"],
)
def test_one_of_two_sheds_load_and_no_client_hears_of_it(shed: bytes) -> None:
    fleet = WireFleet(2)
    fleet.answer(0, shed)
    assert set(ask_many(fleet, 60) + ask_many(fleet, 60, SYSTEM)) == {200}
    assert fleet.replicas[0].state is ReplicaState.READY
    assert fleet.replicas[0].health.failures == 0


def test_where_all_shed_load_the_client_hears_the_last() -> None:
    fleet = WireFleet(2)
    fleet.answer(0, plain(429, b'"a"'))
    fleet.answer(1, plain(429, b'"b"'))
    status, body = fleet.ask("x")
    assert status == 429
    assert body == (b'"a"', b'"b"')[fleet.served[-1]]
    assert sorted(fleet.served) == [0, 1]


def test_where_the_other_is_dead_the_client_hears_that_this_one_sheds_load() -> None:
    fleet = WireFleet(2)
    fleet.answer(0, plain(429, b'"busy"', b"Retry-After: 3\r\n"))
    fleet.kill(1)
    for number in range(10):
        client, exchange = fleet.begin(f"{number}")
        while client.connection.exchange is exchange and exchange is not None:
            fleet.reply(exchange)
        assert client.output.startswith(b"HTTP/1.1 429 ")
        assert b"Retry-After: 3" in client.output
        assert client.output.endswith(b'"busy"')
    assert fleet.wire.at_rest()
