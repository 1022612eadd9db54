"""One YAML node becomes one typed value, strictly: a number is never text, text is never a number, nothing is guessed.

This module checks what the type says, bounds included. `rules` judges what a value means.

`msgspec.convert` would do the same from a plain dictionary, and is on the request path already. It is not taken since
its messages are worse: it stops at the first fault, knows no lines and no flags, and suggests nothing. Of a file with
five faults it says "Expected `int`, got `str` - at `$.upstream.pool_size`"; this module says

    warmroute.yaml:7: polcy: unknown key; did you mean 'policy'?
    warmroute.yaml:8: max_attempts: must be a whole number, not '1e3'
    warmroute.yaml:6: limits.body_bytes: must be a whole number, not '1000'
    warmroute.yaml:4: upstream.keepalive_s: must be from 0 to 86,400, not -4.0
    warmroute.yaml:3: upstream.pool_size: must be a whole number, not 'many'
"""

from __future__ import annotations

import math
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from warmroute.config.bounds import Range
from warmroute.config.errors import ConfigError, Faults, suggestion
from warmroute.config.schema import Address, split_address
from warmroute.config.schema_walk import fields_of, is_section, shorthand_of, shown
from warmroute.config.sources import keys_of, where

_TAG = "tag:yaml.org,2002:"
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SECRET = re.compile(r"(secret|_key|_tokens(\[\d+\])?)$")
"""Settings whose values are in no message."""
_INT = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")
# YAML 1.1 takes `1e-3` for text, which nobody who writes it means.
_FLOAT = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def convert(node: yaml.Node, annotation: Any, key: str) -> Any:
    """The node's value as the annotated type.

    Raises:
        ConfigError: It has another type, or is out of the type's bounds; of a list or a section, all that is wrong.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *bounds = get_args(annotation)
        return _bounded(convert(node, base, key), bounds, node, key)
    if origin in (Union, types.UnionType):
        (base,) = (part for part in get_args(annotation) if part is not type(None))
        return None if node.tag == _TAG + "null" else convert(node, base, key)
    if origin is tuple:
        return _sequence(node, get_args(annotation)[0], key)
    if is_section(annotation):
        return _section(node, annotation, key)
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(where(node), key, f"must be {_name(annotation)}, not a list or a section")
    return _scalar(node, annotation, key)


def _scalar(node: yaml.ScalarNode, annotation: Any, key: str) -> Any:
    text = str(node.value)
    if annotation is bool:
        if text.lower() in _BOOLS and node.tag == _TAG + "bool":
            return _BOOLS[text.lower()]
    elif annotation is int:
        if _INT.fullmatch(text) and node.tag == _TAG + "int" and len(text) <= 20:
            return int(text)
    elif annotation is float:
        plain = node.tag in (_TAG + "int", _TAG + "float") or (
            node.tag == _TAG + "str" and node.style is None
        )
        if plain and _FLOAT.fullmatch(text) and math.isfinite(value := float(text)):
            return value
    elif get_origin(annotation) is Literal:
        if text in get_args(annotation):
            return text
        raise ConfigError(where(node), key, f"{text!r} is not known{suggestion(text, get_args(annotation))}")
    elif node.tag == _TAG + "str" or node.start_mark.line < 0:  # a variable or a flag is text already
        if annotation is not Address:
            return text
        try:
            split_address(text)
        except ValueError as error:
            raise ConfigError(where(node), key, f"{error}, not {text!r}") from None
        return Address(text)
    hint = "; put it in quotes" if annotation in (str, Address) and text else ""
    raise ConfigError(where(node), key, f"must be {_name(annotation)}, not {_quoted(text, key)}{hint}")


def _bounded(value: Any, bounds: list[Any], node: yaml.Node, key: str) -> Any:
    for bound in bounds:
        if isinstance(bound, Range) and not bound.low <= value <= bound.high:
            raise ConfigError(
                where(node), key, f"must be from {shown(bound.low)} to {shown(bound.high)}, not {value}"
            )
    return value


def _sequence(node: yaml.Node, annotation: Any, key: str) -> tuple[Any, ...]:
    if node.tag == _TAG + "null":
        return ()
    if not isinstance(node, yaml.SequenceNode):
        raise ConfigError(where(node), key, "must be a list")
    faults = Faults()
    values = []
    for index, item in enumerate(node.value):
        try:
            values.append(convert(item, annotation, f"{key}[{index}]"))
        except ConfigError as error:
            faults.add(error)
    faults.raise_any()
    return tuple(values)


def _section(node: yaml.Node, section: Any, key: str) -> Any:
    fields = fields_of(section)
    short = shorthand_of(section)
    if isinstance(node, yaml.ScalarNode) and short is not None:
        return section(**{short: convert(node, fields[short][0], key)})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(where(node), key, f"must be a section with keys of its own: {', '.join(fields)}")
    faults = Faults()
    nodes = keys_of(node, section, f"{key}.", faults)
    values = {}
    for name, value in nodes.items():
        try:
            values[name] = convert(value, fields[name][0], f"{key}.{name}")
        except ConfigError as error:
            faults.add(error)
    if short is not None and short not in nodes:
        faults.add(ConfigError(where(node), f"{key}.{short}", "is missing"))
    faults.raise_any()
    return section(**values)


def _name(annotation: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", Address: "HOST:PORT"}
    return names.get(annotation, "text")


def _quoted(text: str, key: str) -> str:
    return "what is there" if _SECRET.search(key) else repr(text)
