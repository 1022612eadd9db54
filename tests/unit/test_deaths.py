"""Requests that replicas died with: remembered, tried once more, refused."""

from __future__ import annotations

import pytest

from tests.support.replicas import lone_replica
from warmroute.core.choice.cost import CostParameters
from warmroute.core.health.deaths import BUDGET_S, MAX_KEYS, Deaths, Life
from warmroute.core.health.health import FailureReason
from warmroute.core.types import Incarnation


def life(number: int) -> Life:
    replica = lone_replica(f"r{number}", CostParameters())
    replica.incarnation = Incarnation(number + 1)
    return replica.life(replica.incarnation)


def dies(life: Life) -> None:
    life[0].health.failed(FailureReason.REFUSED, 0.0)


def test_one_that_is_back_is_not_missed() -> None:
    deaths, one, two, three = Deaths(300.0), life(1), life(2), life(3)
    for last in (one, two):
        deaths.note(7, last, 0.0)
        dies(last)
    two[0].health.probe_succeeded(True, 1.0)
    assert deaths.may_try_again(three, 2.0, 3)


def test_a_lost_connection_to_a_replica_that_lives_is_no_death() -> None:
    deaths, one = Deaths(300.0), life(1)
    deaths.note(7, one, 0.0)
    assert deaths.died_with(7, 1.0) == []
    dies(one)
    assert deaths.died_with(7, 2.0) == [one]


@pytest.mark.parametrize("how", ["refuses", "fails its probe", "another life"])
def test_a_life_is_over_where_the_replica_is_found_so(how: str) -> None:
    deaths, one = Deaths(300.0), life(1)
    deaths.note(7, one, 0.0)
    if how == "refuses":
        dies(one)
    elif how == "fails its probe":
        one[0].health.probe_failed(1.0)
    else:
        one[0].replicas[0].incarnation = Incarnation(99)
    assert deaths.died_with(7, 2.0) == [one]


def test_a_life_counts_once_and_requests_are_told_apart() -> None:
    deaths, one, two = Deaths(300.0), life(1), life(2)
    for _ in range(5):
        deaths.note(7, one, 0.0)
    deaths.note(8, two, 0.0)
    dies(one)
    dies(two)
    assert deaths.died_with(7, 1.0) == [one]
    deaths.note(7, two, 1.0)
    assert deaths.died_with(7, 1.0) == [one, two]
    assert deaths.died_with(8, 1.0) == [two]
    assert deaths.died_with(9, 1.0) == []


def test_an_answer_and_time_clear_a_request() -> None:
    deaths, one = Deaths(300.0), life(1)
    dies(one)
    deaths.note(7, one, 0.0)
    deaths.note(8, one, 0.0)
    deaths.clear(7)
    assert deaths.died_with(7, 1.0) == []
    assert deaths.died_with(8, 299.0) == [one]
    assert deaths.died_with(8, 301.0) == []
    assert not deaths.remembers


def test_nothing_is_remembered_where_that_is_switched_off_or_the_request_is_unknown() -> None:
    one = life(1)
    off, on = Deaths(0.0), Deaths(300.0)
    off.note(7, one, 0.0)
    on.note(0, one, 0.0)
    assert not off.remembers
    assert not on.remembers


def test_the_memory_is_bounded() -> None:
    deaths, one = Deaths(300.0), life(1)
    dies(one)
    for key in range(1, MAX_KEYS + 2):
        deaths.note(key, one, 0.0)
    assert deaths.died_with(1, 1.0) == []
    assert deaths.died_with(MAX_KEYS + 1, 1.0) == [one]


def test_what_is_sent_to_a_dead_engine_did_not_kill_it() -> None:
    deaths, one = Deaths(300.0), life(1)
    deaths.note(7, one, 5.0)
    assert not deaths.was_dead(one, 9.0), "a connection that broke is no sign of that"
    deaths.note(7, one, 10.0, engine=True)
    assert not deaths.was_dead(one, 9.0)
    assert deaths.was_dead(one, 11.0)
    assert not deaths.was_dead((one[0], Incarnation(5)), 11.0)


def test_where_half_of_the_fleet_died_delivered_requests_are_not_tried_again() -> None:
    deaths = Deaths(300.0)
    lives = [life(number) for number in range(8)]
    for number, one in enumerate(lives[:4]):
        deaths.note(number + 1, one, 0.0)
        assert deaths.may_try_again(one, 0.0, 8)
        dies(one)
    deaths.note(5, lives[4], 1.0)
    assert not deaths.may_try_again(lives[4], 1.0, 8)
    assert deaths.may_try_again(lives[4], BUDGET_S + 0.5, 8)


def test_a_small_fleet_may_lose_two() -> None:
    deaths, one, two, three = Deaths(300.0), life(1), life(2), life(3)
    for last in (one, two, three):
        deaths.note(7, last, 0.0)
        assert deaths.may_try_again(last, 0.0, 3) == (last is not three)
        dies(last)


def test_a_replica_that_only_its_probe_found_dead_counts_as_dead_until_it_answers() -> None:
    deaths = Deaths(300.0)
    lives = [life(number) for number in range(3)]
    for one in lives:
        deaths.note(7, one, 0.0)
    assert deaths.may_try_again(lives[2], 1.0, servers=4)
    for one in lives[:2]:
        one[0].health.probe_failed(1.0)  # one failure does not eject it
    assert not deaths.may_try_again(lives[2], 1.0, servers=4)
    lives[0][0].health.probe_succeeded(False, 2.0)
    assert deaths.may_try_again(lives[2], 2.0, servers=4)


def test_what_was_lost_long_ago_is_forgotten_with_the_replicas_that_came_and_went() -> None:
    deaths = Deaths(300.0)
    for number in range(100):
        deaths.note(0 if number % 2 else number, life(number), 40.0 * number, engine=True)
    assert len(deaths._lives) == len(deaths._engines) == 1
    assert len(deaths._suspects) <= 4
