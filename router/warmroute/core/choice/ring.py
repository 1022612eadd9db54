"""The consistent-hash ring is the order in which a key prefers the members, alike in every router.

This module decides preference only; it knows nothing of load or health (`bounded_load` wraps any such order). The rule
it keeps: the order depends on nothing but the key and the members' names, and a member that leaves or joins moves only
its own share.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Container, Iterator, Mapping
from typing import Final, Generic, TypeVar

from xxhash import xxh3_64_intdigest

VNODES: Final = 160
"""Points a member; shares then differ by about 8 % (one standard deviation). Source: vllm-router's ring has as many."""

_SLOT_BITS: Final = 16
_SLOT_MASK: Final = (1 << _SLOT_BITS) - 1
MAX_MEMBERS: Final = 1 << _SLOT_BITS

ARCS: Final = 1 << 12
"""Few enough to copy a list of them in 20 us; 1,000 members have 39 points in each."""
_ARC_SHIFT: Final = 64 - 12

M = TypeVar("M")


def _points_of(name: str, slot: int) -> set[int]:
    # The point's number is hashed, not used as a seed: a short input and a seed are only xored, so that points of
    # different short names would coincide, and their order would depend on the slots.
    return {xxh3_64_intdigest(f"{i}#{name}".encode()) & ~_SLOT_MASK | slot for i in range(VNODES)}


def _take(arcs: list[list[int]], touched: set[int], points: set[int]) -> None:
    """Remove points from their arcs. `touched`: arcs that are this ring's own, which no other shares."""
    for point in points:
        arc = _own(arcs, touched, point >> _ARC_SHIFT)
        del arc[bisect_left(arc, point)]


def _put(arcs: list[list[int]], touched: set[int], points: set[int]) -> None:
    """Insert points, likewise."""
    for point in points:
        insort(_own(arcs, touched, point >> _ARC_SHIFT), point)


def _own(arcs: list[list[int]], touched: set[int], number: int) -> list[int]:
    if number not in touched:
        touched.add(number)
        arcs[number] = arcs[number][:]
    return arcs[number]


class Ring(Generic[M]):
    """Immutable. A point is a 64-bit hash whose low 16 bits are replaced by the slot of its owner in `slots`.

    The ring is cut into arcs of equal length, each a sorted list of its points. A changed ring shares the arcs of the
    one before that did not change: of 1,000 members one costs 160 short lists instead of one of 160,000. Slots differ
    between routers, but decide only between points that agree in their upper 48 bits.
    """

    __slots__ = ("arcs", "members", "names", "slots")

    members: tuple[M, ...]
    """In no order that means anything."""
    arcs: list[list[int]]
    """By the upper bits of their points. No list is changed once its ring is made: others may share it."""
    slots: list[M | None]
    """Owner by slot; None where a member has left."""
    names: list[str | None]
    """The owner's name by slot."""

    def __init__(self, members: Mapping[str, M], previous: Ring[M] | None = None) -> None:
        """Args:
        members: Name to member; the name alone places it.
        previous: A ring to take over points from: members of the same name and identity keep theirs, so that a
            small change of a large ring costs little.

        Complexity: 0.2 ms a member that joined or left, whatever the others.
        """
        if len(members) > MAX_MEMBERS:
            raise ValueError(f"a ring takes at most {MAX_MEMBERS} members, got {len(members)}")
        self.members = tuple(members.values())
        self.slots: list[M | None] = [] if previous is None else previous.slots[:]
        self.names: list[str | None] = [] if previous is None else previous.names[:]
        arcs: list[list[int]] = [[]] * ARCS if previous is None else previous.arcs[:]
        touched: set[int] = set()
        free: list[int] = []
        joined = dict(members)
        for slot, name in enumerate(self.names):
            if name is None:
                free.append(slot)
            elif members.get(name) is self.slots[slot]:
                del joined[name]
            else:
                _take(arcs, touched, _points_of(name, slot))
                free.append(slot)
                self.slots[slot] = self.names[slot] = None
        for name, member in joined.items():
            if free:
                slot = free.pop()
                self.slots[slot], self.names[slot] = member, name
            else:
                slot = len(self.slots)
                self.slots.append(member)
                self.names.append(name)
            _put(arcs, touched, _points_of(name, slot))
        self.arcs = arcs

    def __len__(self) -> int:
        return len(self.members)

    @property
    def points(self) -> list[int]:
        """All of them, in order."""
        return [point for arc in self.arcs for point in arc]

    def first(self, key: int) -> M:
        """The member that the key prefers. The ring must not be empty."""
        arcs = self.arcs
        number = key >> _ARC_SHIFT
        arc = arcs[number]
        i = bisect_left(arc, key)
        if i == len(arc):
            i = 0
            number += 1
            while number < ARCS and not arcs[number]:
                number += 1
            if number == ARCS:
                number = 0
                while not arcs[number]:
                    number += 1
            arc = arcs[number]
        member = self.slots[arc[i] & _SLOT_MASK]
        assert member is not None
        return member

    def first_of(self, key: int, accepted: Container[M | None]) -> M | None:
        """The most preferred member that is in `accepted`, or None.

        Complexity: members / accepted steps on average, all points at worst.
        """
        slots = self.slots
        for point in self._from(key):
            member = slots[point & _SLOT_MASK]
            if member in accepted:
                return member
        return None

    def rank(self, key: int) -> Iterator[M]:
        """Every member once, most preferred first. The head is `first(key)`."""
        slots = self.slots
        seen = bytearray(len(slots))
        left = len(self.members)
        for point in self._from(key):
            slot = point & _SLOT_MASK
            if not seen[slot]:
                seen[slot] = 1
                yield slots[slot]  # type: ignore[misc]  # a point's slot always has a member
                left -= 1
                if not left:
                    return

    def _from(self, key: int) -> Iterator[int]:
        """All points in the order in which the key meets them."""
        arcs = self.arcs
        start = key >> _ARC_SHIFT
        first = arcs[start]
        cut = bisect_left(first, key)
        yield from first[cut:]
        for number in range(start + 1, ARCS):
            yield from arcs[number]
        for number in range(start):
            yield from arcs[number]
        yield from first[:cut]
