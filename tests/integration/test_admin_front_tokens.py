"""The admin port of several workers asks for tokens too: itself for metrics, the workers for the rest."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
from aiohttp import web

from warmroute.control.auth import checking
from warmroute.control.front import AdminFront
from warmroute.control.tokens import AdminAuth

OPERATOR, READER = "operator-token-of-some-length", "reader-token-of-some-length"


def test_metrics_of_all_workers_are_for_those_who_may_see_them(tmp_path: Path) -> None:
    async def run() -> None:
        auth = AdminAuth((OPERATOR,), (READER,), open_metrics=False)

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(text="# TYPE a counter\na 1\n")

        async def replicas(_: web.Request) -> web.Response:
            return web.json_response({"ok": True})

        application = web.Application(middlewares=[_plain, checking(auth)])
        application.router.add_get("/metrics", metrics)
        application.router.add_get("/replicas", replicas)
        runner = web.AppRunner(application)
        await runner.setup()
        path = str(tmp_path / "0.sock")
        await web.UnixSite(runner, path).start()
        front = AdminFront(lambda: {"0": path}, lambda: "", auth=auth)
        port = await front.start("127.0.0.1", 0)
        try:
            for name in ("/metrics", "/replicas"):
                for token, allowed in (("", False), ("wrong", False), (READER, True), (OPERATOR, True)):
                    headers = {"Authorization": f"Bearer {token}"} if token else {}
                    async with aiohttp.ClientSession(headers=headers) as session:
                        async with session.get(f"http://127.0.0.1:{port}{name}") as answer:
                            assert (answer.status == 200) is allowed, (name, token)
                            if allowed and name == "/metrics":
                                assert "a 1" in await answer.text()
            auth.use((OPERATOR,), (), open_metrics=True)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/metrics") as answer,
            ):
                assert answer.status == 200
        finally:
            await front.stop()
            await runner.cleanup()

    asyncio.run(run())


@web.middleware
async def _plain(request: web.Request, handler: object) -> web.StreamResponse:
    from warmroute.core.errors import RouterError

    try:
        return await handler(request)  # type: ignore[operator]
    except RouterError as error:
        return web.Response(status=error.status)
