"""No module of the router imports another that imports it, whatever stands between them, types included."""

from __future__ import annotations

from functools import cache

import grimp

FLOORS = [
    {"server"},
    {"sweeper"},
    {"downstream"},
    {"kinds"},
    {"derived", "recall", "translated"},
    {"recording", "rewritten"},
    {"own_requests"},
    {"exchange", "explain", "tunnel"},
    {"counted"},
    {"failover.resuming"},
    {"retries"},
    {"attempt"},
    {"attempt_hooks"},
    {"failover.rest"},
    {"second"},
    {"translating"},
    {"answer_lines", "own_answers", "shapes", "stand_in"},
    {"gateway"},
    {"advising"},
    {"accounts", "failover.recorded", "pool"},
    {"admission", "queueing"},
    {"outcome"},
    {"large_body", "local", "relay", "upstream"},
    {"answer", "client_side", "head_cache"},
    {"caching", "cors", "hold", "later", "proxy_header", "repeated_head", "states"},
    {"proxies", "whose"},
    {"request"},
    {"failover"},
]
"""The data plane from top to bottom: a module imports only what is on floors below its own."""


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("warmroute", exclude_type_checking_imports=False, cache_dir=None)


def test_imports_run_in_no_circle() -> None:
    imports = graph()
    left = {module: set(imports.find_modules_directly_imported_by(module)) for module in imports.modules}
    while True:
        leaves = {module for module, imported in left.items() if not imported}
        if not leaves:
            break
        left = {module: imported - leaves for module, imported in left.items() if module not in leaves}
    assert len(imports.modules) > 100
    assert not left, f"these import each other: {sorted(left)}"


def test_the_data_plane_stands_on_floors() -> None:
    imports = graph()
    height = {name: -number for number, floor in enumerate(FLOORS) for name in floor}
    prefix = "warmroute.dataplane."
    modules = {module.removeprefix(prefix) for module in imports.modules if module.startswith(prefix)}
    assert modules == set(height)
    for name in sorted(modules):
        for module in imports.find_modules_directly_imported_by(prefix + name):
            if module.startswith(prefix):
                below = module.removeprefix(prefix)
                assert height[below] < height[name], f"{name} imports {below}"
