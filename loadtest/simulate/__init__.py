"""A fleet in virtual time: the router's policies, and its rivals, against the simulated replica's engine.

The one part of `loadtest` that imports `router.core` (the policies as they run) and `replica.sim`'s pure engine.
Nothing here opens a socket or reads a clock; figures rank policies under a stated engine model and predict no
machine.
"""
