"""Loading makes one frozen, checked `Config` of flags, environment and file; a flag wins over a variable over the file.

It parses, checks each field, checks them together, and freezes. It reports all faults at once, and those between fields
only where the fields themselves are right. It is the only place that reads the environment. Replica lists are replaced,
never joined.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from warmroute.config.convert import convert
from warmroute.config.errors import ConfigError, Faults
from warmroute.config.rules import faults, normalised
from warmroute.config.schema import Config
from warmroute.config.schema_walk import fields_of, is_section, leaves
from warmroute.config.sources import (
    Nodes,
    Setting,
    Shorthand,
    from_environment,
    from_file,
    from_flags,
    keys_below,
    where,
)

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
        ConfigError: There is a fault; it names all of them, each with its place and key.
    """
    variables = os.environ if environ is None else environ
    found = Faults()
    flags = from_flags(settings, found)
    environment = from_environment(variables, found)
    file = path or variables.get(CONFIG_VARIABLE)
    unread = False
    in_file: Nodes = {}
    if file:
        try:
            in_file = from_file(file, found)
        except ConfigError as error:
            found.add(error)
            unread = True
    nodes = {**in_file, **environment, **flags}
    values = {}
    for key, annotation, _ in leaves(Config):
        if key in nodes:
            try:
                values[key] = convert(nodes[key], annotation, key)
            except ConfigError as error:
                found.add(_of_section(error, nodes[key], key))
    config: Config = _build(Config, "", values)
    config = dataclasses.replace(config, replicas=tuple(map(normalised, config.replicas)))
    together = Faults()
    for fault in faults(config):
        keys = [key.partition("[")[0] for key in (fault.key, fault.other) if key]
        if any(found.concern(key) or (unread and key not in nodes) for key in keys):
            continue  # it may speak of a default that stands in for what could not be read
        place = _place(nodes, fault.key) or _place(nodes, fault.other)
        together.add(ConfigError(place, fault.key, fault.message))
    found.add_all(together)
    found.raise_any()
    return config


def _of_section(error: ConfigError, node: yaml.Node, key: str) -> ConfigError:
    """The error, which also says how the value came to stand for this key, where another one was named."""
    if not isinstance(node, Shorthand):
        return error
    section, _, _ = key.partition(".")
    keys = keys_below(fields_of(Config)[section][0], f"{section}.")
    fault = f"{error.fault}; {section!r} itself stands for this key, and the section has {keys}"
    return ConfigError(error.where, key, fault)


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
    entry = re.fullmatch(r"([\w.]+)\[(\d+)\]", key)
    node = nodes.get(entry[1] if entry else key)
    if node is None:
        return ""
    if entry and isinstance(node, yaml.SequenceNode):
        node = node.value[int(entry[2])]
    return where(node)
