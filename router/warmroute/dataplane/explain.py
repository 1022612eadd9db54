"""An explanation says why a request would go where it would, by the request path's own steps up to the choice.

This module decides nothing, sends nothing and counts nothing. It calls what an exchange calls, in the same order, so
that the two cannot disagree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from warmroute.core.errors import ClientError, NotFoundError
from warmroute.core.prompt.fingerprint import GRID
from warmroute.core.types import Api, FingerprintHash, Records, RequestShape
from warmroute.dataplane.gateway import Gateway
from warmroute.dataplane.request import Request, RequestHead
from warmroute.dataplane.shapes import load_shape, prefix_shape, readable
from warmroute.dialects.reading import invoked_api, parse
from warmroute.dialects.routes import RouteKind


async def explain(gateway: Gateway, path: str, headers: Mapping[str, str], body: bytes) -> dict[str, object]:
    """Ranking of all candidates for this request, and how the router reads it.

    Raises:
        RouterError: What the request itself would be answered.
    """
    fields = [
        (name.lower().encode(), value.encode())
        for name, value in headers.items()
        if name.lower() != "content-encoding"
    ]
    head = RequestHead(
        b"POST", path.encode(), fields, keep_alive=False, minor_version=1, sessions=gateway.sessions
    )
    request = Request(head, body, 0.0)
    found = head.route
    if found is None:
        raise NotFoundError(f"no endpoint {path!r} here", code="unknown_endpoint", param="path")
    api = found.api
    if found.kind is RouteKind.INVOCATION:
        api = invoked_api(readable(gateway, request))
    by_prefix = found.kind is RouteKind.PREFIX or (
        found.kind is RouteKind.INVOCATION and api is not Api.OTHER
    )
    if by_prefix:
        shape = prefix_shape(gateway, parse(api, readable(gateway, request)), head)
    elif found.kind in (RouteKind.LOAD, RouteKind.PASSED, RouteKind.INVOCATION):
        shape = load_shape(gateway, request)
    else:
        raise ClientError(f"{path!r} is not routed to a replica by prefix or load", param="path")
    records = await _look_up(gateway, shape.keys) if shape.keys and gateway.needs_records else []
    known = [place for place, record in enumerate(records) if record is not None]
    rungs_known = [place for place in known if place < len(shape.rungs)]
    ranking = gateway.fleet.rank(shape, records, gateway.clock())
    hold = gateway.hold if by_prefix else None
    return {
        "api": api,
        "model": shape.model,
        "prompt_bytes": shape.prompt_bytes,
        "prompt_tokens_estimated": shape.prompt_tokens,
        "rungs": len(shape.rungs),
        "rungs_known": len(rungs_known),
        "deepest_known_bytes": GRID[rungs_known[-1]] if rungs_known else 0,
        **_chunks(shape, len(known) - len(rungs_known)),
        "would_be_held": hold is not None and hold.would_hold(ranking),
        "held_requests": hold.waiting if hold is not None else 0,
        **ranking.as_dict(),
    }


def _chunks(shape: RequestShape, known: int) -> dict[str, object]:
    """What is said of a prompt with chunks, and of no other."""
    return {} if shape.chunks is None else {"chunks": len(shape.chunks.hashes), "chunks_known": known}


async def _look_up(gateway: Gateway, keys: list[FingerprintHash]) -> Records:
    waiter: asyncio.Future[Records] = asyncio.get_running_loop().create_future()

    def done(records: Records) -> None:
        if not waiter.done():
            waiter.set_result(records)

    at_once = gateway.registry.lookup(keys, done)
    return at_once if at_once is not None else await waiter
