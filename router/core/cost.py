"""What a request costs on a replica: expected seconds to its first token, and the price of its miss to everyone else.

    cost = base + wait + running + crowding + rare + price x prefill
    price = 1 + miss_weight + queued_weight x queued + eviction_weight x worth
    prefill = uncached / rate x (1 + mean context / attention_context)

Decides nothing: policies compare. The mean context of a prompt's uncached part is half of cached plus whole prompt.
`rare` is the price of a rare hit that this replica would miss (`router.core.rarity`); `queued` is how many requests are
held at the router for each replica; `worth` is how lately what the prompt's blocks push out of the replica's cache was
used. The request path computes the sum from what each replica keeps (`delay_s`, `wait_s`, `price`); `CostTerms` is the
same sum taken apart for people.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class CostParameters:
    """Priors and weights. Any one fleet's true values may be several times off; what counts is their proportion."""

    prefill_tokens_per_s: float = 8000.0
    """Prompt tokens one replica computes a second; 8,000 is an 8B model on one A100-class GPU."""
    attention_context_tokens: float = 32_000.0
    """Mean context at which attention costs as much as all the rest of a token's prefill: 32,000 for an 8B model with
    full attention, up to twice that for larger ones; 0 for models whose attention costs next to nothing."""
    base_latency_s: float = 0.03
    """First-byte time of a fully cached prompt on an idle replica."""
    in_flight_delay_s: float = 0.02
    """What each request under way (waiting or decoding) adds: its share of every engine step, and of the cache that
    the next one needs whole; more than the step alone, since nothing else here counts the memory it holds."""
    miss_weight: float = 1.0
    """Weight of the prefill work that a miss puts in everyone else's way; 1 prices it like the client's own wait."""
    queued_weight: float = 1.0
    """Weight of the same for those held at the router: each second of prefill anywhere makes each of them wait a
    replica's share of it, so their number for each replica is its price. The longer the queue, the dearer a miss."""
    rare_weight: float = 10.0
    """Weight of the prefill of what somebody holds and this replica does not, in a fleet of eight, where less than half
    of what prompts bring was ever seen before (`router.core.rarity`)."""
    eviction_weight: float = 2.0
    """Weight of what a miss pushes out of the replica's cache, if that was used just now; it fades with age."""
    eviction_memory_s: float = 120.0
    """Age at which what is pushed out is worth 37 %: most conversations go on within two minutes, or not at all."""
    crowd_weight: float = 0.15
    """Weight of the prefill work that a replica was given lately, done or not. It is what spreads a prefix shared by
    everyone over an idle fleet: its miss is paid once a replica, its heat would stay on one. A conversation's own
    history outweighs it until the imbalance is 2 / weight = 13 times that history."""
    crowd_horizon_s: float = 200.0
    """Time in which that memory fades to 37 %."""
    tie_ratio: float = 0.05
    """Costs closer than this share of the request's own cold cost are equal: then the ring decides."""
    bounded_load_factor: float = 1.25
    """Requests in flight, as a multiple of the mean, beyond which the ring's preference does not count."""
    default_block_tokens: int = 16
    """Cache block of a replica that has not told its own (vLLM's default)."""

    def __post_init__(self) -> None:
        for name in ("prefill_tokens_per_s", "crowd_horizon_s", "eviction_memory_s", "default_block_tokens"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in (
            "attention_context_tokens",
            "base_latency_s",
            "in_flight_delay_s",
            "miss_weight",
            "queued_weight",
            "rare_weight",
            "eviction_weight",
            "crowd_weight",
            "tie_ratio",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.bounded_load_factor >= 1:
            raise ValueError(f"bounded_load_factor must be at least 1, got {self.bounded_load_factor}")


@dataclass(frozen=True, slots=True)
class CostTerms:
    """One candidate's cost, taken apart; all in seconds."""

    base_s: float
    """First-byte time of a fully cached prompt."""
    wait_s: float
    """Prefill work ahead of this request."""
    running_s: float
    """Slow-down by the requests under way."""
    crowding_s: float
    """Price of the work this replica was given lately."""
    prefill_s: float
    """This request's own uncached tokens."""
    miss_s: float
    """The same tokens' price to everyone else."""
    rare_s: float = 0.0
    """Price of a rare hit that would be missed here."""
    queued_s: float = 0.0
    """Their price to those held at the router."""
    eviction_s: float = 0.0
    """Price of what they push out of the cache."""

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
            + self.rare_s
            + self.queued_s
            + self.eviction_s
        )

    def as_dict(self) -> dict[str, float]:
        """Every term and their sum, rounded to microseconds."""
        terms = {f.name: round(getattr(self, f.name), 6) for f in fields(self)}
        terms["total_s"] = round(self.total_s, 6)
        return terms
