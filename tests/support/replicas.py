"""Replicas outside of a fleet."""

from __future__ import annotations

from warmroute.core.choice.cost import CostParameters
from warmroute.core.fleet.replica import Replica, Server
from warmroute.core.health.health import HealthParameters
from warmroute.core.types import ReplicaId


def lone_replica(name: str, cost: CostParameters, index: int = 0) -> Replica:
    """The only replica of its server."""
    server = Server(ReplicaId(name), f"http://{name}", HealthParameters())
    replica = Replica(server.id, server, None, index, cost)
    server.replicas.append(replica)
    return replica
