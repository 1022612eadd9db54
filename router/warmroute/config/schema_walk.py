"""The schema as a table: which keys exist, of which type, and which environment variable sets each.

Derived from `schema` by introspection, so that loading and documentation cannot disagree with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any, get_type_hints

ENV_PREFIX = "WARMROUTE_"


@cache
def fields_of(section: type) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """Name -> (annotation with its bounds, field) of a section, in the order of declaration."""
    hints = get_type_hints(section, include_extras=True)
    return {f.name: (hints[f.name], f) for f in dataclasses.fields(section)}


def shorthand_of(section: type) -> str | None:
    """The field that a plain value given in place of the section stands for."""
    name = getattr(section, "shorthand", None)
    return name if isinstance(name, str) else None


def is_section(annotation: object) -> bool:
    """Whether a field holds a section of its own."""
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def shown(bound: float) -> str:
    """A bound as a person writes it."""
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"


def leaves(section: type, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """Every settable key with its annotation and field, sections entered, lists not."""
    for name, (annotation, field) in fields_of(section).items():
        if is_section(annotation):
            yield from leaves(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", annotation, field


def environment_names(section: type) -> dict[str, str]:
    """Environment variable -> key. A shorthand adds the section's own name; `replicas` is also `REPLICA`,
    `discovery` also `DISCOVER`."""
    names = {}
    for key, _, _ in leaves(section):
        names[ENV_PREFIX + key.upper().replace(".", "__")] = key
    for name, (annotation, _) in fields_of(section).items():
        if is_section(annotation) and (short := shorthand_of(annotation)) is not None:
            names[ENV_PREFIX + name.upper()] = f"{name}.{short}"
    names[ENV_PREFIX + "REPLICA"] = "replicas"
    names[ENV_PREFIX + "DISCOVER"] = "discovery"
    return names
