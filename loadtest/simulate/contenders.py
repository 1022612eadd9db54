"""Every policy that can be simulated, by name: the router's own, and the rivals.

A name, unlike a maker, can be sent to another process.
"""

from __future__ import annotations

from collections.abc import Callable

from loadtest.simulate.chooser import Chooser, Site
from loadtest.simulate.rivals import RIVALS
from loadtest.simulate.warm import warm
from router.core.policies import POLICIES

OURS = "prefix-cost"


def maker(name: str) -> Callable[[Site], Chooser]:
    """The router of this name. Where both have one, the rival: its knowledge is the original's.

    Raises:
        ValueError: There is none.
    """
    if name in RIVALS:
        return RIVALS[name]
    if name in POLICIES:
        return warm(name)
    raise ValueError(f"no policy {name!r}; known: {', '.join(sorted({*POLICIES, *RIVALS}))}")
