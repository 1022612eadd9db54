"""The admin port answers health, readiness, metrics, the replicas, and why a request would go where it would.

Operators change the fleet here (`changes`), and engines' own administrative endpoints are passed on to every replica
(`fan_out`). Who may do what is `auth`'s to say: without tokens everybody may do all, so the port listens on loopback
unless told otherwise. Errors have OpenAI's shape.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from warmroute.advice.advisor import Advisor
from warmroute.control.advice import add_advice
from warmroute.control.auth import checking, refusing_pages
from warmroute.control.changes import FleetChanges
from warmroute.control.fan_out import FanOut
from warmroute.control.readiness import HEALTH_BODY, Readiness
from warmroute.control.tenants import add_routes as add_tenant_routes
from warmroute.control.tokens import AdminAuth
from warmroute.core.errors import ClientError, NotFoundError, RouterError
from warmroute.dialects.guess import likely_paths
from warmroute.ports import KeyStore
from warmroute.service.accounting import Accounting
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

Explain = Callable[[str, Mapping[str, str], bytes], Awaitable[Mapping[str, object]]]
"""Path, headers (looked up whatever their case) and body of a request -> its ranking, with every candidate's terms.
Sends and counts nothing."""

EXPLAINED = "/v1/chat/completions"
"""What `POST /explain` takes a body for whose path nobody named."""

_ENDPOINTS = {
    "GET /health": "the process is alive",
    "GET /ready": "at least one replica is routable and the router is not draining",
    "GET /metrics": "Prometheus metrics",
    "GET /replicas": "every replica with its state and load, and the registry's figures",
    "POST /replicas": 'add a replica: {"url": "http://HOST:PORT", "id": "NAME"}',
    "DELETE /replicas/ID": "remove one; it finishes what it has",
    "POST /replicas/ID/drain": "give it nothing new, until POST /replicas/ID/undrain",
    "POST /explain": "where this request would go and why; ?path= names its path, /v1/chat/completions by default",
    "GET /keys": "API keys, without the keys themselves; POST makes one, DELETE /keys/ID revokes it (docs/tenants.md)",
    "GET /usage": "what tenants used; ?by=tenant,key,model,interface&bucket=hour&from=7d&format=csv",
    "GET /savings": "what caching saved, by interface and model, beside what providers promise; ?from=7d&tenant=ID",
    "GET /advice": "why prompts miss the cache, and what it costs; ?since=1h&tenant=ID&model=NAME (docs/advice.md)",
    "POST /v1/load_lora_adapter": "and engines' other administrative calls: to every replica (docs/endpoints.md)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlDeps:
    """What the endpoints read."""

    readiness: Readiness
    metrics: Callable[[str], tuple[bytes, str]]
    """`Accept` header -> body and content type."""
    replicas: Callable[[], Sequence[Mapping[str, object]]]
    """One row a replica."""
    registry: Callable[[], Mapping[str, object]]
    """The registry's figures."""
    explain: Explain
    discovery: Callable[[], Sequence[Mapping[str, object]]] = list
    """One row a source of replicas."""
    models: Callable[[], Sequence[Mapping[str, object]]] = list
    """One row a model that answers told of."""
    funnel: Callable[[], Mapping[str, object]] = dict
    """The loss funnel by model."""
    max_body_bytes: int = 64 << 20
    auth: AdminAuth | None = None
    """Who may do what; None: everybody everything."""
    keys: KeyStore | None = None
    """Where keys are kept; None: none are asked for."""
    accounting: Accounting | None = None
    """What tenants used; None: it is not counted."""
    advisor: Advisor | None = None
    """Who finds out why prompts miss; None: nobody."""
    clock: Callable[[], float] = time.time
    fan_out: FanOut | None = None
    """Who passes engines' administrative requests on; None: nobody."""
    changes: FleetChanges | None = None
    """Who adds, removes and drains replicas; None: nobody."""


def build_control(deps: ControlDeps) -> web.Application:
    """The application; holds no state of its own."""

    async def index(_: web.Request) -> web.Response:
        return _json({"name": "warmroute", "endpoints": _ENDPOINTS})

    async def health(_: web.Request) -> web.Response:
        return web.Response(body=HEALTH_BODY, content_type="application/json")

    async def ready(_: web.Request) -> web.Response:
        status, body = deps.readiness.answer()
        return web.Response(status=status, body=body, content_type="application/json")

    async def metrics(request: web.Request) -> web.Response:
        body, content_type = deps.metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def replicas(_: web.Request) -> web.Response:
        return _json(
            {
                "replicas": deps.replicas(),
                "models": deps.models(),
                "funnel": deps.funnel(),
                "registry": deps.registry(),
                "discovery": deps.discovery(),
            }
        )

    async def explain(request: web.Request) -> web.Response:
        path = request.query.get("path", EXPLAINED)
        if not path.startswith("/"):
            raise ClientError("path must begin with /", param="path")
        body = await request.read()
        hint = "" if "path" in request.query else _hint(body)
        try:
            explained = await deps.explain(path, request.headers, body)
        except ClientError as error:
            if hint:
                error.message = f"{error.message.rstrip('.')}. {hint}"
            raise
        return _json({**explained, "path": path, **({"hint": hint} if hint else {})})

    middlewares: list[Any] = [_errors, refusing_pages]
    if deps.auth is not None:
        middlewares.append(checking(deps.auth))
    application = web.Application(middlewares=middlewares, client_max_size=deps.max_body_bytes)
    for path, handler in (
        ("/", index),
        ("/health", health),
        ("/ready", ready),
        ("/metrics", metrics),
        ("/replicas", replicas),
    ):
        application.router.add_get(path, handler)
    application.router.add_post("/explain", explain)
    if deps.changes is not None:
        deps.changes.add_routes(application.router)
    add_tenant_routes(application.router, deps.keys, deps.accounting, deps.clock)
    add_advice(application.router, deps.advisor, deps.clock)
    if deps.fan_out is not None:
        deps.fan_out.add_routes(application.router)
    return application


def _hint(body: bytes) -> str:
    """What to say of a body without a path that looks like another API's; empty where it does not."""
    paths = likely_paths(body)
    if not paths or EXPLAINED in paths:
        return ""
    named = " or ".join(f"?path={path}" for path in paths)
    return f"This was read as a body of {EXPLAINED} and looks like another API's: name it by {named}."


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every failure as JSON; the outermost middleware, so nothing leaves as a page of HTML or a bare 500."""
    try:
        return await handler(request)
    except RouterError as error:
        return _error(error)
    except web.HTTPNotFound:
        known = ", ".join(_ENDPOINTS)
        return _error(NotFoundError(f"no {request.path} on the admin port; there are: {known}"))
    except web.HTTPMethodNotAllowed as error:
        refused = ClientError(
            f"{request.path} takes {', '.join(sorted(error.allowed_methods))}",
            status=405,
            code="method_not_allowed",
        )
        return _error(refused, {"Allow": ", ".join(sorted(error.allowed_methods))})
    except web.HTTPRequestEntityTooLarge as error:
        return _error(ClientError(error.text or "body too long", status=413, code="body_too_large"))
    except web.HTTPException as error:
        return _error(ClientError(error.text or error.reason, status=error.status))
    except Exception:
        log.exception("control_failed", extra=fields(path=request.path))
        return _error(RouterError("the router failed on this; its log has the traceback"))


def _error(error: RouterError, headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
    if error.status == 401:
        headers = {**(headers or {}), "WWW-Authenticate": "Bearer"}
    return _json(body, error.status, headers)


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
