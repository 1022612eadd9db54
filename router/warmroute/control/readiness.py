"""Readiness says whether this router should be sent traffic, as `/health` and `/ready` of both ports tell it.

A router is ready if it is not draining, and at least one replica may be sent a request. A registry that is down does
not make it unready, since it serves on without it; nor does discovery that fails, since the last known replicas stay.
The state of both is shown.
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

    def ready(self) -> bool:
        """Whether `/ready` answers 200."""
        return self.routable() > 0 and not self.draining()

    def answer(self) -> tuple[int, bytes]:
        """HTTP status (200 or 503) and JSON body."""
        routable, draining = self.routable(), self.draining()
        replicas, failing = self.replicas(), self.discovery_failing()
        ready = routable > 0 and not draining
        reason = None
        if draining:
            reason = "draining"
        elif not ready:
            reason = "no_routable_replica" if self.ever_reachable() else "no_replica_reachable_yet"
            if not replicas and failing:
                reason = "discovery_failing"
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
