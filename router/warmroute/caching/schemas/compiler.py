"""In which order a prompt has what it takes of a schema, as chat messages; and how values get into it.

The rules it keeps:
1. Modules stand in the schema's order, whatever the request's is, so that prompts which take the same modules begin
   alike.
2. A value stands where its parameter does, or, where values come last, in a list behind all of the schema; its place
   then has the parameter's name in angle brackets, which is the same in every prompt.
3. What a request says itself comes after all that.

Neighbouring text of one role becomes one message, since chat templates want roles to take turns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from warmroute.caching.schemas.model import (
    DEFAULT_ROLE,
    Module,
    Node,
    Parameter,
    Path,
    Role,
    Text,
    Union,
    path_of,
    tokens,
)
from warmroute.caching.schemas.selection import Index
from warmroute.core.errors import ClientError

Json = dict[str, Any]

GAP: Final = "\n\n"
"""Between two parts of one message that had no separator of their own."""


class Place(NamedTuple):
    """Where a parameter's value stands in a message."""

    path: Path


class Blend(NamedTuple):
    """How engines that reuse what is no prefix (CacheBlend) tell one chunk from the next."""

    separator: str
    chunk_tokens: int
    """Modules that are shorter are not set apart."""
    bytes_per_token: float


@dataclass(slots=True)
class Said:
    """One message: texts and places, in order."""

    role: str
    pieces: list[str | Place] = field(default_factory=list)


@dataclass(slots=True)
class Layout:
    """What a prompt has of a schema; values are still open."""

    said: list[Said]
    last: list[Path]
    """Parameters whose values come last, in order."""
    labels: Mapping[Path, str]
    heading: str
    joint: str
    """What separates the schema's part of a message from what follows in it."""


class Writer:
    """Writes messages, node by node."""

    def __init__(self, index: Index, taken: frozenset[Path], blend: Blend | None) -> None:
        self._index = index
        self.taken = taken
        self._blend = blend
        self._labels = index.labels()
        self._pending = ""
        """Written before the next text, if that is in the same message."""
        self._set_apart = False
        """`_pending` is a separator of chunks: nothing takes its place."""
        self.said: list[Said] = []
        self.last: dict[Path, None] = {}

    def write(self, items: tuple[Node, ...], outer: Path, role: str, last: bool) -> bool:
        """Write what is taken of this; False: something ended it before."""
        for node in items:
            if isinstance(node, Text):
                self._add(node.text, role)
            elif isinstance(node, Parameter):
                path = path_of(outer, node.name)
                if last:
                    self.last[path] = None
                    self._add(f"<{self._labels[path]}>", role)
                elif self.ends_at_value():
                    return False
                else:
                    self._add(Place(path), role)
            elif isinstance(node, Role):
                if self.said and self.said[-1].role == node.role:
                    self._separate(GAP)
                if not self.write(node.items, outer, node.role, last):
                    return False
            elif not self._write_modules(node, outer, role, last):
                return False
        return True

    def ends_at_value(self) -> bool:
        """Whether nothing is written from the first value on."""
        return False

    def chosen(self, node: Module | Union, outer: Path) -> Module | None | bool:
        """The module that is written here, or None; False: nothing is written from here on."""
        for module in (node,) if isinstance(node, Module) else node.modules:
            if path_of(outer, module.name) in self.taken:
                return module
        return None

    def _write_modules(self, node: Module | Union, outer: Path, role: str, last: bool) -> bool:
        module = self.chosen(node, outer)
        if not isinstance(module, Module):
            return module is None
        path = path_of(outer, module.name)
        blend = self._blend
        apart = blend is not None and self._length(module.items, path) >= blend.chunk_tokens
        self._separate(blend.separator if apart and blend is not None else module.lead, apart)
        whole = self.write(module.items, path, role, last if module.last is None else module.last)
        if apart and blend is not None and whole:
            self._separate(blend.separator, True)
        return whole

    def _separate(self, text: str, apart: bool = False) -> None:
        if apart or (not self._set_apart and not self._pending):
            self._pending = text
            self._set_apart = apart

    def _add(self, piece: str | Place, role: str) -> None:
        said = self.said
        if not said or said[-1].role != role:
            if isinstance(piece, str):
                piece = piece.lstrip("\n")
                if not piece:
                    return
            said.append(Said(role))
        elif self._pending:
            said[-1].pieces.append(self._pending)
        self._pending, self._set_apart = "", False
        if piece:
            said[-1].pieces.append(piece)

    def _length(self, items: tuple[Node, ...], outer: Path) -> int:
        """Estimated tokens of the text that is taken of this, values left out."""
        blend = self._blend
        assert blend is not None
        count = 0
        for node in items:
            if isinstance(node, Text):
                count += tokens(node.text, blend.bytes_per_token)
            elif isinstance(node, Role):
                count += self._length(node.items, outer)
            elif isinstance(node, (Module, Union)):
                for module in (node,) if isinstance(node, Module) else node.modules:
                    path = path_of(outer, module.name)
                    if path in self.taken:
                        count += self._length(module.items, path)
        return count

    def layout(self) -> Layout:
        """What was written."""
        schema = self._index.schema
        joint = GAP if self._blend is None else self._blend.separator
        return Layout(
            [_merged(one) for one in self.said], list(self.last), self._labels, schema.heading, joint
        )


def _merged(said: Said) -> Said:
    merged = Said(said.role)
    run: list[str] = []
    for piece in said.pieces:
        if isinstance(piece, str):
            run.append(piece)
        else:
            if run:
                merged.pieces.append("".join(run))
                run = []
            merged.pieces.append(piece)
    if run:
        merged.pieces.append("".join(run))
    return merged


def compiled(index: Index, taken: frozenset[Path], blend: Blend | None = None) -> Layout:
    """How a prompt that takes these modules begins."""
    writer = Writer(index, taken, blend)
    writer.write(index.schema.items, "", DEFAULT_ROLE, index.schema.last)
    return writer.layout()


def shown(value: str) -> str:
    """A value in the list of those that come last: as it is, or as a JSON string where one could not see its end."""
    plain = value and value == value.strip() and not value.startswith('"') and value.isprintable()
    return value if plain else json.dumps(value, ensure_ascii=False)


def filled(layout: Layout, values: Mapping[Path, str], most_bytes: int) -> list[Json]:
    """The messages that a prompt begins with.

    Raises:
        ClientError: They are longer than a request may be.
    """
    texts = [
        [values[one.path] if isinstance(one, Place) else one for one in said.pieces] for said in layout.said
    ]
    if sum([len(piece) for pieces in texts for piece in pieces]) > most_bytes:
        raise ClientError(
            f"the prompt that this makes is longer than requests may be, {most_bytes} bytes (limits.body_bytes)",
            status=413,
            code="request_too_large",
            param="prompt_schema",
        )
    messages: list[Json] = [
        {"role": said.role, "content": "".join(pieces)}
        for said, pieces in zip(layout.said, texts, strict=True)
    ]
    if layout.last:
        lines = [f"{layout.labels[path]}: {shown(values[path])}" for path in layout.last]
        listed = "\n".join([layout.heading, *lines] if layout.heading else lines)
        return in_turns(messages, [{"role": DEFAULT_ROLE, "content": listed}], layout.joint)
    return messages


def in_turns(before: list[Json], after: list[Json], joint: str) -> list[Json]:
    """Both, in turns: where one ends with a user's message and the other begins with one they become one, which
    templates want; what comes first stays at its beginning."""
    if not before or not after or before[-1]["role"] != DEFAULT_ROLE or after[0]["role"] != DEFAULT_ROLE:
        return [*before, *after]
    first, second = before[-1]["content"], after[0].get("content")
    content: Any
    if isinstance(second, str):
        content = first + joint + second
    else:
        parts = second if isinstance(second, list) else []
        content = [{"type": "text", "text": first + joint}, *parts]
    return [*before[:-1], {**after[0], "content": content}, *after[1:]]
