"""Engines' administrative endpoints are on the admin port: one request there becomes one to every replica.

This module decides who is asked (all replicas, or those that `?replica=` names) and how their answers are put together:
200 if every one agreed; else what they all said, or 502 where they differ. Nothing is repeated, and nothing is taken
back where some agreed and some did not: the answer says who did what.

Source of the endpoints: `warmroute.dialects.routes.ENDPOINTS`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web

from warmroute.core.errors import ClientError, NotFoundError
from warmroute.dialects.routes import ENDPOINTS, RouteKind
from warmroute.ports import CallError, ReplicaCalls
from warmroute.service.engine_effects import AdminCall
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

PATIENCE_S = 300.0
"""Longest wait for one replica: loading an adapter, or waking up, takes its time."""
ANSWER_BYTES = 1 << 20
"""How much of each answer is shown."""
REPLICA = "replica"
"""Query parameter that names a replica to ask; may be repeated. It is not passed on."""


After = Callable[[AdminCall], Awaitable[Mapping[str, Mapping[str, object]]]]


class FanOut:
    """Asks all replicas."""

    def __init__(
        self,
        calls: ReplicaCalls,
        *,
        replicas: Callable[[], Sequence[tuple[str, str]]],
        api_key: Callable[[], str | None],
        changed: Callable[[], Awaitable[None]],
        after: After,
        keeps_authorization: Callable[[], bool] = lambda: False,
    ) -> None:
        """Args:
        replicas: Id and base URL of each.
        api_key: Sent where the request has no key of its own.
        changed: Called after requests that may have changed what replicas serve.
        after: Called with what each replica answered, before that; what it returns by id joins the answer.
        keeps_authorization: Whether a request's key is the admin port's own, and not for replicas.
        """
        self._calls = calls
        self._replicas = replicas
        self._api_key = api_key
        self._changed = changed
        self._after = after
        self._keeps_authorization = keeps_authorization

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add every administrative endpoint."""
        for endpoint in ENDPOINTS:
            if endpoint.kind is RouteKind.ADMIN:
                for method in endpoint.methods.split(", "):
                    router.add_route(method, endpoint.path, self._handle)

    async def _handle(self, request: web.Request) -> web.Response:
        chosen = self._chosen(request.query.getall(REPLICA, []))
        query = request.url.query
        target = str(request.rel_url.with_query([(k, v) for k, v in query.items() if k != REPLICA]))
        headers = {
            name: request.headers[name]
            for name in ("Content-Type", "Authorization", "X-Request-Id")
            if name in request.headers
        }
        if self._keeps_authorization():
            headers.pop("Authorization", None)
        key = self._api_key()
        if key is not None:
            headers.setdefault("Authorization", f"Bearer {key}")
        body = await request.read()
        rows = await asyncio.gather(
            *[self._ask(name, url, request.method, target, headers, body) for name, url in chosen]
        )
        statuses = {row["status"] for row in rows}
        agreed = all(isinstance(status, int) and 200 <= status < 300 for status in statuses)
        log.info(
            "fanned_out",
            extra=fields(
                method=request.method,
                path=request.path,
                replicas=len(rows),
                statuses=",".join(sorted(map(str, statuses))),
            ),
        )
        if request.method != "GET":
            call = AdminCall(request.path, dict(query), body, {str(row["id"]): row for row in rows}, headers)
            for replica_id, told in (await self._after(call)).items():
                call.rows[replica_id].update(told)
            await self._changed()
        if agreed:
            status = 200
        else:
            first = next(iter(statuses))
            status = first if len(statuses) == 1 and isinstance(first, int) and first >= 400 else 502
        return web.json_response({"replicas": rows}, status=status)

    def _chosen(self, names: Sequence[str]) -> Sequence[tuple[str, str]]:
        replicas = self._replicas()
        unknown = set(names) - {name for name, _ in replicas}
        if unknown:
            raise NotFoundError(f"there is no replica {sorted(unknown)[0]!r}", param=REPLICA)
        chosen = [replica for replica in replicas if not names or replica[0] in names]
        if not chosen:
            raise ClientError("there is no replica to ask", status=503, code="no_replica")
        return chosen

    async def _ask(
        self, name: str, url: str, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> dict[str, object]:
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._calls.call(url, method, target, headers, body, limit_bytes=ANSWER_BYTES)
        except (CallError, TimeoutError) as error:
            return {"id": name, "status": None, "error": str(error) or f"no answer within {PATIENCE_S:g} s"}
        text = answer.body.decode("utf-8", "replace")
        shown: object = text
        if "json" in answer.content_type:
            try:
                read = json.loads(text)
                json.dumps([[[[read]]]])  # what is nested too deeply to be written back is shown as text
                shown = read
            except (ValueError, RecursionError):
                pass
        return {"id": name, "status": answer.status, "answer": shown}
