"""`make demo` runs the router beside round robin over the same fleet, and sees both from outside only.

It imports neither the router nor the replicas: both are started by their commands and spoken to by HTTP, so that what
is measured is what a user would get.

- `workload`   who asks what and when; the same for both sides.
- `client`     sends it, and measures each answer.
- `figures`    what the measurements amount to.
- `children`   processes that cannot outlive the demo.
- `fleet`      replicas, simulated or real vLLM.
- `routing`    router processes.
- `display`    progress, table, closing lines.
- `scenario`   one run, from nothing to the table.
"""
