"""What is left of a replica's prompts: as predicted, and where the first of them takes longer than that."""

from __future__ import annotations

import pytest

from tests.support.fleet_simulation import GRID, prompt, ready_fleet
from warmroute.core.choice.cost import CostParameters
from warmroute.core.fleet.fleet import Decision, Fleet
from warmroute.core.fleet.peer_load import PeerLoad
from warmroute.core.fleet.prefill import LATE_TIMES
from warmroute.core.learning.sample import ENOUGH_TOKENS, WAY_S
from warmroute.core.types import Records, ReplicaId, RequestShape


def sent(fleet: Fleet, cached_bytes: int, now_s: float = 0.0) -> Decision:
    """A prompt of 20,000 tokens, of which so many bytes should be cached."""
    home = next(iter(fleet.replicas.values()))
    assert home.incarnation is not None
    shape = prompt(("a", 80_000))
    records: Records = [((home.incarnation, 0.0),) if depth <= cached_bytes else None for depth in GRID]
    return fleet.choose_and_reserve(shape, records[: len(shape.rungs)], now_s)


def test_a_prompt_that_is_clearly_late_was_evicted_and_is_computed_whole() -> None:
    decision = sent(ready_fleet(1), 79_872)
    replica = decision.replica
    assert decision.predicted_tokens > 19_000
    whole_s = replica.prefill_s(20_000, 0)
    expected_s = replica.wait_s(0.0)
    assert expected_s < 0.1 < whole_s
    doubtful_s = expected_s + replica.delay_s + WAY_S
    assert 0.0 < replica.wait_s(doubtful_s - 0.001) <= expected_s, "it should be about to end"
    later_s = doubtful_s + 0.001
    assert replica.wait_s(later_s) == pytest.approx(whole_s - later_s, rel=0.01)
    assert 0.0 < replica.wait_s(2.0 * whole_s) < 0.01, "but no more than that"


def test_a_cold_prompt_that_is_late_is_about_to_end() -> None:
    decision = sent(ready_fleet(1), 0)
    replica = decision.replica
    assert replica.wait_s(1.0) == pytest.approx(replica.head_s - 1.0)
    assert 0.0 < replica.wait_s(2.0 * replica.head_s) < 0.01


def test_a_prompt_that_takes_many_times_as_long_is_expected_to_take_as_long_again() -> None:
    """Its engine is held up by what nobody here knows of: one that would look free after a moment draws everybody."""
    replica = sent(ready_fleet(1), 0).replica
    late_s = LATE_TIMES * (replica.head_s + replica.delay_s + WAY_S)
    assert 0.0 < replica.wait_s(late_s - 0.01) < 0.01
    assert replica.wait_s(late_s + 10.0) == pytest.approx(10.0, abs=0.01)
    assert replica.wait_for_s(late_s + 10.0, 0.1) == pytest.approx(10.0, abs=0.01)


def test_behind_another_routers_late_prompt_no_more_is_computed_than_that_router_sent() -> None:
    """The time that its engine is held up is no work that a speed could be learned from."""
    fleet = ready_fleet(1)
    replica = next(iter(fleet.replicas.values()))
    fleet.note_peer_load(replica, PeerLoad(0, 1, 0, 8000, 8000, 100.0, 8000), 100.0)
    assert replica.wait_s(100.0) > 50.0
    sent(fleet, 0, 100.0)
    assert replica.sample is not None
    assert replica.sample.tokens <= 8000.0


def test_a_late_prompt_holds_up_a_short_one_also_where_steps_are_shared() -> None:
    replica = sent(ready_fleet(1), 0).replica
    replica.shared_tokens = 1024
    late_s = LATE_TIMES * (replica.head_s + replica.delay_s + WAY_S)
    assert replica.wait_for_s(replica.head_s, 0.001) < 0.01
    assert replica.wait_for_s(late_s + 10.0, 0.001) == pytest.approx(10.0, abs=0.01)


def test_the_next_prompt_is_not_late_for_the_one_before_it() -> None:
    fleet = ready_fleet(1)
    first = sent(fleet, 79_872)
    second = sent(fleet, 79_872)
    replica = first.replica
    late_s = replica.prefill_s(20_000, 0)
    fleet.started(first, late_s)
    assert replica.wait_s(late_s) == pytest.approx(replica.prefill_s(20_000, second.predicted_tokens))


def silent(fleet: Fleet, tokens: int, now_s: float = 0.0) -> Decision:
    """A cold prompt of so many tokens whose answer comes whole."""
    shape = RequestShape("m", [], tokens * 4, tokens, streams=False)
    return fleet.reserve_on(ReplicaId("r0"), shape, now_s)


def two_silent(fleet: Fleet) -> tuple[Decision, float]:
    """Two equal ones: the first, and how long each should take."""
    first = silent(fleet, 8000)
    one_s = first.replica.work_s
    silent(fleet, 8000)
    return first, one_s


def test_prompts_whose_answers_come_whole_end_one_after_the_other_by_expectation() -> None:
    """Nothing is heard before their answers' end, long after their prefill: the next one was begun meanwhile."""
    fleet = ready_fleet(1)
    first, one_s = two_silent(fleet)
    replica = first.replica
    assert replica.wait_s(0.0) == pytest.approx(2.0 * one_s)
    assert replica.wait_s(1.5 * one_s) == pytest.approx(0.5 * one_s)
    assert replica.wait_s(2.5 * one_s) == 0.0
    assert replica.wait_s(100.0 * one_s) == 0.0, "and none is late"
    silent(fleet, 8000, 2.5 * one_s)
    assert replica.wait_s(2.5 * one_s) == pytest.approx(one_s)
    fleet.validate()


def test_the_end_of_an_answer_that_came_whole_does_not_begin_the_next_prompt_anew() -> None:
    fleet = ready_fleet(1)
    first, one_s = two_silent(fleet)
    now_s = 1.5 * one_s
    fleet.started(first, now_s)
    assert first.replica.wait_s(now_s) == pytest.approx(0.5 * one_s)
    fleet.settle(first, now_s)
    fleet.validate()


def test_an_answer_that_came_whole_sooner_than_expected_leaves_the_next_prompt_whole() -> None:
    fleet = ready_fleet(1)
    first, one_s = two_silent(fleet)
    fleet.started(first, 0.1 * one_s)
    assert first.replica.wait_s(0.1 * one_s) == pytest.approx(one_s)


def test_whatever_is_heard_of_a_prompt_says_that_silent_ones_before_it_are_over() -> None:
    fleet = ready_fleet(1)
    silent(fleet, 8000)
    silent(fleet, 8000)
    heard = sent(fleet, 0)
    replica = heard.replica
    fleet.started(heard, 0.1)
    assert replica.wait_s(0.1) == 0.0
    assert not replica.queue
    fleet.validate()
    ahead, whole, behind = silent(fleet, 8000, 1.0), silent(fleet, 8000, 1.0), silent(fleet, 8000, 1.0)
    fleet.started(whole, 1.1)
    assert list(replica.queue) == [behind]
    assert replica.wait_s(1.1) == pytest.approx(replica.work_s)
    fleet.started(ahead, 1.2)
    fleet.validate()


def test_where_steps_are_shared_a_later_prompt_may_be_heard_of_first() -> None:
    fleet = ready_fleet(1)
    long = silent(fleet, 8000)
    replica = long.replica
    replica.shared_tokens = 1024
    short = silent(fleet, 100)
    fleet.started(short, 0.1)
    assert list(replica.queue) == [long]
    assert replica.wait_for_s(2.0 * replica.work_s, 0.1) == 0.0


def test_a_stream_behind_silent_prompts_is_waited_for_once_those_should_be_over() -> None:
    fleet = ready_fleet(1)
    replica = silent(fleet, 8000).replica
    silent_s = replica.work_s
    sent(fleet, 0)
    stream_s = replica.work_s - silent_s
    assert replica.wait_s(0.5 * silent_s) == pytest.approx(0.5 * silent_s + stream_s)
    assert replica.wait_s(silent_s + 0.25 * stream_s) == pytest.approx(0.75 * stream_s)
    assert 0.0 < replica.wait_s(silent_s + 5.0 * stream_s) < 0.01, "it should be about to end"


def test_other_routers_silent_prompts_end_by_expectation_as_well() -> None:
    fleet = ready_fleet(1)
    replica = next(iter(fleet.replicas.values()))
    fleet.note_peer_load(replica, PeerLoad(0, 2, 0, 16_000, 8000, 0.0, 0), 10.0)
    whole_s = replica.peer_work_s
    assert replica.wait_s(10.0 + 0.75 * whole_s) == pytest.approx(0.25 * whole_s)
    assert replica.wait_s(10.0 + 1.5 * whole_s) == 0.0


def test_other_routers_are_told_of_silent_prompts_only_what_should_be_left() -> None:
    fleet = ready_fleet(1, parameters=CostParameters(attention_context_tokens=0.0))
    replica = silent(fleet, 8000).replica
    silent(fleet, 4000)
    assert replica.prefilling(0.0)[:3] == (12_000, 8000, 0)
    assert replica.prefilling(1.25)[:3] == (4000, 4000, 250)
    assert replica.prefilling(9.0)[:3] == (0, 0, 0)


def test_what_may_take_longer_is_its_own_cached_part_and_that_of_the_prompt_before_it() -> None:
    fleet = ready_fleet(1)
    first, second = sent(fleet, 40_000), sent(fleet, 79_872)
    replica = first.replica
    whole_s = replica.prefill_s(20_000, 0)
    own_s = [whole_s - replica.prefill_s(20_000, one.predicted_tokens) for one in (first, second)]
    assert replica.surprise_s(first) == pytest.approx(own_s[0])
    assert replica.surprise_s(second) == pytest.approx(sum(own_s))
    fleet.started(first, 1.0)
    assert replica.surprise_s(second) == pytest.approx(own_s[1])


def test_a_prompt_that_waits_while_the_speed_is_learned_is_late_by_the_new_speed() -> None:
    fleet = ready_fleet(1)
    replica = sent(fleet, 79_872).replica
    before_s = replica.head_surprise_s
    replica.change_rates(replica.wait_token_s / 12.0, 0.0, 0.0)
    assert replica.head_surprise_s == pytest.approx(before_s / 12.0)
    fleet.validate()
    whole_s = replica.prefill_s(20_000, 0)
    later_s = replica.head_s + replica.delay_s + 2.0 * WAY_S
    assert replica.wait_s(later_s) == pytest.approx(whole_s - later_s, rel=0.01)


def gone(fleet: Fleet, decision: Decision, now_s: float) -> None:
    """The client leaves, and its place is given back."""
    fleet.left(decision, now_s)
    fleet.settle(decision, now_s)
    fleet.validate()


def test_an_engine_ends_its_step_though_the_prompts_client_is_gone() -> None:
    fleet = ready_fleet(1)
    decision = sent(fleet, 0)
    replica = decision.replica
    whole_s, step_s = replica.head_s, ENOUGH_TOKENS / 8000
    assert whole_s > 1.0 + step_s
    gone(fleet, decision, 1.0)
    assert decision.is_computed
    assert replica.wait_s(1.0) == pytest.approx(step_s), "no more than that: then it hears of it"
    assert replica.wait_s(1.2) == pytest.approx(step_s - 0.2)
    assert replica.wait_s(1.0 + step_s) == 0.0
    late = sent(fleet, 0, 100.0)
    gone(fleet, late, 100.0 + whole_s - 0.1)
    assert replica.wait_s(100.0 + whole_s - 0.1) == pytest.approx(0.1), "nor longer than the prompt takes"
    assert replica.wait_s(50.0) == 0.0, "a clock that was set back keeps nobody waiting"


def test_the_next_prompt_begins_when_the_step_is_over() -> None:
    fleet = ready_fleet(1)
    gone(fleet, sent(fleet, 0), 1.0)
    following = sent(fleet, 79_872, 1.2)
    replica, step_s = following.replica, ENOUGH_TOKENS / 8000
    assert replica.wait_s(1.2) == pytest.approx(step_s - 0.2 + replica.head_s)
    fleet.started(following, 1.0 + step_s + replica.head_s)
    fleet.settle(following, 2.0)
    assert not replica.speed.fresh, "who knows how much of its time was the other's"


def test_behind_one_whose_client_left_the_queue_goes_on() -> None:
    fleet = ready_fleet(1)
    first, second = sent(fleet, 0), sent(fleet, 79_872, 0.1)
    replica = first.replica
    gone(fleet, first, 1.0)
    assert replica.wait_s(1.0) == pytest.approx(ENOUGH_TOKENS / 8000 + replica.head_s)
    gone(fleet, second, 1.1)
    assert not second.is_computed, "the other's step is not over"
    assert replica.wait_s(1.1) == pytest.approx(ENOUGH_TOKENS / 8000 - 0.1)


def test_one_that_was_not_begun_takes_no_time_of_the_first() -> None:
    fleet = ready_fleet(1)
    first, second = sent(fleet, 0), sent(fleet, 79_872, 0.1)
    left_s = first.replica.head_s - 1.0
    gone(fleet, second, 1.0)
    assert not second.is_computed
    assert first.replica.wait_s(1.0) == pytest.approx(left_s)
    at_once = sent(fleet, 0, 1.0)
    gone(fleet, at_once, 1.0 + 0.5 * WAY_S)
    assert not at_once.is_computed
    gone(fleet, first, 0.5 * WAY_S)
    assert not first.is_computed, "it has hardly arrived"
    assert first.replica.wait_s(1.0) == 0.0
