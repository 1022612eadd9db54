"""The admin port of several workers: what is handed to one, to all, to nobody, and how a broken answer looks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from warmroute.control.front import AdminFront

Scenario = Callable[[aiohttp.ClientSession, str], Awaitable[None]]


async def echo(request: web.Request) -> web.Response:
    """What a worker got, as the client sent it."""
    told = {
        "method": request.method,
        "target": request.raw_path,
        "headers": {name: value for name, value in request.headers.items() if name != "Host"},
        "body": (await request.read()).decode(),
    }
    return web.json_response(told, status=418, headers={"X-Told": "as it is"})


async def broken(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b"the beginning")
    assert request.transport is not None
    request.transport.abort()
    return answer


def against(
    scenario: Scenario, directory: Path, *workers: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> None:
    """Run a scenario against the front of workers that answer so; the last of its sockets has nobody behind it."""

    async def run() -> None:
        runners = []
        for number, handler in enumerate(workers):
            application = web.Application()
            application.router.add_route("*", "/{rest:.*}", handler)
            runner = web.AppRunner(application)
            await runner.setup()
            await web.UnixSite(runner, str(directory / f"{number}.sock")).start()
            runners.append(runner)
        sockets = {str(number): str(directory / f"{number}.sock") for number in range(len(workers) + 1)}
        front = AdminFront(lambda: sockets, lambda: "")
        port = await front.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as session:
                await scenario(session, f"http://127.0.0.1:{port}")
        finally:
            await front.stop()
            for runner in runners:
                await runner.cleanup()

    asyncio.run(run())


def test_a_worker_gets_what_the_client_sent_and_the_client_what_it_answered(tmp_path: Path) -> None:
    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        for _ in range(3):  # one of the two sockets has nobody behind it
            headers = {"X-Asked": "ä", "Authorization": "Bearer t"}
            target = URL(f"{url}/explain?a=%2F&b", encoded=True)
            async with session.post(target, data=b"{}", headers=headers) as answer:
                told = await answer.json()
                assert (answer.status, answer.headers["X-Told"]) == (418, "as it is")
            assert (told["method"], told["target"], told["body"]) == ("POST", "/explain?a=%2F&b", "{}")
            assert told["headers"]["Authorization"] == "Bearer t"

        async def pieces() -> object:
            for _ in range(3):
                yield b"piece "

        async with session.put(f"{url}/log", data=pieces(), expect100=True) as answer:
            assert (await answer.json())["body"] == "piece " * 3

    against(scenario, tmp_path, echo)


def test_a_change_of_the_fleet_is_made_by_all_and_the_first_that_refuses_is_told(tmp_path: Path) -> None:
    asked: list[tuple[int, str]] = []

    def worker(number: int, status: int) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def change(request: web.Request) -> web.Response:
            asked.append((number, (await request.read()).decode()))
            return web.json_response({"by": number}, status=status)

        return change

    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        async with session.post(f"{url}/replicas", data=b"x") as answer:
            assert (answer.status, await answer.json()) == (409, {"by": 1})
        async with session.delete(f"{url}/replicas/a") as answer:
            assert answer.status == 409
        async with session.post(f"{url}/replicas", data=b"x" * 65_537) as answer:
            assert answer.status == 411
            assert "64 KiB" in (await answer.json())["error"]["message"]

    against(scenario, tmp_path, worker(0, 200), worker(1, 409))
    assert sorted(asked) == [(0, ""), (0, "x"), (1, ""), (1, "x")]


def test_without_a_worker_that_is_up_the_client_is_told_so(tmp_path: Path) -> None:
    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        for method, path in (("GET", "/replicas"), ("POST", "/replicas")):
            async with session.request(method, url + path) as answer:
                assert answer.status == 503
                assert json.loads(await answer.read())["error"]["code"] == "no_worker"

    against(scenario, tmp_path)


def test_an_answer_that_breaks_is_seen_to_be_broken(tmp_path: Path) -> None:
    async def scenario(session: aiohttp.ClientSession, url: str) -> None:
        for _ in range(2):
            with pytest.raises(aiohttp.ClientError):
                async with session.get(f"{url}/replicas") as answer:
                    await answer.read()

    against(scenario, tmp_path, broken)
