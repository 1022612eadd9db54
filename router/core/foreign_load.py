"""What other routers have under way, per replica: the sum of what each said last, while it is heard of.

A router that is silent for `expire_s` counts no more: it died or cannot be heard, and either way nobody knows its
load. Decides nothing about routing, speaks to nobody. Replicas are named by the keys of notices, known here or not. Its
size is bounded by what `MAX_ROUTERS` routers say of `MAX_REPLICAS` replicas each, whoever writes to the board.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Load = tuple[int, int, int]
"""Of one router on one replica: requests in flight, uncached tokens waiting, uncached tokens ever given modulo 2^32."""

MAX_ROUTERS = 1000
MAX_REPLICAS = 10_000

_IDLE: Load = (0, 0, 0)
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
    loads: Sequence[tuple[int, Load]]


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
        self._sums: dict[int, tuple[int, int]] = {}
        self._changed: dict[int, int] = {}
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
        return self._sums.get(key, (0, 0))

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
            for key in loads.keys() - {key for key, _ in notice.loads}:
                self._change(key, loads.pop(key), _IDLE, 0)
        for key, load in notice.loads:
            before = loads.get(key)
            if before is None:
                if len(loads) < MAX_REPLICAS:
                    loads[key] = load
                    # What it gave before it was heard of was given at an unknown time.
                    self._change(key, _IDLE, load, 0)
            elif before != load:
                loads[key] = load
                self._change(key, before, load, (load[2] - before[2]) & _WRAP)

    def expire(self, now_s: float) -> None:
        """Forget whoever has been silent for too long."""
        for router, peer in list(self._peers.items()):
            if now_s - peer.heard_s >= self._expire_s:
                del self._peers[router]
                for key, load in peer.loads.items():
                    self._change(key, load, _IDLE, 0)

    def collect(self) -> dict[int, int]:
        """Replicas whose sum may have changed since the last call, and the tokens others gave each meanwhile."""
        changed, self._changed = self._changed, {}
        return changed

    def validate(self) -> None:
        """Derive the sums anew. Raises AssertionError where they differ."""
        sums: dict[int, tuple[int, int]] = {}
        for peer in self._peers.values():
            for key, (in_flight, waiting_tokens, _) in peer.loads.items():
                more = sums.get(key, (0, 0))
                sums[key] = more[0] + in_flight, more[1] + waiting_tokens
        assert {key: load for key, load in sums.items() if load != (0, 0)} == self._sums

    def _change(self, key: int, before: Load, after: Load, given_tokens: int) -> None:
        in_flight, waiting_tokens = self._sums.get(key, (0, 0))
        load = in_flight + after[0] - before[0], waiting_tokens + after[1] - before[1]
        if load == (0, 0):
            self._sums.pop(key, None)
        else:
            self._sums[key] = load
        self._changed[key] = self._changed.get(key, 0) + given_tokens
