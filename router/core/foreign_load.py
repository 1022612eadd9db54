"""What other routers have under way, per replica: the sum of what each said last, while it is heard of.

A router that is silent for `expire_s` counts no more: it died or cannot be heard, and either way nobody knows its
load. Decides nothing about routing, speaks to nobody. Replicas are named by the keys of notices, known here or not. Its
size is bounded by what `MAX_ROUTERS` routers say of `MAX_REPLICAS` replicas each, whoever writes to the board.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Load = tuple[int, int, int, int]
"""Of one router on one replica: the replica's key, requests in flight, uncached tokens waiting, and uncached tokens
ever given, modulo 2^32."""

MAX_ROUTERS = 1000
MAX_REPLICAS = 10_000

_WRAP = 2**32 - 1


class Notice(NamedTuple):
    """What one router says at one moment."""

    router: int
    number: int
    """One more than its last notice's, modulo 2^32."""
    whole: bool
    """True: replicas that it does not name have no load of its. False: they have what it said before."""
    asking: bool
    """It lacks what others said before, and asks for whole notices."""
    loads: Sequence[Load]


class _Peer:
    __slots__ = ("complete", "heard_s", "loads", "number")

    def __init__(self) -> None:
        self.complete = False
        self.heard_s = 0.0
        self.loads: dict[int, Load] = {}
        self.number = 0


class ForeignLoad:
    """The ledger. Not thread-safe.

    Args:
        own: The id under which this router speaks; what it says itself is not foreign.
        expire_s: See the module.
    """

    def __init__(self, own: int, expire_s: float) -> None:
        self._own = own
        self._expire_s = expire_s
        self._peers: dict[int, _Peer] = {}
        self._sums: dict[int, list[int]] = {}
        """By replica: in flight, waiting tokens, tokens given since the last `collect`."""
        self._changed: set[int] = set()
        self.asked = False
        """Somebody asked for a whole notice; whoever answers resets it."""

    @property
    def routers(self) -> int:
        """How many others are heard of."""
        return len(self._peers)

    @property
    def missing(self) -> bool:
        """True while some router is known in part only: it spoke before this one listened, or a notice was lost."""
        return any(not peer.complete for peer in self._peers.values())

    def of(self, key: int) -> tuple[int, int]:
        """Requests in flight and waiting tokens of all other routers together on one replica."""
        total = self._sums.get(key)
        return (0, 0) if total is None else (total[0], total[1])

    def take(self, notice: Notice, now_s: float) -> None:
        """Believe a notice. Any that is well formed is taken, in whatever order they come."""
        if notice.router == self._own:
            return
        peer = self._peers.get(notice.router)
        if peer is None:
            if len(self._peers) >= MAX_ROUTERS:
                return
            peer = self._peers[notice.router] = _Peer()
        elif notice.number != (peer.number + 1) & _WRAP:
            peer.complete = False
        peer.number = notice.number
        peer.heard_s = now_s
        self.asked |= notice.asking
        loads = peer.loads
        if notice.whole:
            peer.complete = True
            for key in loads.keys() - {load[0] for load in notice.loads}:
                self._take_back(loads.pop(key))
        sums, changed = self._sums, self._changed
        for load in notice.loads:
            key, in_flight, waiting_tokens, given_tokens = load
            before = loads.get(key)
            if before == load:
                continue
            total = sums.get(key)
            if total is None:
                total = sums[key] = [0, 0, 0]
            if before is not None:
                total[0] += in_flight - before[1]
                total[1] += waiting_tokens - before[2]
                total[2] += (given_tokens - before[3]) & _WRAP
            elif len(loads) < MAX_REPLICAS:
                # What was given before this router was heard of was given at an unknown time.
                total[0] += in_flight
                total[1] += waiting_tokens
            else:
                changed.add(key)
                continue
            loads[key] = load
            changed.add(key)

    def expire(self, now_s: float) -> None:
        """Forget whoever has been silent for too long."""
        for router, peer in list(self._peers.items()):
            if now_s - peer.heard_s >= self._expire_s:
                del self._peers[router]
                for load in peer.loads.values():
                    self._take_back(load)

    def collect(self) -> list[Load]:
        """Replicas whose sum may have changed since the last call, and the tokens others gave each meanwhile."""
        sums = self._sums
        changed: list[Load] = []
        for key in self._changed:
            total = sums[key]
            in_flight, waiting_tokens, given_tokens = total
            changed.append((key, in_flight, waiting_tokens, given_tokens))
            if in_flight or waiting_tokens:
                total[2] = 0
            else:
                del sums[key]
        self._changed.clear()
        return changed

    def validate(self) -> None:
        """Derive the sums anew. Raises AssertionError where they differ."""
        sums: dict[int, tuple[int, int]] = {}
        for peer in self._peers.values():
            for key, in_flight, waiting_tokens, _ in peer.loads.values():
                more = sums.get(key, (0, 0))
                sums[key] = more[0] + in_flight, more[1] + waiting_tokens
        for key in sums.keys() | self._sums.keys():
            assert self.of(key) == sums.get(key, (0, 0)), key
        assert all(key in self._changed or any(total) for key, total in self._sums.items())

    def _take_back(self, load: Load) -> None:
        key, in_flight, waiting_tokens, _ = load
        total = self._sums.setdefault(key, [0, 0, 0])
        total[0] -= in_flight
        total[1] -= waiting_tokens
        self._changed.add(key)
