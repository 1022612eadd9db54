"""Which call of the resource `/v1/prompt_schemas` a request line names. Nothing else."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote

from warmroute.core.errors import NotFoundError
from warmroute.dialects.gemini_paths import MethodNotAllowedError
from warmroute.dialects.prompt_schemas import refuse, version_of

ROOT: Final = b"/v1/prompt_schemas"


class Verb(StrEnum):
    """What is asked for."""

    REGISTER = "register"
    LIST = "list"
    GET = "get"
    VERSIONS = "versions"
    DELETE = "delete"
    RENDER = "render"


class Called(NamedTuple):
    """A call."""

    verb: Verb
    name: str = ""
    version: int = 0
    """0: the latest."""
    most: int = 0
    """How many to list; 0 where nothing is said."""
    after: str = ""
    """Where the list goes on."""
    model: str = ""
    """Of a registration whose body is markup."""


_METHODS: Final = {
    "all": {"GET": Verb.LIST, "POST": Verb.REGISTER},
    "one": {"GET": Verb.GET, "DELETE": Verb.DELETE},
    "versions": {"GET": Verb.VERSIONS},
    "render": {"POST": Verb.RENDER},
}


def concerns(path: bytes) -> bool:
    """Whether a path is one of these; cheap, for every request."""
    return path[:18] == ROOT and path[18:19] in (b"", b"/")


def called(method: str, target: str) -> Called:
    """The call that a request line names.

    Args:
        target: Path and query, which begin with `ROOT`.

    Raises:
        ClientError: Nothing like that can be done there.
    """
    path, _, query = target.partition("?")
    name, _, what = unquote(path[len(ROOT) :]).strip("/").partition("/")
    kind = what or ("one" if name else "all")
    methods = _METHODS.get(kind)
    if methods is None or (name == "" and what):
        raise NotFoundError(f"no endpoint {path[:200]!r} here", code="unknown_endpoint")
    verb = methods.get(method)
    if verb is None:
        raise MethodNotAllowedError(method, methods)
    said = (
        {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()} if query else {}
    )
    limit = said.get("limit", "")
    if limit and not (limit.isascii() and limit.isdigit() and len(limit) < 10):
        refuse("limit", "must be a whole number")
    return Called(
        verb,
        name,
        version_of(said.get("version")),
        int(limit or 0),
        said.get("after", ""),
        said.get("model", ""),
    )
