"""What a router takes for some seconds without those who count for all: a share of what they said last was left.

Each router that does not know better takes no more than its share of the rest, so that all together stay within the
limit, however unevenly they had used it until then. This module decides only whether something is left by what was
told; the router's share of the whole limit (`LocalLimits.share`) counts besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from warmroute.tenants.limits import BUSY_S, CONCURRENT, Grant, LocalLimits, Scope

FRESH_S: Final = 3.0
"""For so long it counts what was told; after that too much of a minute is free again."""


def note_told(
    local: LocalLimits, scopes: Mapping[str, Scope], used: Mapping[str, list[int]], now_s: float
) -> None:
    """So much of these scopes, by model, all routers together have used, by number."""
    for model, scope in scopes.items():
        sums = local.sums(scope, now_s)
        sums.told_used, sums.told_s = used[model], now_s


def used_up(local: LocalLimits, grant: Grant, now_s: float) -> bool:
    """Whether nothing is left for it by what was told; then it is refused."""
    for scope in grant.scopes:
        for which, used in enumerate(_told(local, scope, now_s)):
            limit = scope.limits[which]
            amount = grant.amount(which)
            if limit and amount and used + _shared_out(local, scope, which, amount) > limit:
                grant.refuse(which, scope, BUSY_S)
                return True
    return False


def note_taken(local: LocalLimits, grant: Grant, now_s: float) -> None:
    """It was taken here: less is left."""
    for scope in grant.scopes:
        used = _told(local, scope, now_s)
        for which in range(len(used)):
            used[which] += _shared_out(local, scope, which, grant.amount(which))


def note_ended(local: LocalLimits, grant: Grant, now_s: float) -> None:
    """It is under way no longer."""
    for scope in grant.scopes:
        used = _told(local, scope, now_s) if scope.concurrent else []
        if used:
            taken = _shared_out(local, scope, CONCURRENT, 1) if grant.local else 1
            used[CONCURRENT] = max(0, used[CONCURRENT] - taken)


def _told(local: LocalLimits, scope: Scope, now_s: float) -> list[int]:
    """What all have used as far as that is known, by number; empty if it is not, or no longer."""
    sums = local.sums(scope, now_s)
    return sums.told_used if 0.0 <= now_s - sums.told_s < FRESH_S else []


def _shared_out(local: LocalLimits, scope: Scope, which: int, amount: int) -> int:
    """What a request takes if each router takes the same; of a limit that has not one for each, what it takes alone."""
    return amount * local.share if scope.limits[which] >= local.share else amount
