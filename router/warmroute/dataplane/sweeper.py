"""The sweeper keeps the deadlines of every connection by one timer: nobody on the request path starts or stops a timer.

This module decides which limit applies to a connection and whether it has passed, and which request is late
(`health.silence` says after how long). Its resolution is `PERIOD_S`; limits are seconds.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import cast

from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.replica import Replica
from warmroute.core.health.health import FailureReason, ReplicaState
from warmroute.core.health.silence import HEARD_TIMES, PLAIN_FADE, plain_allowed_s, plain_usual_s
from warmroute.core.types import Incarnation
from warmroute.dataplane.downstream import ClientConnection, Waiting
from warmroute.dataplane.exchange import Exchange
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.pool import Pool
from warmroute.dataplane.second import HEDGE, SILENCE, Second

PERIOD_S = 0.5

SLOWEST_BODY_BYTES_PER_S = 64 * 1024
"""A body may take `limits.body_timeout_s` plus what of it has come at this rate: long ones are not cut off, drips are,
whatever length they announce."""

LINGER_S = 2.0
"""How long a refused client may go on sending before it is cut off, so that it can read the refusal."""

LOOKED_AT_S = 0.25
"""A request that was sent so recently is not looked at: most have their first byte by then."""

TRIAL_RATIO = 0.5
"""A trial of a replica that was silent is asked of a second one after this share of the time that it may take, so that
nobody waits long for what was silent before. It has failed if that one answers first."""

DEAD_SILENCE_S = 2.0
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
        overdue = []
        for replica, pool in self._gateway.pools.items():
            pool.expire()
            pool.patience.swept(pool.heard_s)
            if self._overdue(replica, pool):
                overdue.append(replica)
        self._gateway.fleet.pass_over(overdue)
        self._gateway.fleet.stand_apart(self._gateway.registry.apart)
        self._gateway.plain_s *= 1.0 - PLAIN_FADE
        self._gateway.first_s *= 1.0 - PLAIN_FADE

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
            allowed_s = limits.body_timeout_s + connection.body_arrived / SLOWEST_BODY_BYTES_PER_S
            if waited_s > allowed_s:
                connection.time_out("body")
        elif waited_s > limits.idle_timeout_s:
            connection.close()

    def _sweep_exchange(self, connection: ClientConnection, now_s: float) -> None:
        exchange = connection.exchange
        upstream = exchange.connection if exchange is not None else None
        if exchange is None or upstream is None:
            return
        gateway = self._gateway
        limits = gateway.upstream
        decision = exchange.decision
        if upstream.progress:
            upstream.progress = False
            if exchange.streaming and exchange.advanced:  # until then what comes is no sign of an answer
                if decision is not None:
                    pool = gateway.pool(decision.replica)
                    if exchange.expected_s > 0.0 and exchange.first_byte_s is not None:
                        most_s = exchange.expected_s + exchange.surprise_s
                        pool.patience.answered(most_s, exchange.first_byte_s - exchange.progress_s)
                    pool.heard_s = now_s
                exchange.expected_s = 0.0
                exchange.suspected = False
                exchange.progress_s = now_s
                return
        if upstream.paused:
            if now_s - exchange.progress_s > limits.stream_idle_timeout_s:
                connection.abort()  # the client has taken nothing for all this time
            return
        allowed_s = limits.stream_idle_timeout_s if exchange.streaming else limits.first_byte_timeout_s
        silent_s = now_s - exchange.progress_s
        if decision is not None and gateway.fleet.shown_dead(decision):
            life = decision.replica, decision.incarnation
            since_s = self._dead_since_s[life] = self._were_dead.get(life, now_s)
            if min(silent_s, now_s - since_s) > DEAD_SILENCE_S:
                silent_s = inf
        try:
            if silent_s > allowed_s:
                exchange.time_out()
            elif decision is None or silent_s < LOOKED_AT_S:
                return
            elif exchange.streaming:
                self._sweep_stream(exchange, decision.replica, silent_s, now_s)
            elif exchange.second is not None:
                self._sweep_second(exchange, exchange.second, now_s)
            else:
                self._sweep_waiting(exchange, decision, silent_s, now_s)
        except Exception as error:  # noqa: BLE001 - the other connections' limits hold all the same
            exchange.crashed(error)

    def _sweep_waiting(self, exchange: Exchange, decision: Decision, silent_s: float, now_s: float) -> None:
        """A request without a first byte: have another replica asked as well where this one is late or silent."""
        gateway = self._gateway
        replica = decision.replica
        pool = gateway.pool(replica)
        if exchange.expected_s == 0.0:
            exchange.expected_s = gateway.fleet.expected_s(decision, gateway.clock() - silent_s)
            exchange.surprise_s = replica.surprise_s(decision)
        expected_s = exchange.expected_s
        quiet_s = min(silent_s, now_s - pool.heard_s)
        allowed_s = self._allowed_s(pool, decision, expected_s, exchange.surprise_s)
        if quiet_s > allowed_s:
            if (
                decision.streams
                and allowed_s < inf
                and not exchange.suspected
                and replica.state is not ReplicaState.EJECTED
            ):
                exchange.suspected = True
                pool.patience.suspect(now_s)
                gateway.suspect(replica)
                gateway.replica_failed(
                    replica,
                    FailureReason.TIMEOUT,
                    f"nothing heard for {quiet_s:.1f} s, longer than the {allowed_s:.1f} s that its work may take",
                )
            exchange.late(SILENCE)
        elif silent_s > HEARD_TIMES * allowed_s:
            exchange.late(SILENCE)
        elif (
            decision.trial
            and silent_s > TRIAL_RATIO * allowed_s
            and replica.health.reason is FailureReason.TIMEOUT
        ):
            exchange.late(SILENCE)
        elif gateway.retries.hedge and expected_s > 0.0:
            retries = gateway.retries
            late_s = max(retries.hedge_min_s, retries.hedge_factor * pool.patience.ratio * expected_s)
            if silent_s > late_s:
                exchange.late(HEDGE)

    def _sweep_second(self, exchange: Exchange, second: Second, now_s: float) -> None:
        """A second try without a first byte: it too may be late."""
        if second.connection is None:
            return
        gateway = self._gateway
        pool = gateway.pool(second.decision.replica)
        if second.expected_s == 0.0:
            sent_s = gateway.clock() - (now_s - second.sent_s)
            second.expected_s = gateway.fleet.expected_s(second.decision, sent_s)
            second.surprise_s = second.decision.replica.surprise_s(second.decision)
        quiet_s = now_s - max(second.sent_s, pool.heard_s)
        if quiet_s > self._allowed_s(pool, second.decision, second.expected_s, second.surprise_s):
            exchange.second_late()

    def _sweep_stream(self, exchange: Exchange, replica: Replica, silent_s: float, now_s: float) -> None:
        """A stream that says nothing: is its replica there at all? If it is not, another may go on with the stream."""
        gateway = self._gateway
        floor_s = gateway.silence.floor_s
        if silent_s <= floor_s or gateway.silence.factor <= 0.0:
            return
        if now_s - gateway.pool(replica).heard_s <= floor_s:
            return
        if replica.state is ReplicaState.EJECTED:
            if not exchange.suspected:
                exchange.stalled()
        elif silent_s <= floor_s + 2.0 * PERIOD_S:
            gateway.suspect(replica)

    def _allowed_s(self, pool: Pool, decision: Decision, expected_s: float, surprise_s: float) -> float:
        silence = self._gateway.silence
        if silence.factor > 0.0 and decision.replica.state is ReplicaState.EJECTED:
            # Its probes, or others' requests, have found nobody there.
            return pool.patience.allowed_s(0.0, silence)
        if decision.streams:
            first_s = self._gateway.first_s
            if expected_s < 0.0 and first_s > 0.0:
                expected_s = first_s
            return pool.patience.allowed_s(expected_s, silence, decision.trial, surprise_s)
        gateway = self._gateway
        if not decision.trial or silence.factor <= 0.0:
            return plain_allowed_s(gateway.plain_s, silence)
        return min(silence.ceiling_s, plain_usual_s(gateway.plain_s, gateway.plain_mean_s, silence))

    def _overdue(self, replica: Replica, pool: Pool) -> bool:
        """Whether a replica that owes a first byte has been silent for so long that it should be given nothing more: a
        cheap doubt, long before its requests are late."""
        gateway = self._gateway
        now_s = gateway.clock()
        if replica.silences and gateway.fleet.shunned(replica, now_s):
            return True
        quiet_s, expected_s, surprise_s = gateway.fleet.overdue_s(replica, now_s)
        return quiet_s > 0.0 and quiet_s > pool.patience.allowed_s(
            expected_s, gateway.silence, True, surprise_s
        )
