"""Formats of what leaves this process: records that other routers read. Pure; each format is pinned by golden tests."""
