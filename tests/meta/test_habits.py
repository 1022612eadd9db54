"""Habits that nobody need remember: what a log call looks like, and who may make a task."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROUTER = Path(__file__).parents[2] / "router" / "warmroute"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(ROUTER.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def log_calls(tree: ast.Module) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("log", "_log")
        ):
            yield node


def test_a_log_call_names_an_event_and_puts_everything_else_into_escaped_fields() -> None:
    wrong, seen = [], 0
    for path, tree in modules():
        for call in log_calls(tree):
            seen += 1
            event = call.args[0]
            plain = isinstance(event, ast.Constant) and re.fullmatch(r"[a-z][a-z_]*", str(event.value))
            if len(call.args) != 1 or not plain:
                wrong.append(f"{path.relative_to(ROUTER.parent)}:{call.lineno}")
    assert wrong == []
    assert seen > 30


def test_tasks_are_made_by_the_keeper_or_inside_a_task_group() -> None:
    wrong = []
    for path, tree in modules():
        groups = {
            item.optional_vars.id
            for node in ast.walk(tree)
            if isinstance(node, ast.AsyncWith)
            for item in node.items
            if ast.unparse(item.context_expr) == "asyncio.TaskGroup()"
            and isinstance(item.optional_vars, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future"):
                owner = ast.unparse(node.value)
                if owner not in groups and path != ROUTER / "tasks.py":
                    wrong.append(f"{path.relative_to(ROUTER.parent)}:{node.lineno}")
    assert wrong == []
