"""The router answers some requests on the data port by itself: health, readiness, models, and what is not there.

This module decides nothing about routing, and `local` writes its answers.
"""

from __future__ import annotations

import msgspec

from warmroute.core.errors import ClientError, NotFoundError
from warmroute.dataplane import local
from warmroute.dataplane.client_side import ClientSide
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.request import RequestHead
from warmroute.dialects.model_list import anthropic_list, anthropic_model
from warmroute.dialects.routes import Route, RouteKind, lacks_version, model_id
from warmroute.tenants.caller import Caller


def answer(
    gateway: Gateway,
    client: ClientSide,
    head: RequestHead,
    route: Route,
    request_id: bytes,
    caller: Caller | None,
) -> tuple[int, bool]:
    """Answer what needs no replica. Returns the status, and whether the connection stays open.

    Raises:
        RouterError: What is to be answered instead.
    """
    status = 200
    content_type = local.JSON
    added = local.id_lines(head, request_id)
    kind = route.kind
    cors = gateway.cors
    if cors is not None and head.cors_method and head.origin and head.method == b"OPTIONS":
        added += cors.preflight(head)
        content_type, body = b"text/plain; charset=utf-8", b"OK"
    elif kind is RouteKind.HEALTH:
        body = b'{"status":"ok"}'
    elif kind is RouteKind.READY:
        status, body = gateway.readiness()
    elif kind is RouteKind.MODELS:
        body = _models(gateway, head, caller)
    elif kind is RouteKind.SERVER_LOAD:
        body = b'{"server_load":%d}' % _server_load(gateway)
    elif kind is RouteKind.METRICS:
        if gateway.metrics_text is None:
            raise NotFoundError(
                "metrics are on the admin port; data_metrics: true puts them here too",
                code="unknown_endpoint",
            )
        body, text_type = gateway.metrics_text(head.accept.decode("latin-1"))
        content_type = text_type.encode()
    elif kind is RouteKind.ADMIN:
        raise ClientError(
            f"{head.path.decode('latin-1')} changes or shows one engine, and is not for clients: sent to the router's"
            " admin port it goes to every replica",
            status=403,
            code="administrative_endpoint",
        )
    elif kind is RouteKind.UPGRADE:
        raise ClientError("this endpoint is a WebSocket", status=426, code="upgrade_required")
    else:
        raise local.MethodError(head.method, route.allow)
    return status, local.write(client, head, status, body, added, content_type=content_type)


def no_endpoint(head: RequestHead) -> NotFoundError:
    """What a path is answered that leads nowhere."""
    path = head.path.decode("latin-1")
    hint = ""
    if lacks_version(head.path):
        hint = f"; there is {'/v1' + path!r}: let the base URL that this client is given end in /v1"
    elif path.startswith("/v1beta/"):
        hint = "; Google's API is served where the router's settings have cached_contents: true"
    return NotFoundError(f"no endpoint {path!r} here{hint}", code="unknown_endpoint")


def _models(gateway: Gateway, head: RequestHead, caller: Caller | None) -> bytes:
    """Body of `/v1/models` and `/v1/models/{id}`: the union over replicas, in the asking client's own form.

    Raises:
        NotFoundError: No replica serves this model.
    """
    cards = gateway.fleet.model_cards()
    if caller is not None and (caller.models or caller.barred):
        cards = {name: card for name, card in cards.items() if caller.may_use(name)}
    name = model_id(head.path)
    if not name:
        if head.anthropic:
            return msgspec.json.encode(anthropic_list(cards, head.target[len(head.path) + 1 :]))
        return msgspec.json.encode({"object": "list", "data": list(cards.values())})
    card = cards.get(name)
    if card is None:
        raise NotFoundError(f"no replica serves the model {name!r}", code="model_not_found", param="model")
    return msgspec.json.encode(anthropic_model(name, card) if head.anthropic else card)


def _server_load(gateway: Gateway) -> int:
    """Requests under way in the fleet, other routers' included as far as they tell."""
    return sum(replica.in_flight + replica.peer_in_flight for replica in gateway.fleet.replicas.values())
