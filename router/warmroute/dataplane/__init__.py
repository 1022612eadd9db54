"""The data plane is the request path: a client's bytes go to a replica and back, on uvloop transports and httptools.

- `server`         opens listening sockets and TLS, and drains.
- `downstream`     is one client connection: it reads requests, in order, within limits.
- `large_body`     reads the rest of a long body straight into its place.
- `request`        is one request as received, and what is forwarded of its head.
- `shapes`         reads from a request what a policy may know of it.
- `exchange`       is one request's life: read, choose, hold, answer, settle exactly once.
- `retries`        says what a failed try means, and tries the next replica.
- `attempt`        is one try on one replica; `attempt_hooks` has what it asks of the two above.
- `states`         names the states of a try's answer.
- `second`         is a second try beside one that is late.
- `failover`       goes on with a stream that broke, at another replica.
- `relay`          is the way back: a replica's answer to the client, byte for byte.
- `accounts`       counts what has ended, by its `outcome`.
- `local`          writes what the router answers itself; `own_answers` says what that is.
- `upstream`       is one connection to a replica.
- `pool`           keeps idle connections to each replica, and connects.
- `hold`           wakes the queue of held requests.
- `sweeper`        keeps the deadlines of everything above, by one timer for all.
- `gateway`        is what all of them share.
"""
