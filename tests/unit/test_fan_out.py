"""One administrative request to every replica, and what they answer put together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from warmroute.control.fan_out import FanOut
from warmroute.ports import CallAnswer
from warmroute.service.engine_effects import AdminCall


class Calls:
    """Answers by URL."""

    def __init__(self, answers: Mapping[str, bytes]) -> None:
        self.answers = answers

    async def start(self) -> None:
        return

    async def stop(self) -> None:
        return

    async def call(self, url: str, *_: Any, **__: Any) -> CallAnswer:
        return CallAnswer(200, "application/json", self.answers[url])


def asked(answers: Mapping[str, bytes]) -> tuple[web.Response, list[AdminCall]]:
    """The answer to an operator, and what was told of afterwards."""
    told: list[AdminCall] = []

    async def after(call: AdminCall) -> Mapping[str, Mapping[str, object]]:
        told.append(call)
        return {}

    async def changed() -> None:
        return

    async def run() -> web.Response:
        fan_out = FanOut(
            Calls(answers),
            replicas=lambda: [(url, url) for url in answers],
            api_key=lambda: None,
            changed=changed,
            after=after,
        )
        request = make_mocked_request("POST", "/reset_prefix_cache")
        request._read_bytes = b""
        return await fan_out._handle(request)

    return asyncio.run(run()), told


@pytest.mark.parametrize("depth", [10, 200, 900, 950, 985, 990, 995, 1000, 100_000])
def test_what_one_replica_says_keeps_nobody_from_hearing_of_the_others(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    answer, told = asked({"good": b'{"success":true}', "deep": deep, "broken": b"{"})
    assert answer.status == 200
    assert isinstance(answer.body, bytes)
    rows = {row["id"]: row["answer"] for row in json.loads(answer.body)["replicas"]}
    assert rows["good"] == {"success": True}
    assert rows["broken"] == "{"
    assert rows["deep"] == deep.decode() or (depth < 1000 and rows["deep"] == json.loads(deep))
    assert len(told) == 1
