"""Refuses web pages and asks for tokens before anything else happens on the admin port. What tokens allow is `tokens`'
to say.

A page may have a browser send a request to any address that the browser's machine reaches, loopback too, without being
let read the answer. So what such a request changes is changed all the same, unless it is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from warmroute.control.tokens import AdminAuth
from warmroute.core.errors import ClientError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


_READS = ("GET", "HEAD")


@web.middleware
async def refusing_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The middleware that refuses what a web page had a browser send, where it could change anything."""
    headers = request.headers
    from_page = "Origin" in headers or headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    if from_page and request.method not in _READS:
        raise ClientError("web pages may change nothing here", status=403, code="origin_not_allowed")
    return await handler(request)


def checking(auth: AdminAuth) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """The middleware."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.getall("Authorization", [])
        auth.check(request.method, request.path, given[0] if len(given) == 1 else "")
        return await handler(request)

    return check
