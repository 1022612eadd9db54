"""Makes what follows from the chart's values.yaml: its JSON schema, and the table of values in its README.

    python -m tests.support.chart_reference        writes both (`make chart`)

The comment above a value is its description. What it may be is told by its default: a map with keys is closed, an empty
map or list takes anything. A last line `@schema {…}` says more, in JSON schema's words. Decides nothing about values.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm" / "warmroute"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"
BEGIN, END = "<!-- values: made by `make chart` -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Value:
    """One key of values.yaml."""

    path: tuple[str, ...]
    default: Any
    text: str
    """Its description: whole sentences; empty if it has none of its own."""
    schema: dict[str, Any]
    """What `@schema` says."""
    children: list[Value] = field(default_factory=list)


def read(text: str) -> list[Value]:
    """The top-level values of a values.yaml, in its order."""
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return _values(root, (), text.splitlines())


def _values(node: yaml.MappingNode, parent: tuple[str, ...], lines: list[str]) -> list[Value]:
    found = []
    for key, value in node.value:
        description, schema = _comment(lines, key.start_mark.line)
        path = (*parent, key.value)
        block = isinstance(value, yaml.MappingNode) and not value.flow_style and _described(value, lines)
        children = _values(value, path, lines) if block else []
        default = yaml.SafeLoader("").construct_document(value)
        found.append(Value(path, default, description, schema, children))
    return found


def _described(node: yaml.MappingNode, lines: list[str]) -> bool:
    """Whether the keys of a map are values of their own, or one value as Kubernetes takes it."""
    return any(lines[key.start_mark.line - 1].lstrip().startswith("#") for key, _ in node.value)


def _comment(lines: list[str], line: int) -> tuple[str, dict[str, Any]]:
    said = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        said.insert(0, lines[line].lstrip().removeprefix("#").strip())
    schema: dict[str, Any] = {}
    if said and said[-1].startswith("@schema "):
        schema = yaml.safe_load(said.pop().removeprefix("@schema "))
    return " ".join(said), schema


def schema(values: list[Value]) -> dict[str, Any]:
    """A JSON schema that takes nothing but these values."""
    pool = next(value for value in values if value.path == ("poolDefaults",))
    whole = _closed(values)
    # Helm gives every chart these, and a parent chart may switch it off.
    whole["properties"]["global"] = {"type": "object"}
    whole["properties"]["enabled"] = {"type": "boolean"}
    whole["properties"]["poolDefaults"] = {"$ref": "#/definitions/poolDefaults"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the Warmroute chart",
        **whole,
        "definitions": {"poolDefaults": {"description": pool.text, **_closed(pool.children)}},
    }


def _closed(values: list[Value]) -> dict[str, Any]:
    properties = {value.path[-1]: _schema(value) for value in values}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _schema(value: Value) -> dict[str, Any]:
    if value.children:
        return {"description": value.text, **_closed(value.children), **value.schema}
    inferred: dict[str, Any] = {"type": _type(value.default)}
    if "enum" in value.schema:
        del inferred["type"]
    return {"description": value.text, **inferred, **value.schema}


def _type(default: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(default)]


def table(values: list[Value]) -> str:
    """The values as markdown, a section for each top-level key that has some below it."""
    plain = [value for value in values if not value.children]
    parts = ["### General\n\n" + _rows(plain)]
    parts += [
        f"### `{value.path[0]}`\n\n{value.text}\n\n{_rows(value.children)}"
        for value in values
        if value.children
    ]
    return "\n".join(parts)


def _rows(values: list[Value]) -> str:
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for value in _leaves(values):
        choices = value.schema.get("enum")
        meaning = value.text
        if choices:
            meaning += (
                " One of " + ", ".join(f"`{choice}`" if choice else "empty" for choice in choices) + "."
            )
        default = json.dumps(value.default, ensure_ascii=False)
        lines.append(f"| `{'.'.join(value.path)}` | `{default}` | {meaning.replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"


def _leaves(values: list[Value], said: str = "") -> list[Value]:
    found = []
    for value in values:
        if not value.children:
            text = f"{said}{value.text}"
            found.append(Value(value.path, value.default, text, value.schema))
            said = ""
        else:
            found.extend(_leaves(value.children, f"{said}{value.text} "))
    return found


def documents() -> dict[Path, str]:
    """What the generated files should hold."""
    values = read((CHART / "values.yaml").read_text())
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme = f"{before}{BEGIN}\n\n{table(values)}\n{END}{after}"
    text = json.dumps(schema(values), indent=2, ensure_ascii=False) + "\n"
    return {SCHEMA: text, README: re.sub(r"[ \t]+\n", "\n", readme)}


def main() -> int:
    """Write them."""
    for path, text in documents().items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
