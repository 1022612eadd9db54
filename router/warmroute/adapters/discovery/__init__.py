"""Discovery adapters learn the fleet's members: from settings, DNS, Kubernetes, or agents' heartbeats in Redis."""
