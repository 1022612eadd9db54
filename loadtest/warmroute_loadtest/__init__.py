"""This package puts load on Warmroute. It has the demo (`demo`, which sees the router from outside), load tests by
locust, and fleets simulated in virtual time.

Nothing in the router or the replicas imports this package.
"""
