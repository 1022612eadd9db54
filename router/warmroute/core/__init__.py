"""Pure decisions: who is eligible, who is chosen, what it costs, what is remembered of a prompt.

Standard library and xxhash only; time and randomness are arguments. Nothing here does I/O, waits, or logs. `types` is
the vocabulary. The rooms:

- `prompt`    what of a request changes the cache, and its fingerprint.
- `choice`    what a request costs on a replica, and the policies that compare.
- `fleet`     the replicas and what is under way on them; `fleet.fleet` is the one mutable aggregate.
- `health`    which replicas may be sent requests, and whose fault an error is.
- `beliefs`   how much of a prompt each replica is believed to hold.
- `learning`  what answers teach of speeds, lengths and caches.
- `holding`   which requests wait at the router.
"""
