"""Requests that register prompt schemas and use them, in JSON, and how schemas are shown.

Decides which fields there are, and what is wrong with how something is written; `pml` does so for markup, and
`caching.schemas` for what a schema and a prompt mean. Keeps nothing and has no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from warmroute.caching.schemas.check import MOST_DEPTH, check, has_text
from warmroute.caching.schemas.compiler import in_turns
from warmroute.caching.schemas.model import (
    ROLES,
    VALUES_HEADING,
    Module,
    Node,
    Parameter,
    Role,
    Schema,
    SchemaError,
    Text,
    Union,
    parameters_of,
    tokens,
)
from warmroute.caching.schemas.record import SchemaRecord
from warmroute.caching.schemas.selection import Index
from warmroute.core.errors import ClientError
from warmroute.dialects import pml

Json = dict[str, Any]

FIELD: Final = b'"prompt_schema"'
"""How a chat request that uses a schema must contain it, whatever blanks are around."""
MOST_PREWARMED: Final = 64
"""Prompts that a registration may name to be computed."""
MOST_VERSION: Final = 1_000_000_000
_REGISTERED: Final = frozenset(("name", "model", "content", "parameters", "values", "pml", "prewarm"))
_USED: Final = frozenset(("name", "version", "modules", "parameters"))
_MODES: Final = ("inline", "last")


def refuse(where: str, why: str) -> NoReturn:
    """Say what is wrong, and where.

    Raises:
        SchemaError: Always.
    """
    raise SchemaError(f"{where}: {why}", param=where)


# -- schemas ---------------------------------------------------------------------------------------------------------


def schema_of(document: Json) -> Schema:
    """The schema that a registration has, in either form.

    Raises:
        SchemaError: It has none that prompts could be made from.
    """
    for known in document:
        if known not in _REGISTERED:
            refuse(known[:80], f"is no field of a schema; known are {', '.join(sorted(_REGISTERED))}")
    text = document.get("pml")
    name = document.get("name")
    if name is not None and not isinstance(name, str):
        refuse("name", "must be text")
    if text is not None:
        for other in ("content", "parameters", "values"):
            if document.get(other) is not None:
                refuse(other, "cannot be given beside pml, which says it itself: give one of the two forms")
        if not isinstance(text, str):
            refuse("pml", "must be text: <schema name=…>…</schema>")
        schema = pml.schema(text)
        if name is not None and name != schema.name:
            refuse(
                "name",
                f"is {name[:80]!r}, and the markup's is {schema.name[:80]!r}: give one, or the same twice",
            )
    else:
        if name is None:
            refuse("name", "is missing: name the schema")
        heading = document.get("values", VALUES_HEADING)
        if not isinstance(heading, str):
            refuse("values", "must be text")
        last = _mode(document.get("parameters"), "parameters")
        schema = Schema(name, _items(document.get("content"), "content", 1), last or False, heading)
    check(schema)
    if not has_text(schema.items):
        refuse("content" if text is None else "pml", "there is nothing in it that a prompt could have")
    return schema


def _mode(value: Any, where: str) -> bool | None:
    if value is not None and value not in _MODES:
        refuse(where, f"must be inline (values stand in place) or last, not {str(value)[:80]!r}")
    return None if value is None else value == "last"


def _items(value: Any, where: str, depth: int) -> tuple[Node, ...]:
    if isinstance(value, str):
        return (Text(value),) if value else ()
    if not isinstance(value, list):
        refuse(where, "must be text, or a list of texts, modules, unions, parameters and roles")
    if depth > MOST_DEPTH:
        refuse(where, f"more than {MOST_DEPTH} levels within each other: flatten it")
    return tuple([_node(one, f"{where}[{at}]", depth) for at, one in enumerate(value) if one != ""])


def _node(value: Any, where: str, depth: int) -> Node:
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, dict):
        if "module" in value:
            return _module(value, where, depth)
        if "union" in value:
            return _union(value, where, depth)
        if "parameter" in value:
            return _parameter(value, where)
        if "role" in value:
            _only(value, where, "role", "content")
            if value["role"] not in ROLES:
                refuse(f"{where}.role", f"must be one of {', '.join(ROLES)}")
            return Role(value["role"], _items(value.get("content"), f"{where}.content", depth + 1))
    refuse(where, 'must be text, or an object with "module", "union", "parameter" or "role"')


def _module(value: Any, where: str, depth: int) -> Module:
    if not isinstance(value, dict) or not isinstance(value.get("module"), str):
        refuse(where, 'must be a module: {"module": NAME, "content": …}')
    _only(value, where, "module", "content", "cache", "parameters")
    return Module(
        value["module"],
        _items(value.get("content"), f"{where}.content", depth + 1),
        cache=_flag(value, "cache", where, True),
        last=_mode(value.get("parameters"), f"{where}.parameters"),
    )


def _union(value: Json, where: str, depth: int) -> Union:
    _only(value, where, "union", "scaffold", "optional")
    modules = value["union"]
    if not isinstance(modules, list):
        refuse(f"{where}.union", "must be a list of modules")
    scaffold = value.get("scaffold", "")
    if not isinstance(scaffold, str):
        refuse(f"{where}.scaffold", "must be the name of one of its modules")
    found = [_module(one, f"{where}.union[{at}]", depth + 1) for at, one in enumerate(modules)]
    return Union(tuple(found), scaffold, _flag(value, "optional", where, False))


def _parameter(value: Json, where: str) -> Parameter:
    _only(value, where, "parameter", "length", "default")
    name, length, default = value["parameter"], value.get("length"), value.get("default")
    if not isinstance(name, str):
        refuse(f"{where}.parameter", "must be its name")
    if not isinstance(length, int) or isinstance(length, bool):
        refuse(f"{where}.length", "must be a whole number: the most tokens that a value may have")
    if default is not None and not isinstance(default, str):
        refuse(f"{where}.default", "must be text")
    return Parameter(name, length, default)


def _only(value: Json, where: str, *known: str) -> None:
    for name in value:
        if name not in known:
            refuse(f"{where}.{name[:80]}", f"is not known here; known are {', '.join(known)}")


def _flag(value: Json, name: str, where: str, usual: bool) -> bool:
    found = value.get(name, usual)
    if not isinstance(found, bool):
        refuse(f"{where}.{name}", "must be true or false")
    return found


class Registration(NamedTuple):
    """What is asked for when a schema is registered."""

    schema: Schema
    document: Json
    """As it was sent, and is shown again."""
    model: str
    """For which it is computed; empty: the only one, if there is only one."""
    prewarm: bool | list[list[str]]
    """Whether its modules are computed now; a list: the prompts that take these modules each."""


def registration(document: Json) -> Registration:
    """A request to register one.

    Raises:
        SchemaError: It cannot be.
    """
    schema = schema_of(document)
    model = document.get("model")
    if model is not None and not isinstance(model, str):
        refuse("model", "must be the name of the model that will use it")
    prewarm = document.get("prewarm", True)
    lists = isinstance(prewarm, list) and all(
        isinstance(one, list) and all(isinstance(name, str) for name in one) for one in prewarm
    )
    if not isinstance(prewarm, bool) and not lists:
        refuse("prewarm", "must be true, false, or a list of lists of modules")
    if isinstance(prewarm, list) and len(prewarm) > MOST_PREWARMED:
        refuse("prewarm", f"has {len(prewarm)} lists of modules; {MOST_PREWARMED} are the most")
    return Registration(schema, document, model or "", prewarm)


# -- prompts ---------------------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """What a request takes of a schema."""

    name: str
    version: int
    """0: the latest."""
    modules: list[str]
    parameters: dict[str, str]
    messages: list[Json]
    """What the prompt says itself, as the markup has it."""


def asked(value: Any) -> Asked:
    """What `prompt_schema` says, as an object or in markup.

    Raises:
        SchemaError: It cannot be read.
    """
    if isinstance(value, str):
        found = pml.prompt(value)
        return Asked(found.schema, found.version, found.modules, found.parameters, list(found.messages))
    if not isinstance(value, dict):
        refuse(
            "prompt_schema", 'must be {"name": …, "modules": […], "parameters": {…}}, or a <prompt schema=…>'
        )
    _only(value, "prompt_schema", *sorted(_USED))
    name, modules, parameters = value.get("name"), value.get("modules") or [], value.get("parameters") or {}
    if not isinstance(name, str) or not name:
        refuse("prompt_schema.name", "must be the name of a schema")
    if not isinstance(modules, list) or not all(isinstance(one, str) for one in modules):
        refuse("prompt_schema.modules", "must be a list of names of modules")
    if not isinstance(parameters, dict):
        refuse("prompt_schema.parameters", "must be an object: names of parameters, and their values")
    return Asked(name, version_of(value.get("version")), modules, _values(parameters), [])


def version_of(value: Any) -> int:
    """A version as a request names one; 0 where it names none, or the latest.

    Raises:
        SchemaError: It is none.
    """
    if value is None or value in ("", "latest"):
        return 0
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_VERSION:
        refuse("version", 'must be a whole number from 1 on, or "latest"')
    return value


def _values(parameters: Mapping[str, Any]) -> dict[str, str]:
    values = {}
    for name, value in parameters.items():
        if isinstance(value, bool):
            values[name] = "true" if value else "false"
        elif isinstance(value, int | float):
            values[name] = repr(value)
        elif isinstance(value, str):
            values[name] = value
        else:
            refuse(f"prompt_schema.parameters.{name[:200]}", "must be text or a number")
    return values


def joined(chat: Json, begun: list[Json], asked: Asked, joint: str) -> Json:
    """The chat request that a request with `prompt_schema` means.

    Args:
        begun: What its prompt has of the schema.
        joint: What separates that from what follows in one message.

    Raises:
        ClientError: What it says besides cannot follow.
    """
    messages = chat.get("messages")
    messages = [] if messages is None else messages
    if not isinstance(messages, list) or not all(
        isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages
    ):
        raise ClientError("messages must be a list of messages, each with a role", param="messages")
    if any(one["role"] in ("system", "developer") for one in messages):
        raise ClientError(
            "a system message cannot be given together with prompt_schema, whose text comes first: put it into the"
            " schema",
            param="messages",
        )
    if chat.get("cached_content"):
        raise ClientError(
            "prompt_schema and cached_content cannot be given together: both say how the prompt begins",
            param="prompt_schema",
        )
    whole = in_turns(in_turns(begun, asked.messages, joint), messages, joint)
    if not whole:
        raise ClientError(
            "the prompt is empty: it takes no text of the schema, and has no messages", param="prompt_schema"
        )
    inner = {name: value for name, value in chat.items() if name not in ("prompt_schema", "messages")}
    return {**inner, "messages": whole}


# -- shown -----------------------------------------------------------------------------------------------------------


def shown(record: SchemaRecord) -> Json:
    """A schema's version as lists have it."""
    return {
        "object": "prompt_schema",
        "name": record.name,
        "version": record.version,
        "created_at": int(record.created_s),
        "model": record.model or None,
        "bytes": record.size_bytes,
        "prewarm": {"prefixes": len(record.prefix_tokens), "tokens": sum(record.prefix_tokens)},
    }


def shown_whole(record: SchemaRecord, index: Index, document: Json, bytes_per_token: float) -> Json:
    """A version with what it is made of."""
    schema = index.schema
    rows = []
    for path, module in index.modules.items():
        text = sum([tokens(node.text, bytes_per_token) for node in module.items if isinstance(node, Text)])
        row: Json = {"module": path, "estimated_tokens": text}
        names = list(dict.fromkeys([one.name for one in parameters_of(module.items)]))
        if names:
            row["parameters"] = names
        rows.append(row)
    return {
        **shown(record),
        "parameters": "last" if schema.last else "inline",
        "modules": rows,
        "schema": {name: document[name] for name in document if name not in ("model", "prewarm")},
    }


def shown_page(records: Sequence[SchemaRecord], more: bool) -> Json:
    """A page of a list."""
    return {"object": "list", "data": [shown(record) for record in records], "has_more": more}


def shown_deletion(name: str, versions: Sequence[int]) -> Json:
    """The answer to a deletion."""
    return {"object": "prompt_schema", "name": name, "versions": list(versions), "deleted": True}


def warming_request(model: str, messages: list[Json]) -> Json:
    """The chat request that has an engine compute a beginning; it ends with a user's message, as templates want."""
    if messages[-1]["role"] != "user":
        messages = [*messages, {"role": "user", "content": "."}]
    return {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0}
