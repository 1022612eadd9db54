"""Wire formats are what leaves this process: records that other routers read.

They are pure, and each is pinned by golden tests.
"""
