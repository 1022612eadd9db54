"""How fast the line of each model moves, and which others stand in it: models that share replicas share their line.

This module decides what of all that waits is ahead of a request for one model, and how fast it is worked off; who is
next is decided by `line`. A request is judged by the replicas that serve its model: what waits for others counts as far
as it may be sent to the same ones. Of a model that nobody waits for nothing is known, and nothing is needed.
"""

from __future__ import annotations

from math import exp
from typing import Final

from warmroute.core.choice.view import View
from warmroute.core.errors import RouterError
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.fleet.replica import Replica
from warmroute.core.holding.queue import MOST_TIMER_S

PACE_S: Final = 10.0
"""After so long how fast the line moved counts 37 %."""

LEAST_SEEN_S: Final = 1.0
"""For so long it must have been seen to move; until then each replica is taken to compute one prompt at a time."""

MOST_PACES: Final = 256
"""Models of which it is remembered."""

MOST_RATIOS: Final = 4096


class Pace:
    """How fast a line moves while somebody waits in it: seconds of prefill that are let go in a second."""

    __slots__ = ("_busy_s", "_cost_s", "_noted_s")

    def __init__(self) -> None:
        self._cost_s = 0.0
        self._busy_s = 0.0
        self._noted_s = 0.0

    def note(self, cost_s: float, now_s: float, *, waits: bool) -> None:
        """So much was let go now; since this was called last somebody waited all the time, or nobody did."""
        passed_s = now_s - self._noted_s
        self._noted_s = now_s
        if passed_s > 0.0:
            faded = exp(-passed_s / PACE_S)
            self._cost_s *= faded
            self._busy_s *= faded
            if waits:
                self._busy_s += passed_s if passed_s < MOST_TIMER_S * 2 else MOST_TIMER_S * 2
        if waits:
            self._cost_s += cost_s

    @property
    def known(self) -> float:
        """0 while that is not known."""
        return self._cost_s / self._busy_s if self._busy_s >= LEAST_SEEN_S else 0.0


class Paces:
    """Of one fleet's models."""

    __slots__ = ("_fleet", "_paces", "_ratios")

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._paces: dict[str, Pace] = {}
        self._ratios: dict[tuple[str, str], tuple[View, View, float]] = {}
        """By two models: which part of the second one's replicas are the first one's too, as of these views of them."""

    def asked(self, model: str, now_s: float) -> float:
        """Seconds of prefill a second that are let go to this model's replicas while somebody waits for it. One more
        is about to wait.

        Raises:
            NotFoundError, OverloadError: As `Fleet.choose_and_reserve`.
        """
        members = self._fleet.view(model).members
        pace = self._paces.get(model)
        if pace is None:
            if len(self._paces) >= MOST_PACES:
                self._forget()
            pace = self._paces[model] = Pace()
        pace.note(0.0, now_s, waits=model in self._fleet.held.by_model)
        return pace.known or float(len(members))

    def granted(self, replica: Replica, cost_s: float, now_s: float) -> None:
        """A request that waited was let go to this replica."""
        fleet = self._fleet
        for model in fleet.held.by_model:
            pace = self._paces.get(model)
            if pace is not None and self._serves(model, replica):
                pace.note(cost_s, now_s, waits=True)

    def shares(self, model: str) -> dict[str, float]:
        """Of what waits for each model, which part may be sent to this one's replicas: its line is that."""
        fleet = self._fleet
        own = fleet.view(model)
        shares: dict[str, float] = {model: 1.0}
        for other in fleet.held.by_model:
            if other != model:
                try:
                    shares[other] = self._shared(model, own, other, fleet.view(other))
                except RouterError:
                    shares[other] = (
                        0.0  # no replica is left for those: they are refused when it is their turn
                    )
        return shares

    def replicas(self, model: str) -> int:
        """How many serve it now; at least 1."""
        try:
            return len(self._fleet.view(model).members)
        except RouterError:
            return 1

    def _serves(self, model: str, replica: Replica) -> bool:
        try:
            return replica in self._fleet.view(model).eligible
        except RouterError:
            return False

    def _shared(self, model: str, own: View, other_model: str, other: View) -> float:
        if own is other:
            return 1.0
        key = (model, other_model)
        known = self._ratios.get(key)
        if known is not None and known[0] is own and known[1] is other:
            return known[2]
        if known is None and len(self._ratios) >= MOST_RATIOS:
            self._ratios.clear()
        ratio = len(own.eligible & other.eligible) / len(other.eligible)
        self._ratios[key] = own, other, ratio
        return ratio

    def _forget(self) -> None:
        held = self._fleet.held.by_model
        self._paces = {model: pace for model, pace in self._paces.items() if model in held}
