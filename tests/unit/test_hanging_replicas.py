"""A replica hangs behind a server whose `/health` is fine: how many requests it costs how much, in virtual time."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.support.wire import ClientWire
from tests.support.wire_fleet import OK, LivePool, WireFleet, plain
from warmroute.core.fleet.fleet import ProbeSucceeded, RanksFound
from warmroute.core.fleet.peer_load import PeerLoad
from warmroute.core.health.health import FailureReason, ReplicaState
from warmroute.core.types import Incarnation, RequestShape
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.second import Second
from warmroute.dataplane.sweeper import PERIOD_S, Sweeper
from warmroute.dataplane.upstream import Asker, ReplicaConnection

CHAT = "/v1/chat/completions"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST_S = 0.05
"""From a request to its first byte where a replica is well."""
PROBE_S = 2.0


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


DATA = chunk(b'data: {"a":1}\n\n')
DONE = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def long_waits(took_s: list[float]) -> int:
    """How many waited for longer than the floor of a suspected replica."""
    return sum(1 for waited_s in took_s if waited_s > 0.5)


class Fleet:
    """Replicas that answer after a while, and clients that come at random; nothing waits for the time to pass."""

    def __init__(self, replicas: int, seed: int = 1, **settings: Any) -> None:
        self.fleet = WireFleet(replicas, **settings)
        self.gateway = self.fleet.gateway
        self.sweeper = Sweeper(self.gateway)
        self.now_s = self.began_s = time.monotonic() + 1000.0
        self.wall_s = time.time() - self.now_s
        self.gateway.clock = lambda: self.wall_s + self.now_s
        self.rng = random.Random(seed)
        self.stream_s = 1
        """From a stream's first byte to its end."""
        self.hangs: set[int] = set()
        self.server_answers: Callable[[bytes], bytes | None] = lambda _: None
        """What servers answer by themselves, without their engine."""
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.waits: list[tuple[float, ClientWire]] = []
        """When each request came, in order."""
        self.first_s: Callable[[], float] = lambda: FIRST_S
        """What the next answer's first byte takes."""
        self.patience_s = 1e9
        """After which clients leave."""
        self.left = 0
        self.took: dict[int, float] = {}
        self._waiting: set[int] = set()
        self._at(PERIOD_S, self._sweep)
        self._at(PROBE_S, self._probe)

    def since(self, number: int) -> list[float]:
        """How long the requests from this one on waited."""
        return [self.took[one] for one in range(number, len(self.waits))]

    def _at(self, after_s: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (self.now_s + after_s, self._count, what))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        until_s = self.now_s + seconds
        while self._due and self._due[0][0] <= until_s:
            self.now_s, _, what = heapq.heappop(self._due)
            what()
            self._look()
        self.now_s = until_s
        self._look()

    def _sweep(self) -> None:
        self.sweeper.sweep(self.now_s)
        self._at(PERIOD_S, self._sweep)

    def _probe(self) -> None:
        for replica in self.fleet.replicas:
            self.fleet.wire.probed(replica, self.gateway.clock())
        self._at(PROBE_S, self._probe)

    def use_ranks(self, ranks: int) -> None:
        """Each server has so many."""
        wire = self.fleet.wire
        for server in list(wire.worker.fleet.servers.values()):
            wire.worker.fleet.apply(RanksFound(server.id, ranks))
            event = ProbeSucceeded(
                server.id, Incarnation(5), {"m": {}}, None, None, self.gateway.clock(), True
            )
            wire.worker.fleet.apply(event)
        self.fleet.replicas = list(wire.worker.fleet.replicas.values())
        for replica in self.fleet.replicas:
            self.fleet._put(LivePool, replica)

    def traffic(self, rate: float, seconds: float, body: Callable[[int], tuple[str, dict[str, Any]]]) -> None:
        """Requests that come at random at this rate."""
        at_s = self.rng.expovariate(rate)
        while at_s < seconds:
            self._at(at_s, lambda: self.ask(*body(len(self.waits))))
            at_s += self.rng.expovariate(rate)

    def ask(self, path: str, body: dict[str, Any]) -> Exchange:
        """One request."""
        client, exchange = self.fleet.begin(body, path)
        self._waiting.add(len(self.waits))
        self.waits.append((self.now_s, client))
        self._look()
        return exchange

    def _look(self) -> None:
        """Stamp what was sent since with the time that it is here, and have the replicas answer it."""
        for side in list(self.gateway.connections):
            exchange = side.exchange  # type: ignore[attr-defined]
            if exchange is None:
                continue
            if not exchange.begun and self._sent(exchange.connection):
                exchange.progress_s = self.now_s
            second = exchange.second
            if second is not None and self._sent(second.connection):
                second.sent_s = self.now_s
        for pool in self.gateway.pools.values():
            if 0.0 < pool.patience.suspected_s < self.began_s:
                pool.patience.suspected_s = self.now_s
        for number in list(self._waiting):
            came_s, client = self.waits[number]
            if client.output:
                self.took[number] = self.now_s - came_s
            elif self.now_s - came_s > self.patience_s:
                self.left += 1
                client.lose()
            else:
                continue
            self._waiting.remove(number)

    def _sent(self, connection: ReplicaConnection | None) -> bool:
        if connection is None or not connection.transport.written:  # type: ignore[attr-defined]
            return False
        written: bytearray = connection.transport.written  # type: ignore[attr-defined]
        request = bytes(written)
        written.clear()
        pool = connection._pool
        number = next(n for n, r in enumerate(self.fleet.replicas) if self.gateway.pools[r] is pool)
        answer = self.server_answers(request)
        if answer is None:
            if number in self.hangs:
                return True
            first_s = self.first_s()
            if b'"stream": true' in request:
                self._deliver(connection, first_s, HEAD + DATA)
                for piece in range(1, 5 * self.stream_s):
                    self._deliver(connection, first_s + 0.2 * piece, DATA)
                self._deliver(connection, first_s + self.stream_s, DONE)
                return True
            answer = plain(200, OK)
        self._deliver(connection, FIRST_S, answer)
        return True

    def _deliver(self, connection: ReplicaConnection, after_s: float, piece: bytes) -> None:
        asker = connection.exchange

        def deliver() -> None:
            if connection.closed or connection.exchange is not asker and not moved(asker, connection):
                return
            pool = connection._pool
            heard_s = pool.heard_s
            connection.data_received(piece)
            if pool.heard_s != heard_s:
                pool.heard_s = self.now_s

        self._at(after_s, deliver)


def moved(asker: Asker | None, connection: ReplicaConnection) -> bool:
    """Whether a second try has become its request's only one."""
    return isinstance(asker, Second) and connection.exchange is asker._owner


def conversation(number: int, *, stream: bool = True) -> tuple[str, dict[str, Any]]:
    topic = number * 7919 % 64
    content = f"{topic} " + f"word{topic} " * 300 + f"question {number}"
    return CHAT, {"model": "m", "stream": stream, "messages": [{"role": "user", "content": content}]}


def plain_conversation(number: int) -> tuple[str, dict[str, Any]]:
    return conversation(number, stream=False)


def share(values: list[float], at: float) -> float:
    return sorted(values)[int(at * len(values))]


def well_then_hanging(
    seed: int, body: Callable[[int], tuple[str, dict[str, Any]]] = conversation, **more: float
) -> tuple[Fleet, list[float], list[float]]:
    """Ten replicas for 20 s, then with one of them hanging for 40 s: what all requests had to wait, 4 a second each."""
    fleet = Fleet(10, seed)
    for name, value in more.items():
        setattr(fleet.gateway, name, value)
    fleet.traffic(40.0, 20.0, body)
    fleet.run(25.0)
    before = len(fleet.waits)
    fleet.hangs.add(0)
    fleet.traffic(40.0, 40.0, body)
    fleet.run(60.0)
    fleet.fleet.wire.worker.fleet.validate()
    assert len(fleet.took) == len(fleet.waits), "nobody waits for ever"
    waited = [fleet.took[number] for number in range(len(fleet.waits))]
    return fleet, waited[:before], waited[before:]


@pytest.mark.parametrize("seed", range(3))
def test_one_of_ten_that_hangs_makes_less_than_one_in_two_hundred_wait_for_half_a_second(seed: int) -> None:
    fleet, before, after = well_then_hanging(seed)
    assert share(after, 0.99) <= 2.0 * share(before, 0.99)
    assert long_waits(after) <= 0.005 * len(after)
    assert max(after) < 3.0
    assert set(fleet.fleet.replicas[0].health.ejections) == {FailureReason.TIMEOUT}
    assert not any(replica.health.ejections for replica in fleet.fleet.replicas[1:])


def test_where_no_answer_streams_a_replica_that_hangs_is_found_out_too() -> None:
    fleet, _, after = well_then_hanging(1, plain_conversation, plain_s=0.5)
    assert fleet.fleet.replicas[0].health.ejections[FailureReason.TIMEOUT] >= 4
    assert long_waits(after) <= 0.015 * len(after), "the first 2 s, and trials"
    assert not any(replica.health.ejections for replica in fleet.fleet.replicas[1:])


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_are_less_patient_than_the_router_tell_of_it(stream: bool) -> None:
    """With a time-out of theirs that is shorter than what the router takes for late."""
    fleet = Fleet(4)
    fleet.gateway.plain_s = 2.0  # so that an answer that does not stream is late after 8 s
    fleet.patience_s = 0.9 if stream else 3.0
    fleet.traffic(16.0, 10.0, partial(conversation, stream=stream))
    fleet.run(15.0)
    fleet.hangs.add(0)
    fleet.traffic(16.0, 40.0, partial(conversation, stream=stream))
    fleet.run(50.0)
    assert fleet.fleet.replicas[0].health.ejections[FailureReason.TIMEOUT] >= 3
    assert fleet.left <= (20 if stream else 40), "of some 160 that would go there"
    assert not any(replica.health.ejections for replica in fleet.fleet.replicas[1:])


def test_one_long_answer_of_late_does_not_hide_a_replica_that_hangs() -> None:
    """Where no answer streams, most take three seconds, and one took five minutes."""
    fleet = Fleet(4)
    fleet.gateway.plain_s = 300.0
    fleet.gateway.plain_mean_s = 3.0
    fleet.patience_s = 20.0
    fleet.traffic(16.0, 10.0, plain_conversation)
    fleet.run(15.0)
    fleet.hangs.add(0)
    fleet.traffic(16.0, 120.0, plain_conversation)
    fleet.run(150.0)
    assert fleet.fleet.replicas[0].health.ejections[FailureReason.TIMEOUT] >= 3
    assert fleet.left <= 120, "of 480 that would go there: what came in the first 20 s"


def slow_engines(seed: int) -> Fleet:
    """Four replicas that take two seconds for each prompt, more or less, and have shown it."""
    fleet = Fleet(4, seed)
    fleet.first_s = lambda: fleet.rng.uniform(1.7, 2.3)
    for _ in range(12):
        fleet.ask(*new_prompt(fleet))
        fleet.run(4.0)
    return fleet


def new_prompt(fleet: Fleet) -> tuple[str, dict[str, Any]]:
    content = f"{len(fleet.waits)} " + "word " * 2000
    return CHAT, {"model": "m", "stream": True, "messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize("seed", range(3))
def test_a_replica_is_chosen_for_as_long_as_its_prompt_takes_what_was_predicted(seed: int) -> None:
    """What is left of a prediction is no measure of a silence: a turn that comes as a long prompt's end is near finds
    its home like any other."""
    fleet = slow_engines(seed)
    for _ in range(10):
        fleet.ask(*new_prompt(fleet))
        for _ in range(40):
            fleet.run(0.1)
            assert len(fleet.fleet.wire.worker.fleet.view("m").members) == 4
    assert all(pool.patience.suspected_s <= 0.0 for pool in fleet.gateway.pools.values())
    assert all(pool.patience.ratio < 1.5 for pool in fleet.gateway.pools.values())


def test_a_replica_that_was_late_is_chosen_from_its_first_byte_on() -> None:
    fleet = slow_engines(1)
    core = fleet.fleet.wire.worker.fleet
    fleet.first_s = lambda: 9.2
    fleet.ask(*new_prompt(fleet))
    fleet.run(9.1)
    assert len(core.view("m").members) == 3, "it has taken four times what was predicted"
    while len(fleet.took) < len(fleet.waits):
        fleet.run(0.01)
    assert len(core.view("m").members) == 4


def test_a_prompt_behind_another_routers_is_not_silent_before_that_is_over() -> None:
    fleet = slow_engines(1)
    core, now_s = fleet.fleet.wire.worker.fleet, fleet.gateway.clock()
    replica = next(iter(core.replicas.values()))
    ahead = PeerLoad(1, 1, 0, 20_000, 20_000, 0.0, 20_000)
    core.note_peer_load(replica, ahead, now_s)
    core.reserve_on(replica.id, RequestShape("m", [], 4_000, 1_000, 1, 1), now_s + 0.1)
    silent_s, expected_s, _ = core.overdue_s(replica, now_s + 9.0)
    assert silent_s == pytest.approx(9.0)
    assert expected_s > 10.0
    core.note_peer_load(replica, PeerLoad(1, 0, 0, 0, 0, 0.0, 0), now_s + 9.0)
    silent_s, expected_s, _ = core.overdue_s(replica, now_s + 9.1)
    assert silent_s == pytest.approx(0.1)
    assert 0.5 < expected_s < 2.0


def test_a_first_byte_out_of_turn_is_a_sign_of_life() -> None:
    fleet = slow_engines(1)
    core, now_s = fleet.fleet.wire.worker.fleet, fleet.gateway.clock()
    replica = next(iter(core.replicas.values()))
    shapes = [RequestShape("m", [], 4_000 * n, 1_000 * n, n, n) for n in (4, 1)]
    _, second = (core.reserve_on(replica.id, shape, now_s) for shape in shapes)
    assert core.overdue_s(replica, now_s + 8.0)[0] == pytest.approx(8.0)
    core.started(second, now_s + 7.0)
    assert core.overdue_s(replica, now_s + 8.0)[0] == pytest.approx(1.0)


def test_clients_that_leave_just_before_what_was_predicted_tell_nothing() -> None:
    fleet = slow_engines(2)
    fleet.patience_s = 1.6
    for _ in range(20):
        fleet.ask(*new_prompt(fleet))
        fleet.run(1.65)
        fleet.run(2.35)
    assert fleet.left == 20
    assert not any(replica.health.ejections or replica.health.failures for replica in fleet.fleet.replicas)


def test_a_prompt_that_a_cache_has_evicted_is_no_silence() -> None:
    """Predicted to be warm, and as slow as a cold one: each would be asked of a second replica, whose time that takes,
    and held against the first."""
    fleet = slow_engines(3)
    for _ in range(6):
        prompt = new_prompt(fleet)
        for _ in range(2):
            exchange = fleet.ask(*prompt)
            fleet.run(1.6)
            assert exchange.second is None
            assert len(fleet.fleet.wire.worker.fleet.view("m").members) == 4
            fleet.run(2.4)
    assert not any(replica.health.ejections or replica.health.failures for replica in fleet.fleet.replicas)
    assert all(pool.patience.ratio == 1.0 for pool in fleet.gateway.pools.values())


def test_a_warm_prompt_on_a_replica_that_hangs_waits_little_longer_than_a_cold_one_takes() -> None:
    fleet = slow_engines(4)
    prompt = new_prompt(fleet)
    fleet.ask(*prompt)
    fleet.run(4.0)
    began_s = [replica.began_s for replica in fleet.fleet.replicas]
    fleet.hangs.add(began_s.index(max(began_s)))
    fleet.ask(*prompt)
    fleet.run(10.0)
    assert fleet.took[len(fleet.waits) - 1] < 1.5 * 2.3 + 2.3 + PERIOD_S


def test_many_clients_that_leave_at_once_eject_nobody() -> None:
    fleet = Fleet(2)
    fleet.gateway.plain_s = 2.0
    fleet.hangs.update((0, 1))  # for all that is known they compute long answers
    fleet.traffic(1e6, 4e-5, plain_conversation)
    fleet.run(5.0)
    assert len(fleet.waits) > 20
    for _, client in fleet.waits:
        client.lose()
    assert not any(replica.health.ejections for replica in fleet.fleet.replicas)


def test_where_there_is_one_server_another_rank_answers_what_is_late_on_one_that_hangs() -> None:
    fleet = Fleet(1)
    fleet.use_ranks(4)
    fleet.traffic(16.0, 10.0, conversation)
    fleet.run(15.0)
    fleet.hangs.add(1)
    fleet.traffic(16.0, 40.0, conversation)
    fleet.run(50.0)
    assert len(fleet.took) == len(fleet.waits), "nobody waits for ever"
    assert max(fleet.took.values()) < 3.0
    assert not fleet.fleet.replicas[1].health.ejections, "the server is well"
    fleet.fleet.wire.worker.fleet.validate()


def test_one_rank_that_hangs_is_left_alone_though_its_server_answers_by_the_others() -> None:
    fleet = Fleet(2)
    fleet.use_ranks(4)
    fleet.traffic(32.0, 10.0, conversation)
    fleet.run(15.0)
    before = len(fleet.waits)
    fleet.hangs.add(5)
    fleet.traffic(32.0, 60.0, conversation)
    fleet.run(70.0)
    after = fleet.since(before)
    assert long_waits(after) <= 35, "of 240 that would go there"
    hung = fleet.fleet.replicas[5]
    assert hung.in_flight == 0
    assert not hung.health.ejections, "the server is well"
    given_tokens = hung.given_tokens
    fleet.hangs.clear()
    fleet.traffic(16.0, 40.0, conversation)
    fleet.run(45.0)
    assert hung.given_tokens > given_tokens + 2_000, "it is used again"
    assert hung.silences == 0


TOKENIZE = "/tokenize", {"model": "m", "prompt": "how many?"}


def mixed(number: int) -> tuple[str, dict[str, Any]]:
    return conversation(number // 2) if number % 2 else TOKENIZE


@pytest.mark.parametrize("answer", [plain(200, b'{"count":3}'), plain(400, b'{"error":{}}')], ids=[200, 400])
def test_what_a_server_answers_without_its_engine_says_nothing_of_the_engine(answer: bytes) -> None:
    fleet = Fleet(4)
    fleet.server_answers = lambda request: answer if b"/tokenize" in request[:30] else None
    fleet.traffic(32.0, 20.0, mixed)
    fleet.run(25.0)
    before = len(fleet.waits)
    fleet.hangs.add(0)
    fleet.traffic(32.0, 40.0, mixed)
    fleet.run(60.0)
    silent = fleet.fleet.replicas[0]
    assert silent.health.ejections[FailureReason.TIMEOUT] >= 4
    after = fleet.since(before)
    assert long_waits(after) <= 0.015 * len(after)


def test_streams_that_go_on_do_not_speak_for_requests_that_hang() -> None:
    fleet = Fleet(4)
    fleet.stream_s = 20
    fleet.traffic(8.0, 10.0, conversation)
    fleet.run(10.0)
    before = len(fleet.waits)
    fleet.hangs.add(0)
    fleet.traffic(8.0, 20.0, conversation)
    fleet.run(60.0)
    after = fleet.since(before)
    assert fleet.fleet.replicas[0].health.ejections[FailureReason.TIMEOUT] >= 2
    assert long_waits(after) <= 10, "of 40 that would go there in 20 s"


def test_a_replica_that_hung_and_answers_again_is_used_again() -> None:
    fleet = Fleet(4)
    fleet.traffic(16.0, 10.0, conversation)
    fleet.run(10.0)
    fleet.hangs.add(0)
    fleet.traffic(16.0, 20.0, conversation)
    fleet.run(20.0)
    assert fleet.fleet.replicas[0].state in (ReplicaState.EJECTED, ReplicaState.PROBING)
    fleet.hangs.clear()
    fleet.traffic(16.0, 30.0, conversation)
    fleet.run(35.0)
    assert fleet.fleet.replicas[0].state is ReplicaState.READY
