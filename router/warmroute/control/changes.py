"""Changes of the fleet on the admin port: replicas added, removed, drained and taken back while the router runs.

Decides how such requests are read and answered; what they mean is `service.operated`'s.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from warmroute.core.errors import ClientError
from warmroute.service.operated import Addition, Operated


class FleetChanges:
    """The endpoints."""

    def __init__(self, operated: Operated) -> None:
        self._operated = operated

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add them. An id may hold any character, `/` too."""
        router.add_post("/replicas", self._add)
        router.add_post("/replicas/{id:.+}/drain", self._drain)
        router.add_post("/replicas/{id:.+}/undrain", self._undrain)
        router.add_delete("/replicas/{id:.+}", self._remove)

    async def _add(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            addition = msgspec.json.decode(body, type=Addition)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ClientError(
                f'the body must be a JSON object such as {{"url": "http://10.0.0.7:8000"}}, with an id and ranks if'
                f" wanted: {error}"
            ) from error
        return _answer(201, id=self._operated.add(addition), url=addition.url)

    async def _remove(self, request: web.Request) -> web.Response:
        return self._changed(request, self._operated.remove, "removed")

    async def _drain(self, request: web.Request) -> web.Response:
        return self._changed(request, self._operated.drain, "draining")

    async def _undrain(self, request: web.Request) -> web.Response:
        return self._changed(request, self._operated.undrain, "readmitted")

    @staticmethod
    def _changed(request: web.Request, change: Callable[[str], None], said: str) -> web.Response:
        replica_id = request.match_info["id"]
        change(replica_id)
        return _answer(200, id=replica_id, status=said)


def _answer(code: int, **fields: object) -> web.Response:
    return web.Response(status=code, body=msgspec.json.encode(fields), content_type="application/json")
