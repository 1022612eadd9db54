"""Ports made real. Adapters do not know each other; only `app` knows which one is plugged in."""
