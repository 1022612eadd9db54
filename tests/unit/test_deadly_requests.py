"""A request that kills its engine: at most two die of it, and nobody else's request pays for that."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.support.wire_fleet import BREAKS, DIES, OK, WireFleet, plain
from warmroute.config.schema import HealthConfig

POISON = "POISON pill"
DEAD = plain(500, b'{"error":{"message":"EngineCore encountered an issue. See stack trace (above)."}}')
CHUNK = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
BEGINS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n" % (len(CHUNK), CHUNK)
)


def poisoned(replicas: int = 4, death: bytes = DIES, **health: float) -> WireFleet:
    fleet = WireFleet(replicas, health=HealthConfig(**health))  # type: ignore[arg-type]
    for number in range(replicas):
        fleet.scripts[number] = lambda sent: death if POISON.encode() in sent else plain(200, OK)
    return fleet


def code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


def test_a_request_that_kills_its_engine_kills_two_and_is_then_refused() -> None:
    fleet = poisoned()
    status, body = fleet.ask(POISON)
    assert (status, code(body)) == (502, "replica_failed")
    assert b"the request itself may be the cause" in body
    assert len(fleet.dead) == 2
    fleet.probe()
    for _ in range(3):
        status, body = fleet.ask(POISON)
        assert (status, code(body)) == (422, "deadly_request")
        assert all(fleet.replicas[number].id.encode() in body for number in fleet.dead)
    assert len(fleet.dead) == 2
    assert fleet.ask("harmless")[0] == 200
    assert fleet.wire.at_rest()


def test_it_is_told_from_others_by_its_prompt_and_length() -> None:
    fleet = poisoned()
    fleet.ask(POISON)
    fleet.probe()
    assert fleet.ask("POISON cure")[0] == 200
    body = {"model": "m", "messages": [{"role": "user", "content": POISON.lower()}], "max_tokens": 5}
    assert fleet.ask(body)[0] == 200
    long = "word " * 4000
    assert fleet.ask(long + POISON)[0] == 502, "and kills the other two, which no fleet can help"
    fleet.probe()


def test_the_second_try_of_the_client_is_the_last_where_the_router_tries_once() -> None:
    fleet = WireFleet(4, max_attempts=1)
    for number in range(4):
        fleet.answer(number, DIES)
    for deaths in (1, 2, 2):
        fleet.ask(POISON)
        fleet.probe()
        fleet.probe()
        assert len(fleet.dead) == deaths


def test_a_router_does_not_try_again_what_the_client_tried_before() -> None:
    fleet = poisoned()
    client, exchange = fleet.begin(POISON)
    fleet.reply(exchange)  # dies, and goes to another
    client.lose()
    fleet.probe()
    assert len(fleet.dead) == 1
    fleet.ask(POISON)
    assert len(fleet.dead) == 2


def test_one_that_kills_in_the_middle_of_its_stream_is_refused_the_third_time() -> None:
    fleet = WireFleet(4)
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": POISON}]}
    for _ in range(2):
        client, exchange = fleet.begin(body)
        assert exchange.connection is not None
        number = fleet.replica_of(exchange)
        exchange.connection.data_received(BEGINS)
        fleet.kill(number)
        assert b'"replica_lost"' in client.output
        fleet.probe()
    status, answer = fleet.ask(body)
    assert (status, code(answer)) == (422, "deadly_request")


def test_engines_that_die_behind_their_servers_count_too() -> None:
    fleet = poisoned(death=DEAD)
    status, body = fleet.ask(POISON)
    assert (status, b"EngineCore" in body) == (500, True)
    assert len(fleet.served) == 2
    fleet.dead = set(fleet.served)  # for the probe: their /health is 503
    fleet.probe()
    assert fleet.ask(POISON)[0] == 422


def test_what_arrives_at_a_dead_engine_is_tried_again_freely() -> None:
    fleet = WireFleet(4, max_attempts=4)
    _, killer = fleet.begin("a")
    first = fleet.replica_of(killer)
    fleet.answer(first, DEAD)
    fleet.reply(killer)
    while killer.decision is not None:
        fleet.reply(killer)
    fleet.answer(first, DEAD)
    for number in range(20):  # each of them may come to the dead engine first
        assert fleet.ask(f"later {number}")[0] == 200
    assert len(fleet.served) > 22


def test_refused_connections_are_no_deaths_however_many() -> None:
    fleet = WireFleet(4, max_attempts=4)
    for number in range(3):
        fleet.kill(number)
    assert set(fleet.statuses([f"{number}" for number in range(10)])) == {200}
    assert not fleet.gateway.deaths.remembers


def test_all_that_was_under_way_on_one_that_dies_is_answered_by_others() -> None:
    fleet = WireFleet(4)
    begun = [fleet.begin(f"question {number}") for number in range(60)]
    fleet.kill(0)
    for client, exchange in begun:
        while client.connection.exchange is exchange:
            fleet.reply(exchange)
        assert client.output.startswith(b"HTTP/1.1 200 ")
    assert not fleet.gateway.deaths.remembers, "an answer clears it"
    fleet.probe()
    assert set(fleet.statuses([f"question {number}" for number in range(60)])) == {200}


def test_a_request_that_met_two_restarts_is_served_once_it_was_answered_between() -> None:
    fleet = WireFleet(3)
    for _ in range(4):
        client, exchange = fleet.begin("the same probe of a monitor")
        number = fleet.replica_of(exchange)
        fleet.kill(number)
        while client.connection.exchange is exchange:
            fleet.reply(exchange)
        assert client.output.startswith(b"HTTP/1.1 200 ")
        fleet.probe()
        fleet.revive(number)


def test_broken_connections_to_replicas_that_live_are_no_deaths() -> None:
    fleet = poisoned(death=BREAKS)
    for _ in range(5):
        assert fleet.ask(POISON)[0] == 502
        fleet.probe()
    assert not fleet.dead


def test_a_broken_connection_does_not_excuse_a_death_that_follows() -> None:
    fleet = poisoned()
    for number in range(4):
        fleet.scripts[number] = lambda sent: BREAKS
    fleet.statuses([f"{number}" for number in range(8)])
    for number in range(4):
        fleet.scripts[number] = lambda sent: DIES if POISON.encode() in sent else plain(200, OK)
    fleet.probe()
    fleet.statuses([f"later {number}" for number in range(20)])
    assert fleet.ask(POISON)[0] == 502
    assert len(fleet.dead) == 2
    fleet.probe()
    assert fleet.ask(POISON)[0] == 422


def test_a_stale_connection_and_then_nobody_there_may_have_been_a_death() -> None:
    """Engines that answered before: a connection used again is lost as a stale one is."""
    fleet = poisoned()
    fleet.statuses([f"warm up {number}" for number in range(20)])
    assert set(fleet.served) == {0, 1, 2, 3}
    assert fleet.ask(POISON)[0] == 502
    assert len(fleet.dead) == 2
    fleet.probe()
    assert fleet.ask(POISON)[0] == 422


def test_a_reload_changes_how_long_it_is_remembered() -> None:
    fleet = poisoned()
    worker = fleet.wire.worker
    health = HealthConfig(deadly_request_s=0.0)
    worker.gateway.configure(replace(worker.config, health=health), None)
    fleet.ask(POISON)
    assert not fleet.gateway.deaths.remembers


def test_it_is_remembered_for_minutes_and_may_be_switched_off() -> None:
    fleet = poisoned(deadly_request_s=300.0)
    now_s = fleet.gateway.clock()
    fleet.gateway.clock = lambda: now_s
    fleet.ask(POISON)
    fleet.probe()
    now_s += 299.0
    assert fleet.ask(POISON)[0] == 422
    now_s += 2.0
    for number in range(4):
        fleet.answer(number, plain(200, OK))
    assert fleet.ask(POISON)[0] == 200
    fleet = poisoned(deadly_request_s=0.0)
    fleet.ask(POISON)
    fleet.probe()
    fleet.ask(POISON)
    assert len(fleet.dead) == 3, "half of the fleet is gone: no further is tried"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "m", "input": POISON}),
        ("/v1/completions", {"model": "m", "prompt": POISON}),
        ("/v1/responses", {"model": "m", "input": POISON}),
        ("/v1/messages", {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": POISON}]}),
    ],
)
def test_in_every_api(path: str, body: dict[str, object]) -> None:
    fleet = poisoned()
    assert fleet.ask(body, path)[0] == 502
    fleet.probe()
    status, answer = fleet.ask(body, path)
    assert (status, code(answer)) == (422, "deadly_request")
    assert (json.loads(answer).get("type") == "error") == (path == "/v1/messages")
