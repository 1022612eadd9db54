"""How fast lines move, by model: what is remembered of models that share replicas."""

from __future__ import annotations

from tests.support.fleet_simulation import ready_fleet
from warmroute.core.fleet.fleet import ProbeSucceeded
from warmroute.core.holding.paces import Paces
from warmroute.core.types import Incarnation, ReplicaId, RequestShape


def test_views_that_are_gone_are_not_remembered() -> None:
    """Each holds all replicas of a model, and changes of health make another one."""
    fleet = ready_fleet(2)
    paces = Paces(fleet)

    def serve(second: frozenset[str], now_s: float) -> None:
        for number, models in enumerate((frozenset({"m", "n"}), second)):
            event = ProbeSucceeded(ReplicaId(f"r{number}"), Incarnation(7 + number), models, 16, None, now_s)
            fleet.apply(event)

    fleet.hold_begun(RequestShape("n"))
    for number in range(50):
        serve(frozenset({"m", "n"}) if number % 2 else frozenset({"n"}), float(number))
        assert paces.shares("m") == {"m": 1.0, "n": 1.0 if number % 2 else 0.5}
    assert len(paces._ratios) <= 1
