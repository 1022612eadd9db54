"""Readiness says whether this router should be sent traffic, as `/health` and `/ready` of both ports tell it.

A router is ready if it listens for clients, is not draining, and at least one replica may be sent a request. A registry
that is down does not make it unready, since it serves on without it; nor does discovery that fails, since the last
known replicas stay. The state of both is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

HEALTH_BODY = b'{"status":"ok"}'
"""`/health`: the process is alive and its event loop turns."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Reads the parts each time it is asked."""

    routable: Callable[[], int]
    """Replicas that may be sent a request."""
    replicas: Callable[[], int]
    """Replicas known."""
    registry_healthy: Callable[[], bool]
    draining: Callable[[], bool]
    ever_reachable: Callable[[], bool] = lambda: True
    """Whether any of them was ever seen working."""
    discovery_failing: Callable[[], bool] = lambda: False
    """Whether a source of replicas cannot be read now."""
    listening: Callable[[], bool] = lambda: True
    """Whether clients can connect: at the start the admin port answers before the other one does."""

    def ready(self) -> bool:
        """Whether `/ready` answers 200."""
        return self.routable() > 0 and not self.draining() and self.listening()

    def answer(self) -> tuple[int, bytes]:
        """HTTP status (200 or 503) and JSON body."""
        routable, draining = self.routable(), self.draining()
        replicas, failing = self.replicas(), self.discovery_failing()
        listening = self.listening()
        ready = routable > 0 and not draining and listening
        reason = None
        if draining:
            reason = "draining"
        elif not listening:
            reason = "starting"
        elif not ready:
            reason = "no_routable_replica" if self.ever_reachable() else "no_replica_reachable_yet"
            if not replicas:
                reason = "discovery_failing" if failing else "no_replica_known"
        body = {
            "status": "ready" if ready else "not_ready",
            "reason": reason,
            "routable_replicas": routable,
            "replicas": replicas,
            "discovery": "failing" if failing else "up",
            "registry": "up" if self.registry_healthy() else "down",
            "draining": draining,
        }
        return (200 if ready else 503), msgspec.json.encode(body)
