"""Kubernetes' own schemas of manifests, strict: unknown fields are errors. From the package kubernetes-validate.

Custom resources are not in them.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

CUSTOM = frozenset({"monitoring.coreos.com", "keda.sh", "gateway.networking.k8s.io"})
"""Groups of resources that Kubernetes itself does not know."""


def errors(manifest: dict[str, Any], version: str) -> list[str]:
    """What is wrong with a manifest for that version of Kubernetes, such as 1.29.0."""
    validator = _validator(manifest["apiVersion"], manifest["kind"], version)
    if validator is None:
        return []
    name = f"{manifest['kind']}/{manifest['metadata']['name']}"
    return [f"{name}: {error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


@cache
def _validator(api_version: str, kind: str, version: str) -> Draft202012Validator | None:
    group, _, number = api_version.rpartition("/")
    if group in CUSTOM:
        return None
    name = "-".join(part for part in (kind.lower(), group.split(".")[0], number) if part)
    schema = _read(version, name)
    registry: Registry[Any] = Registry().with_resources([_definitions(version)])
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ registry)


@cache
def _definitions(version: str) -> tuple[str, Resource[Any]]:
    resource = Resource.from_contents(_read(version, "_definitions"))
    return resource.id() or "", resource


def _read(version: str, name: str) -> dict[str, Any]:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}-local-strict"
    read: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return read
