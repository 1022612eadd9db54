"""Settings come from a YAML file, the environment and flags; each of these becomes `key -> YAML node` here.

This module knows which keys exist, and nothing of their values. A node's mark says where it was set: a file and line, a
variable, or a flag; `where` renders it for messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import get_origin

import yaml

from warmroute.config.errors import ConfigError, Faults, suggestion
from warmroute.config.schema import Config
from warmroute.config.schema_walk import (
    ENV_PREFIX,
    environment_names,
    fields_of,
    is_section,
    leaves,
    shorthand_of,
)

Setting = tuple[str, str, str | list[str]]
"""A flag as given: its name for messages (`--listen`), the key it sets, and its text or texts."""

Nodes = dict[str, yaml.Node]

_STR = "tag:yaml.org,2002:str"
_NULL = "tag:yaml.org,2002:null"
_resolver = yaml.resolver.Resolver()
MAX_FILE_BYTES = 4 << 20

# Variables with our prefix that are none of ours: Kubernetes announces a Service named `warmroute` to every pod of its
# namespace (WARMROUTE_SERVICE_HOST, WARMROUTE_PORT_80_TCP_ADDR, …); WARMROUTE_CACHE, _COMPILE and _TORCH_INDEX belong
# to installing and to `warmroute-replica`.
_FOREIGN = re.compile(
    r"WARMROUTE_(CACHE|COMPILE|TORCH_INDEX|(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?))"
)


class Shorthand(yaml.ScalarNode):
    """A value that was given in place of a section; it is under the key that it stands for."""

    def __init__(self, node: yaml.ScalarNode) -> None:
        super().__init__(node.tag, node.value, node.start_mark, node.end_mark, node.style)


def keys_below(section: type, prefix: str) -> str:
    """Names the settings of a section, for messages."""
    return ", ".join(key for key, _, _ in leaves(section, prefix))


def where(node: yaml.Node) -> str:
    """`file:line`, or the name of the variable or flag."""
    mark = node.start_mark
    return str(mark.name) if mark.line < 0 else f"{mark.name}:{mark.line + 1}"


def from_file(path: str, faults: Faults) -> Nodes:
    """Every setting of a YAML file; keys that are named twice or do not exist are left out and told to `faults`.

    Raises:
        ConfigError: It cannot be read or is not YAML.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(path, "", f"is longer than {MAX_FILE_BYTES} bytes: not a configuration file")
    return from_yaml(data, path, faults)


def from_yaml(data: bytes, name: str, faults: Faults) -> Nodes:
    """Every setting of a YAML document; `name` stands for the file in messages."""
    try:
        root = yaml.compose(data.decode(), yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(name, "", f"is not UTF-8: byte {error.start}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{name}:{mark.line + 1}" if mark is not None else name
        raise ConfigError(line, "", f"is not YAML: {getattr(error, 'problem', None) or error}") from error
    except RecursionError as error:
        raise ConfigError(name, "", "is nested too deeply") from error
    found: Nodes = {}
    if root is None or root.tag == _NULL:
        return found
    for node in _walk([root]):
        if node.start_mark is not None:
            node.start_mark.name = name
    _collect(root, Config, "", found, faults)
    return found


def _walk(pending: list[yaml.Node]) -> Iterable[yaml.Node]:
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, yaml.MappingNode):
            pending.extend(part for pair in node.value for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            pending.extend(node.value)


def _collect(node: yaml.Node, section: type, prefix: str, found: Nodes, faults: Faults) -> None:
    if node.tag == _NULL:
        return
    if not isinstance(node, yaml.MappingNode):
        short = shorthand_of(section)
        if short is None or not prefix or not isinstance(node, yaml.ScalarNode):
            what = "settings, `key: value` each"
            if prefix:
                what = f"a section with keys of its own: {keys_below(section, prefix)}"
            faults.add(ConfigError(where(node), prefix.rstrip("."), f"must be {what}"))
            return
        found[prefix + short] = Shorthand(node)
        return
    for name, value in keys_of(node, section, prefix, faults).items():
        annotation, _ = fields_of(section)[name]
        if is_section(annotation):
            _collect(value, annotation, f"{prefix}{name}.", found, faults)
        else:
            found[prefix + name] = value


def keys_of(node: yaml.MappingNode, section: type, prefix: str, faults: Faults) -> dict[str, yaml.Node]:
    """A mapping's values by name; names that are not known, or were given already, are told to `faults`."""
    known = fields_of(section)
    values: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else "(a key that is not plain text)"
        if name not in known:
            faults.add(ConfigError(where(key), prefix + name, "unknown key" + suggestion(name, known)))
        elif name in values:
            faults.add(ConfigError(where(key), prefix + name, "is set twice in one place"))
        else:
            values[name] = value
    return values


def from_environment(environ: Mapping[str, str], faults: Faults) -> Nodes:
    """Every setting among the variables named `WARMROUTE_…`; empty ones count as unset.

    Told to `faults`: a variable that sets nothing that exists, or the same key differently from another.
    """
    names = environment_names(Config)
    found: Nodes = {}
    for variable in sorted(environ):
        text = environ[variable]
        if not variable.startswith(ENV_PREFIX) or not text or variable == ENV_PREFIX + "CONFIG":
            continue
        key = names.get(variable)
        if key is None:
            if _FOREIGN.fullmatch(variable):
                continue
            name = variable[len(ENV_PREFIX) :].lower()
            if name in _sections():
                faults.add(_no_setting(variable, name))
                continue
            faults.add(ConfigError(variable, "", "sets nothing that exists" + suggestion(variable, names)))
            continue
        if key in found and text != environ[where(found[key])]:
            faults.add(ConfigError(variable, key, f"contradicts {where(found[key])}"))
        node = text_node(text.split(",") if key in _lists() else text, variable)
        by_section = _sections().get(variable[len(ENV_PREFIX) :].lower()) is not None
        found[key] = Shorthand(node) if by_section and isinstance(node, yaml.ScalarNode) else node
    return found


def from_flags(settings: Iterable[Setting], faults: Faults) -> Nodes:
    """Every setting among the flags; a later flag replaces an earlier one of the same key.

    Told to `faults`: a key that does not exist.
    """
    known = {key for key, _, _ in leaves(Config)}
    found: Nodes = {}
    for flag, key, text in settings:
        section = _sections().get(key)
        if section is not None:
            short = shorthand_of(section)
            if short is None:
                faults.add(_no_setting(flag, key))
            else:
                node = text_node(text, flag)
                found[f"{key}.{short}"] = Shorthand(node) if isinstance(node, yaml.ScalarNode) else node
            continue
        if key not in known:
            faults.add(ConfigError(flag, key, "unknown key" + suggestion(key, known)))
            continue
        if key in _lists() and isinstance(text, str):
            text = text.split(",")
        found[key] = text_node(text, flag)
    return found


@cache
def _sections() -> dict[str, type]:
    """The sections of the configuration by name."""
    return {name: annotation for name, (annotation, _) in fields_of(Config).items() if is_section(annotation)}


def _no_setting(place: str, section: str) -> ConfigError:
    keys = keys_below(_sections()[section], f"{section}.")
    return ConfigError(place, section, f"is a section and takes no value itself; set one of {keys}")


@cache
def _lists() -> frozenset[str]:
    """Keys whose variable or flag is a list, divided by commas."""
    return frozenset(key for key, annotation, _ in leaves(Config) if get_origin(annotation) is tuple)


def text_node(text: str | list[str], origin: str) -> yaml.Node:
    """A variable's or flag's text as the node that the same text would be in a file."""
    mark = yaml.Mark(origin, 0, -1, 0, None, 0)
    if isinstance(text, str):
        tag: str = _resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        return yaml.ScalarNode(tag, text, mark, mark)
    items = [yaml.ScalarNode(_STR, part.strip(), mark, mark) for part in text]
    return yaml.SequenceNode("tag:yaml.org,2002:seq", items, mark, mark)
