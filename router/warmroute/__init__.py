"""Warmroute: a cluster router that sends each LLM request to the replica whose prefix cache is warm.

The map, top to bottom; each layer imports only what is below it (checked by import-linter):

- `cli`         one command per file; parses flags, calls `app`.
- `app`         composition root: the only module that names adapters.
- `dataplane`   the request path on uvloop and httptools, from a client's bytes to a replica's and back.
- `control`     aiohttp on the admin port: health, metrics, replicas, explain.
- `service`     asynchronous use cases over ports: membership of the fleet, background tasks.
- `adapters`    registry (memory, Redis), discovery (static), engine (probes and scrapes of vLLM).
- `ports`       the outside world on one page.
- `config` `telemetry` `dialects` `wire`   settings; metrics and logs; public HTTP formats; shared records.
- `core`        pure decisions: fingerprint, ring, cost, policies, fleet state, health.
"""
