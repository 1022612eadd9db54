"""From flags, environment and file to one frozen, checked `Config`; a flag wins over a variable over the file.

Parse, check each field, check them together, freeze: in this order, and the first fault ends it. The only place that
reads the environment. Replica lists are replaced, never joined.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from router.config.convert import convert
from router.config.errors import ConfigError
from router.config.rules import faults, normalised
from router.config.schema import Config
from router.config.schema_walk import fields_of, is_section, leaves
from router.config.sources import Nodes, Setting, from_environment, from_file, from_flags, where

CONFIG_VARIABLE = "WARMROUTE_CONFIG"


def load(
    settings: Iterable[Setting] = (), *, path: str | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """The settings to run with.

    Args:
        settings: Flags in the order given.
        path: The YAML file; absent, the variable `WARMROUTE_CONFIG` may name it.
        environ: The environment; absent, the process's own.
    Raises:
        ConfigError: At the first fault, with its place and key.
    """
    variables = os.environ if environ is None else environ
    flags = from_flags(settings)
    environment = from_environment(variables)
    file = path or variables.get(CONFIG_VARIABLE)
    nodes: Nodes = {**(from_file(file) if file else {}), **environment, **flags}
    values = {
        key: convert(nodes[key], annotation, key) for key, annotation, _ in leaves(Config) if key in nodes
    }
    config: Config = _build(Config, "", values)
    config = dataclasses.replace(config, replicas=tuple(map(normalised, config.replicas)))
    for fault in faults(config):
        place = _place(nodes, fault.key) or _place(nodes, fault.other)
        raise ConfigError(place, fault.key, fault.message)
    return config


def _build(section: Any, prefix: str, values: dict[str, Any]) -> Any:
    arguments = {}
    for name, (annotation, _) in fields_of(section).items():
        if is_section(annotation):
            arguments[name] = _build(annotation, f"{prefix}{name}.", values)
        elif prefix + name in values:
            arguments[name] = values[prefix + name]
    return section(**arguments)


def _place(nodes: Nodes, key: str) -> str:
    """Where the key was set; empty for a default. `replicas[2]` is the place of that entry."""
    entry = re.fullmatch(r"(\w+)\[(\d+)\]", key)
    node = nodes.get(entry[1] if entry else key)
    if node is None:
        return ""
    if entry and isinstance(node, yaml.SequenceNode):
        node = node.value[int(entry[2])]
    return where(node)
