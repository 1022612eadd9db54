"""The rule of choice is told the same way everywhere, and the example in docs/routing.md is what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.choice.cost import CostParameters
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.fleet.replica import Replica
from warmroute.core.fleet.report import Ranking
from warmroute.core.types import DecidedBy, FingerprintHash, Incarnation, Records, ReplicaId, RequestShape

ROOT = Path(__file__).parents[2]
TIE = "of the request's own cost on the cheapest replica"
"""What the width of a tie is a share of."""
TEXTS = (
    "router/warmroute/core/choice/policies/prefix_cost.py",
    "router/warmroute/core/choice/cost.py",
    "router/warmroute/config/schema.py",
    "docs/routing.md",
    "docs/configuration.md",
)


def words(path: str) -> str:
    return " ".join((ROOT / path).read_text().split())


@pytest.mark.parametrize("path", TEXTS)
def test_every_text_says_what_the_width_of_a_tie_is_a_share_of(path: str) -> None:
    text = (
        words(path)
        .replace("this share", "`tie_ratio`")
        .replace("a twentieth (`policy.tie_ratio`)", "`tie_ratio`")
    )
    assert (
        f"the smallest by at most `tie_ratio` {TIE}" in text
        or f"exceed it by at most `tie_ratio` {TIE}" in text
    )


PROMPT_TOKENS, ON_A_TOKENS = 10_000, 8_000
RATE = 8_000.0
EVICTED_RATIO = 0.2
GIVEN_TOKENS = {"A": 60_000, "B": 40_000}
RECORDS: Records = [((Incarnation(1), 1.0),)] * 5
SHAPE = RequestShape("m", [FingerprintHash(i) for i in range(5)], 3200, PROMPT_TOKENS, 5, 5)
"""2,560 of its 3,200 bytes are known."""


class Example:
    """Two replicas as in the text."""

    def __init__(self, wait_s: float) -> None:
        parameters = CostParameters(attention_context_tokens=0.0)
        self.fleet: Fleet = ready_fleet(2, parameters=parameters)
        self.a, self.b = (self.fleet.replicas[ReplicaId(name)] for name in ("r0", "r1"))
        self.fleet.reserve_on(self.a.id, RequestShape("m", prompt_tokens=int(wait_s * RATE + 0.5)), 1.0)
        self.fleet.hold_begun(RequestShape("m"))
        for replica, name in ((self.a, "A"), (self.b, "B")):
            replica.set_rates(RATE, 0.02)
            replica.recent_load_tokens = GIVEN_TOKENS[name] * self.fleet._recent_load_unit
            replica.eviction_ratio = EVICTED_RATIO
            replica.refresh()
        self.ranking: Ranking = self._ranking()

    def _ranking(self) -> Ranking:
        self.fleet._ticked_s, self.fleet._due_s = 1.0, 2.0  # what was set above is not renewed
        return self.fleet.rank(SHAPE, RECORDS, 1.0)

    def row(self, replica: Replica, name: str) -> str:
        """The table's row, from the code's terms."""
        (found,) = [c for c in self.ranking.candidates if c.replica is replica]
        terms = found.terms
        own_s = terms.own_s - terms.base_s
        queued = f"8,000 / 8,000 x 2 x 0.5 = {terms.queued_s:.4g}" if terms.queued_s else "0"
        return (
            f"| {name} | {terms.base_s:g} | {terms.wait_s:.4g} "
            f"| 0.15 x {GIVEN_TOKENS[name]:,} / 8,000 = {terms.crowding_s:.4g} "
            f"| {found.uncached_tokens:,} / 8,000 x {own_s / terms.prefill_s:.3g} = {own_s:.4g} "
            f"| {queued} | {terms.total_s:.4g} |"
        )


def test_the_examples_table_is_what_the_code_computes() -> None:
    example = Example(wait_s=1.5)
    text = (ROOT / "docs" / "routing.md").read_text()
    assert example.row(example.a, "A") in text
    assert example.row(example.b, "B") in text


def test_the_example_is_decided_as_its_text_says() -> None:
    text = words("docs/routing.md")
    warm = Example(wait_s=1.5)
    tie = warm.ranking.tie
    assert tie is not None
    assert warm.ranking.choice.replica is warm.a
    assert (tie.decided_by, tie.replicas) == (DecidedBy.COST, (warm.a,))
    assert (
        f"{tie.least_s:.4g} + 0.05 x {warm.ranking.choice.terms.own_s:.3f} = {tie.limit_s:.3f} are equal"
        in text
    )
    copied = Example(wait_s=3.09)
    tie = copied.ranking.tie
    assert tie is not None
    assert copied.ranking.choice.replica is copied.b
    assert (tie.decided_by, tie.replicas) == (DecidedBy.REQUESTS, (copied.a, copied.b))
    assert f"its sum would be {tie.least_s:.4g}, which is still the smallest" in text
    assert f"the limit would be {tie.limit_s:.3f}" in text
    assert "by its cost (`decided_by: cost`)" in text
    assert "so B wins (`decided_by: requests`)" in text


def test_a_cost_at_the_limit_is_equal_and_one_above_is_not() -> None:
    for extra_s, equal in ((0.0, True), (1e-6, False)):
        fleet = ready_fleet(2, parameters=CostParameters(attention_context_tokens=0.0, tie_ratio=0.5))
        shape = RequestShape("m", prompt_tokens=16_000, ring_key=5)
        cheap = fleet.replicas[ReplicaId("r0")]
        cheap.set_rates(RATE, 0.5)  # 0.5 s and 2 x 2 s of its own
        dear = fleet.replicas[ReplicaId("r1")]
        dear.set_rates(RATE, 0.5 + 2.25 + extra_s)
        tie = fleet.rank(shape, None, 1.0).tie
        assert tie is not None
        assert tie.replicas == ((cheap, dear) if equal else (cheap,))
