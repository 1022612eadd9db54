"""This package simulates fleets in virtual time: the router's policies and its rivals, against the simulated engine.

Nothing else in `loadtest` imports `warmroute.core` (the policies as they run) or the engine of
`warmroute_replica.sim`. Nothing here opens a socket or reads a clock; figures rank policies under a stated engine
model and predict no machine.
"""
