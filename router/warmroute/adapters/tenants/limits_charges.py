"""What Redis is yet to be told of limits: what was taken without it, and what requests took in the end.

Decides what is counted together: one scope's within one second, since a window's parts are no shorter. Does not decide
when it is told, and to whom (`limits_redis`). Bounded: beyond `MOST` the oldest is given up.
"""

from __future__ import annotations

from typing import Final

from warmroute.tenants.limits import Scope

MOST: Final = 100_000


class Charge:
    """What is to be counted whatever the limits say."""

    __slots__ = ("at_ms", "cost_nano", "requests", "scope", "tokens")

    def __init__(self, scope: Scope, at_ms: int) -> None:
        self.scope = scope
        self.at_ms = at_ms
        """When what it makes less was taken; 0: it is counted as of now."""
        self.requests = 0
        self.tokens = 0
        self.cost_nano = 0


class Charges:
    """Those that wait."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str, int], Charge] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, scope: Scope, requests: int, tokens: int, cost_nano: int, at_s: float) -> None:
        """Count it with those of its second."""
        key = (scope.tenant, scope.model, int(at_s))
        charge = self._waiting.get(key)
        if charge is None:
            if len(self._waiting) >= MOST:
                del self._waiting[next(iter(self._waiting))]
            charge = self._waiting[key] = Charge(scope, int(at_s * 1000))
        charge.requests += requests
        charge.tokens += tokens
        charge.cost_nano += cost_nano

    def put_back(self, charges: list[Charge]) -> None:
        """They did not arrive."""
        for one in charges:
            self.add(one.scope, one.requests, one.tokens, one.cost_nano, one.at_ms / 1000)

    def put_back_in_doubt(self, charges: list[Charge]) -> None:
        """They may have arrived: what they count besides is told again, what they count less is given up. So nothing is
        ever given back twice, and the limit holds."""
        for one in charges:
            self.add(
                one.scope, max(one.requests, 0), max(one.tokens, 0), max(one.cost_nano, 0), one.at_ms / 1000
            )

    def take(self) -> list[Charge]:
        """All of them; none waits any longer."""
        taken = list(self._waiting.values())
        self._waiting = {}
        return taken
