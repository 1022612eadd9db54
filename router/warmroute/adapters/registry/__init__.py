"""Where it is kept which replica recently served which prompt prefix: two backends of one port.

- `memory`            this process's own; the default, and what serves while a Redis is away.
- `redis`             shared by all routers that name the same Redis: the port's second backend.
- `redis.keeper`      connects, watches, reconnects.
- `redis.overlay`     merges what Redis says with this process's own placements.
- `redis.batch`       lookups of one event-loop tick: one exchange, one deadline.
- `redis.writes`      placements on their way to Redis, batched and merged there by `merge.lua`.
"""
