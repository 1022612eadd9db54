"""A replica's health says whether it may be sent requests: a state, signals that move it, and a table that says how.

Rule 1: every change of state is a row of `TRANSITIONS`; the code below only turns observations (a probe answered, a
request failed) into signals and walks the table. Rule 2: time is an argument; nothing here waits or schedules.

This is what leads to which signal:

- Traffic: `failures_to_eject` failures in a row eject a replica, and so does one that leaves no doubt (a refused
  connection, or an engine that says that it shuts down). The backoff doubles with every ejection, until a request has
  succeeded.
- A pause ejects at once as well, and counts as no failure: its backoff stays what it was.
- Probes: `probe_failures_to_eject` failures in a row eject a replica until a probe succeeds. A probe that finds the
  engine asleep, paused or scaling ejects at once, and so does one that is not answered by a replica whose requests are
  silent too (`suspect`). A successful probe ends an ejection only where the probe can tell that the replica is well:
  because probes ejected it, because it had refused connections, or because it is a new incarnation. An engine whose
  `/health` is fine and whose requests fail sits its backoff out.
- When the backoff is over, one trial decides: a request or a probe, whichever comes first. Where an engine answered
  with errors (`FailureReason.ERROR`) or was silent (`TIMEOUT`), only a request decides; the former is given one trial
  after every successful probe, and for the latter only an answer speaks that it had to compute
  (`Members._breaks_silence`).
- A changed incarnation makes everything forgotten: it is another engine.

Rule 3: a state concerns new requests only. The requests that a replica has already keep their limits whatever the
state, unless the replica is shown to be gone (`Health.dead`, or another incarnation).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final


class ReplicaState(StrEnum):
    """A metric label and a column of `/replicas`."""

    STARTING = "starting"
    """Known, never yet seen working: not routable."""
    READY = "ready"
    """Routable."""
    EJECTED = "ejected"
    """Backing off: not routable, unless every replica of a model is (then the least recently ejected is tried)."""
    PROBING = "probing"
    """Backoff over: routable for one trial at a time."""
    DRAINING = "draining"
    """Finishing what it has: gets nothing new except requests for what only it keeps."""
    GONE = "gone"
    """Removed from the fleet; only requests still under way refer to it."""


class FailureReason(StrEnum):
    """Why a request, or a probe, got no good answer. A metric label."""

    REFUSED = "refused"
    """The replica's machine refused the connection: nothing listens there."""
    CONNECT = "connect"
    """No connection for another reason: unreachable, unresolved, TLS, too slow."""
    LOST = "lost"
    """The connection broke before the answer was complete."""
    TIMEOUT = "timeout"
    """Silent for too long."""
    STATUS = "status"
    """An answer that blames the server: 502, 503, 504, or the 500 of an engine that is dead."""
    BUSY = "busy"
    """An answer that says the queue is full: worth trying elsewhere, and no sign of ill health."""
    ERROR = "error"
    """An answer that blames nobody (a plain 500, 401, 404), where another replica answered the same: see `outliers`."""
    DRAINING = "draining"
    """The engine says that it shuts down (vLLM: "cannot schedule new futures after shutdown")."""
    ASLEEP = "asleep"
    """The engine sleeps (vLLM's sleep mode): `/health` is fine, and requests wait until somebody wakes it."""
    PAUSED = "paused"
    """The engine is paused (vLLM's `/pause`, for new weights): `/health` is fine, and it computes nothing."""
    SCALING = "scaling"
    """The server changes how many engines it has (vLLM's elastic expert parallelism), and answers nothing meanwhile."""
    PROBE = "probe"
    """The health probe failed."""


_INTERVALS: Final = frozenset({FailureReason.PAUSED, FailureReason.SCALING})
"""Somebody wants it so, for a while, and it says so itself: no sign of ill health."""
_CERTAIN: Final = _INTERVALS | {FailureReason.REFUSED, FailureReason.DRAINING, FailureReason.ASLEEP}
_SEEN_BY_PROBES: Final = _INTERVALS | {FailureReason.ASLEEP}
"""What one probe tells for certain."""
REQUESTS_TELL: Final = frozenset({FailureReason.ERROR, FailureReason.TIMEOUT})
"""What `/health` says nothing of: an engine that hangs behind its server, or errs."""
_PROBE_CAN_TELL: Final = frozenset(
    {FailureReason.REFUSED, FailureReason.CONNECT, FailureReason.ASLEEP, FailureReason.PROBE}
)


class Signal(StrEnum):
    """What moves a replica between states, counters already taken into account."""

    PROBE_OK = "probe_ok"
    PROBE_FAILED = "probe_failed"
    SUCCESS = "success"
    FAILED = "failed"
    BACKOFF_OVER = "backoff_over"
    TRIAL = "trial"
    """Sent a request though ejected, because there was no other."""
    DRAIN = "drain"
    READMIT = "readmit"
    """Discovery names it again while it drains."""
    REMOVE = "remove"


_DATES_EJECTION: Final = frozenset({Signal.FAILED, Signal.PROBE_FAILED})
"""An ejected replica that fails again counts as ejected just now, so that the fail-open choice takes turns."""

_S, _R, _E, _P, _D, _G = ReplicaState

TRANSITIONS: Final[dict[Signal, dict[ReplicaState, ReplicaState]]] = {
    Signal.PROBE_OK: {_S: _R, _R: _R, _E: _R, _P: _R, _D: _D, _G: _G},
    Signal.PROBE_FAILED: {_S: _S, _R: _E, _E: _E, _P: _E, _D: _D, _G: _G},
    Signal.SUCCESS: {_S: _R, _R: _R, _E: _E, _P: _R, _D: _D, _G: _G},
    Signal.FAILED: {_S: _S, _R: _E, _E: _E, _P: _E, _D: _D, _G: _G},
    Signal.BACKOFF_OVER: {_S: _S, _R: _R, _E: _P, _P: _P, _D: _D, _G: _G},
    Signal.TRIAL: {_S: _S, _R: _R, _E: _P, _P: _P, _D: _D, _G: _G},
    Signal.DRAIN: {_S: _D, _R: _D, _E: _D, _P: _D, _D: _D, _G: _G},
    Signal.READMIT: {_S: _S, _R: _R, _E: _E, _P: _P, _D: _S, _G: _G},
    Signal.REMOVE: {_S: _G, _R: _G, _E: _G, _P: _G, _D: _G, _G: _G},
}
"""Complete: every signal has a row for every state. A success does not end an ejection, since the request may have been
sent before it; the trial's does."""


@dataclass(frozen=True, slots=True)
class HealthParameters:
    """When to eject, and for how long."""

    failures_to_eject: int = 3
    """Consecutive failed requests; more than a single client's bad luck, few enough to matter within a second."""
    probe_failures_to_eject: int = 2
    """Consecutive failed probes: one lost probe of a busy engine is no outage."""
    backoff_s: float = 1.0
    """First ejection; doubles with every further one."""
    max_backoff_s: float = 30.0


class Health:
    """State and counters of one replica."""

    __slots__ = (
        "dead",
        "ejected_s",
        "ejections",
        "failures",
        "parameters",
        "probe_failures",
        "reason",
        "refused_s",
        "silent_s",
        "state",
        "strikes",
        "suspect",
        "tainted",
        "trials",
        "until_s",
    )

    def __init__(self, parameters: HealthParameters) -> None:
        self.parameters = parameters
        self.state = ReplicaState.STARTING
        self.reason: FailureReason | None = None
        """Why it failed last; None after a restart or before any failure."""
        self.dead = False
        """Shown to be gone: its machine refused a connection, and nothing was heard of it since. A verdict on what it
        was sent before, which no other failure is."""
        self.ejected_s = -inf
        """When it was ejected last, or failed last while ejected; orders the fail-open choice."""
        self.ejections: dict[FailureReason, int] = {}
        """How often it was ejected, trials that failed included, and why."""
        self.trials = 0
        """Requests under way that were sent while it was not `READY`; the fleet counts them."""
        self._reset()

    def _reset(self) -> None:
        self.dead = False
        self.refused_s = -inf
        """When its machine last refused a request's connection; what a probe found that began before is older."""
        self.silent_s = -inf
        """When a request was last found to be silent here (`TIMEOUT`); what had begun before says nothing of it."""
        self.suspect = False
        """Silent for longer than its requests should take: one probe that is not answered either ejects it."""
        self.failures = 0
        self.probe_failures = 0
        self.strikes = 0
        """Ejections since the last successful request; the backoff's exponent."""
        self.until_s = inf
        """End of the backoff while ejected; infinite when only a probe can end it, and in every other state."""
        self.tainted = True
        """Whether a success would change anything; spares the request path the call of `succeeded`."""

    def _walk(self, signal: Signal, now_s: float) -> bool:
        before = self.state
        self.state = after = TRANSITIONS[signal][before]
        changed = before is not after
        if after is ReplicaState.EJECTED:
            if changed:
                self.strikes += 1
                reason = FailureReason.PROBE if self.reason is None else self.reason
                self.ejections[reason] = self.ejections.get(reason, 0) + 1
            if changed or signal in _DATES_EJECTION:
                changed = True
                self.ejected_s = now_s
                self.until_s = self._backoff_end_s(now_s)
        elif changed:
            self.until_s = inf
            if after is ReplicaState.READY:
                self.failures = self.probe_failures = 0
        self.tainted = after is not ReplicaState.READY or self.failures > 0 or self.strikes > 0
        return changed

    def _backoff_end_s(self, now_s: float) -> float:
        if self.probe_failures >= self.parameters.probe_failures_to_eject:
            return inf
        backoff_s = self.parameters.backoff_s * 2.0 ** min(self.strikes - 1, 30)
        return now_s + min(backoff_s, self.parameters.max_backoff_s)

    def succeeded(self, now_s: float) -> bool:
        """A request got its first byte. Like all below: true if the state, or the time of ejection, changed."""
        self.dead = self.suspect = False
        if self.state is ReplicaState.READY or self.state is ReplicaState.PROBING:
            self.failures = self.strikes = 0
        return self._walk(Signal.SUCCESS, now_s)

    def failed(self, reason: FailureReason, now_s: float) -> bool:
        """A request failed."""
        if reason is FailureReason.BUSY:
            return False
        self.reason = reason
        if reason in _INTERVALS:
            return self._paused(now_s)
        self.failures += 1
        if reason is FailureReason.REFUSED:
            self.dead = True
            self.refused_s = now_s
        elif reason is FailureReason.TIMEOUT:
            self.silent_s = now_s
        self.tainted = True
        ready = self.state is ReplicaState.READY
        if ready and reason not in _CERTAIN and self.failures < self.parameters.failures_to_eject:
            return False
        return self._walk(Signal.FAILED, now_s)

    def _paused(self, now_s: float) -> bool:
        self.tainted = True
        strikes = max(self.strikes, 1)
        changed = self._walk(Signal.FAILED, now_s)
        if self.state is ReplicaState.EJECTED:
            self.strikes = strikes
            self.until_s = self._backoff_end_s(now_s)
        return changed

    def probe_succeeded(self, restarted: bool, now_s: float) -> bool:
        """A probe succeeded; `restarted` if it found another incarnation than the last one."""
        if restarted:
            self._reset()
            self.reason = None
        self.dead = self.suspect = False
        self.probe_failures = 0
        if self.reason is FailureReason.ERROR:
            if self.state is ReplicaState.EJECTED:
                return self._walk(Signal.BACKOFF_OVER, now_s)
        if self.state is ReplicaState.PROBING and self.reason in REQUESTS_TELL:
            return False
        if (
            self.state is ReplicaState.EJECTED
            and self.reason is not None
            and self.reason not in _PROBE_CAN_TELL
            and not (
                self.reason in _INTERVALS and self.until_s == inf
            )  # a probe has seen it, and sees its end
        ):
            if self.until_s == inf:
                # Probes had failed too: with those back, what is left to sit out is the requests' backoff, now over.
                return self._walk(Signal.BACKOFF_OVER, now_s)
            return False
        return self._walk(Signal.PROBE_OK, now_s)

    def probe_failed(self, now_s: float, reason: str = FailureReason.PROBE) -> bool:
        """A probe failed; one that a sleeping engine answered leaves no doubt."""
        certain = reason in _SEEN_BY_PROBES
        silent = self.suspect and reason == FailureReason.TIMEOUT
        self.probe_failures = (
            max(self.probe_failures + 1, self.parameters.probe_failures_to_eject)
            if certain or silent
            else self.probe_failures + 1
        )
        if reason == FailureReason.REFUSED:
            self.dead = True
        self.tainted = True
        if self.state is ReplicaState.READY or self.state is ReplicaState.EJECTED:
            if self.probe_failures < self.parameters.probe_failures_to_eject:
                return False
            if self.state is ReplicaState.EJECTED and self.until_s == inf:
                return False
        elif self.state is ReplicaState.PROBING:
            self.probe_failures = max(self.probe_failures, self.parameters.probe_failures_to_eject)
        if self.state is ReplicaState.READY:
            self.reason = FailureReason(reason) if certain else FailureReason.PROBE
        return self._walk(Signal.PROBE_FAILED, now_s)

    def signalled(self, signal: Signal, now_s: float) -> bool:
        """Walk the table by a signal that needs no counting: backoff over, trial, drain, readmit, remove."""
        return self._walk(signal, now_s)

    def validate(self) -> None:
        """Raises AssertionError where the counters contradict the state."""
        assert self.failures >= 0
        assert self.strikes >= 0
        assert self.tainted or not self.dead
        if self.state is ReplicaState.EJECTED:
            assert self.strikes > 0
        else:
            assert self.until_s == inf
        clean = self.state is ReplicaState.READY and not self.failures and not self.strikes
        assert self.tainted or clean, self.state
