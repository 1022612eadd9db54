"""Load against Warmroute: the demo (`demo`, from outside), and fleets in virtual time (`simulate`).

Nothing in the router or the replicas imports this package.
"""
