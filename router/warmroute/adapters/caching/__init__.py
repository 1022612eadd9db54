"""Where cached contents are kept: in this process, or in the Redis that all routers share."""
