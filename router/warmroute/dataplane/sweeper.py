"""The sweeper keeps the deadlines of every connection by one timer: nobody on the request path starts or stops a timer.

This module decides which limit applies to a connection and whether it has passed. Its resolution is `PERIOD_S`; limits
are seconds.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import cast

from warmroute.core.fleet.replica import Replica
from warmroute.core.types import Incarnation
from warmroute.dataplane.downstream import ClientConnection, Waiting
from warmroute.dataplane.gateway import Gateway

PERIOD_S = 0.5

SLOWEST_BODY_BYTES_PER_S = 64 * 1024
"""A body may take `limits.body_timeout_s` plus its length at this rate: long ones are not cut off, drips are."""

LINGER_S = 2.0
"""How long a refused client may go on sending before it is cut off, so that it can read the refusal."""

DEAD_SILENCE_S = 10.0
"""How long a request may hear nothing from a replica that is shown to be dead: vLLM leaves some streams open for ever
when it is terminated. Source: vLLM 0.32.0, SIGTERM without a drain time-out, 3 of 9 runs. An ejection for any other
reason is about new requests, and shortens nothing."""


class Sweeper:
    """Walks all connections twice a second."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._dead_since_s: dict[tuple[Replica, Incarnation | None], float] = {}
        """Since when requests are seen to be with a life of a replica that is shown to be over."""
        self._were_dead: dict[tuple[Replica, Incarnation | None], float] = {}
        """The same as of the sweep before."""

    def start(self) -> None:
        """Begin; `stop` ends it."""
        self._due_s = monotonic() + PERIOD_S
        self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._tick)

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        now_s = monotonic()
        self._gateway.metrics.late(max(0.0, now_s - self._due_s))
        self.start()
        self.sweep(now_s)

    def sweep(self, now_s: float) -> None:
        """Apply every limit that has passed at this monotonic time."""
        self._were_dead, self._dead_since_s = self._dead_since_s, {}
        for side in list(self._gateway.connections):
            connection = cast(ClientConnection, side)  # nothing else is ever among them
            if connection.exchange is not None:
                self._sweep_exchange(connection, now_s)
            elif not connection.closing:
                self._sweep_reading(connection, now_s)
            elif now_s - connection.since_s > (
                LINGER_S if connection.lingering else self._gateway.limits.idle_timeout_s
            ):
                connection.abort()  # it does not take the end of its answer
        for pool in self._gateway.pools.values():
            pool.expire()

    def _sweep_reading(self, connection: ClientConnection, now_s: float) -> None:
        if connection.waiting == Waiting.TUNNEL:
            return  # a WebSocket's ends look after it themselves
        limits = self._gateway.limits
        waited_s = now_s - connection.since_s
        waiting = connection.waiting
        if waiting == Waiting.HEAD:
            if waited_s > limits.header_timeout_s:
                connection.time_out("head")
        elif waiting == Waiting.BODY:
            allowed_s = limits.body_timeout_s + connection.body_length / SLOWEST_BODY_BYTES_PER_S
            if waited_s > allowed_s:
                connection.time_out("body")
        elif waited_s > limits.idle_timeout_s or self._gateway.draining:
            connection.close()

    def _sweep_exchange(self, connection: ClientConnection, now_s: float) -> None:
        exchange = connection.exchange
        upstream = exchange.connection if exchange is not None else None
        if exchange is None or upstream is None:
            return
        limits = self._gateway.upstream
        decision = exchange.decision
        if upstream.progress:
            upstream.progress = False
            if exchange.streaming:  # until then what comes is no sign of an answer
                exchange.progress_s = now_s
                if decision is not None:
                    self._gateway.pool(decision.replica).heard_s = now_s
                return
        if upstream.paused:
            if now_s - exchange.progress_s > limits.stream_idle_timeout_s:
                connection.abort()  # the client has taken nothing for all this time
            return
        allowed_s = limits.stream_idle_timeout_s if exchange.streaming else limits.first_byte_timeout_s
        silent_s = now_s - exchange.progress_s
        if decision is not None and self._gateway.fleet.shown_dead(decision):
            life = decision.replica, decision.incarnation
            since_s = self._dead_since_s[life] = self._were_dead.get(life, now_s)
            if min(silent_s, now_s - since_s) > DEAD_SILENCE_S:
                silent_s = inf
        if silent_s > allowed_s:
            try:
                exchange.time_out()
            except Exception as error:  # noqa: BLE001 - the other connections' limits hold all the same
                exchange.crashed(error)
