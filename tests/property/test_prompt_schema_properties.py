"""Prompts by schema begin alike wherever they take alike, and nothing that is sent breaks what reads it."""

from __future__ import annotations

import string
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from warmroute.caching.schemas.compiler import Layout, compiled, filled
from warmroute.caching.schemas.model import SchemaError, unions_of
from warmroute.caching.schemas.prefixes import prefix, prefixes
from warmroute.caching.schemas.selection import Index, selected, values_of
from warmroute.dialects import pml
from warmroute.dialects.prompt_schemas import asked, registration, schema_of

TEXT = st.text(string.ascii_letters + " \n", min_size=1, max_size=8)
WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=3)


def contents(draw: Any, numbers: list[int], depth: int) -> list[Any]:
    """Nodes with names that no other node has, as deep as that."""
    found: list[Any] = []
    for kind in draw(st.lists(st.sampled_from("ttpmmur" if depth else "tp"), min_size=1, max_size=4)):
        numbers[0] += 1
        name = f"n{numbers[0]}"
        inner = contents(draw, numbers, depth - 1) if kind in "mur" else []
        if kind == "t":
            found.append(draw(TEXT))
        elif kind == "p":
            found.append({"parameter": name, "length": 9})
        elif kind == "m":
            found.append(
                {"module": name, "content": inner, **draw(st.sampled_from(({}, {"parameters": "last"})))}
            )
        elif kind == "r":
            found.append({"role": draw(st.sampled_from(("user", "assistant"))), "content": inner})
        else:
            numbers[0] += 1
            other = {"module": f"n{numbers[0]}", "content": contents(draw, numbers, depth - 1)}
            found.append({"union": [{"module": name, "content": inner}, other]})
    return found


@st.composite
def schemas(draw: Any) -> dict[str, Any]:
    mode = draw(st.sampled_from(("inline", "last")))
    return {"name": "s", "parameters": mode, "content": ["Begin ", *contents(draw, [0], 2)]}


def taken_of(data: st.DataObject, index: Index) -> list[str]:
    """Names of modules that one prompt may take."""
    names: list[str] = []

    def take(items: Any, outer: str) -> None:
        for union in unions_of(items):
            enter(data.draw(st.sampled_from(union.modules)), outer)
        in_unions = {module.name for union in unions_of(items) for module in union.modules}
        for path, module in index.modules.items():
            if path.rpartition("/")[0] == outer and module.name not in in_unions and data.draw(st.booleans()):
                enter(module, outer)

    def enter(module: Any, outer: str) -> None:
        path = f"{outer}/{module.name}" if outer else module.name
        names.append(path)
        take(module.items, path)

    take(index.schema.items, "")
    return names


def prompt_of(data: st.DataObject, index: Index, names: list[str]) -> tuple[Layout, list[dict[str, Any]]]:
    taken = selected(index, names)
    given_values = {
        name: data.draw(WORDS)
        for outer, name, _, _ in index.parameters.values()
        if not outer or outer in taken
    }
    layout = compiled(index, taken)
    return layout, filled(layout, values_of(index, taken, given_values, 4.0), 1 << 20)


def flat(messages: list[dict[str, Any]]) -> str:
    return "\0".join([f"{one['role']}\1{one['content']}" for one in messages])


@settings(max_examples=50)
@given(schemas(), st.data())
def test_prompts_that_take_the_same_begin_alike_up_to_the_first_value(
    document: dict[str, Any], data: st.DataObject
) -> None:
    index = Index(schema_of(document))
    names = taken_of(data, index)
    layout, one = prompt_of(data, index, names)
    _, other = prompt_of(data, index, data.draw(st.permutations(names)))
    fixed = ""
    for said in layout.said:
        fixed += f"{said.role}\1"
        for piece in said.pieces:
            if not isinstance(piece, str):
                break
            fixed += piece
        else:
            fixed += "\0"
            continue
        break
    fixed = fixed.removesuffix("\0")
    assert flat(one).startswith(fixed)
    assert flat(other).startswith(fixed)
    if document["parameters"] == "last":
        assert sum([len(said.pieces) for said in layout.said]) == len(layout.said), (
            "one text a message, no value"
        )


@settings(max_examples=50)
@given(schemas(), st.data())
def test_what_is_computed_ahead_is_how_prompts_begin(document: dict[str, Any], data: st.DataObject) -> None:
    index = Index(schema_of(document))
    names = taken_of(data, index)
    _, whole = prompt_of(data, index, names)
    ahead = prefix(index, selected(index, names))
    assert flat(whole).startswith(flat(ahead))
    assert 1 <= len(prefixes(index, 4)) <= 4


PIECE = st.sampled_from(
    [
        "<a>",
        "</a>",
        "<a/>",
        '<module name="a">',
        "</module>",
        "<union>",
        "</union>",
        "<user>",
        "</user>",
        "x",
        " \n  ",
        "&",
    ]
    + [
        '<parameter name="p" length="1"/>',
        '<parameter name="p"/>',
        '<module name="user" cache="x"/>',
        "<!-- -->",
        "<",
    ]
)


@settings(max_examples=60)
@given(st.lists(PIECE, max_size=12).map("".join))
def test_no_markup_breaks_its_reader(text: str) -> None:
    for read in (pml.schema, pml.prompt):
        with suppress(SchemaError):
            read(text)
    for wrapped in (f'<schema name="a">{text}</schema>', f'<prompt schema="a">{text}</prompt>'):
        with suppress(SchemaError):
            schema_of({"pml": wrapped}) if wrapped.startswith("<s") else asked(wrapped)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "content",
                    "module",
                    "union",
                    "parameter",
                    "length",
                    "role",
                    "pml",
                    "modules",
                    "parameters",
                    "version",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=40)
@given(JSON)
def test_no_json_breaks_its_reader(value: Any) -> None:
    for read in (registration, asked):
        with suppress(SchemaError):
            read(value if isinstance(value, dict) else {"name": "s", "content": value, "modules": value})
