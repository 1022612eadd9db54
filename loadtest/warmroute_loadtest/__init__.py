"""This package puts load on Warmroute: the demo (`demo`, from outside), load tests by locust, fleets in virtual time.

Nothing in the router or the replicas imports this package.
"""
