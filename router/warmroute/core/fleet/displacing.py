"""Displacing says for how long a prompt that is mostly new is held for what it would push out of its replica's cache.

Where conversations under way need more than the caches hold, each turn evicts the next conversation's prompt, which is
computed anew and evicts another's. Turns take longer then, so that more conversations are under way at once, and the
fleet stays so long after the burst that began it: it thrashes. Whoever lets a conversation begin only when there is
room gives all of them their turns sooner, the late one's included.

This module decides how long waiting is worth it; it knows no queue. The price of what is evicted is `choice.cost`'s:
2 r + 2 r² times the prompt's prefill, where r is the share that will be asked for again. It is paid once by whoever is
next and once for each request that is held, and as long as that a request may wait: a wait that turns out to have been
in vain has then cost as much as it could have spared, and no more. But what is evicted must change meanwhile. It is
what was used longest ago, and the longer nobody asks for it, the less likely somebody will: where the worth is less
than the time for which that has been idle already, r would be about the same after the wait, and nobody waits.
"""

from __future__ import annotations

from math import inf

from warmroute.core.fleet.replica import Replica


def worth_s(replica: Replica, prompt_tokens: int, overlap_tokens: int, queued: float, now_s: float) -> float:
    """How long a prompt may be held for the conversations in this replica's cache; 0: it is not.

    Args:
        overlap_tokens: So many of its tokens are held there. One of which half is there is no conversation that begins.
        queued: The price of a second to those that are held (`Prices.queued`), which counts them twice.
    """
    horizon_s = replica.residency.horizon_s
    if horizon_s == -inf or 2 * overlap_tokens >= prompt_tokens:
        return 0.0
    prefill_s = replica.prefill_s(prompt_tokens, overlap_tokens)
    eviction_s = prefill_s * (replica.price - 2.0)
    wait_s = eviction_s * (1.0 + 0.5 * queued)
    return wait_s if wait_s > now_s - horizon_s else 0.0
