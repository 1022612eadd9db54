"""Asks for tokens before anything else happens on the admin port. What they allow is `tokens`' to say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from warmroute.control.tokens import AdminAuth

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def checking(auth: AdminAuth) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
    """The middleware."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.getall("Authorization", [])
        auth.check(request.method, request.path, given[0] if len(given) == 1 else "")
        return await handler(request)

    return check
