"""Every port has a contract suite that its adapters pass; what has none says why."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUITES = {
    "Registry": "test_registry.py",
    "LoadBoard": "test_load_board.py",
    "Discovery": "test_discovery.py",
    "Engine": "test_engine.py",
    "KeyStore": "test_key_store.py",
    "Limiter": "test_limiter.py",
    "UsageStore": "test_usage_store.py",
    "ContentStore": "test_content_store.py",
    "ResponseStore": "test_response_store.py",
    "SchemaStore": "test_schema_store.py",
}
WITHOUT = {
    "DiscoveryReport": "its one listener is the router's own service, no adapter",
    "TokenVerifier": "one adapter; tests/integration/test_oidc.py plays it against a provider over HTTP",
    "Embedder": "one adapter, of a model that few install; the fleet's own are no adapter: tests/unit/test_likeness.py",
    "ReplicaCalls": "one adapter of one method, and its fake raises and answers as the port's two lines say",
}


def test_every_port_has_a_contract_suite_or_a_reason() -> None:
    tree = ast.parse((ROOT / "router" / "warmroute" / "ports.py").read_text())
    ports = {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases)
    }
    assert ports == SUITES.keys() | WITHOUT.keys()
    for port, suite in SUITES.items():
        text = (ROOT / "tests" / "contract" / suite).read_text()
        assert "params=" in text, f"{port}: one suite over several"
