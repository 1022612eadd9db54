"""Prompt Cache's markup language: schemas that are written in it, and prompts that use them.

    <schema name="travel"><system>You plan trips.</system>
      <module name="trip"><user>I travel for <parameter name="duration" length="4"/>.</user></module>
      <union><module name="miami">…</module><module name="rome">…</module></union></schema>

    <prompt schema="travel"><trip duration="3 days"/><rome/><user>Where do I eat?</user></prompt>

Decides what elements and attributes mean, and which white space counts: the indentation of an element's lines is taken
off, white space at an element's beginning and end is dropped, and what stands before a module belongs to it. Where
`xml:space="preserve"` is said, text counts as it is. What makes a schema valid beyond its form is `caching.schemas`'.

Source: the README of Prompt Cache (2024). More than there: `default`, `optional`, `parameters`, `values`, `version`,
values of parameters outside modules as attributes of `<prompt>`. `param` and `len`, as in the paper, are read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from warmroute.caching.schemas.model import (
    ROLES,
    VALUES_HEADING,
    Module,
    Node,
    Parameter,
    Role,
    Schema,
    Text,
    Union,
)
from warmroute.dialects.markup import Element, read

_SPACE: Final = "xml:space"
_PARAMETERS: Final = ("parameter", "param")


class PmlPrompt(NamedTuple):
    """A prompt in markup."""

    schema: str
    version: int
    """0: the latest."""
    modules: list[str]
    """Paths."""
    parameters: dict[str, str]
    """By path."""
    messages: list[dict[str, str]]


# -- schemas ---------------------------------------------------------------------------------------------------------


def schema(text: str) -> Schema:
    """A schema as it is written; not yet checked for what its names and lengths say.

    Raises:
        SchemaError: It is none.
    """
    root = read(text)
    if root.tag != "schema":
        root.refuse("is no schema: the outermost element must be <schema name=…>")
    _only(root, "name", "parameters", "values", _SPACE)
    return Schema(
        _named(root),
        _items(root, _kept(root, False)),
        _last(root) or False,
        root.attributes.get("values", VALUES_HEADING),
    )


def _items(element: Element, keep: bool) -> tuple[Node, ...]:
    """What is in a schema, a module or a role."""
    found: list[Node] = []
    children = element.children if keep else list(_trimmed(element))
    lead = ""
    for at, child in enumerate(children):
        if isinstance(child, str):
            after = children[at + 1] if at + 1 < len(children) else None
            if not keep and isinstance(after, Element) and after.tag in ("module", "union", *ROLES):
                whole, child = child, child.rstrip()
                lead = whole[len(child) :]
            if child:
                found.append(Text(child))
        else:
            found.append(_node(child, lead, keep))
            lead = ""
    return tuple(found)


def _node(element: Element, lead: str, keep: bool) -> Node:
    tag = element.tag
    keep = _kept(element, keep)
    if tag == "module":
        return _module(element, lead, keep)
    if tag == "union":
        _only(element, "scaffold", "optional", _SPACE)
        modules = []
        for child in element.children:
            if isinstance(child, str):
                if child.strip():
                    element.refuse("has text outside its modules: put it into one, or before the union")
            elif child.tag != "module":
                child.refuse("cannot be in a union: only modules can")
            else:
                modules.append(_module(child, lead, _kept(child, keep)))
        return Union(
            tuple(modules), element.attributes.get("scaffold", ""), _flag(element, "optional", False)
        )
    if tag in _PARAMETERS:
        return _parameter(element)
    if tag in ROLES:
        _only(element, _SPACE)
        return Role(tag, _items(element, keep))
    element.refuse(
        "is no part of a schema: it has <module>, <union>, <parameter>, <system>, <user>, <assistant>; a < in text is"
        " written &lt;"
    )


def _module(element: Element, lead: str, keep: bool) -> Module:
    _only(element, "name", "cache", "parameters", _SPACE)
    # Lines between two modules are for whoever reads the markup.
    lead = re.sub(r"[ \t]+", " ", lead) if "\n" not in lead else "\n" * min(2, lead.count("\n"))
    return Module(
        _named(element), _items(element, keep), lead, cache=_flag(element, "cache", True), last=_last(element)
    )


def _parameter(element: Element) -> Parameter:
    _only(element, "name", "length", "len", "scaffold", "default")
    attributes = element.attributes
    if element.children:
        element.refuse("has something in it: a parameter is empty, and its value comes with the prompt")
    length = attributes.get("length", attributes.get("len", ""))
    if not (length.isascii() and length.isdigit() and len(length) < 10):
        element.refuse('needs length=…, the most tokens that a value may have, such as length="8"')
    return Parameter(_named(element), int(length), attributes.get("default"))


def _named(element: Element) -> str:
    name = element.attributes.get("name", "")
    if not name:
        element.refuse("needs name=…")
    return name


def _only(element: Element, *known: str) -> None:
    for name in element.attributes:
        if name not in known:
            element.refuse(f"has the attribute {name[:80]!r}; known are {', '.join(known)}")


def _flag(element: Element, name: str, usual: bool) -> bool:
    value = element.attributes.get(name)
    if value not in (None, "true", "false"):
        element.refuse(f'has {name}="{value[:80]}"; it is true or false')
    return usual if value is None else value == "true"


def _last(element: Element) -> bool | None:
    value = element.attributes.get("parameters")
    if value not in (None, "inline", "last"):
        element.refuse(f'has parameters="{value[:80]}"; it is inline (values stand in place) or last')
    return None if value is None else value == "last"


def _kept(element: Element, keep: bool) -> bool:
    value = element.attributes.get(_SPACE)
    if value not in (None, "preserve", "default"):
        element.refuse(f'has xml:space="{value[:80]}"; it is preserve or default')
    return keep if value is None else value == "preserve"


def _trimmed(element: Element) -> Iterable[str | Element]:
    """An element's children without its indentation, and without white space at its ends."""
    children = element.children
    margin: int | None = None
    for at, child in enumerate(children):
        if isinstance(child, str):
            lines = child.split("\n")
            for number, line in enumerate(lines[1:], 1):
                # The last line is an element's, or the end's, which is indented less.
                if line.strip() or (number == len(lines) - 1 and at + 1 < len(children)):
                    blank = len(line) - len(line.lstrip(" \t"))
                    margin = blank if margin is None else min(margin, blank)
    for at, child in enumerate(children):
        if isinstance(child, str):
            first, *rest = child.split("\n")
            text = "\n".join([first, *[line[margin or 0 :] for line in rest]])
            if at == 0:
                text = text.lstrip()
            if at == len(children) - 1:
                text = text.rstrip()
            if text:
                yield text
        else:
            yield child


# -- prompts ---------------------------------------------------------------------------------------------------------


def prompt(text: str) -> PmlPrompt:
    """A prompt that is written in markup.

    Raises:
        SchemaError: It is none.
    """
    root = read(text)
    attributes = dict(root.attributes)
    name = attributes.pop("schema", "")
    if root.tag != "prompt" or not name:
        root.refuse("is no prompt: the outermost element must be <prompt schema=…>")
    version = attributes.pop("version", "0")
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        root.refuse("has a version that is no whole number")
    found = PmlPrompt(name, int(version), [], attributes, [])
    said = False
    for child in root.children:
        if isinstance(child, str):
            if child.strip():
                said = True
                _say(found, "user", child)
        elif child.tag in ROLES:
            said = True
            _say(found, child.tag, _plain(child))
        elif said:
            child.refuse("stands behind text: modules come first, then what the prompt says itself")
        else:
            _take(found, child, "")
    return found


def _take(found: PmlPrompt, element: Element, outer: str) -> None:
    """A module that a prompt takes, with the modules in it and its values."""
    path = f"{outer}/{element.tag}" if outer else element.tag
    found.modules.append(path)
    for name, value in element.attributes.items():
        found.parameters[f"{path}/{name}"] = value
    for child in element.children:
        if isinstance(child, Element):
            _take(found, child, path)
        elif child.strip():
            element.refuse("has text in it: a prompt takes a module as it is; text comes behind the modules")


def _plain(element: Element) -> str:
    for child in element.children:
        if isinstance(child, Element):
            child.refuse(f"is in <{element.tag}>, which has text only; a < in text is written &lt;")
    return "".join([child for child in element.children if isinstance(child, str)])


def _say(found: PmlPrompt, role: str, text: str) -> None:
    lines = Element(role, {}, 0, [text])
    found.messages.append(
        {"role": role, "content": "".join([one for one in _trimmed(lines) if isinstance(one, str)])}
    )
