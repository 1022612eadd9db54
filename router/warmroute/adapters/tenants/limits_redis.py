"""Limits that all routers share, counted in Redis: what one event-loop tick asks goes out at once, one script a tenant.

A request waits for its answer, for `DEADLINE_S` at most. Without one, and while no server is there, this process goes
by what it has let through itself, a share of each limit (as many as there were routers when Redis was last there), and
for some seconds a share of what Redis said was left (`limits_alone`). What it lets through then is told when Redis is
back. So the limit is kept where routers share the traffic, and never exceeded by more than the number of routers times.

Requests under way are told as a number a router, which lasts for `LEASE_S`: those of a router that died are forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from importlib import resources

from warmroute.adapters.resp.commands import pack
from warmroute.adapters.resp.link import RedisLink
from warmroute.adapters.resp.pipe import Pipe, Replies
from warmroute.adapters.tenants.limits_alone import note_ended, note_taken, note_told, used_up
from warmroute.adapters.tenants.limits_charges import Charge, Charges
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields
from warmroute.tenants.limits import CONCURRENT, NAMES, Grant, LocalLimits, Scope

log = logging.getLogger(__name__)

DEADLINE_S = 0.05
_GRACE_S = 0.002
"""An event loop that was late itself finds the deadline passed before it reads what has come: so long more."""
LEASE_S = 15.0
_RENEW_S = 4.0
_SETTLE_DELAY_S = 0.005
_FLUSH_S = 1.0
_MISSES = 3
"""Deadlines in a row that a server may miss before its connection is given up."""

_LIMITS = len(NAMES)

_Asker = tuple[Grant, Callable[[], None]]


class _Call:
    """One script under way: a tenant's grants and charges."""

    __slots__ = ("askers", "charges", "late", "scopes", "timer")

    def __init__(self) -> None:
        self.scopes: dict[str, Scope] = {}
        """By model."""
        self.askers: list[_Asker] = []
        self.charges: list[Charge] = []
        self.late = False
        """Its grants were decided without it."""
        self.timer: asyncio.TimerHandle | None = None


class RedisLimiter:
    """Implements the port `Limiter` over Redis.

    Args:
        link: Connections, shared with others.
        router: Name of this router, of its own.
        routers: How many routers there are, this one included.
        namespace: Prefix of all keys; routers share limits if and only if it is equal.
        clock: Unix seconds.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        router: str,
        routers: Callable[[], int],
        namespace: str = "w",
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._router = router
        self._routers = routers
        self._prefix = f"{namespace}:q:"
        self._deadline_s = deadline_s
        self._clock = clock
        self._script = resources.files(__package__).joinpath("limits.lua").read_bytes()
        self._sha = hashlib.sha1(self._script, usedforsecurity=False).hexdigest()
        self._local = LocalLimits()
        self._asked: dict[tuple[str, str], int] = {}
        """Requests asked about and not answered yet, by scope."""
        self._live: dict[tuple[str, str], Scope] = {}
        """Scopes whose requests under way must be told now and then."""
        self._charges = Charges()
        self._filling: list[_Asker] = []
        self._flying: set[_Call] = set()
        self._settling: asyncio.TimerHandle | None = None
        self._misses = 0
        self._idle = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        self._tasks = Tasks()
        self.local_total = 0
        self.calls_total = 0
        self.ticks_total = 0
        """Ticks in which anything was asked."""
        self.errors = 0
        link.on_up.append(self._teach)

    own = None
    """The sums are in Redis."""

    @property
    def healthy(self) -> bool:
        """Whether every key has a connected server."""
        return self._link.up

    async def start(self) -> None:
        """Connect, or go on trying."""
        self._loop = asyncio.get_running_loop()
        self._tasks = Tasks()
        await self._link.start()
        self._tasks.supervise(self._renew, name="limits")

    async def stop(self) -> None:
        """Tell what is not told yet, for at most a second."""
        await self._tasks.stop()
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self._send()
        self._idle.clear()
        if self._flying:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_S):
                    await self._idle.wait()
        await self._link.stop()

    def statistics(self) -> dict[str, float]:
        """Figures for `/metrics`."""
        return {"local_total": self.local_total, "errors_total": self.errors}

    def take(self, grant: Grant, done: Callable[[], None]) -> bool:
        """With the tick's call; at once where nobody is there to ask."""
        if not self._link.up:
            self._take_alone(grant)
            return True
        for scope in grant.scopes:
            self._asked[scope.key] = self._asked.get(scope.key, 0) + 1
        if not self._filling:
            self._loop.call_soon(self._send)
        self._filling.append((grant, done))
        return False

    def settle(self, grant: Grant, requests: int, tokens: int, cost_nano: int = 0) -> None:
        """Told within some milliseconds."""
        if grant.settled:
            return
        now_s = self._clock()
        self._local.settle(grant, requests, tokens, now_s, grant.at_s, cost_nano)
        note_ended(self._local, grant, now_s)
        for scope in grant.scopes:
            if requests or tokens or cost_nano:
                less = requests < 0 or tokens < 0 or cost_nano < 0
                self._charges.add(scope, requests, tokens, cost_nano, grant.at_s if less else 0.0)
            elif scope.concurrent:
                self._charges.add(scope, 0, 0, 0, 0.0)
        self._settle_soon()

    def charge(self, scopes: Sequence[Scope], cost_nano: int, at_s: float) -> None:
        """Told within some milliseconds."""
        self._local.charge(scopes, cost_nano, self._clock(), at_s)
        for scope in scopes:
            if scope.costed:
                self._charges.add(scope, 0, 0, cost_nano, at_s if cost_nano < 0 else 0.0)
        self._settle_soon()

    # -- asking ---------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """All that waits, as one write to each server."""
        askers, self._filling = self._filling, []
        calls: dict[str, _Call] = {}
        if self._link.up:
            self._local.share = max(1, self._routers())
            for charge in self._charges.take():
                call = calls.setdefault(charge.scope.tenant, _Call())
                call.scopes[charge.scope.model] = charge.scope
                call.charges.append(charge)
        for grant, done in askers:
            call = calls.setdefault(grant.scopes[0].tenant, _Call())
            for scope in grant.scopes:
                call.scopes[scope.model] = scope
            call.askers.append((grant, done))
        writes: dict[Pipe, list[tuple[_Call, bytes]]] = {}
        for tenant, call in calls.items():
            pipe = self._link.keeper(self._key(tenant, ""))
            if pipe is None:
                self._decide_alone(call)
            else:
                writes.setdefault(pipe, []).append((call, self._command(tenant, call)))
        self.ticks_total += bool(writes)
        for pipe, written in writes.items():
            sent = [call for call, _ in written]
            for call in sent:
                self._flying.add(call)
            sent[0].timer = self._loop.call_later(self._deadline_s, self._overdue, pipe, sent)
            self.calls_total += len(sent)
            pipe.send(
                b"".join([command for _, command in written]),
                len(sent),
                lambda replies, sent=sent: self._replied(sent, replies),  # type: ignore[misc]
            )

    def _key(self, tenant: str, model: str) -> bytes:
        return f"{self._prefix}{{{tenant}}}:{model}".encode("utf-8", "surrogatepass")

    def _command(self, tenant: str, call: _Call) -> bytes:
        scopes = list(call.scopes.values())
        place = {scope.model: number for number, scope in enumerate(scopes, 1)}
        keys: list[bytes] = []
        words: list[str | bytes | int] = [self._router, int(LEASE_S * 1000)]
        now_s = self._clock()
        asked: dict[str, int] = {}
        for grant, _ in call.askers:
            for scope in grant.scopes:
                asked[scope.model] = asked.get(scope.model, 0) + 1
        for scope in scopes:
            key = self._key(tenant, scope.model)
            keys += [key, key + b":c"]
            words += scope.limits
            earlier = self._asked.get(scope.key, 0) - asked.get(scope.model, 0)
            words.append(self._local.sums(scope, now_s).under_way + max(0, earlier))
        words.append(len(call.charges))
        for charge in call.charges:
            words += [
                place[charge.scope.model],
                charge.requests,
                charge.tokens,
                charge.cost_nano,
                charge.at_ms,
            ]
        words.append(len(call.askers))
        for grant, _ in call.askers:
            words += [sum([1 << (place[s.model] - 1) for s in grant.scopes]), grant.tokens, grant.cost_nano]
        return pack("EVALSHA", self._sha, len(keys), *keys, *words)

    def _replied(self, calls: list[_Call], replies: Replies | None) -> None:
        if replies is not None:
            self._misses = 0
        if calls and calls[0].timer is not None:
            calls[0].timer.cancel()
        for number, call in enumerate(calls):
            self._flying.discard(call)
            reply = None if replies is None else replies[number]
            if isinstance(reply, list):
                self._read(call, reply)
            else:
                if reply is not None:
                    self._refused(str(reply))
                    self._charges.put_back(call.charges)
                else:
                    self._charges.put_back_in_doubt(call.charges)
                self._decide_alone(call)
        if not self._flying:
            self._idle.set()

    def _read(self, call: _Call, reply: list[int]) -> None:
        scopes = list(call.scopes.values())
        at_s = reply[0] / 1000
        used = {
            scope.model: reply[1 + 3 * len(call.askers) + _LIMITS * number :][:_LIMITS]
            for number, scope in enumerate(scopes)
        }
        now_s = self._clock()
        note_told(self._local, call.scopes, used, now_s)
        for number, (grant, done) in enumerate(call.askers):
            whose, which, wait_ms = reply[1 + 3 * number : 4 + 3 * number]
            if call.late:
                if not whose:  # it was counted there, and here as well
                    for scope in grant.scopes:
                        self._charges.add(scope, -1, -grant.tokens, -grant.cost_nano, at_s)
                continue
            self._answered(grant)
            if whose:
                grant.refuse(which - 1, scopes[whose - 1], wait_ms / 1000)
            else:
                self._local.note(grant, now_s)
                self._note_live(grant)
                grant.granted = True
                grant.at_s = at_s
                grant.note_left(used[grant.scopes[0].model])
            self._tell(done)

    def _refused(self, words: str) -> None:
        self.errors += 1
        if words.startswith("NOSCRIPT"):
            self._teach()
        elif words.startswith(("MOVED", "ASK", "READONLY", "CLUSTERDOWN", "LOADING", "TRYAGAIN")):
            self._link.look_again()
        else:
            log.error("limits_refused", extra=fields(error=words))

    def _overdue(self, pipe: Pipe, calls: list[_Call]) -> None:
        """The deadline has passed, unless it is this process that was late."""
        calls[0].timer = self._loop.call_later(_GRACE_S, self._expire, pipe, calls)

    def _expire(self, pipe: Pipe, calls: list[_Call]) -> None:
        """The deadline has passed."""
        self._misses += 1
        for call in calls:
            self._decide_alone(call)
            call.late = True
        if self._misses >= _MISSES:
            self._misses = 0
            pipe.close()

    def _teach(self) -> None:
        """Every server the script."""
        nodes = self._link.nodes
        for pipe in nodes.pipes if nodes is not None else ():
            if pipe.open:
                pipe.send(pack("SCRIPT", "LOAD", self._script), 1, lambda _: None)
        if self._charges:
            self._settle_soon()

    # -- deciding alone -------------------------------------------------------------------------------------------

    def _decide_alone(self, call: _Call) -> None:
        if call.late:
            return
        for grant, done in call.askers:
            self._answered(grant)
            self._take_alone(grant)
            self._tell(done)

    def _take_alone(self, grant: Grant) -> None:
        self.local_total += 1
        grant.local = True
        now_s = self._clock()
        if not used_up(self._local, grant, now_s):
            self._local.take(grant, now_s)
        if grant.granted:
            self._note_live(grant)
            note_taken(self._local, grant, now_s)
            for scope in grant.scopes:
                self._charges.add(scope, 1, grant.tokens, grant.cost_nano, 0.0)
            self._settle_soon()

    def _answered(self, grant: Grant) -> None:
        for scope in grant.scopes:
            left = self._asked.get(scope.key, 0) - 1
            if left > 0:
                self._asked[scope.key] = left
            else:
                self._asked.pop(scope.key, None)

    def _note_live(self, grant: Grant) -> None:
        for scope in grant.scopes:
            if scope.limits[CONCURRENT]:
                self._live[scope.key] = scope

    def _tell(self, done: Callable[[], None]) -> None:
        try:
            done()
        except Exception as error:  # noqa: BLE001 - one asker's mistake must not cost the others their answer
            self._loop.call_exception_handler({"message": "limiter's callback failed", "exception": error})

    # -- what is told afterwards ----------------------------------------------------------------------------------

    def _settle_soon(self) -> None:
        if self._settling is None:
            self._settling = self._loop.call_later(_SETTLE_DELAY_S, self._settle_now)

    def _settle_now(self) -> None:
        self._settling = None
        if not self._filling and self._link.up:
            self._send()

    async def _renew(self) -> None:
        """Say again how many requests are under way where that counts."""
        while True:
            await asyncio.sleep(_RENEW_S)
            now_s = self._clock()
            for key, scope in list(self._live.items()):
                if not self._local.sums(scope, now_s).under_way:
                    del self._live[key]
                self._charges.add(scope, 0, 0, 0, 0.0)
            if self._charges:
                self._settle_now()
