"""Which endpoint a request line names, and how requests to it are routed.

Decides by method and path alone. A path that no replica could serve for a client has no route.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from router.core.types import Api


class RouteKind(StrEnum):
    """How a request is handled."""

    PREFIX = "prefix"
    """By the replica whose cache is warm; read with `parse(route.api, …)`."""
    LOAD = "load"
    """By load and ring; read with `parse(Api.OTHER, …)`, and errors in the shape of `route.api`."""
    MODELS = "models"
    """Answered by the router: the union over replicas."""
    STORED = "stored"
    """By the replica that keeps the response (`stored_response_id`)."""
    HEALTH = "health"
    READY = "ready"
    METHOD = "method"
    """The path exists, the method does not: 405 with `allow`."""


class Route(NamedTuple):
    """What a request line means."""

    api: Api
    kind: RouteKind
    allow: bytes
    """Value of the `Allow` header."""


_POST, _READ = b"POST", b"GET, HEAD"
_STORED_METHODS = b"GET, HEAD, DELETE, POST"


def _table() -> dict[bytes, tuple[frozenset[bytes], Route, Route]]:
    """Methods, the route, and the route of any other method, by path."""
    table: dict[bytes, tuple[frozenset[bytes], Route, Route]] = {}

    def add(path: str, api: Api, kind: RouteKind, allow: bytes) -> None:
        methods = frozenset(allow.split(b", "))
        table[path.encode()] = (methods, Route(api, kind, allow), Route(api, RouteKind.METHOD, allow))

    add("/v1/chat/completions", Api.CHAT, RouteKind.PREFIX, _POST)
    add("/v1/completions", Api.COMPLETIONS, RouteKind.PREFIX, _POST)
    add("/v1/responses", Api.RESPONSES, RouteKind.PREFIX, _POST)
    add("/v1/messages", Api.MESSAGES, RouteKind.PREFIX, _POST)
    add("/v1/messages/count_tokens", Api.MESSAGES, RouteKind.LOAD, _POST)
    for path in (
        "/v1/embeddings /v1/rerank /v2/rerank /rerank /v1/score /score /v1/classify /classify /v1/pooling /pooling"
        " /v1/tokenize /tokenize /v1/detokenize /detokenize /v1/audio/transcriptions /v1/audio/translations"
        " /v1/audio/speech"
    ).split():
        add(path, Api.OTHER, RouteKind.LOAD, _POST)
    add("/v1/models", Api.OTHER, RouteKind.MODELS, _READ)
    add("/health", Api.OTHER, RouteKind.HEALTH, _READ)
    add("/ready", Api.OTHER, RouteKind.READY, _READ)
    return table


_TABLE = _table()
_DOTS = re.compile(rb"(?:[/\\]|%2f|%5c)(?:\.|%2e){2}", re.IGNORECASE)
"""What a server behind us might resolve to a path outside `/v1`."""
_PREFIXES = (
    (b"/v1/responses/", Api.RESPONSES, RouteKind.STORED, _STORED_METHODS),
    (b"/v1/models/", Api.OTHER, RouteKind.MODELS, _READ),
    (b"/v1/messages/", Api.MESSAGES, RouteKind.LOAD, _POST),
)


def route(method: bytes, path: bytes) -> Route | None:
    """The route of a path without its query; `None` is a 404."""
    found = _TABLE.get(path)
    if found is not None:
        return found[1] if method in found[0] else found[2]
    if path[:4] != b"/v1/" or len(path) == 4 or _DOTS.search(path) is not None:
        return None
    for prefix, api, kind, allow in _PREFIXES:
        if path.startswith(prefix) and len(path) > len(prefix):
            return Route(api, kind if method in allow.split(b", ") else RouteKind.METHOD, allow)
    return Route(Api.OTHER, RouteKind.LOAD, _POST) if method == _POST else None


def stored_response_id(path: bytes) -> str | None:
    """The id in `/v1/responses/{id}` or below it; `None` in any other path or where it cannot be one."""
    if not path.startswith(b"/v1/responses/"):
        return None
    response_id = path[14:].partition(b"/")[0]
    if not response_id or len(response_id) > 256 or not response_id.isascii():
        return None
    return response_id.decode("ascii")
