"""This module serves what operators and trainers ask of an engine over HTTP, under vLLM's names: adapters, pause,
sleep.

It decides how requests are read; the replica decides what happens. vLLM has sleep and pause only with
`VLLM_SERVER_DEV_MODE`, and adapters only with `VLLM_ALLOW_RUNTIME_LORA_UPDATING`; here they are always there. Source:
vLLM 0.32.0, `entrypoints/serve/lora`, `entrypoints/serve/dev/sleep`, `entrypoints/rl/online`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from warmroute_replica.sim.errors import ApiError, invalid
from warmroute_replica.sim.simulated_replica import SimulatedReplica

MAX_RANKS = 64
MODES = ("abort", "wait", "keep")


def add_lifecycle(router: web.UrlDispatcher, replica: SimulatedReplica) -> None:
    """Add the endpoints' routes."""

    async def load_lora(request: web.Request) -> web.Response:
        body = await _object(request)
        name, path = _text(body, "lora_name"), _text(body, "lora_path")
        replica.load_lora(name, path, in_place=body.get("load_inplace") is True)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_lora(request: web.Request) -> web.Response:
        name = _text(await _object(request), "lora_name")
        replica.unload_lora(name)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def pause(request: web.Request) -> web.Response:
        await replica.pause(_mode(request))
        return _json({"status": "paused"})

    async def resume(_: web.Request) -> web.Response:
        replica.resume()
        return _json({"status": "resumed"})

    async def is_paused(_: web.Request) -> web.Response:
        return _json({"is_paused": replica.paused is not None})

    async def sleep(request: web.Request) -> web.Response:
        level = request.query.get("level", "1")
        if level not in ("0", "1", "2"):
            raise invalid("level must be 0, 1 or 2", param="level")
        await replica.sleep(int(level), _mode(request))
        return _json({"status": "sleeping", "level": int(level)})

    async def wake_up(request: web.Request) -> web.Response:
        replica.wake_up()
        return _json({"status": "awake", "tags": request.query.getall("tags", None)})

    async def is_sleeping(_: web.Request) -> web.Response:
        return _json({"is_sleeping": replica.sleep_level is not None})

    async def scale(request: web.Request) -> web.Response:
        size = (await _object(request)).get("new_data_parallel_size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= MAX_RANKS:
            raise invalid("new_data_parallel_size must be a positive integer")
        await replica.scale(size)
        return _json({"message": f"Scaled to {size} data parallel engines"})

    async def is_scaling(_: web.Request) -> web.Response:
        return _json({"is_scaling_elastic_ep": replica.scaling})

    async def weight_info(_: web.Request) -> web.Response:
        return _json({"weight_version": replica.weight_version})

    async def update_weight_version(request: web.Request) -> web.Response:
        replica.weight_version = _text(await _object(request), "new_version")
        return _json({"success": True, "new_version": replica.weight_version})

    router.add_post("/scale_elastic_ep", scale)
    router.add_post("/is_scaling_elastic_ep", is_scaling)
    router.add_get("/weight_info", weight_info)
    router.add_post("/update_weight_version", update_weight_version)
    router.add_post("/v1/load_lora_adapter", load_lora)
    router.add_post("/v1/unload_lora_adapter", unload_lora)
    router.add_post("/pause", pause)
    router.add_post("/resume", resume)
    router.add_get("/is_paused", is_paused)
    router.add_post("/sleep", sleep)
    router.add_post("/wake_up", wake_up)
    router.add_get("/is_sleeping", is_sleeping)


async def _object(request: web.Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"JSON decode error: {error}", kind="Bad Request") from error
    if not isinstance(body, dict):
        raise ApiError(400, "Input should be a valid dictionary", kind="Bad Request")
    return body


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise invalid("Input should be a valid string", param=name)
    return value


def _mode(request: web.Request) -> str:
    mode = request.query.get("mode", "abort")
    if mode not in MODES:
        raise invalid(f"mode must be one of {', '.join(MODES)}", param="mode")
    return mode


def _json(body: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
