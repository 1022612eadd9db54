"""Load reports tell other routers what this one has under way on each replica, and tell the fleet what the others have.

They are off the request path. A notice goes out when something changed, at most every `publish_interval_s`, and before
what was said expires. What others said is read in the same round trip. When the work on a replica changes by a whole
prompt (`Fleet.moved`), or the board rings, the next step comes at once, but no sooner than `least_pause_s`. A notice
names only replicas whose load changed. A whole one is sent when somebody asks, and once in a while, so that what was
lost on the way cannot stay wrong. A router that is silent for `expire_s` counts no more, so a killed one leaves no
phantom load, and without a board all peer load is gone after the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from warmroute.core.beliefs.cache_event import CacheEvent
from warmroute.core.fleet.fleet import Fleet, Replica
from warmroute.core.fleet.peer_load import Load, Peers
from warmroute.core.holding.queue import AGEING_RATIO
from warmroute.core.holding.shares import Shares
from warmroute.ports import LoadBoard
from warmroute.tasks import Tasks
from warmroute.wire.load_notice import pack_notice, replica_key, unpack_notice

HEARTBEATS = 3
"""Notices within `expire_s` however little changes: two may be lost."""

WHOLE_INTERVAL_S = 30.0
"""Time between whole notices that nobody asked for."""

ASK_INTERVAL_S = 0.25
"""Shortest time between two answers to askers, and between two times of asking for what was lost."""

LEAST_PAUSE_S = 0.005
"""Between two steps, however much happens."""

ROUTER_PAUSE_S = 0.0005
"""The same for each router: all of them together take 2,000 steps a second at most, or as many as without hurrying."""

MOST_SHARES = 1000
"""Tenants that one notice tells of; the others are told of with the next."""

ALONE_PAUSE_S = 0.2
"""Between two steps of a router that hears of no other: looking more often takes 1.4 % of a core."""


class LoadReports:
    """One router's part in it.

    Args:
        router: This router's id, random over 64 bits for each of its lives.
        clock: Seconds that never go back.
        fleet_clock: The one whose times the fleet is given everywhere.
        on_heard: Called after the fleet was told that others' load has changed: somebody held may go.
        shares: What tenants were served, where that is shared; None: nobody is told.
    """

    def __init__(
        self,
        fleet: Fleet,
        board: LoadBoard,
        tasks: Tasks,
        *,
        router: int,
        publish_interval_s: float,
        expire_s: float,
        clock: Callable[[], float],
        fleet_clock: Callable[[], float],
        on_heard: Callable[[], None] = lambda: None,
        shares: Shares | None = None,
    ) -> None:
        self._shares = shares
        self._fleet = fleet
        self._board = board
        self._tasks = tasks
        self._router = router
        self._publish_interval_s = publish_interval_s
        self._heartbeat_s = expire_s / HEARTBEATS
        self._clock = clock
        self._fleet_clock = fleet_clock
        self._on_heard = on_heard
        self._peers = Peers(router, expire_s)
        self._members: list[Replica] = []
        self._by_key: dict[int, Replica] = {}
        self._keys: list[int] = []
        self._said: dict[int, tuple[int, int, int, int]] = {}
        """What the others know of this router, if they heard everything."""
        self._uses: list[tuple[int, CacheEvent]] = []
        """What belongs to the last `_changes`, as `pack_notice` takes it."""
        self._said_held = 0, 0.0
        self._number = 0
        self._started = False
        self._said_s = self._whole_s = self._asked_s = -1e9
        self._urgent = False
        """Whether something changed since the last notice that others should hear of at once."""
        self._hurry = asyncio.Event()

    def use_shares(self, shares: Shares) -> None:
        """What tenants were served is shared from now on."""
        self._shares = shares

    @property
    def routers(self) -> int:
        """How many other routers are heard of."""
        return self._peers.routers

    @property
    def pause_s(self) -> float:
        """Time until the next step: half an interval, so that a change after a quiet moment is told, and heard, within
        half of one. A router that hears nobody only listens whether somebody has come.
        """
        half_s = self._publish_interval_s / 2.0
        return half_s if self._peers.routers else max(half_s, min(ALONE_PAUSE_S, self._heartbeat_s / 2.0))

    @property
    def least_pause_s(self) -> float:
        """Time between two steps at the least: what changes meanwhile is told and heard together."""
        routers = self._peers.routers + 1
        return min(self._publish_interval_s / 2.0, max(LEAST_PAUSE_S, ROUTER_PAUSE_S * routers))

    @property
    def hurried(self) -> bool:
        """Whether the next step is due as soon as `least_pause_s` allows."""
        return self._hurry.is_set()

    def ring(self) -> None:
        """The board has news."""
        self._hurry.set()

    def start(self) -> None:
        """Speak and listen until the task keeper stops; without a board to share there is nothing to do."""
        if self._board.shared:
            self._board.listen(self.ring)
            self._tasks.supervise(self._run, name="load reports")

    async def stop(self) -> None:
        """Take back what was said, so that nobody has to wait for it to expire."""
        if self._board.shared and self._started:
            self._said.clear()
            await self._board.exchange(self._pack([], whole=True))

    async def _run(self) -> None:
        while True:
            await self.step()
            least_s = self.least_pause_s
            await asyncio.sleep(least_s)
            if not self._hurry.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.pause_s - least_s):
                        await self._hurry.wait()

    async def step(self) -> None:
        """One round trip: say what is due, hear what was said, tell the fleet."""
        self._hurry.clear()
        notice = self._notice(self._clock())
        raws = await self._board.exchange(notice)
        now_s = self._clock()
        if raws is None:
            # What was said to nobody, or before a new board, has to be said again.
            self._started = False
        else:
            for raw in raws:
                heard = unpack_notice(raw)
                if heard is not None:
                    self._peers.take(heard, now_s)
                    if heard.shares and self._shares is not None and heard.router != self._router:
                        fleet_now_s = self._fleet_clock()
                        for key, tokens in heard.shares:
                            self._shares.heard(key, tokens, fleet_now_s)
        self._peers.expire(now_s)
        self._tell_fleet(now_s)
        self._apply(now_s)

    def _tell_fleet(self, now_s: float) -> None:
        """What is known of others but their load."""
        fleet, peers = self._fleet, self._peers
        held = peers.held
        rivals: list[float] = []
        if held:
            offset_s = AGEING_RATIO * (self._fleet_clock() - now_s)
            rivals = [first_s + AGEING_RATIO * heard_s + offset_s for first_s, heard_s in peers.firsts()]
        fleet.note_routers(1 + peers.routers, self._moved if peers.routers else None, held, rivals)

    def _moved(self) -> None:
        self._urgent = True
        if not self._hurry.is_set():
            self._hurry.set()

    def _notice(self, now_s: float) -> bytes | None:
        if list(self._fleet.replicas.values()) != self._members:
            self._membership_changed(now_s)
        peers = self._peers
        since_s = now_s - self._said_s
        asked = peers.asked and now_s - self._whole_s >= ASK_INTERVAL_S
        if not self._started or asked or now_s - self._whole_s >= WHOLE_INTERVAL_S:
            peers.asked = False
            self._whole_s = now_s
            self._said.clear()
            return self._say(self._changes(), now_s, whole=True)
        if (
            since_s < self._publish_interval_s * 0.9 and not self._urgent
        ):  # an early tick must not wait for the next
            return None
        changes = self._changes()
        asking = peers.missing and now_s - self._asked_s >= ASK_INTERVAL_S
        if changes or asking or self._held() != self._said_held or since_s >= self._heartbeat_s:
            return self._say(changes, now_s, whole=False)
        return None

    def _say(self, changes: list[Load], now_s: float, *, whole: bool) -> bytes:
        self._said_s = now_s
        self._urgent = False
        asking = not self._started or (self._peers.missing and now_s - self._asked_s >= ASK_INTERVAL_S)
        if asking:
            self._asked_s = now_s
        self._started = True
        held, first_s = self._held()
        self._said_held = held, first_s
        first_ms = round((first_s - AGEING_RATIO * self._fleet_clock()) * 1000.0) if held else 0
        return self._pack(changes, self._uses, whole=whole, asking=asking, held=held, first_ms=first_ms)

    def _held(self) -> tuple[int, float]:
        """How many are held here, and the key of the first."""
        held = sum(self._fleet.held.by_model.values())
        return held, self._fleet.first_held_s if held else 0.0

    def _pack(
        self,
        changes: list[Load],
        uses: Sequence[tuple[int, CacheEvent]] = (),
        *,
        whole: bool,
        asking: bool = False,
        held: int = 0,
        first_ms: int = 0,
    ) -> bytes:
        self._number += 1
        return pack_notice(
            self._router,
            self._number,
            changes,
            uses,
            () if self._shares is None else self._shares.untold(MOST_SHARES),
            now_s=self._fleet_clock(),
            whole=whole,
            asking=asking,
            held=held,
            first_ms=first_ms,
        )

    def _changes(self) -> list[Load]:
        """Where the load differs from what was said."""
        said = self._said.get
        changes: list[Load] = []
        self._uses.clear()
        fleet_now_s = self._fleet_clock()
        for key, replica in zip(self._keys, self._members, strict=True):
            state = replica.in_flight, replica.waiting, replica.given_tokens, replica.held_tokens
            before = said(key)
            told = replica.residency.told
            if (state != before or told) and (before is not None or state[2] or state[0] or state[3]):
                self._said[key] = state
                changes.append(Load(key, state[0], state[2], *replica.prefilling(fleet_now_s)))
                if told:
                    at = len(changes) - 1
                    self._uses += [(at, use) for use in told]
                    told.clear()
        return changes

    def _membership_changed(self, now_s: float) -> None:
        self._members = list(self._fleet.replicas.values())
        self._keys = [replica_key(replica.id) for replica in self._members]
        self._by_key = dict(zip(self._keys, self._members, strict=True))
        if self._said.keys() - self._by_key.keys():
            self._whole_s = -1e9  # A whole notice is how to say that a replica is gone.
        fleet_now_s = self._fleet_clock()
        for key, replica in self._by_key.items():
            self._fleet.note_peer_load(replica, self._peers.of(key, now_s), fleet_now_s)

    def _apply(self, now_s: float) -> None:
        note = self._fleet.note_peer_load
        by_key = self._by_key
        fleet_now_s = self._fleet_clock()
        changed = self._peers.collect(now_s)
        for peer_load in changed:
            replica = by_key.get(peer_load.key)
            if replica is not None:
                note(replica, peer_load, fleet_now_s)
        if changed:
            self._on_heard()
