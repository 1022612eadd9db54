"""What each router learns by itself moves costs a little where it differs a little: no share flips a rule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.beliefs.survival import PRIOR_LESSONS, Survival
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.fleet.report import Candidate
from warmroute.core.learning.feedback import KEPT_RATIO, _share
from warmroute.core.types import FingerprintHash, Incarnation, Records, RequestShape

TOKENS = 8000
NOW_S = 100.0
RECORDS: Records = [((Incarnation(1), NOW_S - 10.0),)] * 50
SHAPE = RequestShape("m", [FingerprintHash(i) for i in range(50)], 4 * TOKENS, TOKENS, 5, 5)
BLOCK_TOKENS = 16

shares = st.floats(0.0, 1.0) | st.sampled_from([0.5, 0.5 - 1e-9, 0.5 + 1e-9])
steps = st.sampled_from([1e-9, 1e-6, 1e-3, 0.02])


def row(fleet: Fleet) -> Candidate:
    """The replica's, as its costs are compared."""
    return fleet.rank(SHAPE, RECORDS, NOW_S).choice


def fleet_at_rest() -> Fleet:
    """One whose next tick is far away: what is set stays."""
    fleet = ready_fleet(1)
    row(fleet)
    return fleet


@given(share=shares, step=steps)
def test_the_share_of_evictions_that_return_moves_a_cost_at_most_sixfold(share: float, step: float) -> None:
    fleet = fleet_at_rest()
    (replica,) = fleet.replicas.values()
    found = []
    for ratio in (share, min(share + step, 1.0)):
        replica.eviction_ratio = ratio
        replica.refresh()
        found.append(row(fleet).terms)
    # The price is 2 + 2 r + 2 r^2, of which the slope is at most 6.
    assert 0.0 <= found[1].total_s - found[0].total_s <= 6.0 * step * found[0].prefill_s + 1e-12


@given(share=shares, step=steps)
def test_the_trust_in_records_moves_what_is_counted_on_by_as_much(share: float, step: float) -> None:
    fleet = fleet_at_rest()
    (replica,) = fleet.replicas.values()
    found = []
    for trust in (share, min(share + step, 1.0)):
        replica.trust.clear()
        replica.trust.learn(10.0, 0.0)
        octave = next(i for i, count in enumerate(replica.trust._counts) if count)
        replica.trust._shares[octave] = trust
        found.append(row(fleet).predicted_tokens)
    assert -BLOCK_TOKENS <= found[1] - found[0] <= step * TOKENS + BLOCK_TOKENS


@given(share=shares, step=steps)
def test_an_answer_that_found_a_little_more_teaches_little_more(share: float, step: float) -> None:
    """Near `KEPT_RATIO` too, from where on all counts as found: one lesson weighs a seventeenth at most."""
    learned = []
    for found in (share, min(share + step, 1.0)):
        survival = Survival()
        survival.learn(10.0, _share(int(found * TOKENS), TOKENS))
        learned.append(survival.share(10.0))
    assert abs(learned[1] - learned[0]) <= (step + 1 - KEPT_RATIO + 1 / TOKENS) / (PRIOR_LESSONS + 1)
