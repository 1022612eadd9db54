"""What only the compiled package can get wrong: mypyc makes whole lists of generator expressions."""

from __future__ import annotations

from random import Random

from tests.support.replicas import lone_replica
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.ring import Ring
from warmroute.core.choice.view import View


def test_a_ranking_walks_the_ring_only_as_far_as_it_is_asked() -> None:
    members = [lone_replica(f"r{i}", CostParameters(), i) for i in range(3)]
    view = View(members, lambda: Ring({m.id: m for m in members}), Random(1), 0)
    ranked = view.rank(7)
    assert not isinstance(ranked, list | type(iter([])))
    assert set(ranked) == set(members)
