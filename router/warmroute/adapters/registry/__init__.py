"""The registry keeps which replica recently served which prompt prefix; two backends of one port are here.

- `memory`            is this process's own: the default, and what serves while a Redis is away.
- `redis`             is shared by all routers that name the same Redis: the port's second backend.
- `redis.keeper`      connects, watches and reconnects.
- `redis.overlay`     merges what Redis says with this process's own placements.
- `redis.batch`       makes the lookups of one event-loop tick one exchange with one deadline.
- `redis.writes`      sends placements to Redis, batched and merged there by `merge.lua`.
"""
