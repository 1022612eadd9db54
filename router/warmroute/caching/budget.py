"""What keeping prefixes warm may cost: a share of the time that the fleet's replicas could spend on prefill.

Decides whether one more prefill may be sent. The rule it keeps: over any time T, what was measured is at most the
share times the replicas times T, and what had been saved up before, which is at most a `WINDOW_S` of it. Each tenant
has a share of the whole, so that one with many promises does not take the others' part. Units are seconds of one
replica's prefill. It has no clock.
"""

from __future__ import annotations

from typing import Final

WINDOW_S: Final = 60.0
"""How much may be saved up: the first copy of a long prefix costs seconds at once."""

MOST_TENANTS: Final = 10_000


class _Purse:
    __slots__ = ("filled_s", "held_s")

    def __init__(self, held_s: float, filled_s: float) -> None:
        self.held_s = held_s
        self.filled_s = filled_s

    def fill(self, rate: float, now_s: float) -> None:
        self.held_s = min(rate * WINDOW_S, self.held_s + rate * max(0.0, now_s - self.filled_s))
        self.filled_s = now_s


class PrefillBudget:
    """The budget of one deployment, at the router that keeps its promises.

    Args:
        ratio: Share of the fleet's prefill that may be spent.
        tenant_ratio: Share of it that one tenant may spend; at most `ratio`.
    """

    __slots__ = ("_all", "_ratio", "_tenant_ratio", "_tenants", "refused", "spent_s")

    def __init__(self, ratio: float, tenant_ratio: float) -> None:
        self._ratio = ratio
        self._tenant_ratio = min(tenant_ratio, ratio)
        self._all: _Purse | None = None
        self._tenants: dict[str, _Purse] = {}
        self.spent_s = 0.0
        """All that was spent, as measured."""
        self.refused = 0
        """How often a prefill was not sent for want of it."""

    def take(self, tenant: str, expected_s: float, replicas: float, now_s: float) -> bool:
        """Whether a prefill that should take so long may be sent; takes that much if so. `settle` corrects it.

        Args:
            replicas: How many there are; of a budget that several routers share, this one's part of them.
        """
        whole, own = self._purses(tenant, replicas, now_s)
        if expected_s > whole.held_s or expected_s > own.held_s:
            self.refused += 1
            return False
        whole.held_s -= expected_s
        own.held_s -= expected_s
        self.spent_s += expected_s
        return True

    def settle(self, tenant: str, expected_s: float, measured_s: float) -> None:
        """What `take` took turned out to be so much. What it was more is owed: nothing is sent until it is paid."""
        more_s = measured_s - expected_s
        self.spent_s += more_s
        if self._all is not None:
            self._all.held_s -= more_s
        own = self._tenants.get(tenant)
        if own is not None:
            own.held_s -= more_s

    def _purses(self, tenant: str, replicas: float, now_s: float) -> tuple[_Purse, _Purse]:
        rate, own_rate = self._ratio * replicas, self._tenant_ratio * replicas
        whole = self._all
        if whole is None:
            whole = self._all = _Purse(rate * WINDOW_S, now_s)
        own = self._tenants.get(tenant)
        if own is None:
            if len(self._tenants) >= MOST_TENANTS:
                self._tenants.clear()
            own = self._tenants[tenant] = _Purse(own_rate * WINDOW_S, now_s)
        whole.fill(rate, now_s)
        own.fill(own_rate, now_s)
        return whole, own
