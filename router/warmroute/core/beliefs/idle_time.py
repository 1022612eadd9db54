"""The registry keeps what nobody touches for as long as replicas' caches turned out to keep prefixes, and a margin.

This module decides one figure for all records, between two bounds, from what answers taught (`survival`). It takes
replicas that serve the same models to be alike, so that a new one does not undo what its fellows showed. Where nothing
is known of some of them, or not for long, the registry keeps everything as long as is allowed: a record that is kept
too long costs memory, while one that is given up too soon costs a prefix, and that loss shows nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from warmroute.core.fleet.replica import Replica

MARGIN_RATIO: Final = 4.0
"""Times the age up to which prefixes are found: caches that come to keep them two octaves longer are asked for what is
older, and are found out."""


class IdleTime:
    """Of one registry, over one fleet; remembers when prefixes were last missed, by set of models."""

    __slots__ = ("_least_s", "_missed", "_most_s")

    def __init__(self, least_s: float, most_s: float) -> None:
        if not 0.0 < least_s <= most_s:
            raise ValueError(f"bounds must be positive and in order, got {least_s} and {most_s}")
        self._least_s = least_s
        self._most_s = most_s
        self._missed: dict[frozenset[str], tuple[int, float]] = {}
        """Prefixes missed by the replicas that serve these models, and when the number last changed."""

    def idle_s(self, replicas: Iterable[Replica], now_s: float) -> float:
        """The time to keep records for. The longer prefixes are found, the longer.

        It goes by the kind of replica, all that serve the same models, that keeps them longest. Where none were missed
        for as long as the upper bound, what was known is no longer taken to hold.
        """
        kinds: dict[frozenset[str], list[Replica]] = {}
        for replica in replicas:
            if replica.incarnation is not None:  # else nothing was ever noted of it
                kinds.setdefault(replica.models, []).append(replica)
        missed: dict[frozenset[str], tuple[int, float]] = {}
        longest_s = 0.0 if kinds else self._most_s
        for models, fellows in kinds.items():
            count = sum([replica.survival.missed for replica in fellows])
            before = self._missed.get(models)
            since_s = before[1] if before is not None and before[0] == count else now_s
            missed[models] = (count, since_s)
            lifetime_s = _lifetime_s(fellows) if 0.0 <= now_s - since_s < self._most_s else None
            longest_s = self._most_s if lifetime_s is None else max(longest_s, MARGIN_RATIO * lifetime_s)
        self._missed = missed
        return min(max(longest_s, self._least_s), self._most_s)


def _lifetime_s(fellows: list[Replica]) -> float | None:
    """The longest that any of them keeps prefixes; None while that is known of none."""
    known = False
    longest_s = 0.0
    for replica in fellows:
        gone_s = replica.survival.gone_s()
        known = known or gone_s is not None
        longest_s = max(longest_s, replica.survival.found_age_s() if gone_s is None else gone_s)
    return longest_s if known else None
