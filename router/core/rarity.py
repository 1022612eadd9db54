"""What missing a hit costs where hits are rare.

Where less than `LOYAL_RATIO` of what prompts bring was ever seen before (`Fleet.found_ratio`), few prompts have a home,
and the work that these save is what the fleet is short of. Going elsewhere with one of which somebody holds a good part
(`deep_tokens`) then has a price of its own: `rare_s` for each candidate.

The price of a second is the highest in small fleets: what is computed twice falls to each of n replicas as an n-th, and
with n grows the chance that one of them is idle and computes it at nobody's cost. So it goes with 1 / n², and
`policy.rare_weight` is the price on `USUAL_REPLICAS`. Where there are several routers or workers it is half of that.
"""

from __future__ import annotations

from typing import Final

from router.core.replica import Replica

LOYAL_RATIO: Final = 0.5
"""Of what prompts bring, this much must have been seen before, or prompts seldom come back."""
DEEP_RATIO: Final = 0.4
"""Who holds this much of a prompt holds what is its own. Less may be an instruction or a document that many share,
soon to be found everywhere."""
MOST_RARE_S: Final = 16.0
"""The most that a miss may cost, and so the most that a request waits for its sake."""
USUAL_REPLICAS: Final = 8.0
SHARED_RATIO: Final = 0.5
"""Of the price, where there are several routers: who is held at another one for the same replica is not known, so the
wait is longer than it looks. With the whole price four routers had a p90 of 1.06 of one's on the conversation trace,
with half of it 1.03, and cached 0.4 points less than one."""


def rare_price(weight: float, replicas: int, routers: int) -> float:
    """What a second of prefill costs that was missed, in seconds."""
    ratio = USUAL_REPLICAS / replicas
    price = weight * ratio * ratio
    return price * SHARED_RATIO if routers > 1 else price


def deep_tokens(overlaps: dict[Replica, int], prompt_tokens: int) -> int:
    """What the deepest holder has of a prompt; 0 if that is less than `DEEP_RATIO` of it."""
    deepest = 0
    for held in overlaps.values():
        if held > deepest:
            deepest = held
    return deepest if deepest >= DEEP_RATIO * prompt_tokens else 0


def rare_s(replica: Replica, prompt_tokens: int, held_tokens: int, deepest: int, price: float) -> float:
    """What it costs to send the prompt to this replica and not to the deepest holder."""
    if held_tokens >= deepest:
        return 0.0
    missed_s = replica.prefill_s(prompt_tokens, held_tokens) - replica.prefill_s(prompt_tokens, deepest)
    cost_s = price * missed_s
    return cost_s if cost_s < MOST_RARE_S else MOST_RARE_S
