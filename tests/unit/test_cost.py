"""The cost's terms, the belief about overlaps, and that the quick sum equals the explained one."""

from __future__ import annotations

import pytest

from tests.support.replicas import lone_replica
from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.cost import CostParameters, CostTerms
from warmroute.core.choice.view import Prices
from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.replica import Replica
from warmroute.core.fleet.report import cost_terms
from warmroute.core.types import DecisionKind, Incarnation, Record, RequestShape

GRID = (512, 1024, 1536, 2048)


def replica(**parameters: float) -> Replica:
    cost = CostParameters(**parameters)  # type: ignore[arg-type]
    return lone_replica("r", cost)


def shape(rungs: int, prompt_bytes: int, prompt_tokens: int) -> RequestShape:
    return RequestShape("m", [], prompt_bytes, prompt_tokens)


def held(
    records: list[Record | None], prompt_bytes: int = 2100, prompt_tokens: int = 525, block: int = 16
) -> dict:
    one = replica()
    one.overlap_block_tokens = block
    belief = Belief(shape(4, prompt_bytes, prompt_tokens), records, {Incarnation(1): one}, GRID, 0.0)
    return {r.id: tokens for r, tokens in belief.overlap.items()}


HOLDER: Record = ((Incarnation(1), 5.0),)
STRANGER: Record = ((Incarnation(9), 5.0),)


def test_an_idle_replica_costs_its_base_and_twice_the_uncached_prefill() -> None:
    one = replica(attention_context_tokens=0.0)
    one.set_rates(1000.0, 0.5)
    assert cost_terms(one, 3000, 0, 0.0) == CostTerms(
        base_s=0.5, wait_s=0.0, running_s=0.0, crowding_s=0.0, prefill_s=3.0, miss_s=3.0
    )


def test_the_context_of_a_prompts_uncached_part_makes_it_slower() -> None:
    one = replica(prefill_tokens_per_s=1000.0, attention_context_tokens=10_000.0)
    assert one.prefill_s(5000, 0) == pytest.approx(5.0 * (1 + 2500 / 10_000))
    assert one.prefill_s(5000, 4000) == pytest.approx(1.0 * (1 + 4500 / 10_000))


def test_what_is_pushed_out_of_the_cache_has_a_price() -> None:
    one = replica()
    one.eviction_ratio = 0.2
    one.refresh()
    terms = cost_terms(one, 1000, 0, 0.0)
    assert terms.eviction_s == pytest.approx(terms.prefill_s * (2 * 0.2 + 2 * 0.2 * 0.2))
    assert terms.total_s == pytest.approx(one.delay_s + one.price * one.prefill_s(1000, 0))


def decision(one: Replica, streams: bool = True) -> Decision:
    return Decision(one, DecisionKind.RING, 0, 1000, False, streams)


def test_the_queue_shrinks_with_time_but_never_below_a_prefill_that_is_late() -> None:
    one = replica()
    first, second = decision(one), decision(one)
    one.enqueue(first, 2.0, 10.0)
    one.enqueue(second, 1.0, 10.5)
    assert one.wait_s(10.5) == pytest.approx(2.5)
    assert one.wait_s(15.0) == pytest.approx(1.005)
    one.dequeue(first, 15.0)
    assert one.wait_s(15.0) == pytest.approx(1.0)
    one.dequeue(second, 16.0)
    assert one.wait_s(16.0) == 0.0


def test_answers_that_do_not_stream_leave_the_queue_by_expectation() -> None:
    one = replica()
    one.enqueue(decision(one, streams=False), 2.0, 0.0)
    one.enqueue(decision(one), 1.0, 1.0)
    late = decision(one)
    one.enqueue(late, 0.5, 2.5)
    assert one.wait_s(2.5) == pytest.approx(1.0)
    assert len(one.queue) == 2


def test_an_answer_that_does_not_stream_is_never_late() -> None:
    one = replica()
    one.enqueue(decision(one, streams=False), 2.0, 0.0)
    assert one.wait_s(600.0) == 0.0
    whole = replica()
    whole.comes_whole = True
    whole.enqueue(decision(whole), 2.0, 0.0)
    assert whole.wait_s(600.0) == pytest.approx(0.005), "nor one that something passes on as a whole"


def test_tokens_that_wait_and_requests_that_decode_add_their_time() -> None:
    one = replica(prefill_tokens_per_s=1000.0)
    one.set_rates(1000.0, 0.03, 0.01)
    one.enqueue(decision(one), 0.5, 7.0)
    one.peer_work_s = 0.25
    one.in_flight, one.waiting, one.peer_in_flight = 3, 1, 1
    assert (one.running, one.load) == (3, 4)
    terms = cost_terms(one, 0, 0, 7.0)
    assert terms.wait_s == pytest.approx(0.75)
    assert terms.running_s == pytest.approx(0.03)


def test_one_prompt_is_prefilled_at_a_time_whoever_sent_it() -> None:
    one = replica()
    one.peer_work_s, one.peer_head_s, one.peer_since_s, one.peer_awaited_tokens = 4.0, 3.0, 10.0, 4000
    assert one.wait_s(11.0) == pytest.approx(3.0)
    assert one.wait_s(20.0) == pytest.approx(1.0, abs=0.05)  # late, not over
    own = decision(one)
    one.enqueue(own, 1.0, 11.0)
    assert one.wait_s(12.0) == pytest.approx(3.0)
    one.peer_work_s, one.peer_head_s, one.peer_since_s = 0.0, 0.0, 13.5
    assert one.wait_s(14.0) == pytest.approx(0.5)
    one.dequeue(own, 14.4)
    assert one.wait_s(14.5) == 0.0


def test_the_quick_sum_is_the_explained_one() -> None:
    one = replica()
    one.in_flight, one.waiting, one.waiting_tokens, one.recent_load_tokens = 7, 2, 4000, 9000.0
    one.eviction_ratio = 0.4
    one.set_rates(5000.0, 0.02, 0.001)
    terms = cost_terms(one, 1234, 200, 3.0, Prices(queued=1.5, recent_load_scale=0.25), known_tokens=500)
    prefill_s, saved_s = one.prefill_s(1234, 200), one.prefill_s(1234, 200) - one.prefill_s(1234, 500)
    total_s = one.delay_s + one.wait_s(3.0) + 0.25 * one.recent_load_s + one.price * prefill_s + 1.5 * saved_s
    assert total_s == pytest.approx(terms.total_s)
    assert terms.crowding_s == pytest.approx(0.25 * 0.15 * 9000 / 5000)
    assert terms.as_dict()["total_s"] == pytest.approx(terms.total_s, abs=1e-6)


@pytest.mark.parametrize(
    "bad",
    [{"prefill_tokens_per_s": 0}, {"crowd_requests": 0}, {"crowd_weight": -1}, {"bounded_load_factor": 0.5}],
)
def test_senseless_parameters_are_refused_by_name(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        CostParameters(**bad)  # type: ignore[arg-type]


def test_the_deepest_rung_that_names_a_replica_counts() -> None:
    assert held([HOLDER, HOLDER, STRANGER, None]) == {"r": 256}


def test_a_deeper_rung_counts_though_a_shallower_one_was_lost() -> None:
    assert held([None, None, HOLDER, None]) == {"r": 384}


def test_overlap_is_whole_blocks_of_the_replica() -> None:
    assert held([HOLDER], block=100) == {"r": 100}
    assert held([HOLDER], block=128) == {"r": 128}
    assert held([HOLDER], block=129) == {}


def test_overlap_is_never_the_whole_prompt() -> None:
    assert held([HOLDER], prompt_bytes=512, prompt_tokens=128) == {"r": 112}
    assert held([HOLDER], prompt_bytes=512, prompt_tokens=1) == {}


def test_a_shape_without_a_prompt_overlaps_nobody() -> None:
    assert held([HOLDER], prompt_bytes=0, prompt_tokens=0) == {}


def test_unknown_incarnations_and_unknown_rungs_are_skipped() -> None:
    assert held([STRANGER, None, STRANGER]) == {}
    assert held([]) == {}


def test_holders_of_different_depths_are_told_apart_even_in_shared_record_objects() -> None:
    a, b = replica(), replica()
    both: Record = ((Incarnation(1), 1.0), (Incarnation(2), 2.0))
    known = {Incarnation(1): a, Incarnation(2): b}
    deep: Record = ((Incarnation(2), 2.0),)
    belief = Belief(shape(4, 2100, 525), [both, both, deep, deep], known, GRID, 0.0)
    assert belief.overlap == {b: 512, a: 256}
