"""Policies are the rules of choice, by the names that configuration knows them by.

A policy is one file, and adding one means a line here. `choice.ranking.Policy` is the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies.least_loaded import LeastLoaded
from warmroute.core.choice.policies.power_of_two import PowerOfTwo
from warmroute.core.choice.policies.prefix_cost import PrefixCost
from warmroute.core.choice.policies.prefix_hash import PrefixHash
from warmroute.core.choice.policies.random_choice import RandomChoice
from warmroute.core.choice.policies.round_robin import RoundRobin
from warmroute.core.choice.ranking import Policy

POLICIES: Mapping[str, Callable[[CostParameters], Policy]] = {
    "prefix-cost": PrefixCost,
    "prefix-hash": PrefixHash,
    "round-robin": RoundRobin,
    "random": RandomChoice,
    "least-loaded": LeastLoaded,
    "power-of-two": PowerOfTwo,
}
"""Name to class; every class takes the cost parameters, though most need none of them."""
