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
"""Of 1,000 members each has 39 points: short enough to insert one in the middle."""
_ARC_SHIFT: Final = 64 - 12

M = TypeVar("M")


def _points_of(name: str, slot: int) -> set[int]:
    # The point's number is hashed, not used as a seed: a short input and a seed are only xored, so that points of
    # different short names would coincide, and their order would depend on the slots.
    return {xxh3_64_intdigest(f"{i}#{name}".encode()) & ~_SLOT_MASK | slot for i in range(VNODES)}


class Ring(Generic[M]):
    """A point is a 64-bit hash whose low 16 bits are replaced by the slot of its owner in `slots`.

    The ring is cut into arcs of equal length, each a sorted list of its points, so that a member that comes or goes
    costs its own points, in place: nothing is copied, and nothing made that the garbage collector would have to walk
    (lists of points, new with every change, cost 20 ms a collection). Whoever hands a ring out changes it only between
    two choices. Slots differ between routers, but decide only between points that agree in their upper 48 bits.
    """

    __slots__ = ("_free", "_slot_of", "arcs", "slots")

    arcs: list[list[int]]
    """By the upper bits of their points."""
    slots: list[M | None]
    """Owner by slot; None where a member has left."""

    def __init__(self, members: Mapping[str, M]) -> None:
        """Args:
        members: Name to member; the name alone places it.

        Raises:
            ValueError: They are more than `MAX_MEMBERS`.
        """
        if len(members) > MAX_MEMBERS:
            raise ValueError(f"a ring takes at most {MAX_MEMBERS} members, got {len(members)}")
        self.slots: list[M | None] = []
        self.arcs: list[list[int]] = [[] for _ in range(ARCS)]
        self._slot_of: dict[str, int] = {}
        self._free: list[int] = []
        for name, member in members.items():
            self.put(name, member)

    def put(self, name: str, member: M) -> None:
        """A member comes, or another takes a name over.

        Complexity: 0.1 to 0.2 ms, however many others there are.
        """
        known = self._slot_of.get(name)
        if known is not None:
            self.slots[known] = member
            return
        if self._free:
            slot = self._free.pop()
            self.slots[slot] = member
        else:
            slot = len(self.slots)
            if slot == MAX_MEMBERS:
                raise ValueError(f"a ring takes at most {MAX_MEMBERS} members")
            self.slots.append(member)
        self._slot_of[name] = slot
        arcs = self.arcs
        for point in _points_of(name, slot):
            insort(arcs[point >> _ARC_SHIFT], point)

    def drop(self, name: str) -> None:
        """A member goes, if it is there. As quick as `put`."""
        slot = self._slot_of.pop(name, None)
        if slot is None:
            return
        arcs = self.arcs
        for point in _points_of(name, slot):
            arc = arcs[point >> _ARC_SHIFT]
            del arc[bisect_left(arc, point)]
        self.slots[slot] = None
        self._free.append(slot)

    @property
    def members(self) -> list[M]:
        """All of them, in no order that means anything."""
        return [member for member in self.slots if member is not None]

    def __len__(self) -> int:
        return len(self._slot_of)

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
        left = len(self._slot_of)
        for point in self._from(key):
            slot = point & _SLOT_MASK
            if not seen[slot]:
                seen[slot] = 1
                yield slots[slot]  # type: ignore[misc]  # a point's slot always has a member
                left -= 1
                if not left:
                    return

    def preferred(self, key: int, count: int, accepted: Container[M | None]) -> list[M]:
        """The first `count` members in the order of `rank` that are in `accepted`; fewer where there are no more.

        Every choice in a large fleet asks for them: one loop over the arcs takes half the time of nested generators.
        """
        slots, arcs = self.slots, self.arcs
        seen = bytearray(len(slots))
        found: list[M] = []
        if count <= 0:
            return found
        left = len(self._slot_of)
        number = key >> _ARC_SHIFT
        place = bisect_left(arcs[number], key)
        # The arc of the key is met twice: from the key on, and last up to the key.
        for _ in range(ARCS + 1):
            arc = arcs[number]
            size = len(arc)
            while place < size:
                slot = arc[place] & _SLOT_MASK
                place += 1
                if seen[slot]:
                    continue
                seen[slot] = 1
                member = slots[slot]
                if member is not None and member in accepted:
                    found.append(member)
                    if len(found) == count:
                        return found
                left -= 1
                if not left:
                    return found
            place = 0
            number += 1
            if number == ARCS:
                number = 0
        return found

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
