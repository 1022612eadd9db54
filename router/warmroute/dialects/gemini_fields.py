"""Fields of Google's requests, in either spelling that Protocol Buffers allow, and how what is wrong is said."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import msgspec

from warmroute.core.errors import ClientError

Json = dict[str, Any]

_decode: Final = msgspec.json.Decoder().decode


def read(body: bytes | bytearray) -> Json:
    """The JSON object of a request.

    Raises:
        ClientError: It is none.
    """
    try:
        found = _decode(body) if body else {}
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ClientError(f"the body is no JSON: {error}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise ClientError("the body must be a JSON object", code="invalid_json")
    return found


def field(source: Json, name: str) -> Any:
    """A field by its camel-case name, in either spelling; None if it is absent."""
    found = source.get(name)
    if found is not None:
        return found
    snake = "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)
    return source.get(snake)


def refuse(where: str, why: str) -> NoReturn:
    """Raise the error that names a field and what is wrong with it."""
    raise ClientError(f"{where} {why}", param=where)
