"""Requests held at the router: who goes when, who goes first, what bounds the waiting."""

from __future__ import annotations

import pytest

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.choice.cost import CostParameters
from warmroute.core.errors import NotFoundError, RouterError
from warmroute.core.fleet.fleet import Decision, Fleet, ProbeSucceeded, ReplicaRemoved
from warmroute.core.fleet.hold_terms import HoldTerms
from warmroute.core.fleet.peer_load import PeerLoad
from warmroute.core.health.health import FailureReason
from warmroute.core.holding.parameters import HoldParameters
from warmroute.core.holding.queue import STAGGER_S, HoldQueue
from warmroute.core.holding.ticket import Ticket
from warmroute.core.learning.sample import WAY_S
from warmroute.core.types import FingerprintHash, Incarnation, ReplicaId, RequestShape

TO_ORDER = HoldParameters()
"""256 tokens ahead, and the way, are 37 ms at 8,000 tokens a second."""


def prompt(tokens: int, streams: bool = True, model: str = "m") -> RequestShape:
    return RequestShape(model, [], tokens * 4, tokens, 1, 1, streams)


RUNGS = [FingerprintHash(number) for number in range(1, 63)]
"""Of a prompt of 32,000 bytes."""


class World:
    """A queue before `replicas` replicas, and what it granted."""

    def __init__(self, replicas: int = 1, parameters: HoldParameters = TO_ORDER) -> None:
        self.fleet: Fleet = ready_fleet(replicas)
        self.queue = HoldQueue(self.fleet, parameters)
        self.granted: list[tuple[str, Decision | RouterError]] = []

    def answer(self, decision: Decision, first_s: float, lasts_s: float, tokens: int) -> None:
        """The answer's first byte, its end, and what it had."""
        self.fleet.started(decision, first_s)
        self.fleet.settle(decision, first_s + lasts_s)
        self.fleet.learn(decision, prompt(8000), 0, None, None, tokens)

    def offer(self, name: str, tokens: int, now_s: float, streams: bool = True) -> Decision | Ticket:
        shape = prompt(tokens, streams)
        answer = self.queue.offer(shape, None, now_s, lambda a: self.granted.append((name, a)))
        self.queue.release(now_s)
        return answer

    def goes_between(self, name: str, early_s: float, late_s: float) -> None:
        """Nobody is granted by the one time, and only this one by the other."""
        self.queue.release(early_s)
        assert self.names == []
        self.queue.release(late_s)
        assert self.names == [name]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.granted]


def test_a_free_replica_is_given_a_request_at_once() -> None:
    world = World()
    assert isinstance(world.offer("a", 8000, 0.0), Decision)
    assert world.queue.release(0.0) is None


def test_a_request_waits_while_every_replica_has_a_prompt_to_work_on() -> None:
    world = World()
    first = world.offer("a", 8000, 0.0)
    assert isinstance(first, Decision)
    assert isinstance(world.offer("b", 8000, 0.1), Ticket)
    assert world.granted == []
    world.fleet.started(first, 1.0)
    world.queue.release(1.0)
    assert world.names == ["b"]
    assert len(world.queue) == 0
    world.fleet.validate()


def test_the_next_prompt_is_sent_shortly_before_the_running_one_is_expected_to_end() -> None:
    world = World()
    world.offer("a", 8000, 0.0)
    world.offer("b", 8000, 0.0)
    again_s = world.queue.release(0.0)
    assert again_s is not None
    assert again_s <= 0.5
    world.queue.release(1.12)
    assert world.names == ["b"]


def test_of_held_prompts_with_one_new_prefix_only_the_first_is_computed_whole() -> None:
    world = World(replicas=2)
    busy = [world.offer("a", 8000, 0.0), world.offer("b", 8000, 0.0)]
    for name in ("first", "second", "third"):
        shape = RequestShape("m", RUNGS, 32_000, 8000, 1, 1)
        world.queue.offer(
            shape, [None] * len(RUNGS), 0.1, lambda a, name=name: world.granted.append((name, a))
        )
    world.queue.release(0.1)
    assert world.granted == []
    for decision in busy:
        assert isinstance(decision, Decision)
        world.fleet.started(decision, 1.0)
    world.queue.release(1.0)
    (name, first), *others = world.granted
    assert isinstance(first, Decision)
    assert (name, first.predicted_tokens) == ("first", 0)
    assert others == [], "worth waiting for"
    world.fleet.started(first, 2.1)
    world.queue.release(2.1)
    _, second = world.granted[1]
    assert isinstance(second, Decision)
    assert second.replica is first.replica
    assert second.predicted_tokens > 0
    world.fleet.validate()


def test_a_long_queue_makes_a_request_wait_for_its_cache() -> None:
    def choice(held: int) -> Decision:
        fleet = ready_fleet(2)
        home = fleet.choose_and_reserve(prompt(8000), None, 0.0).replica
        assert home.incarnation is not None
        shape = RequestShape("m", RUNGS, 32_000, 8000, 1, 1)
        fleet.reserve_on(home.id, prompt(12_000), 0.0)
        for _ in range(held):
            fleet.hold_begun(prompt(10))
        return fleet.choose_and_reserve(shape, [((home.incarnation, 0.0),)] * len(RUNGS), 0.0)

    assert choice(0).predicted_tokens == 0
    assert choice(20).predicted_tokens > 0


@pytest.mark.parametrize("held", [0, 20])
def test_what_nobody_has_goes_where_it_is_ready_first_however_many_are_held(held: int) -> None:
    """It has to be computed somewhere. A price would keep slow replicas idle while others wait."""
    fleet = ready_fleet(2)
    fast, slow = fleet.replicas.values()
    fast.set_rates(8000.0, 0.0)
    slow.set_rates(4000.0, 0.0)
    fleet.reserve_on(fast.id, prompt(20_000), 0.0)
    for _ in range(held):
        fleet.hold_begun(prompt(10))
    assert fleet.choose_and_reserve(prompt(8000), None, 0.0).replica is slow


def test_short_prompts_go_before_long_ones_until_these_have_waited_long_enough() -> None:
    world = World()
    running = world.offer("a", 8000, 0.0)
    assert isinstance(running, Decision)
    world.offer("long", 16_000, 0.1)
    world.offer("short", 800, 0.2)
    world.offer("late", 800, 12.0)
    world.fleet.started(running, 13.0)
    world.queue.release(13.0)
    assert world.names == ["short"]
    for _, decision in list(world.granted):
        assert isinstance(decision, Decision)
        world.fleet.started(decision, 13.2)
    world.queue.release(13.2)
    assert world.names == ["short", "long"]


def test_whoever_waits_for_the_same_replica_is_counted_before_the_next_one_chooses() -> None:
    world = World(replicas=2)
    for name in ("a", "b", "c", "d"):
        world.offer(name, 8000, 0.0)
    world.queue.release(1.12)
    chosen = {d.replica.id for _, d in world.granted if isinstance(d, Decision)}
    assert len(chosen) == 2
    world.fleet.validate()


def test_a_withdrawn_request_is_never_granted() -> None:
    world = World()
    world.offer("a", 8000, 0.0)
    ticket = world.offer("b", 8000, 0.0)
    assert isinstance(ticket, Ticket)
    world.queue.withdraw(ticket)
    world.queue.withdraw(ticket)
    assert world.queue.release(50.0) is None
    assert world.granted == []


def test_beyond_the_bounds_requests_go_as_without_a_queue() -> None:
    world = World(parameters=HoldParameters(max_held=1, max_hold_s=5.0))
    world.offer("a", 80_000, 0.0)
    assert isinstance(world.offer("b", 8000, 0.0), Ticket)
    assert isinstance(world.offer("c", 8000, 0.0), Decision)
    world.goes_between("b", 4.5, 5.1)


def test_who_waits_is_told_when_no_replica_is_left() -> None:
    world = World()
    world.offer("a", 8000, 0.0)
    world.offer("b", 8000, 0.0)
    world.fleet.apply(ReplicaRemoved(ReplicaId("r0")))
    world.queue.release(0.1)
    assert world.names == ["b"]
    assert isinstance(world.granted[0][1], RouterError)
    with pytest.raises(RouterError):
        world.offer("c", 8000, 0.2)
    assert not isinstance(world.granted[0][1], NotFoundError)


@pytest.mark.parametrize("rate", [10.0, 8000.0, 100_000.0])
def test_a_replica_with_few_tokens_ahead_is_as_good_as_free_at_any_speed(rate: float) -> None:
    world = World(parameters=HoldParameters(ahead_tokens=2048))
    for replica in world.fleet.replicas.values():
        replica.set_rates(rate, 0.03)
    assert isinstance(world.offer("a", 1000, 0.0), Decision)
    assert isinstance(world.offer("b", 1000, 0.0), Decision)
    assert isinstance(world.offer("c", 1000, 0.0), Decision)
    assert isinstance(world.offer("d", 1000, 0.0), Ticket), "3,000 tokens are more, by 500 for the way"


def test_a_replica_is_free_when_what_is_ahead_takes_no_longer_than_so_many_tokens_and_the_way() -> None:
    fleet = ready_fleet(1, parameters=CostParameters(attention_context_tokens=0.0))
    replica = fleet.replicas[ReplicaId("r0")]
    assert replica.free_in_s(HoldTerms(0.0, 256.0)) == 0.0
    running = fleet.choose_and_reserve(prompt(8000), None, 0.0)
    # A second of work, less 256 tokens at 8,000 a second and 5 ms of way.
    assert replica.free_in_s(HoldTerms(0.0, 256.0)) == pytest.approx(1.0 - 0.032 - 0.005)
    assert replica.free_in_s(HoldTerms(0.0, 256.0, 0.016)) == pytest.approx(1.0 - 0.032 - 0.005 + 0.016)
    assert replica.free_in_s(HoldTerms(0.5, 256.0)) == pytest.approx(0.5 - 0.032 - 0.005)
    assert replica.free_in_s(HoldTerms(0.5, 0.0)) == pytest.approx(0.5 - WAY_S)
    assert replica.free_in_s(HoldTerms(0.969, 256.0)) < 0.0
    fleet.started(running, 0.7)
    assert replica.free_in_s(HoldTerms(0.7, 256.0)) == 0.0, "nothing is awaited, though it decodes"


@pytest.mark.parametrize(("step_s", "waits"), [(0.05, True), (0.08, False)])
def test_an_engine_whose_steps_take_long_is_sent_what_its_next_step_can_compute(
    step_s: float, waits: bool
) -> None:
    world = World(parameters=HoldParameters(ahead_tokens=512))
    replica = world.fleet.replicas[ReplicaId("r0")]
    replica.attention_ratio = 0.0
    replica.set_rates(8000.0, step_s)
    assert isinstance(world.offer("first", 600, 0.0), Decision)  # 0.075 s; 512 tokens and the way are 0.069 s
    assert isinstance(world.offer("second", 600, 0.0), Ticket) == waits


def test_a_prompt_whose_first_byte_nobody_hears_is_not_awaited() -> None:
    fleet = ready_fleet(1)
    replica = fleet.replicas[ReplicaId("r0")]
    fleet.choose_and_reserve(prompt(80_000, streams=False), None, 0.0)
    assert replica.wait_s(0.0) > 10.0
    assert replica.free_in_s(HoldTerms(0.0, 256.0)) == 0.0


@pytest.mark.parametrize("rate", [1000.0, 8000.0, 100_000.0])
@pytest.mark.parametrize(("later", "order"), [(12.7, ["short", "long"]), (12.9, ["long", "short"])])
def test_the_longest_prompts_go_like_those_of_four_times_the_mean_and_four_seconds_weigh_one(
    rate: float, later: float, order: list[str]
) -> None:
    # Times in units of the mean prefill, 1,000 tokens: the long prompt counts 4 instead of 80 of them, the short one
    # 0.8; each that it comes later counts a quarter, so that it goes first up to 3.2 x 4 = 12.8 later.
    world = World(parameters=HoldParameters(ahead_tokens=0))
    for replica in world.fleet.replicas.values():
        replica.attention_ratio = 0.0
        replica.set_rates(rate, 0.03)
    unit_s = 1000.0 / rate
    running = world.offer("a", 400_000, 0.0)
    assert isinstance(running, Decision)
    world.fleet.work_tokens = 1000.0
    world.offer("long", 80_000, 0.0)
    world.offer("short", 800, later * unit_s)
    assert world.granted == []
    names = []
    for now_s in (20.0 * unit_s, 25.0 * unit_s):
        world.fleet.started(running, now_s)
        world.queue.release(now_s)
        (name, running) = world.granted[-1]
        assert isinstance(running, Decision)
        names.append(name)
    assert names == order


def test_nobody_waits_for_the_end_of_answers_that_do_not_stream() -> None:
    world = World()
    for name in ("a", "b", "c"):
        assert isinstance(world.offer(name, 80_000, 0.0, streams=False), Decision)
    streamed = world.offer("d", 80_000, 0.0)
    assert isinstance(streamed, Decision)
    assert isinstance(world.offer("e", 8000, 0.0, streams=False), Ticket)
    world.fleet.started(streamed, 90.0)
    world.queue.release(90.0, streamed.replica)
    assert world.names == ["e"]


def test_a_replica_is_waited_for_until_an_answer_comes_whole_and_again_once_one_does_not() -> None:
    world = World()
    first = world.offer("a", 8000, 0.0)
    assert isinstance(first, Decision)
    assert isinstance(world.offer("b", 8000, 0.1), Ticket)
    world.answer(first, 9.0, 0.001, tokens=8)
    world.queue.release(9.001)
    assert world.names == ["b"]
    whole = world.offer("c", 80_000, 9.1)
    assert isinstance(whole, Decision), "one that came whole is enough"
    world.answer(whole, 20.0, 0.5, tokens=8)
    world.offer("d", 80_000, 20.6)
    assert isinstance(world.offer("e", 80_000, 20.6), Ticket), "and one that did not"
    world.fleet.validate()


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_answers_of_a_few_tokens_do_not_show_whether_a_replica_streams(tokens: int) -> None:
    world = World()
    now_s = 0.0
    for turn in range(20):
        answer = world.offer(f"a{turn}", 8000, now_s)
        assert isinstance(answer, Decision)
        now_s += 5.0
        world.answer(answer, now_s, 0.0, tokens)
        now_s += 0.01
    assert isinstance(world.offer("b", 80_000, now_s), Decision)
    assert isinstance(world.offer("c", 80_000, now_s), Ticket)


def test_other_routers_prompts_are_waited_for_as_own_ones() -> None:
    world = World()
    replica = world.fleet.replicas[ReplicaId("r0")]
    world.fleet.note_peer_load(replica, PeerLoad(0, 2, 0, 16_000, 8000, 0.0, 16_000), 0.0)
    assert isinstance(world.offer("a", 8000, 0.0), Ticket)
    world.queue.release(1.0)
    assert world.names == []
    world.fleet.note_peer_load(replica, PeerLoad(0, 2, 0, 0, 0, 0.0, 0), 1.0)
    world.queue.release(1.0)
    assert world.names == ["a"]


def test_what_is_held_is_told_of_the_replica_that_it_is_meant_for_until_it_goes() -> None:
    world = World(2)
    first, second = world.fleet.replicas.values()
    for name in ("a", "b"):
        assert isinstance(world.offer(name, 80_000, 0.0), Decision)
    held = world.offer("c", 8000, 0.0)
    assert isinstance(held, Ticket)
    work_tokens = int(first.work_tokens(8000, 0))
    assert first.held_tokens + second.held_tokens == work_tokens
    assert isinstance(world.offer("d", 8000, 0.0), Ticket)
    world.queue.release(0.0)
    world.queue.withdraw(held)
    world.queue.end(1.0)
    assert (first.held_tokens, second.held_tokens) == (0, 0)
    world.fleet.validate()


def test_half_of_what_other_routers_hold_for_a_replica_is_ahead_there_and_keeps_nobody_waiting() -> None:
    world = World(2)
    first, second = world.fleet.replicas.values()
    told = PeerLoad(0, 0, 0, 0, 0, 0.0, 0, held_tokens=16_000)
    for replica in (first, second):
        world.fleet.note_peer_load(replica, told, 0.0)
    assert first.wait_for_s(0.0, 1.0) == pytest.approx(8_000 * first.wait_token_s)
    assert isinstance(world.offer("a", 8000, 0.0), Decision), "whoever is free is free"
    world.fleet.note_peer_load(first, PeerLoad(0, 0, 0, 0, 0, 0.0, 0), 0.0)
    world.fleet.note_peer_load(second, PeerLoad(0, 0, 0, 0, 0, 0.0, 0, held_tokens=64_000), 0.0)
    chosen = world.offer("b", 100, 30.0)
    assert isinstance(chosen, Decision)
    assert chosen.replica is first, "others will go to the second"


def test_others_go_before_for_no_longer_than_what_was_sent_ahead_takes() -> None:
    fleet = ready_fleet(1)
    replica = fleet.replicas[ReplicaId("r0")]
    fleet.note_peer_load(replica, PeerLoad(0, 2, 0, 0, 0, 0.0, 0), 1.0)
    terms = HoldTerms(1.0, 512.0, 0.048)
    terms.behind_tokens = 512.0
    assert replica.free_in_s(terms) == pytest.approx(0.048), "512 tokens take 64 ms"
    replica.set_rates(100_000.0, 0.0)
    assert replica.free_in_s(terms) == pytest.approx(0.00512), "and 5 ms on a fast engine"


@pytest.mark.parametrize("tokens_per_s", [2_345.0, 8_000.0, 31_234.5])
def test_who_gives_way_for_as_long_as_what_was_sent_ahead_goes_when_a_prefill_takes_longer(
    tokens_per_s: float,
) -> None:
    fleet = ready_fleet(1)
    replica = fleet.replicas[ReplicaId("r0")]
    replica.set_rates(tokens_per_s, 0.01)
    for number in range(20):
        decision = fleet.reserve_on(replica.id, prompt(10_000 + 277 * number), 0.0)
        terms = HoldTerms(2.0 * replica.head_s, 512.0, 1.0)
        terms.behind_tokens = 512.0
        assert replica.free_in_s(terms) <= 0.0, "its end may come at any moment"
        fleet.started(decision, 0.0)
        fleet.settle(decision, 0.0)


def test_a_request_leaves_a_free_replica_to_others_that_go_before_it_for_a_moment() -> None:
    world = World()
    world.fleet.work_tokens = 8000.0
    replica = world.fleet.replicas[ReplicaId("r0")]
    world.fleet.note_peer_load(replica, PeerLoad(0, 2, 0, 16_000, 8000, 0.0, 16_000), 0.0)
    assert isinstance(world.offer("a", 8000, 0.0), Ticket)
    world.fleet.note_peer_load(replica, PeerLoad(0, 2, 0, 0, 0, 0.0, 0), 1.0)
    world.fleet.note_routers(4, None, rivals=[100.0, -1.0, 0.5])
    again_s = world.queue.release(1.0)
    assert world.names == []
    assert again_s is not None
    assert again_s <= 2.1 * STAGGER_S
    world.goes_between("a", 1.0 + 1.9 * STAGGER_S, 1.0 + 2.1 * STAGGER_S)
    world.fleet.validate()


def test_a_replica_that_has_long_been_free_is_left_to_nobody() -> None:
    world = World()
    world.fleet.note_routers(10, None, rivals=[-1.0] * 9)
    assert isinstance(world.offer("a", 8000, 5.0), Decision)


def test_other_routers_prompts_whose_end_nobody_hears_hold_nobody() -> None:
    world = World()
    replica = world.fleet.replicas[ReplicaId("r0")]
    world.fleet.note_peer_load(replica, PeerLoad(0, 50, 0, 1_000_000, 9000, 0.0, 0), 0.0)
    assert isinstance(world.offer("a", 8000, 0.0), Decision)


def test_an_ejected_replica_is_not_waited_for() -> None:
    world = World()
    first = world.offer("a", 8000, 0.0)
    assert isinstance(first, Decision)
    world.offer("b", 8000, 0.0)
    world.fleet.report_failure(first.replica, FailureReason.REFUSED, 0.1)
    world.queue.release(0.1)
    assert world.names == ["b"]


def test_an_event_of_a_replica_that_is_still_busy_looks_at_nobody() -> None:
    world = World(replicas=2)
    first = world.offer("a", 80_000, 0.0)
    world.offer("b", 80_000, 0.0)
    world.offer("c", 80_000, 0.0)
    assert isinstance(first, Decision)
    assert world.queue.release(0.1, first.replica) is not None
    assert world.names == []
    world.fleet.started(first, 0.2)
    world.queue.release(0.2, first.replica)
    assert world.names == ["c"]


def test_a_model_whose_replicas_are_free_does_not_wait_for_another_model() -> None:
    world = World(replicas=2)
    world.fleet.apply(ProbeSucceeded(ReplicaId("r1"), Incarnation(2), {"other"}, None, None, 0.0))
    world.fleet.apply(ProbeSucceeded(ReplicaId("r0"), Incarnation(1), {"m"}, None, None, 0.0))
    for number in range(200):
        world.offer(f"m{number}", 8000, 0.0)
    assert len(world.queue) == 199
    world.queue.offer(prompt(60_000, model="other"), None, 0.0, lambda a: world.granted.append(("other", a)))
    world.queue.release(0.0)
    assert world.names == ["other"]


def test_a_clock_set_back_lets_everybody_go() -> None:
    world = World()
    world.offer("a", 8000, 1000.0)
    world.offer("b", 8000, 1000.0)
    pause_s = world.queue.release(500.0)
    assert pause_s is None
    assert world.names == ["b"]
