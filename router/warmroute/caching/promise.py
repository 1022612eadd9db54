"""A promise says that a prompt's beginning is kept warm until a time; here is what is done about one, copy by copy.

Decides when a copy must be made or refreshed, and on which replica. It goes by what the caller sees of each replica
(`Copy`), so that whoever makes promises (cached contents, and prompts with breakpoints) and whoever sends prompts need
not know each other. It sends nothing and has no clock.

A copy is lost when as much as the cache holds was used after it. The router counts that (`core.beliefs.residency`),
as far as it knows the cache's size and hears of what is used; so a refresh comes when `BEHIND_RATIO` of the cache
was. Besides, it comes at half the age at which the replica was found to lose things, and no later than `Pace` allows:
that learns from refreshes themselves. One that finds its copy gone came too late, and the next ones come in half the
time; one that finds it there lets the next one come a little later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Final

from warmroute.core.types import Api, ReplicaId

WARM_RATIO: Final = 0.9
"""A replica that is believed to hold this share of what can be compared of a prefix has a copy. Fingerprints compare at
steps of an eighth, so more cannot be asked."""

KEPT_RATIO: Final = 0.95
"""A refresh that reports less of its prompt as cached, blocks that cannot be found left out, has found its copy
lost."""

BEHIND_RATIO: Final = 0.4
"""Share of a cache that may be used behind a copy. The rest is for what is not heard of, and for prompts under way."""

URGENT_BEHIND_RATIO: Final = 0.6
URGENT_LIFETIME_RATIO: Final = 0.75
"""From there on a refresh does not wait any more until nobody else waits at its replica."""

FIRST_PAUSE_S: Final = 60.0
LEAST_PAUSE_S: Final = 0.5
MOST_PAUSE_S: Final = 240.0
"""Also bounds how long an eviction that nothing told of goes unnoticed."""
_LONGER: Final = 1.25


@dataclass(frozen=True, slots=True)
class Promise:
    """One prefix that is to stay warm."""

    key: str
    """Names it, for good, among all promises."""
    name: str
    """For logs."""
    tenant: str
    """Whose budget it takes from."""
    model: str
    tokens: int
    """Its length, as far as it is known."""
    expires_s: float
    """Unix time until which it holds."""
    sharing: str = ""
    """Who shares its cached blocks, where tenants are kept apart."""
    uses: int = 0
    """How often it was used, since it was made."""
    lapsed: bool = False
    """It is given up for now."""
    api: Api = Api.CHAT
    """What the request that computes it is for."""
    where: str = "/v1/caches"
    """Below which path the access log has that request."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What is believed of one eligible replica; they come in the order in which the ring and the costs would choose."""

    replica: ReplicaId
    held_ratio: float
    """Share of the prefix that it is believed to hold."""
    idle_s: float
    """Since the prefix was last used there; infinite if it never was."""
    lifetime_s: float = inf
    """Age at which this replica was found to lose what nobody uses; infinite while nothing was found lost."""
    behind_ratio: float = 0.0
    """Share of its cache that is believed to have been used since: the prefix goes when that is all of it."""

    @property
    def warm(self) -> bool:
        """Whether it counts as a copy."""
        return self.held_ratio >= WARM_RATIO


class Pace:
    """How long one promise's copies may go unused before they are refreshed, as far as refreshes have shown."""

    __slots__ = ("pause_s",)

    def __init__(self) -> None:
        self.pause_s = FIRST_PAUSE_S

    def refreshed(self, idle_s: float, lost: bool) -> None:
        """A refresh of a copy that had gone unused so long found it lost, or there."""
        if lost:
            self.pause_s = max(LEAST_PAUSE_S, min(self.pause_s, idle_s) / 2.0)
        else:
            self.pause_s = min(MOST_PAUSE_S, self.pause_s * _LONGER)

    def due(self, copy: Copy) -> bool:
        """Whether a warm copy is to be refreshed."""
        return copy.behind_ratio >= BEHIND_RATIO or copy.idle_s >= min(self.pause_s, copy.lifetime_s / 2.0)

    def urgent(self, copy: Copy) -> bool:
        """Whether that cannot wait for a moment in which the replica has nothing else to compute."""
        if copy.behind_ratio >= URGENT_BEHIND_RATIO:
            return True
        return copy.idle_s >= min(self.pause_s * _LONGER, copy.lifetime_s * URGENT_LIFETIME_RATIO)


@dataclass(frozen=True, slots=True)
class Step:
    """One prefill to be sent for a promise."""

    replica: ReplicaId
    refresh: bool
    """The replica is believed to hold it: this costs next to nothing. Else it is a new copy."""


def copies_deserved(uses_per_s: float, uses_per_copy_per_s: float, replicas: int) -> int:
    """On how many replicas a prefix with this much use is kept: one at least."""
    wanted = ceil(uses_per_s / uses_per_copy_per_s) if uses_per_copy_per_s > 0.0 else 1
    return max(1, min(wanted, replicas))


def next_steps(copies: Sequence[Copy], deserved: int, pace: Pace) -> list[Step]:
    """What is to be sent now: copies about to be lost first, which costs least, then those that are missing. At most
    `deserved` warm ones are kept, those used last; what use has put elsewhere besides is not kept there."""
    warm = sorted((copy for copy in copies if copy.warm), key=lambda copy: copy.idle_s)[:deserved]
    missing = deserved - len(warm)
    kept = {copy.replica for copy in warm}
    cold = [copy for copy in copies if copy.replica not in kept and not copy.warm]
    steps = [Step(copy.replica, refresh=True) for copy in warm if pace.due(copy)]
    return steps + [Step(copy.replica, refresh=False) for copy in cold[:missing]]


def lost(prompt_tokens: int, cached_tokens: int, block_tokens: int) -> bool:
    """Whether a copy is gone, by what a refresh reports. The last token is always computed, and only whole blocks are
    found."""
    return prompt_tokens - cached_tokens > (1.0 - KEPT_RATIO) * prompt_tokens + block_tokens


def idle_since(last_used_s: float, now_s: float) -> float:
    """Age of a use; infinite where there was none."""
    return inf if last_used_s == -inf else max(0.0, now_s - last_used_s)
