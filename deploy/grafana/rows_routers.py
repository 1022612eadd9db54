"""The dashboard's rows on the routers themselves and on the registry that they share.

Content only; what a finding means and what to do is in docs/monitoring.md.
"""

from __future__ import annotations

from deploy.grafana.panels import (
    BYTES,
    COUNT,
    GREEN,
    RATIO,
    RED,
    SECONDS,
    Panel,
    Query,
    Row,
)
from deploy.grafana.queries import (
    I,
    R,
)

REGISTRY = Row(
    "Is the registry well?",
    [
        Panel(
            "Reached",
            "1 while the router reaches the registry's backend.",
            [
                Query(f"min by (instance) (warmroute_registry_up{{{R}}})", "{{instance}}"),
                Query(f"max by (instance) (warmroute_registry_breaker_open{{{R}}})", "{{instance}} slow"),
            ],
            most=1,
        ),
        Panel(
            "Lookup time",
            "Mean time that requests waited for a lookup. In memory it is next to nothing; a Redis near by"
            " takes under 1 ms.",
            [
                Query(
                    f"sum by (instance) (rate(warmroute_registry_lookup_seconds_total{{{R}}}[{I}]))"
                    f" / sum by (instance) (rate(warmroute_registry_lookups_total{{{R}}}[{I}]))",
                    "{{instance}}",
                )
            ],
            SECONDS,
        ),
        Panel(
            "Failures",
            "Lookups given up at the deadline, or answered without a Redis that is slow, errors, connections made"
            " again, records dropped for lack of room; a second.",
            [
                Query(
                    f"sum (rate(warmroute_registry_lookup_timeouts_total{{{R}}}[{I}]))", "lookups given up"
                ),
                Query(f"sum (rate(warmroute_registry_lookups_skipped_total{{{R}}}[{I}]))", "not asked"),
                Query(f"sum (rate(warmroute_registry_errors_total{{{R}}}[{I}]))", "errors"),
                Query(f"sum (rate(warmroute_registry_reconnects_total{{{R}}}[{I}]))", "reconnects"),
                Query(f"sum (rate(warmroute_registry_evictions_total{{{R}}}[{I}]))", "records dropped"),
            ],
            COUNT,
        ),
        Panel(
            "Lookups and writes",
            "Lookups (one a request routed by prefix) and records written, a second.",
            [
                Query(f"sum (rate(warmroute_registry_lookups_total{{{R}}}[{I}]))", "lookups"),
                Query(f"sum (rate(warmroute_registry_writes_total{{{R}}}[{I}]))", "records written"),
            ],
            COUNT,
        ),
        Panel(
            "Registry memory",
            "What the Redis servers hold, or an upper estimate for a router that keeps its own.",
            [Query(f"max by (instance) (warmroute_registry_bytes{{{R}}})", "{{instance}}")],
            BYTES,
        ),
        Panel(
            "Routers heard of",
            "Other routers and workers whose load each one hears of: one fewer than there are, where they"
            " share a Redis.",
            [Query(f"min by (instance) (warmroute_peers{{{R}}})", "{{instance}}")],
        ),
    ],
)

ROUTERS = Row(
    "Are the routers well?",
    [
        Panel(
            "Routers",
            "Each router's version, policy and registry, workers, hours since its start, and whether it runs"
            " with the settings last given to it.",
            [
                Query(
                    f"max by (instance, version, policy, registry) (warmroute_build_info{{{R}}})",
                    instant=True,
                ),
                Query(f"sum by (instance) (warmroute_workers{{{R}}})", instant=True),
                Query(
                    f"time () - min by (instance) (process_start_time_seconds{{{R}}}"
                    f" and on (instance, job) warmroute_build_info{{{R}}})",
                    instant=True,
                ),
                Query(f"min by (instance) (warmroute_settings_current{{{R}}})", instant=True),
            ],
            kind="table",
            columns=(
                ("instance", "router", ""),
                ("version", "version", ""),
                ("policy", "policy", ""),
                ("registry", "registry", ""),
                ("Value #B", "workers", COUNT),
                ("Value #C", "up for", SECONDS),
                ("Value #D", "settings current", COUNT),
            ),
        ),
        Panel(
            "CPU",
            "Cores used by each router's busiest process. Near 1 it is full: add routers or workers.",
            [
                Query(
                    f"max by (instance) (rate(process_cpu_seconds_total{{{R}}}[{I}])"
                    f" and on (instance, job) warmroute_build_info{{{R}}})",
                    "{{instance}}",
                )
            ],
            steps=((None, GREEN), (0.9, RED)),
        ),
        Panel(
            "Lateness p99",
            "How much later than due each router's timers are called: what a busy or throttled process adds"
            " to everything it passes on.",
            [
                Query(
                    "histogram_quantile(0.99, sum by (instance, le)"
                    f" (rate(warmroute_loop_lateness_seconds_bucket{{{R}}}[{I}])))",
                    "{{instance}}",
                )
            ],
            SECONDS,
            steps=((None, GREEN), (0.1, RED)),
        ),
        Panel(
            "Router memory",
            "Resident memory of each router, all its workers together.",
            [
                Query(
                    f"sum by (instance) (process_resident_memory_bytes{{{R}}}"
                    f" and on (instance, job) warmroute_build_info{{{R}}})",
                    "{{instance}}",
                )
            ],
            BYTES,
        ),
        Panel(
            "Connections and bodies",
            "Open connections of clients, and request bodies kept until no retry can need them.",
            [
                Query(f"sum by (instance) (warmroute_client_connections{{{R}}})", "{{instance}} connections"),
                Query(
                    f"sum by (instance) (warmroute_buffered_body_bytes{{{R}}}) / 1048576", "{{instance}} MiB"
                ),
            ],
        ),
        Panel(
            "File descriptors",
            "Share of the file descriptors that each router's fullest process may open. Each stream takes"
            " two.",
            [
                Query(
                    f"max by (instance) ((process_open_fds{{{R}}} / process_max_fds{{{R}}})"
                    f" and on (instance, job) warmroute_build_info{{{R}}})",
                    "{{instance}}",
                )
            ],
            RATIO,
            steps=((None, GREEN), (0.8, RED)),
        ),
        Panel(
            "Lost by the way",
            "Workers that died and were started again, and lines of the access log that a slow disk could"
            " not take, a second.",
            [
                Query(f"sum (rate(warmroute_worker_restarts_total{{{R}}}[{I}]))", "worker restarts"),
                Query(f"sum (rate(warmroute_access_log_dropped_total{{{R}}}[{I}]))", "log lines dropped"),
            ],
        ),
    ],
)
