"""The contenders are every policy that can be simulated, by name: the router's own, and the rivals.

A name, unlike a maker, can be sent to another process.
"""

from __future__ import annotations

from collections.abc import Callable

from warmroute.core.choice.policies import POLICIES
from warmroute_loadtest.simulate.chooser import Chooser, Site
from warmroute_loadtest.simulate.rivals import RIVALS
from warmroute_loadtest.simulate.routers import several
from warmroute_loadtest.simulate.warm import warm

OURS = "prefix-cost"
UNTOLD = "prefix-cost, untold"
"""Our policy in a router that is not told of engines that reuse chunks."""


def maker(name: str) -> Callable[[Site], Chooser]:
    """Return what makes the router of this name. The name `<policy> xN` means a policy of ours in N routers. A name
    that both a rival and a policy of ours have means the rival, since the rival knows what its original knows.

    Raises:
        ValueError: No policy has this name.
    """
    if name in RIVALS:
        return RIVALS[name]
    if name in POLICIES:
        return warm(name)
    if name == UNTOLD:
        return warm(OURS, chunks=False)
    policy, mark, routers = name.partition(" x")
    if mark and policy in POLICIES and routers.isdecimal():
        return several(policy, int(routers))
    raise ValueError(f"no policy {name!r}; known: {', '.join(sorted({*POLICIES, *RIVALS}))}")


def of_routers(policy: str, routers: int) -> str:
    """Return the name of a policy in `routers` routers.

    Raises:
        ValueError: `routers` is below 1.
    """
    if routers < 1:
        raise ValueError(f"there is no policy without a router, got {routers}")
    return policy if routers == 1 else f"{policy} x{routers}"
