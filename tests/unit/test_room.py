"""The room in a cache: what answers under way take of it, and how long until another prompt fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fleet_simulation import prompt, ready_fleet
from warmroute.core.beliefs.residency import Residency
from warmroute.core.beliefs.room import Room
from warmroute.core.fleet.fleet import Decision, Fleet
from warmroute.core.fleet.report import replica_row


def taught(answers: int, lasted_s: float, tokens: int) -> Room:
    room = Room()
    for _ in range(answers):
        room.answered(lasted_s, tokens)
    return room


def test_answers_under_way_grow_with_their_age() -> None:
    room = taught(10, lasted_s=80.0, tokens=4000)
    room.begin(100.0)
    room.begin(110.0)
    assert room.grown_tokens(120.0) == pytest.approx((20.0 + 10.0) * 50.0)
    room.end(100.0)
    assert room.grown_tokens(120.0) == pytest.approx(10.0 * 50.0)
    room.end(110.0)
    assert room.grown_tokens(120.0) == 0.0


def test_nothing_grows_before_an_answer_has_ended_nor_while_a_clock_is_set_back() -> None:
    room = Room()
    room.begin(100.0)
    assert room.grown_tokens(1000.0) == 0.0
    room.answered(80.0, 4000)
    assert room.grown_tokens(50.0) == 0.0


def test_what_is_lacking_comes_free_while_one_request_lasts() -> None:
    """100 requests fill the cache, and give it back within 80 s; a tenth of it is lacking, and a spare of the root of
    100 times the mean answer, which is another tenth."""
    room = taught(10, lasted_s=80.0, tokens=4000)
    for _ in range(100):
        room.begin(0.0)
    assert room.wait_s(40_000.0, 400_000.0) == pytest.approx(80.0 * 0.2)
    assert room.wait_s(-40_000.0, 400_000.0) == pytest.approx(0.0)
    assert room.wait_s(-400_000.0, 400_000.0) == 0.0


@given(st.lists(st.tuples(st.floats(0.0, 1e6), st.booleans()), max_size=40))
def test_it_counts_those_under_way_alone(requests: list[tuple[float, bool]]) -> None:
    room = taught(1, lasted_s=1.0, tokens=1)
    for begun_s, _ in requests:
        room.begin(begun_s)
    for begun_s, ends in requests:
        if ends:
            room.end(begun_s)
    left = [begun_s for begun_s, ends in requests if not ends]
    assert room.requests == len(left)
    assert room.grown_tokens(2e6) == pytest.approx(sum([2e6 - begun_s for begun_s in left]), abs=1e-3)


def test_an_answer_that_nobody_heard_begin_teaches_nothing() -> None:
    room = taught(10, lasted_s=80.0, tokens=4000)
    room.answered(-1e9, 4000)
    room.begin(0.0)
    assert room.grown_tokens(10.0) == pytest.approx(500.0)


def test_an_engine_that_tells_a_cache_of_nothing_is_no_error() -> None:
    one = Residency()
    one.resize(0)
    one.room.answered(80.0, 4000)
    one.begin(1000, [], [], 0.0)
    assert one.room_in_s(10.0, 1000) == 0.0


def test_what_answers_have_grown_to_pushes_out_what_was_used_longest_ago() -> None:
    one = Residency()
    one.resize(10_000)
    one.room.answered(10.0, 1000)
    counted = one.begin(5000, [], [], 0.0)
    one.end(counted, 0.0, 1.0, computed=True)
    one.touch(1, 1.5)  # the newest stays in any case
    one.begin(1000, [], [], 2.0)
    assert one.resident_ratio(0.0) == 1.0
    one.begin(1000, [], [], 32.0)
    assert one.resident_ratio(0.0) == pytest.approx(1.0, abs=0.001), "2,000 + 3,000 and the 5,000 fit"
    one.begin(1000, [], [], 42.0)
    assert one.resident_ratio(0.0) == pytest.approx(0.4, abs=0.001), "3,000 + 5,000 leave 2,000 of them"


def test_a_cache_of_unknown_size_always_has_room() -> None:
    one = Residency()
    one.room.answered(80.0, 4000)
    for _ in range(1000):
        one.begin(100_000, [], [], 0.0)
    assert one.room_in_s(1000.0, 100_000) == 0.0


def answering(fleet: Fleet, number: int, now_s: float) -> Decision:
    """A request of its own prompt, of which an answer has begun."""
    decision = fleet.choose_and_reserve(prompt((f"a{number}", 4000)), [], now_s)
    fleet.started(decision, now_s + 0.2)
    return decision


def finish(fleet: Fleet, decision: Decision, now_s: float, tokens: int) -> None:
    fleet.settle(decision, now_s)
    fleet.learn(decision, prompt(("a", 4000)), 1000, 0, tokens, tokens)


def test_a_replica_whose_cache_is_full_of_answers_is_left_for_one_that_has_room() -> None:
    """Both have as many requests, and neither has any prefill to do: one's answers are old, and fill its cache."""
    fleet = ready_fleet(2)
    first, second = fleet.replicas.values()
    for replica in (first, second):
        replica.residency.resize(100_000)
    taught_by: dict[object, list[Decision]] = {first: [], second: []}
    number = 0
    while min(len(own) for own in taught_by.values()) < 4:
        decision = answering(fleet, number, 0.0)
        taught_by[decision.replica].append(decision)
        number += 1
    for own in taught_by.values():
        for decision in own:
            finish(fleet, decision, 80.0, 8000)
    for at_s in (100.0, 170.0):
        replica = first if at_s == 100.0 else second
        other = second if replica is first else first
        for _ in range(12):
            decision = fleet.choose_and_reserve(prompt((f"b{number}", 4000)), [], at_s, (other,))
            fleet.started(decision, at_s + 0.2)
            assert decision.replica is replica
            number += 1
    assert first.load == second.load
    assert first.residency.room_in_s(171.0, 1000) > 1.0
    assert second.residency.room_in_s(171.0, 1000) == 0.0
    rows = [replica_row(replica, 171.0) for replica in (first, second)]
    assert [row["in_use_tokens"] for row in rows] == [12 * 1000 + 12 * 7100, 12 * 1000 + 12 * 100]
    assert rows[0]["room_in_s"] == pytest.approx(first.residency.room_in_s(171.0, 0), abs=0.001)
    assert rows[1]["room_in_s"] == 0.0
    for _ in range(20):
        decision = fleet.choose_and_reserve(prompt((f"c{number}", 4000)), [], 171.0)
        assert decision.replica is second
        fleet.settle(decision, 171.0)
        number += 1
    fleet.validate()
