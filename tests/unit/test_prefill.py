"""What is left of a replica's prompts: as predicted, and where the first of them takes longer than that."""

from __future__ import annotations

import pytest

from tests.support.fleet_simulation import GRID, prompt, ready_fleet
from warmroute.core.fleet.fleet import Decision, Fleet
from warmroute.core.fleet.prefill import DOUBT_RATIO
from warmroute.core.learning.sample import WAY_S
from warmroute.core.types import Records


def sent(fleet: Fleet, cached_bytes: int) -> Decision:
    """A prompt of 20,000 tokens, of which so many bytes should be cached."""
    home = next(iter(fleet.replicas.values()))
    assert home.incarnation is not None
    shape = prompt(("a", 80_000))
    records: Records = [((home.incarnation, 0.0),) if depth <= cached_bytes else None for depth in GRID]
    return fleet.choose_and_reserve(shape, records[: len(shape.rungs)], 0.0)


def test_a_prompt_that_is_clearly_late_was_evicted_and_is_computed_whole() -> None:
    decision = sent(ready_fleet(1), 79_872)
    replica = decision.replica
    assert decision.predicted_tokens > 19_000
    whole_s = replica.prefill_s(20_000, 0)
    expected_s = replica.wait_s(0.0)
    assert expected_s < 0.1 < whole_s
    doubtful_s = expected_s + WAY_S + DOUBT_RATIO * (whole_s - expected_s)
    assert 0.0 < replica.wait_s(doubtful_s - 0.01) <= expected_s, "it should be about to end"
    later_s = doubtful_s + 0.01
    assert replica.wait_s(later_s) == pytest.approx(whole_s - later_s, rel=0.01)
    assert 0.0 < replica.wait_s(whole_s + 9.0) < 0.01, "but no more than that"


def test_a_cold_prompt_that_is_late_is_about_to_end() -> None:
    decision = sent(ready_fleet(1), 0)
    replica = decision.replica
    assert replica.wait_s(1.0) == pytest.approx(replica.head_s - 1.0)
    assert 0.0 < replica.wait_s(2.0 * replica.head_s) < 0.01


def test_the_next_prompt_is_not_late_for_the_one_before_it() -> None:
    fleet = ready_fleet(1)
    first = sent(fleet, 79_872)
    second = sent(fleet, 79_872)
    replica = first.replica
    late_s = replica.prefill_s(20_000, 0)
    fleet.started(first, late_s)
    assert replica.wait_s(late_s) == pytest.approx(replica.prefill_s(20_000, second.predicted_tokens))


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
    later_s = replica.head_s + WAY_S + 2.0 * DOUBT_RATIO * replica.head_surprise_s
    assert replica.wait_s(later_s) == pytest.approx(whole_s - later_s, rel=0.01)
