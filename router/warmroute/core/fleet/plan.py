"""The plan of one look through the held requests: which replicas those are meant for that stay held.

This module decides how long the prompt of one that stays held will keep its replica busy, so that requests behind it
count it as ahead there, and those of other routers too. Of several prompts with one new prefix that are meant for one
replica, the first computes that prefix and those behind it find it. They would count whole otherwise, so that a later
turn of the same conversation takes its home for busy and goes past it, to be computed whole on another replica.
"""

from __future__ import annotations

from warmroute.core.beliefs.belief import Belief
from warmroute.core.fleet.replica import Replica
from warmroute.core.prompt.fingerprint import rungs_among
from warmroute.core.types import FingerprintHash


class Plan:
    """See the module; `Fleet` alone changes it."""

    __slots__ = ("_rungs", "meant", "overlap_tokens", "replicas")

    def __init__(self) -> None:
        self.replicas: list[Replica] = []
        """The replica of each request that stays held, in their order."""
        self.meant: Replica | None = None
        """That of the request that was looked at last; None where it is held for what it would displace."""
        self.overlap_tokens = 0
        """Of the last of them, how many leading tokens it will find there."""
        self._rungs: dict[Replica, set[FingerprintHash]] = {}
        """How those begin that are meant for each replica."""

    def put(self, replica: Replica, belief: Belief, overlap_tokens: int) -> float:
        """A request stays held and is meant for this replica, which holds so many of its leading tokens: its prefill
        there in seconds, behind those before it."""
        self.replicas.append(replica)
        self.meant = replica
        shape = belief.shape
        if shape.reads_cache:
            rungs = shape.rungs
            planned = self._rungs.get(replica)
            if planned is None:
                planned = self._rungs[replica] = set()
            known = rungs_among(planned, rungs)
            if known:
                overlap_tokens = max(overlap_tokens, belief.tokens_at(known - 1))
            planned.update(rungs[known:])
        self.overlap_tokens = overlap_tokens
        return replica.prefill_s(shape.prompt_tokens, overlap_tokens)

    def clear(self) -> None:
        """The look is over."""
        self.replicas.clear()
        self.meant = None
        self._rungs.clear()
