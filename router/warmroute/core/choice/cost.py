"""The cost of a request on a replica: expected seconds to its first token, and the price of its miss to everyone else.

    cost = base + wait + running + crowding + price x prefill + 2 held x saved
    price = 2 + 2 r + 2 r^2
    prefill = uncached / rate x (1 + mean context / attention_context)

This module decides nothing: policies compare costs. Every term is a measured time or a count of requests, and every
weight is a pure number, so that the rule is the same on engines of any speed.

A second of prefill counts once for the request that waits for it, and once for everyone else in whose way it is. It
counts twice more for each request that is held at the router, and once for each that others hold, divided by the number
of replicas (`2 held`), as far as it is `saved` where most of the prompt is cached: it makes each of those wait a
replica's share of it, and whoever comes while they wait. What no replica holds is computed wherever the request goes,
so that the held have no say in it. Of what the request shares with held ones that begin alike, their share of the held
is spared of both: a copy is in nobody's way who would find it. Of the price to whoever comes later it is spared only as
far as their own work pays for a copy (`fleet.held`). The return ratio r says how likely it is that what the prompt's
blocks push out of the replica's cache is asked for again (`beliefs.returns`). It then has to be computed anew, and
pushes out as much in turn; the sum ends after that second round. The mean context of a prompt's uncached part is half
the sum of its cached tokens and all its tokens. `crowding` is the recent load: the prefill work that the replica was
given lately.

The request path computes the sum from what each replica keeps (`delay_s`, `wait_s`, `recent_load_s`, `price`).
`CostTerms` is the same sum, taken apart for people.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class CostParameters:
    """Weights, and what is believed before anything was measured."""

    prefill_tokens_per_s: float = 8000.0
    """Prompt tokens one replica computes a second, until the fleet's first samples of work are measured. A choice
    compares times of replicas that are all believed alike until then, so any value gives the same ones."""
    attention_context_tokens: float = 32_000.0
    """Mean context at which attention costs as much as all the rest of a token's prefill: 32,000 for an 8B model with
    full attention, up to twice that for larger ones; 0 for models whose attention costs next to nothing."""
    crowd_weight: float = 0.15
    """Weight of the recent load: the prefill work that a replica was given lately, done or not. It spreads a prefix
    that everyone shares over an idle fleet: the prefix's miss is paid once for each replica, while its requests would
    stay on one. A conversation's own history outweighs it until the imbalance is 2 / weight = 13 times that history."""
    crowd_requests: float = 60.0
    """After so many requests for each replica of the fleet, the recent load has faded to 37 %. It fades with requests,
    and not with time."""
    tie_ratio: float = 0.05
    """Costs that exceed the smallest by at most this share of the request's own cost on the cheapest replica
    (`CostTerms.own_s`) are equal to it: then the fewest requests under way decide, then the ring."""
    bounded_load_factor: float = 1.25
    """Requests under way, whoever sent them, as a multiple of the mean, from which on the ring's preference does not
    count."""
    shared_step_tokens: float = 0.0
    """Least part of a step, in prompt tokens, that an engine gives a long prompt while others are there (vLLM's
    `--long-prefill-token-threshold`); 0: it computes prompts one after the other."""

    def __post_init__(self) -> None:
        for name in ("prefill_tokens_per_s", "crowd_requests"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in (
            "attention_context_tokens",
            "crowd_weight",
            "tie_ratio",
            "shared_step_tokens",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.bounded_load_factor >= 1:
            raise ValueError(f"bounded_load_factor must be at least 1, got {self.bounded_load_factor}")


@dataclass(frozen=True, slots=True)
class CostTerms:
    """One candidate's cost, taken apart; all in seconds."""

    base_s: float
    """First-byte time of a fully cached prompt; 0 until measured."""
    wait_s: float
    """Prefill work ahead of this request, or until the cache has room for it, where that is longer."""
    running_s: float
    """Slow-down by the requests that are decoding."""
    crowding_s: float
    """Price of the recent load: the work that this replica was given lately."""
    prefill_s: float
    """This request's own uncached tokens."""
    miss_s: float
    """The price of the same tokens to everyone else."""
    queued_s: float = 0.0
    """The price to the requests held at the router of those tokens that another replica holds."""
    eviction_s: float = 0.0
    """The price of what the same tokens push out of the cache."""

    @property
    def own_s(self) -> float:
        """What the request itself costs there, whatever is under way or held: what the width of a tie is a share of."""
        return self.base_s + self.prefill_s + self.miss_s + self.eviction_s

    @property
    def total_s(self) -> float:
        """The cost that is compared."""
        return (
            self.base_s
            + self.wait_s
            + self.running_s
            + self.crowding_s
            + self.prefill_s
            + self.miss_s
            + self.queued_s
            + self.eviction_s
        )

    def as_dict(self) -> dict[str, float]:
        """Every term and their sum, rounded to microseconds."""
        terms = {f.name: round(getattr(self, f.name), 6) for f in fields(self)}
        terms["total_s"] = round(self.total_s, 6)
        return terms
