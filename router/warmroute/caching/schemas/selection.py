"""What one prompt takes of a schema: its modules, by name or path, and its parameters' values.

Decides whether that can be a prompt. A name is a path from the schema's top (`outer/inner`), or the end of one where
only one module's path ends so. Who takes a module takes those that it stands in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from warmroute.caching.schemas.model import (
    Module,
    Path,
    Schema,
    SchemaError,
    modules_of,
    parameters_of,
    path_of,
    tokens,
    unions_of,
)

_SHOWN: Final = 12
"""Names that an error lists."""


class _Ends:
    """Paths by their ends: prompts may name by one what is unique. Made at the first such name, since most give none;
    a prompt may give as many as a schema has, so that none may cost a look at all paths."""

    __slots__ = ("_by_end", "_paths")

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = paths
        self._by_end: dict[int, list[Path]] | None = None
        """By the end's hash: the ends themselves may take much more than the paths."""

    def find(self, name: str) -> list[Path]:
        """Those that end so, in order."""
        by_end = self._by_end
        if by_end is None:
            by_end = self._by_end = {}
            for path in self._paths:
                end, more = path, "/"
                while more:
                    by_end.setdefault(hash(end), []).append(path)
                    _, more, end = end.partition("/")
        return [path for path in by_end.get(hash(name), ()) if path == name or path.endswith("/" + name)]


class Index:
    """A schema's modules and parameters by path."""

    __slots__ = ("module_ends", "modules", "parameter_ends", "parameters", "schema")

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.modules: dict[Path, Module] = dict(modules_of(schema.items))
        self.parameters: dict[Path, tuple[Path, str, int, str | None]] = {}
        """Path of a parameter -> module that it stands in, name, length, default."""
        for outer, items in [("", schema.items), *((p, module.items) for p, module in self.modules.items())]:
            for one in parameters_of(items):
                self.parameters[path_of(outer, one.name)] = (outer, one.name, one.length, one.default)
        self.module_ends = _Ends(self.modules)
        self.parameter_ends = _Ends(self.parameters)

    def labels(self) -> dict[Path, str]:
        """What each parameter is called where values come last: its name, or its path where others have that name."""
        count: dict[str, int] = {}
        for _, name, _, _ in self.parameters.values():
            count[name] = count.get(name, 0) + 1
        return {path: known[1] if count[known[1]] == 1 else path for path, known in self.parameters.items()}


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def find_module(index: Index, name: str) -> Path:
    """The path of the module that a name means.

    Raises:
        SchemaError: None, or several.
    """
    if name in index.modules:
        return name
    found = index.module_ends.find(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise SchemaError(
            f"prompt_schema.modules: {name[:200]!r} may be any of {_listed(found)}: name one of these",
            param="prompt_schema.modules",
        )
    raise SchemaError(
        f"prompt_schema.modules: the schema {index.schema.name!r} has no module {name[:200]!r}; it has"
        f" {_listed(list(index.modules))}",
        param="prompt_schema.modules",
    )


def selected(index: Index, names: Sequence[str]) -> frozenset[Path]:
    """The modules that a prompt takes.

    Raises:
        SchemaError: There is no such prompt.
    """
    taken: set[Path] = set()
    for name in dict.fromkeys(names):
        path = find_module(index, name)
        while path:
            taken.add(path)
            path = path.rpartition("/")[0]
    _check_unions(index, taken)
    return frozenset(taken)


def _check_unions(index: Index, taken: set[Path]) -> None:
    schema = index.schema
    scopes = [("", schema.items), *((path, index.modules[path].items) for path in sorted(taken))]
    for outer, items in scopes:
        for union in unions_of(items):
            paths = [path_of(outer, module.name) for module in union.modules]
            chosen = [path for path in paths if path in taken]
            if len(chosen) > 1:
                raise SchemaError(
                    f"prompt_schema.modules: {' and '.join(chosen[:3])} exclude each other: take one of the union"
                    f" {_listed(paths)}",
                    param="prompt_schema.modules",
                )
            if not chosen and not union.optional:
                raise SchemaError(
                    f"prompt_schema.modules: one of the union {_listed(paths)} is missing"
                    + (f", which {outer!r} needs" if outer else ""),
                    param="prompt_schema.modules",
                )


def values_of(
    index: Index, taken: frozenset[Path], given: Mapping[str, str], bytes_per_token: float
) -> dict[Path, str]:
    """The value of each parameter that a prompt has, by its path.

    Args:
        given: Values by name, for every such parameter in modules that are taken, or by path, for one.

    Raises:
        SchemaError: One is missing, too long, or of no use.
    """
    by_path: dict[Path, str] = {}
    by_name: dict[str, str] = {}
    for key, value in given.items():
        found = index.parameter_ends.find(key) if "/" in key and key not in index.parameters else []
        if "/" not in key:
            by_name[key] = value
        elif found and len(found) > 1:
            raise SchemaError(
                f"prompt_schema.parameters: {key[:200]!r} may be any of {_listed(found)}: name one of these",
                param=f"prompt_schema.parameters.{key[:200]}",
            )
        else:
            by_path[found[0] if found else key] = value
    values: dict[Path, str] = {}
    used: set[str] = set()
    for path, (outer, name, length, default) in index.parameters.items():
        if outer and outer not in taken:
            continue
        if path in by_path:
            value = by_path[path]
            used.add(path)
        elif name in by_name:
            value = by_name[name]
        elif default is not None:
            value = default
        else:
            raise SchemaError(
                f"prompt_schema.parameters: {path!r} is missing; give a value of up to {length} tokens",
                param=f"prompt_schema.parameters.{path}",
            )
        used.add(name)
        count = tokens(value, bytes_per_token)
        if count > length:
            raise SchemaError(
                f"prompt_schema.parameters: the value of {path!r} has about {count} tokens, and its length is {length}:"
                " shorten it, or register the schema with a longer one",
                code="parameter_too_long",
                param=f"prompt_schema.parameters.{path}",
            )
        values[path] = value
    for key in (*by_path, *by_name):
        if key not in used:
            raise _useless(index, key)
    return values


def _useless(index: Index, key: str) -> SchemaError:
    param = f"prompt_schema.parameters.{key[:200]}"
    found = index.parameter_ends.find(key)
    if not found:
        return SchemaError(
            f"prompt_schema.parameters: the schema {index.schema.name!r} has no parameter {key[:200]!r}; it has"
            f" {_listed(list(index.parameters))}",
            param=param,
        )
    return SchemaError(
        f"prompt_schema.parameters: {key[:200]!r} stands in the module {index.parameters[found[0]][0]!r}, which this"
        " prompt does not take: add the module, or leave the value out",
        param=param,
    )
