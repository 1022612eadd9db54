"""A schema as Google's API writes it (a part of OpenAPI 3.0, types in capitals) becomes the JSON Schema that engines
take."""

from __future__ import annotations

import re
from typing import Any, Final

from warmroute.core.errors import ClientError

_TYPES: Final = frozenset(("string", "number", "integer", "boolean", "array", "object", "null"))
_NESTED: Final = ("items", "additionalProperties", "additional_properties")
_LISTS: Final = ("anyOf", "any_of", "prefixItems")
_COUNTS: Final = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")
_DROPPED: Final = frozenset(("nullable", "format", "propertyOrdering", "property_ordering", "example"))
"""Said otherwise, or of no meaning to an engine's grammar."""
_COUNT: Final = re.compile(r"[0-9]{1,19}")
MOST_DEPTH: Final = 64


def json_schema(schema: Any, where: str, depth: int = 0) -> Any:
    """The same as JSON Schema.

    Raises:
        ClientError: It is none, or nested too deeply.
    """
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict) or depth > MOST_DEPTH:
        raise ClientError(f"{where} must be a schema, nested less than {MOST_DEPTH} deep", param=where)
    out: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _DROPPED:
            continue
        if name == "type" and isinstance(value, str):
            kind = value.lower()
            if kind in _TYPES:
                out["type"] = kind
            elif kind != "type_unspecified":
                raise ClientError(f"{where}.type {value[:40]!r} is no type", param=where)
        elif name == "properties" and isinstance(value, dict):
            out[name] = {
                key: json_schema(one, f"{where}.properties.{key}", depth + 1) for key, one in value.items()
            }
        elif name in _NESTED and isinstance(value, dict):
            out["items" if name == "items" else "additionalProperties"] = json_schema(
                value, f"{where}.{name}", depth + 1
            )
        elif name in _LISTS and isinstance(value, list):
            out["anyOf" if name == "any_of" else name] = [
                json_schema(one, f"{where}.{name}[{index}]", depth + 1) for index, one in enumerate(value)
            ]
        elif name in _COUNTS and isinstance(value, str) and _COUNT.fullmatch(value):
            out[name] = int(value)  # Protocol Buffers write 64-bit numbers as strings
        else:
            out[name] = value
    if schema.get("nullable") is True and "type" in out:
        out["type"] = [out["type"], "null"]
        if isinstance(out.get("enum"), list):
            out["enum"] = [*out["enum"], None]
    return out
