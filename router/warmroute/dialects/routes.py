"""Routes say which endpoint a request line names, and how requests to it are routed.

This module decides by method and path alone, by `ENDPOINTS` and what follows it; docs/endpoints.md is the same table.
Paths are compared as an engine would compare them: percent-decoded once. A trailing slash means the path without it, to
which FastAPI would redirect. A path that no replica could serve for a client has no route.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from warmroute.core.types import Api


class RouteKind(StrEnum):
    """How a request is handled."""

    PREFIX = "prefix"
    """By the replica whose cache is warm; read with `parse(route.api, …)`."""
    INVOCATION = "invocation"
    """By prefix or load, whichever the body is for (`invoked_api`)."""
    LOAD = "load"
    """By load and ring; read with `parse(Api.OTHER, …)`, and errors in the shape of `route.api`."""
    PASSED = "passed"
    """As `LOAD`; where the engine has no such endpoint, the answer is a 501 that says so."""
    UPGRADE = "upgrade"
    """A WebSocket, by load; bytes are passed both ways until either side ends it."""
    MODELS = "models"
    """Answered by the router: the union over replicas."""
    STORED = "stored"
    """By the replica that keeps the response (`stored_response_id`)."""
    HEALTH = "health"
    READY = "ready"
    SERVER_LOAD = "server load"
    """Answered by the router: requests under way in the fleet."""
    METRICS = "metrics"
    """Answered by the router where `data_metrics` is set; 404 else."""
    ADMIN = "admin"
    """Changes or shows one engine: refused here with 403, sent to every replica from the admin port."""
    METHOD = "method"
    """The path exists, the method does not: 405 with `allow`."""


class Route(NamedTuple):
    """What a request line means."""

    api: Api
    kind: RouteKind
    allow: bytes
    """Value of the `Allow` header."""


class Endpoint(NamedTuple):
    """One row of the table."""

    methods: str
    path: str
    """Exact; `{id}` at its end: whatever follows, slashes included."""
    kind: RouteKind
    api: Api


_POST: Final = "POST"
_READ: Final = "GET, HEAD"
_ANY: Final = "GET, HEAD, POST, PUT, PATCH, DELETE"


def _rows(methods: str, kind: RouteKind, paths: str, api: Api = Api.OTHER) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(methods, path, kind, api) for path in paths.split())


HOSTED: Final = (
    "agents assistants batches chatkit complete containers content_provenance_checks conversations decisions"
    " deployment_runs deployments dreams environments evals files fine_tuning images live memory_stores"
    " moderations organization organizations projects safety sessions skills threads tunnels uploads"
    " user_profiles vaults vector_stores videos webhook_endpoints webhook_event_types"
)
"""What the official clients ask of the hosted services and engines do not have, or not yet.
Source: openai-python 3.54, anthropic 2.12."""

ENDPOINTS: Final = (
    *_rows(_POST, RouteKind.PREFIX, "/v1/chat/completions", Api.CHAT),
    *_rows(_POST, RouteKind.PREFIX, "/v1/completions /inference/v1/generate", Api.COMPLETIONS),
    *_rows(_POST, RouteKind.PREFIX, "/v1/responses /v1/responses/compact", Api.RESPONSES),
    *_rows(_POST, RouteKind.PREFIX, "/v1/messages", Api.MESSAGES),
    *_rows(_POST, RouteKind.INVOCATION, "/invocations"),
    *_rows(_POST, RouteKind.LOAD, "/v1/responses/input_tokens /v1/responses/render", Api.RESPONSES),
    *_rows(_POST, RouteKind.LOAD, "/v1/messages/count_tokens /v1/messages/render", Api.MESSAGES),
    *_rows(
        _POST,
        RouteKind.LOAD,
        "/v1/chat/completions/batch /v1/chat/completions/render /v1/chat/completions/derender"
        " /v1/completions/render /v1/completions/derender"
        " /v1/embeddings /v2/embed /v1/rerank /v2/rerank /rerank /v1/score /score /v1/classify /classify"
        " /v1/pooling /pooling /generative_scoring /v1/systemone /v1/tokenize /tokenize /v1/detokenize"
        " /detokenize /v1/audio/transcriptions /v1/audio/translations /v1/audio/speech",
    ),
    *_rows(
        _READ, RouteKind.LOAD, "/version /tokenizer_info /openapi.json /docs /docs/oauth2-redirect /redoc"
    ),
    *_rows("GET", RouteKind.UPGRADE, "/v1/realtime"),
    *_rows(_READ, RouteKind.MODELS, "/v1/models /v1/models/{id}"),
    *_rows("GET, HEAD, DELETE, POST", RouteKind.STORED, "/v1/responses/{id}", Api.RESPONSES),
    *_rows(_READ, RouteKind.HEALTH, "/ /health /api/hello"),
    *_rows(_READ, RouteKind.READY, "/ready"),
    *_rows("GET, HEAD, POST", RouteKind.READY, "/ping"),
    *_rows(_READ, RouteKind.SERVER_LOAD, "/load"),
    *_rows(_READ, RouteKind.METRICS, "/metrics"),
    *_rows(_ANY, RouteKind.PASSED, "/v1/messages/batches /v1/messages/batches/{id}", Api.MESSAGES),
    *_rows(_ANY, RouteKind.PASSED, "/v1/chat/completions/{id} /v1/realtime/{id} /v1/audio/{id}"),
    *_rows(_ANY, RouteKind.PASSED, " ".join(f"/v1/{name} /v1/{name}/{{id}}" for name in HOSTED.split())),
    *_rows(
        _POST,
        RouteKind.ADMIN,
        "/v1/load_lora_adapter /v1/unload_lora_adapter /adapters /sleep /wake_up /pause /resume"
        " /reset_prefix_cache /reset_mm_cache /reset_encoder_cache /release_kv_cache_memory /collective_rpc"
        " /abort_requests /inference/v1/abort_requests /scale_elastic_ep /is_scaling_elastic_ep"
        " /fault_tolerance/apply /start_profile /stop_profile /init_weight_transfer_engine"
        " /shutdown_weight_transfer_engine /start_weight_update /start_draft_weight_update /update_weights"
        " /finish_weight_update /update_weight_version /weight_checker",
    ),
    *_rows("DELETE", RouteKind.ADMIN, "/adapters/{id}"),
    *_rows(
        "GET",
        RouteKind.ADMIN,
        "/is_sleeping /is_paused /weight_info /get_world_size /server_info /kv_event_sources"
        " /fault_tolerance/status",
    ),
)
"""Every endpoint known by name. Anything else below `/v1` is passed to a replica by load, whatever the method."""

_Row = tuple[frozenset[bytes], Route, Route]


def _row(endpoint: Endpoint) -> _Row:
    allow = endpoint.methods.encode()
    return (
        frozenset(allow.split(b", ")),
        Route(endpoint.api, endpoint.kind, allow),
        Route(endpoint.api, RouteKind.METHOD, allow),
    )


_TABLE: Final = {end.path.encode(): _row(end) for end in ENDPOINTS if not end.path.endswith("{id}")}
_BELOW: Final = tuple(
    sorted(
        ((end.path[:-4].encode(), _row(end)) for end in ENDPOINTS if end.path.endswith("{id}")),
        key=lambda row: -len(row[0]),
    )
)
"""Paths that begin so and go on; longest first."""

_BY_SERVER: Final = frozenset(
    (b"tokenize", b"detokenize", b"render", b"derender", b"count_tokens", b"input_tokens")
)
"""Last parts of paths that a server answers by itself, whatever its engine does."""

_DOTS: Final = re.compile(rb"(?:[/\\]|%2f|%5c)(?:\.|%2e){2}", re.IGNORECASE)
"""What a server behind us might resolve to a path outside `/v1`."""
_UNKNOWN: Final = Route(Api.OTHER, RouteKind.LOAD, _ANY.encode())
_UNKNOWN_METHOD: Final = Route(Api.OTHER, RouteKind.METHOD, _ANY.encode())
_UNKNOWN_METHODS: Final = frozenset(_ANY.encode().split(b", "))


def plain_path(path: bytes) -> bytes:
    """The path as it is compared: percent-decoded, without the trailing slash."""
    if b"%" in path:
        path = unquote_to_bytes(path)
    return path[:-1] if len(path) > 1 and path[-1:] == b"/" else path


def route(method: bytes, path: bytes) -> Route | None:
    """The route of a path without its query; `None` is a 404."""
    if _DOTS.search(path) is not None:
        return None
    plain = plain_path(path)
    found = _named(plain)
    if found is not None:
        return found[1] if method in found[0] else found[2]
    if plain[:4] != b"/v1/" or len(plain) == 4 or _DOTS.search(plain) is not None:
        return None
    return _UNKNOWN if method in _UNKNOWN_METHODS else _UNKNOWN_METHOD


def _named(plain: bytes) -> _Row | None:
    found = _TABLE.get(plain)
    if found is not None:
        return found
    if _DOTS.search(plain) is None:
        for start, row in _BELOW:
            if plain.startswith(start) and len(plain) > len(start):
                return row
    return None


def lacks_version(path: bytes) -> bool:
    """Whether this path is that of a known endpoint but for its `/v1`, which a client's base URL should end in."""
    return not path.startswith(b"/v1/") and _named(b"/v1" + plain_path(path)) is not None


def computed(method: bytes, path: bytes) -> bool:
    """Whether an engine has to do something for a request that is routed by load, as far as its path tells."""
    return method == b"POST" and plain_path(path).rpartition(b"/")[2] not in _BY_SERVER


def slash_dropped(path: bytes) -> bool:
    """Whether a replica is sent this path without its trailing slash: it names a known endpoint so."""
    return len(path) > 1 and path[-1:] == b"/" and _named(plain_path(path)) is not None


def may_be_websocket(path: bytes) -> bool:
    """Whether an upgrade of this path is passed to a replica: `/v1/realtime`, and what newer engines may have."""
    if _DOTS.search(path) is not None:
        return False
    plain = plain_path(path)
    found = _named(plain)
    return plain[:4] == b"/v1/" and (found is None or found[1].kind is not RouteKind.ADMIN)


def stored_response_id(path: bytes) -> str | None:
    """The id in `/v1/responses/{id}` or below it; `None` in any other path or where it cannot be one."""
    plain = plain_path(path)
    if not plain.startswith(b"/v1/responses/"):
        return None
    response_id = plain[14:].partition(b"/")[0]
    if not response_id or len(response_id) > 256 or not response_id.isascii():
        return None
    return response_id.decode("ascii")


def model_id(path: bytes) -> str:
    """The id in `/v1/models/{id}`; empty for the list."""
    return plain_path(path)[len(b"/v1/models/") :].decode("utf-8", "replace")
