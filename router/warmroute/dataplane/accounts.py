"""A request that has ended, however it did, is counted here: for metrics, the access log, and what the fleet learns.

This module decides nothing about the request. The rule it keeps: `finished` is the one place, and is called once for
each exchange.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from warmroute.core.fleet.fleet import Decision, Fleet
from warmroute.core.health.health import ReplicaState
from warmroute.core.types import Api, ReplicaId, RequestShape
from warmroute.dataplane.admission import Admission
from warmroute.dataplane.outcome import Outcome
from warmroute.dataplane.proxies import TrustedProxies
from warmroute.dataplane.queueing import Queueing
from warmroute.dataplane.request import Request, RequestHead
from warmroute.dialects.usage import Usage
from warmroute.telemetry.access_log import AccessEntry, AccessLog
from warmroute.telemetry.metrics import OTHER, Metrics

monotonic: Final = time.monotonic

GONE: Final = ReplicaId(OTHER)
"""How a replica that has left the fleet is called by metrics."""


class Accounts:
    """The accounts of one worker."""

    __slots__ = (
        "_admission",
        "_fleet",
        "_metrics",
        "_queueing",
        "access_log",
        "answered",
        "log_members",
        "proxies",
    )

    def __init__(
        self,
        fleet: Fleet,
        metrics: Metrics,
        access_log: AccessLog | None,
        admission: Admission | None = None,
        queueing: Queueing | None = None,
    ) -> None:
        self._queueing = queueing
        self._admission = admission
        self._fleet = fleet
        self._metrics = metrics
        self.access_log = access_log
        self.log_members: Callable[[Outcome], bytes] | None = None
        """What the access log says of a request besides, as further members of its line; None: nothing."""
        self.proxies: TrustedProxies | None = None
        """Those in front whose word on the client's address is taken."""
        self.answered = 0
        """Requests that have ended, however."""

    def use_queueing(self, queueing: Queueing) -> None:
        """What tenants were served is told there from now on."""
        self._queueing = queueing

    def client_of(self, peer: bytes, head: RequestHead) -> str:
        """Who sent a request, as the access log has it."""
        if self.proxies is not None:
            return self.proxies.client(peer, head.forwarded_for, head.forwarded)
        return peer.decode()

    def finished(
        self,
        outcome: Outcome,
        request: Request,
        api: Api,
        status: int,
        code: str | None,
        decision: Decision | None,
        usage: Usage | None,
        now_s: float,
    ) -> None:
        """Count a request that has ended. `now_s` is Unix time."""
        self.answered += 1
        first_byte_s = outcome.first_byte_s
        duration_s = monotonic() - request.received_s
        ttft_s = first_byte_s - request.received_s if first_byte_s is not None and status == 200 else None
        shape = outcome.shape
        answered = status == 200 and outcome.begun and (decision is None or decision.computed)
        model = outcome.unlisted_model or (shape.model if shape is not None else "")
        replica = decision.replica.id if decision is not None else None
        predicted_tokens = decision.expected_tokens if decision is not None else 0
        prompt_tokens = shape.prompt_tokens if shape is not None else 0
        cached_tokens = completion_tokens = None
        if usage is not None:
            prompt_tokens = usage.prompt_tokens
            cached_tokens = usage.cached_tokens
            completion_tokens = usage.completion_tokens
            if answered and decision is not None and shape is not None:
                self._confirm(decision, shape, usage, now_s)
        self._metrics.observe(
            api,
            model,
            status,
            code,
            decision.kind if decision is not None else None,
            # The series of a replica that has left were dropped, and this one would never be.
            replica if decision is None or decision.replica.state is not ReplicaState.GONE else GONE,
            ttft_s,
            duration_s,
            prompt_tokens,
            predicted_tokens,
            cached_tokens,
            completion_tokens,
        )
        if answered and decision is not None and shape is not None and shape.reusable_tokens >= 0:
            self._funnel(decision, shape, prompt_tokens, cached_tokens)
        if decision is not None and shape is not None and answered:
            self._fleet.learn(
                decision,
                shape,
                usage.prompt_tokens if usage is not None else 0,
                cached_tokens if shape.single and shape.reads_cache else None,
                completion_tokens,
                outcome.said_tokens() if completion_tokens is None else completion_tokens,
            )
        caller = outcome.caller
        if self._queueing is not None and decision is not None:
            if answered or (status == 499 and outcome.begun):
                self._queueing.served(
                    caller,
                    outcome.charged_tokens,
                    decision.replica,
                    prompt_tokens,
                    predicted_tokens if cached_tokens is None else cached_tokens,
                    outcome.said_tokens() if completion_tokens is None else completion_tokens,
                    now_s,
                )
            elif outcome.charged_tokens:
                self._queueing.served(caller, outcome.charged_tokens, decision.replica, 0, 0, 0, now_s)
        if outcome.standing is not None:
            self._settle(outcome, status, usage, decision, now_s, ttft_s)
        if self.access_log is not None:
            client = self.client_of(outcome.client.peer, request.head)
            members = b""
            if self.log_members is not None:
                members = self.log_members(outcome)
            self.access_log.write(
                AccessEntry(
                    time=now_s - duration_s,
                    request_id=outcome.request_id.decode("latin-1"),
                    client=client,
                    method=request.head.method.decode("latin-1"),
                    path=request.head.path.decode("latin-1"),
                    api=api,
                    model=model,
                    status=status,
                    code=code,
                    replica=replica,
                    decision=decision.kind if decision is not None else None,
                    predicted_cached_tokens=predicted_tokens,
                    cached_tokens=cached_tokens,
                    prompt_tokens=prompt_tokens,
                    completion_tokens=completion_tokens,
                    ttft_s=ttft_s,
                    duration_s=duration_s,
                    bytes_in=request.body_bytes,
                    bytes_out=outcome.body_bytes,
                    held_s=outcome.held_s,
                    attempts=outcome.attempts,
                    retried_after=outcome.retried_after,
                    tenant=None if caller is None else caller.tenant.id,
                    key=None if caller is None else caller.key_id,
                ),
                members,
            )

    def _settle(
        self,
        outcome: Outcome,
        status: int,
        usage: Usage | None,
        decision: Decision | None,
        now_s: float,
        ttft_s: float | None,
    ) -> None:
        """Tell who let it in that it is over."""
        if self._admission is not None:
            replica = None if decision is None else decision.replica
            self._admission.finished(outcome, status, usage, replica, now_s, ttft_s)

    def crashed(self, outcome: Outcome, now_s: float) -> None:
        """A request ended in a way that nobody expected, and may not have been counted as finished."""
        if outcome.standing is not None:
            self._settle(outcome, 500, None, None, now_s, None)

    def _confirm(self, decision: Decision, shape: RequestShape, usage: Usage, now_s: float) -> None:
        """Tell the fleet what the engine had: in the units in which the prompt was weighed, which are estimates."""
        cached_tokens = usage.cached_tokens
        if cached_tokens is not None and usage.prompt_tokens > 0:
            cached_tokens = cached_tokens * shape.prompt_tokens // usage.prompt_tokens
        if not shape.single or not shape.reads_cache:
            cached_tokens = None  # engines tell what they had of one of the prompts, or had to leave unread
        self._fleet.confirm(decision, cached_tokens, usage.completion_tokens, now_s)

    def _funnel(
        self, decision: Decision, shape: RequestShape, prompt_tokens: int, cached_tokens: int | None
    ) -> None:
        """Count where the prompt's tokens were lost: estimates, in the engine's units."""
        scale = prompt_tokens / shape.prompt_tokens if shape.prompt_tokens > 0 else 1.0
        known_tokens = max(decision.known_tokens, decision.expected_tokens)
        self._metrics.funnel(
            shape.model,
            prompt_tokens,
            int(max(shape.reusable_tokens, known_tokens) * scale),
            int(known_tokens * scale),
            int(decision.expected_tokens * scale),
            cached_tokens if shape.single else None,
        )
