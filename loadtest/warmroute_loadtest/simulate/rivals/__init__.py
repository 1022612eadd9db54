"""The rivals are routers to compare ours with. Each follows its published rule and has a file of its own, which names
the source.

A rival has what its original has: its own counts, its own history of what it sent where, and engine metrics or exact
cache contents where the original reads those. It gets them without delay or loss, which flatters it.
"""

from __future__ import annotations

from collections.abc import Callable

from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.rivals.affinity_gate import AffinityGate
from warmroute_loadtest.simulate.rivals.aibrix import AibrixPrefixCache
from warmroute_loadtest.simulate.rivals.chwbl import Chwbl
from warmroute_loadtest.simulate.rivals.dynamo import DynamoCost
from warmroute_loadtest.simulate.rivals.hash_head import HashHead
from warmroute_loadtest.simulate.rivals.least_loaded import LeastLoaded
from warmroute_loadtest.simulate.rivals.llmd import LlmdScorers
from warmroute_loadtest.simulate.rivals.power_of_two import PowerOfTwo
from warmroute_loadtest.simulate.rivals.preble import PrebleE2
from warmroute_loadtest.simulate.rivals.round_robin import RoundRobin
from warmroute_loadtest.simulate.rivals.sglang import SglangCacheAware
from warmroute_loadtest.simulate.rivals.waiting_plus_uncached import WaitingPlusUncached

RIVALS: dict[str, Callable[[Site], Chooser]] = {
    rival.name: rival
    for rival in (
        RoundRobin,
        LeastLoaded,
        PowerOfTwo,
        HashHead,
        Chwbl,
        SglangCacheAware,
        LlmdScorers,
        DynamoCost,
        AibrixPrefixCache,
        PrebleE2,
        AffinityGate,
        WaitingPlusUncached,
    )
}
"""What makes each rival, by its name."""
