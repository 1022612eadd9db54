"""The request path: a client's bytes to a replica's and back, on uvloop transports and httptools.

- `server`      listening sockets, TLS, draining.
- `downstream`  one client connection: reads requests, in order, within limits.
- `large_body`  reads the rest of a long body straight into its place.
- `request`     one request as received, and what is forwarded of its head.
- `exchange`    one request's life: read, choose, dispatch, retry, settle exactly once.
- `relay`       the way back: a replica's answer to the client, byte for byte.
- `local`       what the router answers itself: health, readiness, models, errors.
- `upstream`    one connection to a replica.
- `pool`        idle connections per replica; connecting.
- `sweeper`     deadlines of everything above, one timer for all.
- `gateway`     what all of them share.
"""
