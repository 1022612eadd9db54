"""Discovery from Kubernetes: the EndpointSlices of a Service or a selector, listed and watched.

- `access`     where the API server is, and as whom we call it: in-cluster or by a kubeconfig.
- `api`        the two calls: a list in pages, and a watch.
- `answers`    what comes back, and what errors mean. Pure.
- `slices`     what EndpointSlices say, put together as members. Pure.
- `discovery`  when to list, when to watch, when to wait.
"""
