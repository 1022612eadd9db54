"""Every route of the installed vLLM is in the router's table, so that a new one is thought about when it comes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from warmroute.dialects.routes import ENDPOINTS, RouteKind, may_be_websocket, plain_path, route
from warmroute_replica.vllm.install import ensure_installed

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def routes() -> list[tuple[str, str]]:
    """Method and path of each, parameters filled in."""
    python = ensure_installed(print) / "bin" / "python"
    script = Path(__file__).with_name("list_routes.py")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, script], env=environ, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    return [(method, re.sub(r"\{[^}]*\}", "x_1", path)) for methods, path in rows for method in methods]


def named(path: str) -> bool:
    """Whether the table has this path by name."""
    return any(
        path.startswith(end.path[:-4]) if end.path.endswith("{id}") else path == end.path for end in ENDPOINTS
    )


def test_every_route_of_vllm_is_in_the_table(routes: list[tuple[str, str]]) -> None:
    assert len(routes) > 50
    assert ("POST", "/v1/chat/completions") in routes
    missing = []
    for method, path in routes:
        found = route(method.encode(), path.encode())
        if method == "WEBSOCKET":
            if not may_be_websocket(path.encode()):
                missing.append((method, path))
        elif found is None or found.kind is RouteKind.METHOD or not named(path):
            missing.append((method, path))
    assert missing == []


def test_what_changes_an_engine_is_administrative(routes: list[tuple[str, str]]) -> None:
    """Whatever only vLLM's development mode has, and what loads adapters or ends others' requests."""
    changing = re.compile(
        r"lora_adapter|/adapters|sleep|wake|pause|resume|reset_|release_|rpc|abort|weight|scal(e|ing)_elastic|fault"
    )
    for method, path in routes:
        if changing.search(path):
            found = route(method.encode(), path.encode())
            assert found is not None
            assert found.kind is RouteKind.ADMIN, path


def test_paths_are_compared_as_vllm_writes_them(routes: list[tuple[str, str]]) -> None:
    assert all(plain_path(path.encode()) == path.encode() for _, path in routes)
