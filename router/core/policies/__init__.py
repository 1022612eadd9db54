"""The rules of choice by the names that configuration knows them by.

A policy is one file; adding one means a line here. Contract: `router.core.ranking.Policy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from router.core.cost import CostParameters
from router.core.policies.least_loaded import LeastLoaded
from router.core.policies.power_of_two import PowerOfTwo
from router.core.policies.prefix_cost import PrefixCost
from router.core.policies.prefix_hash import PrefixHash
from router.core.policies.random_choice import RandomChoice
from router.core.policies.round_robin import RoundRobin
from router.core.ranking import Policy

POLICIES: Mapping[str, Callable[[CostParameters], Policy]] = {
    "prefix-cost": PrefixCost,
    "prefix-hash": PrefixHash,
    "round-robin": RoundRobin,
    "random": RandomChoice,
    "least-loaded": LeastLoaded,
    "power-of-two": PowerOfTwo,
}
"""Name to class; every class takes the cost parameters, though most need none of them."""
