"""Services are asynchronous use cases over ports: `membership` keeps the fleet's view current, and others beside it."""
