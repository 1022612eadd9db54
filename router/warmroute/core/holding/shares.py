"""Who was served how much lately: what makes several tenants of one class equal, each by its weight.

What a tenant was served fades with time (`FADE_S`), and whoever has the least of it goes first. Two that always wait
are so served alike, for each unit of weight, and one that asks for less than its share has all of that. A sum of what
routers served is as good as what one would have: each adds what the others tell it (`heard`), so that many routers are
as fair as one.

This module decides whose turn it is, and nothing of which request that is, nor of when. The rules it keeps:
1. Who begins to wait is at most `MOST_AHEAD` rounds ahead of the first that waits already (`begin_waiting`): some
   seconds of work, so that bursts are served, and nobody saves up more for later than that.
2. Who is in an earlier round goes before who is in a later one; within a round all are equal (`round_of`), so that
   there the shortest and the warmest may go first. A round is `QUANTUM_TOKENS` for each replica.

Time is an argument, in seconds of one clock. Nothing here makes an object for a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp
from typing import Final

FADE_S: Final = 30.0
"""After so long what was served counts 37 %: as long as clients' patience, so that a share is kept within it."""

QUANTUM_TOKENS: Final = 4096.0
"""Of a round, for each replica: the work of a second or less on a GPU. Less leaves no choice to warm requests, more
makes shares coarse."""

MOST_AHEAD: Final = 8.0
"""Rounds that who begins to wait may be ahead of the first that waits. A tenant that asks for nine tenths of its share
comes in bursts: with one round its TTFT p90 was 1.9 times that beside a calm tenant when the other offered ten times
its share, with four 1.24 times, with eight 1.05 times (`tests.bench.overload tenants`, three seeds)."""

MOST_FADED: Final = 40.0
"""So many times `FADE_S` after which the unit begins anew."""

MOST_FLOWS: Final = 10_000
"""Of tenants that are known at once; those that were served least go first."""

_WRAP: Final = 2**32 - 1


class Flow:
    """What one tenant was served. Kept by whoever asks on its behalf."""

    __slots__ = ("key", "known", "use", "waiting", "weight", "untold_tokens")

    def __init__(self, key: int, weight: float) -> None:
        self.key = key
        """What routers call it."""
        self.weight = weight
        self.use = 0.0
        """Tokens served for each unit of weight, in the growing unit of `Shares`."""
        self.waiting = 0
        """Its requests that wait."""
        self.untold_tokens = 0.0
        """What was served here since other routers were told."""
        self.known = True
        """False once it was forgotten: it has to be asked for anew."""


class Shares:
    """What all tenants were served, as one router knows it."""

    __slots__ = ("_began_s", "_flows", "_last_unit", "_told", "_waiting", "quantum")

    def __init__(self) -> None:
        self._flows: dict[int, Flow] = {}
        self._waiting: set[Flow] = set()
        """Those of which a request waits."""
        self._told: set[Flow] = set()
        """Those of which other routers do not know all."""
        self._began_s = 0.0
        """When the unit was 1."""
        self._last_unit = 1.0
        self.quantum = QUANTUM_TOKENS
        """Of a round, in tokens for each unit of weight."""

    def __len__(self) -> int:
        return len(self._flows)

    def flow(self, key: int, weight: float) -> Flow:
        """The flow of a tenant; its weight is this one from now on."""
        found = self._flows.get(key)
        if found is None:
            if len(self._flows) >= MOST_FLOWS:
                self._forget()
            found = self._flows[key] = Flow(key, weight)
        found.weight = weight
        return found

    def _forget(self) -> None:
        """The half that was served least, and does not wait."""
        idle = sorted([flow for flow in self._flows.values() if not flow.waiting], key=_use_of)
        for flow in idle[: MOST_FLOWS // 2]:
            flow.known = False
            self._told.discard(flow)
            del self._flows[flow.key]

    def _unit(self, now_s: float) -> float:
        """What a token served now counts: instead of making what was served before less."""
        faded = (now_s - self._began_s) / FADE_S
        if not 0.0 <= faded <= MOST_FADED:
            # Where the clock was set back all is as it was when it was read last.
            factor = exp(-faded) if faded > 0.0 else 1.0 / self._last_unit
            for flow in self._flows.values():
                flow.use *= factor
            self._began_s = now_s
            faded = 0.0
        self._last_unit = exp(faded)
        return self._last_unit

    def charge(self, flow: Flow, tokens: float, now_s: float) -> None:
        """So many tokens were served, or, below 0, less than were charged before."""
        self._add(flow, tokens, now_s)
        flow.untold_tokens += tokens
        self._told.add(flow)

    def heard(self, key: int, tokens: float, now_s: float) -> None:
        """Another router served so many."""
        flow = self._flows.get(key)
        if flow is None:
            flow = self.flow(key, 1.0)  # until somebody asks here on its behalf
        self._add(flow, tokens, now_s)

    def _add(self, flow: Flow, tokens: float, now_s: float) -> None:
        added = tokens * self._unit(now_s) / flow.weight  # first: the unit may begin anew
        use = flow.use + added
        flow.use = use if use > 0.0 else 0.0

    def untold(self, most: int) -> list[tuple[int, int]]:
        """What other routers have to be told: keys, and tokens served here since they were told last."""
        told: list[tuple[int, int]] = []
        for flow in list(self._told):
            if len(told) >= most:
                break
            tokens = int(flow.untold_tokens)
            self._told.discard(flow)
            if tokens:
                flow.untold_tokens -= tokens
                told.append((flow.key, tokens))
        return told

    def begin_waiting(self, flow: Flow, now_s: float) -> None:
        """One more of its requests waits."""
        if not flow.waiting:
            self._waiting.add(flow)
            flow.use = self._use_when_waiting(flow, self._unit(now_s))
        flow.waiting += 1

    def _use_when_waiting(self, flow: Flow, unit: float) -> float:
        """What it was served, as it counts once it waits."""
        use = flow.use
        if flow.waiting:
            return use
        least = -1.0
        for other in self._waiting:
            if other is not flow and (least < 0.0 or other.use < least):
                least = other.use
        least -= MOST_AHEAD * self.quantum * unit
        return use if use > least else least

    def lead_tokens(self, flow: Flow, others: Iterable[Flow], now_s: float) -> list[float]:
        """How much more each of the others was served, for each unit of weight, than this one that waits or is about
        to."""
        unit = self._unit(now_s)
        use = self._use_when_waiting(flow, unit)
        return [(other.use - use) / unit for other in others]

    def end_waiting(self, flow: Flow) -> None:
        """One of them waits no longer."""
        flow.waiting -= 1
        if not flow.waiting:
            self._waiting.discard(flow)

    def round_of(self, flow: Flow, more_tokens: float, now_s: float) -> int:
        """The round that a tenant is in, or would be in once it was served so many tokens more."""
        unit = self._unit(now_s)
        return int((flow.use / unit + more_tokens / flow.weight) / self.quantum)


def _use_of(flow: Flow) -> float:
    return flow.use
