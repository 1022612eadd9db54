"""What a request that has to wait brings with it into the line: its class, its tenant, its time, its size.

This module decides what a client may ask for: its key's class or a lower one, and no more time than the settings give.
Where no key is asked for anybody may name any class. Who is next is decided by `core.holding.line`, and what is charged
to a tenant when its request is over by the settings `queue.cached_token` and `queue.output_token`.

Nothing here is asked of a request that need not wait, but what it was served.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64_intdigest

from warmroute.core.errors import RouterError
from warmroute.core.holding.admission_queue import AdmissionQueue
from warmroute.core.holding.line import CLASSES, DEFAULT, Claim
from warmroute.core.holding.shares import Flow, Shares
from warmroute.dataplane.request import Request
from warmroute.dialects.urgency import asked_class
from warmroute.tenants.caller import Caller

if TYPE_CHECKING:
    from warmroute.core.fleet.decision import Decision
    from warmroute.core.fleet.replica import Replica
    from warmroute.core.types import Records, RequestShape

SEARCHED_BYTES: Final = 64 * 1024
"""Of a long body's beginning, and of its end, that are searched for a class: deciding must not take longer."""


class Queueing:
    """The fleet's queue, as the data plane sees it."""

    __slots__ = ("_anybody", "_cached_token", "_output_token", "_timeouts_s", "queue", "shares")

    def __init__(
        self,
        queue: AdmissionQueue,
        shares: Shares,
        timeouts_s: tuple[float, float, float],
        cached_token: float | None,
        output_token: float,
    ) -> None:
        """Args:
        timeouts_s: Longest time that a request of each class waits.
        cached_token: What a cached token counts of a computed one; None: its share of the prompt's computing.
        output_token: What a token of an answer counts.
        """
        self.queue = queue
        self.shares = shares
        self._timeouts_s = timeouts_s
        self._cached_token = -1.0 if cached_token is None else cached_token
        self._output_token = output_token
        self._anybody = shares.flow(0, 1.0)

    def wait(
        self,
        shape: RequestShape,
        records: Records | None,
        now_s: float,
        granted: Callable[[Decision | RouterError], None],
        caller: Caller | None,
        request: Request,
    ) -> Claim:
        """A place in line.

        Raises:
            RouterError: There is none (`AdmissionQueue.wait`).
        """
        level = self.level_of(caller, request)
        timeout_s = self._timeouts_s[level]
        asked_s = request.head.timeout_s
        if 0.0 < asked_s < timeout_s:
            timeout_s = asked_s
        self.queue.follow(now_s, monotonic())
        return self.queue.wait(
            shape, records, now_s, granted, level, self.flow_of(caller), timeout_s, len(request.body)
        )

    def level_of(self, caller: Caller | None, request: Request) -> int:
        """The request's class, by number."""
        own = DEFAULT if caller is None else caller.level
        asked = request.head.priority
        if asked < 0:
            body = request.body
            if len(body) > 2 * SEARCHED_BYTES:
                asked = asked_class(body[:SEARCHED_BYTES])
                if asked < 0:
                    asked = asked_class(body[-SEARCHED_BYTES:])
            else:
                asked = asked_class(body)
        if asked < 0:
            return own
        if caller is not None and caller.key_id and asked < own:
            return own
        return asked

    def flow_of(self, caller: Caller | None) -> Flow:
        """What its tenant was served."""
        if caller is None:
            if not self._anybody.known:
                self._anybody = self.shares.flow(0, 1.0)
            return self._anybody
        flow = caller.flow
        if flow is None or not flow.known:
            tenant = caller.tenant
            flow = caller.flow = self.shares.flow(xxh3_64_intdigest(tenant.id.encode()), tenant.weight)
        return flow

    def served(
        self,
        caller: Caller | None,
        charged_tokens: float,
        replica: Replica,
        prompt_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        now_s: float,
    ) -> None:
        """A request is over that was charged so much when it was let go."""
        if self._cached_token < 0.0:
            tokens = replica.work_tokens(prompt_tokens, cached_tokens)
        else:
            tokens = prompt_tokens - cached_tokens + cached_tokens * self._cached_token
        tokens += output_tokens * self._output_token
        if tokens != charged_tokens:
            self.shares.charge(self.flow_of(caller), tokens - charged_tokens, now_s)

    def waiting(self) -> dict[str, int]:
        """Requests that wait, by class."""
        return dict(zip(CLASSES, self.queue.line.counts, strict=True))

    def refused(self) -> dict[str, int]:
        """Requests that were turned away or whose time passed, by class."""
        return dict(zip(CLASSES, self.queue.refused, strict=True))
