"""The hooks of an attempt: what a try asks of whoever extends it, where more than this one try is at stake.

`attempt` calls these methods, and `retries`, `resuming` and `exchange` implement them. This module decides nothing: it
is where the hooks stand in one list.
"""

from __future__ import annotations

from warmroute.core.fleet.decision import Decision
from warmroute.core.health.health import FailureReason
from warmroute.dataplane.answer import AnswerHead
from warmroute.dataplane.failover.rest import FailoverOwner
from warmroute.dataplane.relay import Relay
from warmroute.dataplane.states import Recording


class AttemptHooks(FailoverOwner):
    """The hooks. They are plain methods of a native class, since mypyc calls those without a lookup."""

    __slots__ = ()

    def _attempt_failed(self, reason: FailureReason, why: str, delivered: bool) -> None:
        """The replica failed before its first body byte: the next one, or the end."""
        raise NotImplementedError

    def _may_go_on(self, head: AnswerHead) -> Recording:
        """Whether another replica could go on with this stream, if it broke: then it is recorded."""
        raise NotImplementedError

    def _engine_failed(self, relay: Relay) -> None:
        """The engine says, in the middle of a stream, that it failed: what it says is not passed on yet."""
        raise NotImplementedError

    def _goes_on(self, relay: Relay, reason: FailureReason) -> bool:
        """Whether another replica goes on with the stream, which broke."""
        raise NotImplementedError

    def _taken_over(self, kept_back: bytes) -> bool:
        """Whether the complete answer, of which this is the body, is not the client's."""
        raise NotImplementedError

    def _answers(self, decision: Decision, computed: bool) -> None:
        """The first byte is there; `computed`: of an answer that is no error."""
        raise NotImplementedError

    def _finish(self, *, keep_alive: bool, code: str | None = None, seen: bytes = b"") -> None:
        """End, once. `seen` is where the answer's usage is looked for."""
        raise NotImplementedError
