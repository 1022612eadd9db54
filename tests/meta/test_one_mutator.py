"""The fleet, its replicas and its decisions are changed by their own methods only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from warmroute.core.fleet.decision import Decision
from warmroute.core.fleet.prefill import PrefillQueue
from warmroute.core.fleet.replica import Replica

ROOT = Path(__file__).parents[2]
CORE = ROOT / "router" / "warmroute" / "core"
FLEET = (CORE / "fleet" / "fleet.py", CORE / "fleet" / "members.py")
OWNERS = {
    *FLEET,
    *(CORE / "fleet" / name for name in ("replica.py", "prefill.py", "decision.py")),
    CORE / "learning" / "feedback.py",
}

OTHER_OBJECTS = {
    ("router/warmroute/cli/keys.py", "arguments"): "what the command line said",
    ("router/warmroute/dataplane/gateway.py", "self.caching"): "what advises",
    ("router/warmroute/adapters/engine/probe.py", "known"): "what the probe keeps of a replica",
    ("router/warmroute/adapters/registry/redis/batch.py", "batch"): "a batch of commands",
    ("router/warmroute/core/fleet/peer_load.py", "peer"): "another router",
    ("router/warmroute/core/fleet/peer_load.py", "total"): "the ledger's sum",
    ("router/warmroute/core/learning/learner.py", "speed"): "a speed estimate",
    ("router/warmroute/core/beliefs/belief.py", "found"): "what was read of records",
    ("router/warmroute/core/holding/shares.py", "flow"): "what a tenant was served",
    ("router/warmroute/tenants/usage.py", "row"): "what a key used",
}
"""Fields of the same names on objects of other classes: by file and variable, and what it is."""


def fields_of_the_fleet() -> set[str]:
    """What `Fleet`'s own methods set on it."""
    return {
        target.attr
        for path in FLEET
        for node in ast.walk(ast.parse(path.read_text()))
        for target in targets(node)
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
    }


def targets(node: ast.AST) -> Iterator[ast.expr]:
    """What a statement writes to; of an item, what it is an item of."""
    found: list[ast.expr] = []
    if isinstance(node, (ast.Assign, ast.Delete)):
        found = list(node.targets)
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        found = [node.target]
    while found:
        target = found.pop()
        if isinstance(target, (ast.Tuple, ast.List)):
            found += target.elts
        elif isinstance(target, (ast.Subscript, ast.Starred)):
            found.append(target.value)
        else:
            yield target


def writes() -> Iterator[tuple[str, int, str, str]]:
    """Every write to a field of those names on another object than `self`: file, line, object, field."""
    names = {*Replica.__slots__, *PrefillQueue.__slots__, *Decision.__slots__, *fields_of_the_fleet()}
    for path in sorted((ROOT / "router" / "warmroute").rglob("*.py")):
        if path in OWNERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            for target in targets(node):
                if isinstance(target, ast.Attribute) and target.attr in names:
                    owner = ast.unparse(target.value)
                    if owner != "self":
                        yield str(path.relative_to(ROOT)), target.lineno, owner, target.attr


def test_nobody_else_writes_to_the_fleet_a_replica_or_a_decision() -> None:
    wrong = [
        f"{file}:{line}: {owner}.{field}"
        for file, line, owner, field in writes()
        if (file, owner) not in OTHER_OBJECTS
    ]
    assert wrong == []


def test_what_is_exempt_is_there() -> None:
    assert OTHER_OBJECTS.keys() == {(file, owner) for file, _, owner, _ in writes()}
