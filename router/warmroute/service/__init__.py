"""Asynchronous use cases over ports: `tasks` keeps background work, `membership` keeps the fleet's view current."""
