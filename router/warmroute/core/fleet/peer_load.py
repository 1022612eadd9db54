"""The ledger of peer load adds up what other routers have under way on each replica, by what each of them said last.

A router that is silent for `expire_s` counts no more: it has died or cannot be heard, and either way nobody knows its
load. This module decides nothing about routing and speaks to nobody. It knows replicas by the keys that notices have,
whether or not they belong to this router's fleet. What it keeps is bounded by `MAX_ROUTERS` routers with
`MAX_REPLICAS` replicas each, whoever writes to the board.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from warmroute.core.beliefs.cache_event import LOST, CacheEvent

MAX_ROUTERS = 1000
MAX_REPLICAS = 10_000
_WRAP = 2**32 - 1


class Load(NamedTuple):
    """Of one router on one replica. Work is in tokens without context."""

    key: int
    """The replica's."""
    in_flight: int
    given_tokens: int
    """Uncached tokens ever given to it, modulo 2^32."""
    work_tokens: int
    """Of its prompts that wait or are prefilled there."""
    head_tokens: int
    """Of the first of those."""
    age_ms: int
    """For how long the first has been under way, as far as that router knows."""
    awaited_tokens: int
    """Uncached tokens of those whose first byte will be heard (`Replica.awaited_tokens`)."""
    held_tokens: int = 0
    """Of requests that the router holds and means for it."""


class PeerLoad(NamedTuple):
    """Of all others on one replica. Work is in tokens without context."""

    key: int
    """The replica's."""
    in_flight: int
    given_tokens: int
    """Uncached tokens given since last collected."""
    work_tokens: int
    """Of prompts that wait or are prefilled there."""
    head_tokens: int
    """The longest of the first ones."""
    age_s: float
    """For how long the engine has been at one."""
    awaited_tokens: int
    """Uncached tokens of those whose first byte will be heard."""
    held_tokens: int = 0
    """Of requests that they hold and mean for it."""
    uses: Sequence[tuple[int, CacheEvent, float]] = ()
    """What their requests did to its cache since last collected: the router, the use, and how long ago, in seconds, the
    notice was heard that the use's times count from."""


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
    held: int = 0
    """Requests held at the router."""
    first_ms: int = 0
    """The key of the first of them less what it will age until then, in ms: comparable between routers."""
    uses: Sequence[tuple[int, CacheEvent]] = ()
    """What its requests did to caches since its last notice: the replica's key, and the use. Its times count from this
    notice: none is above 0."""
    shares: Sequence[tuple[int, int]] = ()
    """What it served since its last notice: tenants' keys, and tokens."""


class _Peer:
    __slots__ = ("complete", "first_s", "heard_s", "held", "loads", "number")

    def __init__(self) -> None:
        self.complete = False
        self.heard_s = 0.0
        self.loads: dict[int, Load] = {}
        self.number = 0
        self.held = 0
        self.first_s = 0.0


class _Sum:
    """Of one replica over all peers."""

    __slots__ = (
        "awaited_tokens",
        "given_tokens",
        "heads",
        "held_tokens",
        "in_flight",
        "since_s",
        "uses",
        "work_tokens",
    )

    def __init__(self) -> None:
        self.in_flight = 0
        self.given_tokens = 0
        """Since the last `collect`."""
        self.work_tokens = 0
        self.awaited_tokens = 0
        self.held_tokens = 0
        self.heads: dict[int, int] = {}
        """By router, for those that have prompts there."""
        self.since_s = -inf
        """The latest that anybody told of."""
        self.uses: list[tuple[int, CacheEvent, float]] = []
        """Since the last `collect`: the router, the use, and when it was heard of."""

    def change(self, router: int, load: Load | None, before: Load | None) -> None:
        """Put what a router says in the place of what it said before."""
        if before is not None:
            self.in_flight -= before.in_flight
            self.work_tokens -= before.work_tokens
            self.awaited_tokens -= before.awaited_tokens
            self.held_tokens -= before.held_tokens
        if load is not None:
            self.in_flight += load.in_flight
            self.work_tokens += load.work_tokens
            self.awaited_tokens += load.awaited_tokens
            self.held_tokens += load.held_tokens
        if load is not None and load.work_tokens:
            self.heads[router] = load.head_tokens
        else:
            self.heads.pop(router, None)

    def told(self, key: int, now_s: float) -> PeerLoad:
        """What the fleet is told."""
        heads = self.heads
        return PeerLoad(
            key,
            self.in_flight,
            self.given_tokens,
            self.work_tokens,
            max(heads.values()) if heads else 0,
            now_s - self.since_s,
            self.awaited_tokens,
            self.held_tokens,
            [(router, use, now_s - heard_s) for router, use, heard_s in self.uses],
        )


class Peers:
    """The ledger. Not thread-safe.

    Args:
        own: The id under which this router speaks; what it says itself is no peer.
        expire_s: See the module.
    """

    def __init__(self, own: int, expire_s: float) -> None:
        self._own = own
        self._expire_s = expire_s
        self._peers: dict[int, _Peer] = {}
        self._sums: dict[int, _Sum] = {}
        self._changed: set[int] = set()
        self.asked = False
        """Somebody asked for a whole notice; whoever answers resets it."""

    @property
    def routers(self) -> int:
        """How many others are heard of."""
        return len(self._peers)

    @property
    def held(self) -> int:
        """Requests that others hold."""
        return sum([peer.held for peer in self._peers.values()])

    def firsts(self) -> list[tuple[float, float]]:
        """Of each that holds requests, the first one's key as it was said, in seconds, and when that was heard."""
        return [(peer.first_s, peer.heard_s) for peer in self._peers.values() if peer.held]

    @property
    def missing(self) -> bool:
        """True while some router is known in part only: it spoke before this one listened, or a notice was lost."""
        return any(not peer.complete for peer in self._peers.values())

    def of(self, key: int, now_s: float) -> PeerLoad:
        """All other routers together on one replica; nothing counts as given or added since."""
        total = self._sums.get(key)
        if total is None:
            return PeerLoad(key, 0, 0, 0, 0, inf, 0)
        return total.told(key, now_s)._replace(given_tokens=0, uses=())

    def take(self, notice: Notice, now_s: float) -> None:
        """Believe a notice. Any that is well formed is taken, in whatever order they come."""
        router = notice.router
        if router == self._own:
            return
        peer = self._peers.get(router)
        if peer is None:
            if len(self._peers) >= MAX_ROUTERS:
                return
            peer = self._peers[router] = _Peer()
        elif notice.number != (peer.number + 1) & _WRAP:
            peer.complete = False
            for key in peer.loads:
                self._lose(router, key, now_s)
        peer.number = notice.number
        peer.heard_s = now_s
        peer.held = notice.held
        peer.first_s = notice.first_ms / 1000.0
        self.asked |= notice.asking
        loads = peer.loads
        if notice.whole:
            peer.complete = True
            for key in loads.keys() - {load.key for load in notice.loads}:
                self._take_back(router, loads.pop(key), now_s)
        sums, changed = self._sums, self._changed
        for load in notice.loads:
            key = load.key
            before = loads.get(key)
            if before == load:
                continue
            if before is None and len(loads) >= MAX_REPLICAS:
                continue
            total = sums.get(key)
            if total is None:
                total = sums[key] = _Sum()
            total.change(router, load, before)
            if before is not None:
                # What was given before this router was heard of was given at an unknown time.
                total.given_tokens += (load.given_tokens - before.given_tokens) & _WRAP
            since_s = now_s - load.age_ms / 1000.0
            if since_s > total.since_s:
                total.since_s = since_s
            loads[key] = load
            changed.add(key)
        for key, use in notice.uses:
            if key in loads:
                total = sums.get(key)
                if total is None:
                    total = sums[key] = _Sum()
                total.uses.append((router, use, now_s))
                changed.add(key)

    def expire(self, now_s: float) -> None:
        """Forget whoever has been silent for too long."""
        for router, peer in list(self._peers.items()):
            if now_s - peer.heard_s >= self._expire_s:
                del self._peers[router]
                for load in peer.loads.values():
                    self._take_back(router, load, now_s)

    def collect(self, now_s: float) -> list[PeerLoad]:
        """Replicas of which something may have changed since the last call."""
        sums = self._sums
        changed: list[PeerLoad] = []
        for key in self._changed:
            total = sums[key]
            changed.append(total.told(key, now_s))
            if total.in_flight or total.heads or total.awaited_tokens or total.held_tokens:
                total.given_tokens = 0
                total.uses.clear()
            else:
                del sums[key]
        self._changed.clear()
        return changed

    def validate(self) -> None:
        """Derive the sums anew. Raises AssertionError where they differ."""
        sums: dict[int, _Sum] = {}
        for router, peer in self._peers.items():
            for key, load in peer.loads.items():
                sums.setdefault(key, _Sum()).change(router, load, None)
        for key in sums.keys() | self._sums.keys():
            kept, derived = self._sums.get(key, _Sum()), sums.get(key, _Sum())
            assert kept.in_flight == derived.in_flight, key
            assert kept.work_tokens == derived.work_tokens, key
            assert kept.awaited_tokens == derived.awaited_tokens, key
            assert kept.held_tokens == derived.held_tokens, key
            assert kept.heads == derived.heads, key
            if key in self._sums:
                assert key in self._changed or kept.in_flight or kept.heads or kept.held_tokens, key

    def _lose(self, router: int, key: int, now_s: float) -> None:
        """What it has under way there is not known any more."""
        total = self._sums.get(key)
        if total is not None:
            total.uses.append((router, CacheEvent(LOST, 0, 0, 0.0), now_s))
            self._changed.add(key)

    def _take_back(self, router: int, load: Load, now_s: float) -> None:
        key = load.key
        total = self._sums.get(key)
        if total is None:
            total = self._sums[key] = _Sum()
        total.change(router, None, load)
        self._lose(router, key, now_s)
