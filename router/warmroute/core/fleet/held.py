"""The requests held at this router, as a choice sees them: how many there are, and how many begin alike.

This module decides what a miss costs the held, and how much of that is spared for what they would find. A miss is in
the way of whoever waits, but not of those that begin with the same prefix: they gain a second replica that has it.
Without this, hundreds of questions about one document would all wait for the replica that has it, beside idle ones.
Those count as alike that part from the request right behind the prefix that somebody has. Turns that go on further with
it are computed by the first of them, and find the rest wherever that was.

A copy is still in the way of those that come later. Their price is spared only as far as the held that begin alike have
as much work left of their own as the copies that are there: many samples of one prompt have next to none, and would
gain nothing from a copy that waiting for the first does not give them.
"""

from __future__ import annotations

from warmroute.core.beliefs.belief import Belief
from warmroute.core.choice.view import Prices, View
from warmroute.core.prompt.fingerprint import rungs_among
from warmroute.core.types import FingerprintHash, RequestShape


class Held:
    """See the module; `Fleet` alone changes it."""

    __slots__ = ("by_model", "by_rung")

    def __init__(self) -> None:
        self.by_model: dict[str, int] = {}
        """How many of them ask for each model; those of which there is none are left out."""
        self.by_rung: dict[FingerprintHash, int] = {}
        """How many of them begin so, for whose prompts engines read their caches; likewise."""

    def begin(self, shape: RequestShape) -> None:
        """One more is held."""
        by_model, by_rung, model = self.by_model, self.by_rung, shape.model
        by_model[model] = by_model.get(model, 0) + 1
        if shape.reads_cache:
            for rung in shape.rungs:
                by_rung[rung] = by_rung.get(rung, 0) + 1

    def end(self, shape: RequestShape) -> None:
        """One is held no longer."""
        by_model, by_rung, model = self.by_model, self.by_rung, shape.model
        left = by_model[model] - 1
        if left:
            by_model[model] = left
        else:
            del by_model[model]
        if shape.reads_cache:
            for rung in shape.rungs:
                left = by_rung[rung] - 1
                if left:
                    by_rung[rung] = left
                else:
                    del by_rung[rung]

    def price(self, model: str, elsewhere: int, replicas: int) -> float:
        """`Prices.queued`: a second for each of the held, and one for whoever comes here while those wait.

        Args:
            elsewhere: Held at other routers, which count once.
            replicas: As many share the work.
        """
        own = self.by_model
        count = elsewhere + (2 * own.get(model, 0) if own else 0)
        return count / replicas if count else 0.0

    def shared_tokens(self, belief: Belief) -> int:
        """How many leading tokens of a prompt one of the held has too, and computes for it."""
        shape = belief.shape
        if not shape.reads_cache:
            return 0
        known = rungs_among(self.by_rung, shape.rungs)
        return belief.tokens_at(known - 1) if known else 0

    def spare(self, prices: Prices, belief: Belief, view: View) -> None:
        """Set what of the price is spared in the choice of a request of which somebody has a part.

        The share of the held that begin alike is taken from this router's own, also for what others hold.
        """
        deepest, shape = belief.believed, belief.shape
        held = self.by_model.get(shape.model, 0)
        if deepest < 0 or not held:
            return
        rungs, by_rung = shape.rungs, self.by_rung
        alike = by_rung.get(rungs[deepest], 0)
        # Itself, or whoever goes on as it does.
        alike -= by_rung.get(rungs[deepest + 1], 0) if deepest + 1 < len(rungs) else 1
        if alike > 0:
            tokens = shape.prompt_tokens
            shared = prices.alike_tokens = min(belief.known_tokens(), belief.tokens_at(deepest))
            any_one = view.members[0]
            copy = any_one.work_tokens(shared, 0)
            own = alike * any_one.work_tokens(tokens, shared)
            holders, members = len(belief.overlap), len(view.members)
            copies = holders * copy
            # More work than the copies that are there, and than copies on half of the replicas take, of so many that
            # there are as many for each replica as copies: whoever else is held, one more is worth it. Beside another
            # such group the share of each would be too small.
            enough = own > copies and 2.0 * own > members * copy and alike > holders * members
            prices.spared = 1.0 if enough else alike / held
            prices.paid = own / copies if own < copies else 1.0
