"""The fresh cells play the workloads of `fresh`, on which nothing was tuned, against the strongest rivals.

This module decides the rates and the rivals. The rates are given, and no shares of a knee: where sessions wait for
their answers, a fleet that is slow is asked less, and there is no knee. The last rate of each workload is about what
the fleet can carry, or more. The fleet is the plain one of the axes. It runs nothing: `grid` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from warmroute_loadtest.simulate.axes import CACHE_TOKENS
from warmroute_loadtest.simulate.cells import Cell
from warmroute_loadtest.simulate.simulation import FleetConfig
from warmroute_loadtest.simulate.sources import Source, of_seed


@dataclass(frozen=True, slots=True)
class Load:
    """How one workload is played."""

    requests: int
    """Number of requests at least, in whole sessions."""
    rates: tuple[float, ...]
    """Requests a second, as the sessions' starts alone give them."""


RIVALS = ("waiting+2x", "llm-d", "preble", "sglang", "dynamo")
"""Each of them was the best on some workload, here or on the axes."""

LOADS = {
    "completions": Load(8000, (35.0, 65.0)),
    "keystrokes": Load(8000, (35.0, 65.0)),
    "bursty-chat": Load(6000, (65.0, 180.0)),
    "reasoning": Load(3000, (28.0, 50.0)),
    "subagents": Load(4000, (12.0, 26.0)),
    "tree-search": Load(6000, (20.0, 60.0)),
}


def fresh_cells(
    sources: Mapping[str, Source], knees: Mapping[str, float], fleet: FleetConfig, seed: int
) -> Iterator[Cell]:
    """Yield all cells under one seed."""
    own = replace(fleet, cache_tokens=CACHE_TOKENS, seed=seed)
    for name, source in sources.items():
        for rate in LOADS[name].rates:
            yield Cell(f"{name} {rate:.0f}/s", of_seed(source, seed), rate, own, rivals=RIVALS)


def no_knees(
    sources: Mapping[str, Source], fleet: FleetConfig, seeds: Sequence[int]
) -> dict[str, tuple[Source, FleetConfig]]:
    """Return no knee to find."""
    return {}
