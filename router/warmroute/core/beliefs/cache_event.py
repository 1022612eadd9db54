"""A cache event is one thing that a request did to what a replica has cached, as routers tell it to each other.

`residency` makes them for this router's requests and follows those of others, so that every router's picture of a cache
is the same as one router's would be, but for the time that telling takes. This module decides nothing; it is what the
ledger of peer load and the notices carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

BEGUN: Final = 0
"""A prompt was sent."""
COMPUTED: Final = 1
"""The request is over, and its prompt was computed as far as is known."""
ABANDONED: Final = 2
"""It is over, and its prompt was not."""
ADDED: Final = 3
"""Tokens are now the last used ones: of an answer, for one; negative where an earlier count is corrected."""
REUSED: Final = 4
"""Tokens were found to be used again that nobody had believed to be there."""
LOST: Final = 5
"""What the router has under way is not known any more: a notice was lost, the router is silent, or it says so itself,
since it did not tell everything."""

KINDS: Final = 6


class CacheEvent(NamedTuple):
    """Of one replica's cache."""

    kind: int
    serial: int
    """Which of its router's requests on this replica, modulo 2^16, from 1 on; 0 where it does not matter."""
    tokens: int
    """Of the whole prompt at `BEGUN`, else see the kind."""
    at_s: float
    """When."""
    parts: Sequence[tuple[int, float]] = ()
    """What was used before, the deepest part of the prompt first: tokens, and when they were last used."""
