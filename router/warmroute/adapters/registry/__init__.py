"""Where it is kept which replica recently served which prompt prefix: two backends of one port.

- `memory`            this process's own; the default, and what serves while a Redis is away.
- `redis`             shared by all routers that name the same Redis: the port's second backend.
- `redis_leases`      load notices between routers, on a connection of their own.
- `redis_keeper`      connects, watches, reconnects.
- `redis_overlay`     merges what Redis says with this process's own placements.
- `redis_batch`       lookups of one event-loop tick: one exchange, one deadline.
- `redis_commands`    commands and keys as bytes.
- `redis_topology`    connecting: the nodes that answer, and which of them keeps a key.
- `redis_pipe`        one connection; replies go to their askers in order.
- `redis_url`         what a Redis URL says.
- `redis_writes`      placements on their way to Redis, batched and merged there by `merge.lua`.
"""
