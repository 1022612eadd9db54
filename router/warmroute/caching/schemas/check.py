"""What makes a schema a valid one, whichever form it was written in: names, lengths, and how far it may branch.

Raises errors that say where. Forms (`dialects.pml`, `dialects.prompt_schemas`) say what is wrong with how it is
written.
"""

from __future__ import annotations

import re
from typing import Final

from warmroute.caching.schemas.model import (
    ROLES,
    Module,
    Node,
    Parameter,
    Path,
    Role,
    Schema,
    SchemaError,
    Text,
    Union,
    parameters_of,
    path_of,
)

MOST_DEPTH: Final = 16
"""Of modules, unions and roles within each other."""
MOST_NODES: Final = 10_000
MOST_LENGTH: Final = 1_000_000
SCHEMA_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
"""Of modules and parameters: they are names of elements and attributes in prompts that are written in PML."""
RESERVED: Final = frozenset((*ROLES, "schema", "prompt", "module", "union", "parameter", "param"))
"""No module is called so: a prompt could not tell it from the markup."""
RESERVED_PARAMETERS: Final = frozenset(("schema", "version", "name"))


def check(schema: Schema) -> None:
    """Refuse what no prompt could be made from.

    Raises:
        SchemaError: It is that.
    """
    if not SCHEMA_NAME.fullmatch(schema.name):
        raise SchemaError(
            f"name: {schema.name[:80]!r} is no name of a schema; it has 1 to 64 letters, digits, or . _ -, and begins"
            " with a letter, a digit or _",
            param="name",
        )
    counted = _count(schema.items, 1)
    if counted > MOST_NODES:
        raise SchemaError(
            f"the schema has {counted} texts, modules and parameters; {MOST_NODES} are the most: split it into several"
        )
    _scope(schema.items, "")


def _count(items: tuple[Node, ...], depth: int) -> int:
    if depth > MOST_DEPTH:
        raise SchemaError(f"the schema has more than {MOST_DEPTH} levels within each other: flatten it")
    counted = len(items)
    for node in items:
        if isinstance(node, (Module, Role)):
            counted += _count(node.items, depth + 1)
        elif isinstance(node, Union):
            counted += _count(node.modules, depth + 1)
    return counted


def _scope(items: tuple[Node, ...], path: Path) -> None:
    """One module's content, or the schema's."""
    where = f"module {path!r}" if path else "the schema"
    names: set[str] = set()
    modules = list(_modules(items, where))
    for module in modules:
        inner = path_of(path, module.name)
        if not NAME.fullmatch(module.name) or module.name in RESERVED:
            raise SchemaError(
                f"{where}: {module.name[:80]!r} cannot be a module's name: it has 1 to 64 letters, digits, or . _ -,"
                f" begins with a letter or _, and is none of {', '.join(sorted(RESERVED))}"
            )
        if module.name in names:
            raise SchemaError(
                f"{where} has two modules called {module.name!r}: a prompt could not tell which it takes; rename one"
            )
        names.add(module.name)
        _scope(module.items, inner)
    _check_parameters(items, where)


def _modules(items: tuple[Node, ...], where: str) -> list[Module]:
    found: list[Module] = []
    for node in items:
        if isinstance(node, Module):
            found.append(node)
        elif isinstance(node, Union):
            if not node.modules:
                raise SchemaError(f"{where} has a union without modules: give it two or more")
            if node.scaffold and node.scaffold not in [module.name for module in node.modules]:
                raise SchemaError(
                    f"{where} has a union whose scaffold {node.scaffold[:80]!r} is none of its modules"
                    f" ({', '.join([module.name for module in node.modules][:10])})"
                )
            found.extend(node.modules)
        elif isinstance(node, Role):
            if node.role not in ROLES:
                raise SchemaError(f"{where}: a role is one of {', '.join(ROLES)}, not {node.role[:80]!r}")
            found.extend(_modules(node.items, where))
    return found


def _check_parameters(items: tuple[Node, ...], where: str) -> None:
    known: dict[str, Parameter] = {}
    for parameter in parameters_of(items):
        name = parameter.name
        if not NAME.fullmatch(name) or name in RESERVED_PARAMETERS:
            raise SchemaError(
                f"{where}: {name[:80]!r} cannot be a parameter's name: it has 1 to 64 letters, digits, or . _ -, begins"
                f" with a letter or _, and is none of {', '.join(sorted(RESERVED_PARAMETERS))}"
            )
        if not 1 <= parameter.length <= MOST_LENGTH:
            raise SchemaError(
                f"{where}: parameter {name!r} has length {parameter.length}; it is 1 to {MOST_LENGTH} tokens"
            )
        if known.setdefault(name, parameter) != parameter:
            raise SchemaError(
                f"{where} has parameter {name!r} twice, with different lengths or defaults: where it stands again it"
                " must be the same"
            )


def has_text(items: tuple[Node, ...]) -> bool:
    """Whether anything at all could be in a prompt."""
    for node in items:
        if isinstance(node, Parameter) or (isinstance(node, Text) and node.text.strip()):
            return True
        if isinstance(node, (Module, Role)) and has_text(node.items):
            return True
        if isinstance(node, Union) and has_text(node.modules):
            return True
    return False
