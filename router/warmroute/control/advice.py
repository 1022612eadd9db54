"""Advice on the admin port: why prompts miss the cache, by tenant and model, and what each cause costs.

An answer is of the worker that was asked: each looks at its share of the prompts. Metrics are of all.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp import web

from warmroute.advice.advisor import Advisor
from warmroute.control.times import moment
from warmroute.core.errors import NotFoundError


def add_advice(router: web.UrlDispatcher, advisor: Advisor | None, clock: Callable[[], float]) -> None:
    """Add `GET /advice`; where prompts are not looked at it says so."""

    async def advice(request: web.Request) -> web.Response:
        if advisor is None:
            raise NotFoundError("no prompts are looked at: set advice.sample", code="advice_off")
        query = request.query
        since_s = moment(query.get("since"), "since", int(clock()), otherwise=0)
        told = advisor.report(float(since_s), tenant=query.get("tenant"), model=query.get("model"))
        return web.Response(
            body=msgspec.json.encode(told),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    router.add_get("/advice", advice)
