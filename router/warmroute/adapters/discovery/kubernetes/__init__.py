"""Discovery from Kubernetes lists and watches the EndpointSlices of a Service or a selector.

- `access`     says where the API server is, and as whom we call it: in-cluster or by a kubeconfig.
- `api`        makes the two calls: a list in pages, and a watch.
- `answers`    says what comes back, and what errors mean. It is pure.
- `slices`     puts together as members what EndpointSlices say. It is pure.
- `discovery`  decides when to list, when to watch, and when to wait.
"""
