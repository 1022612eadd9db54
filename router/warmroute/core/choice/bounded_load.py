"""Bounded load lets a consistent-hash ring, or any other order of preference, pass over members that have too much.

This module decides which members may take one more request. The order among those stays the order that it wraps. The
rule it keeps: no member is given more than `factor` times the mean, and there is always one that may be given.

Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016); as a wrapper: Envoy's
`thread_aware_lb_impl.h`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import Generic, Protocol, TypeVar

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)


def capacity(total: int, members: int, factor: float) -> int:
    """The most requests that one of `members` may hold once one more is added to `total`.

    At least one more than the least loaded member holds, if `factor` is at least 1.
    """
    return ceil(factor * (total + 1) / members)


class Preference(Protocol[M_co]):
    """Any order of preference over a fixed set of members (a `Ring`, a `View`)."""

    @property
    def members(self) -> Sequence[M_co]:
        """All members, in any order."""

    def rank(self, key: int) -> Iterator[M_co]:
        """Every member once, most preferred first."""


class BoundedLoad(Generic[M]):
    """Wraps an order of preference: members with room come first, the full ones after them, both in that order."""

    __slots__ = ("_factor", "_load", "_preference")

    def __init__(self, preference: Preference[M], factor: float, load: Callable[[M], int]) -> None:
        """Args:
        factor: At least 1; 1.25 is what KubeAI and SGLang's router use.
        load: Requests that a member holds.
        """
        if factor < 1:
            raise ValueError(f"factor must be at least 1, got {factor}")
        self._preference = preference
        self._factor = factor
        self._load = load

    def first(self, key: int) -> M:
        """The most preferred member with room; there must be members."""
        return next(self.rank(key))

    def rank(self, key: int) -> Iterator[M]:
        """Every member once."""
        members = self._preference.members
        if not members:
            return
        load = self._load
        limit = capacity(sum(map(load, members)), len(members), self._factor)
        full: list[M] = []
        for member in self._preference.rank(key):
            if load(member) < limit:
                yield member
            else:
                full.append(member)
        yield from full
