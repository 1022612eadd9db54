"""What a prompt schema is made of: texts, modules, unions of modules, parameters and roles, as a tree. Data only.

The words are those of Prompt Cache's markup language. A *module* is text that a prompt takes or leaves; a *union* is a
set of modules of which it takes one; a *parameter* is a place for a value; a *role* says whose message the text is.
Text outside modules is in every prompt.

Source: Prompt Cache (arXiv 2311.04934) and its README on PML.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Final, TypeAlias

from warmroute.core.errors import ClientError

ROLES: Final = ("system", "user", "assistant")
DEFAULT_ROLE: Final = "user"
"""Whose message text outside every role is."""
VALUES_HEADING: Final = "Values of the names in angle brackets above:"


@dataclass(frozen=True, slots=True)
class Text:
    """Words as they are."""

    text: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """A place for a value. The same name may stand in a module several times, and is one value then."""

    name: str
    length: int
    """Most tokens of a value, as they are estimated."""
    default: str | None = None
    """The value of prompts that give none; None: each must."""


@dataclass(frozen=True, slots=True)
class Module:
    """Text that a prompt takes or leaves, by its name."""

    name: str
    items: tuple[Node, ...]
    lead: str = ""
    """What separates it from what comes before it; left out with it, and at a message's beginning."""
    cache: bool = True
    """Whether it is computed when the schema is registered."""
    last: bool | None = None
    """Whether its parameters' values come last; None: as in what it stands in."""


@dataclass(frozen=True, slots=True)
class Union:
    """Modules of which a prompt takes exactly one."""

    modules: tuple[Module, ...]
    scaffold: str = ""
    """The module that stands for the others where something behind them is computed ahead; empty: the first."""
    optional: bool = False
    """Whether a prompt may take none."""

    @property
    def stand_in(self) -> Module:
        """The module of `scaffold`."""
        return next((module for module in self.modules if module.name == self.scaffold), self.modules[0])


@dataclass(frozen=True, slots=True)
class Role:
    """What is in it is said by this role."""

    role: str
    items: tuple[Node, ...]


Node: TypeAlias = Text | Parameter | Module | Union | Role


@dataclass(frozen=True, slots=True)
class Schema:
    """All of one schema."""

    name: str
    items: tuple[Node, ...]
    last: bool = False
    """Whether parameters' values come last: their places keep the parameters' names, and the values follow."""
    heading: str = VALUES_HEADING
    """What is said before them then."""


class SchemaError(ClientError):
    """A schema, or what a prompt takes of one, is not right."""

    code = "invalid_prompt_schema"


def tokens(text: str, bytes_per_token: float) -> int:
    """How many tokens a text is estimated to have; the router has no tokenizer."""
    return ceil(len(text.encode("utf-8", "surrogatepass")) / bytes_per_token)


Path: TypeAlias = str
"""Names of modules from the schema's top, with slashes between; empty: what stands in none."""


def path_of(outer: Path, name: str) -> Path:
    """The path of a module, or of a parameter, in another."""
    return f"{outer}/{name}" if outer else name


def modules_of(items: tuple[Node, ...], outer: Path = "") -> Iterator[tuple[Path, Module]]:
    """All modules, in the schema's order, each before those inside it."""
    for node in items:
        if isinstance(node, Role):
            yield from modules_of(node.items, outer)
        elif isinstance(node, (Module, Union)):
            for module in (node,) if isinstance(node, Module) else node.modules:
                path = path_of(outer, module.name)
                yield path, module
                yield from modules_of(module.items, path)


def parameters_of(items: tuple[Node, ...]) -> Iterator[Parameter]:
    """Those that stand here and in no module within."""
    for node in items:
        if isinstance(node, Parameter):
            yield node
        elif isinstance(node, Role):
            yield from parameters_of(node.items)


def unions_of(items: tuple[Node, ...]) -> Iterator[Union]:
    """Those that stand here and in no module within."""
    for node in items:
        if isinstance(node, Union):
            yield node
        elif isinstance(node, Role):
            yield from unions_of(node.items)
