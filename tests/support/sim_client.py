"""A simulated replica served in this process, and a client that asks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import uvloop

from warmroute_replica.sim.command import serving
from warmroute_replica.sim.engine_config import EngineConfig
from warmroute_replica.sim.server import ReplicaServer
from warmroute_replica.sim.simulated_replica import ReplicaConfig
from warmroute_replica.sim.step_time import StepTime

FAST = StepTime(speed=50.0)
SLOW = StepTime(prefill_tokens_per_s=2000.0, decode_step_s=0.02, attention_context_tokens=0.0)
SYSTEM = "You answer at length and with care. " * 40
TOOL_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
}
CHAT_TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": TOOL_SCHEMA}}]


def config(step_time: StepTime = FAST, **fields: Any) -> ReplicaConfig:
    engine = {
        name: fields.pop(name)
        for name in ("cache_tokens", "max_num_seqs", "block_tokens", "scheduling_policy")
        if name in fields
    }
    return ReplicaConfig(
        models=("sim", "other"),
        loras=("alpha",),
        engine=EngineConfig(**engine, step_time=step_time),
        **fields,
    )


class Client:
    """The replica's ports, and the least code to call them."""

    def __init__(self, session: aiohttp.ClientSession, servers: list[ReplicaServer]) -> None:
        self.session = session
        self.servers = servers
        self.url = servers[0].url

    async def post(self, path: str, body: Any, **kwargs: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(self.url + path, data=data, **kwargs) as response:
            return response.status, json.loads(await response.read())

    async def ok(self, path: str, body: Any, **kwargs: Any) -> Any:
        status, answer = await self.post(path, body, **kwargs)
        assert status == 200, answer
        return answer

    async def get(self, path: str) -> Any:
        async with self.session.get(self.url + path) as response:
            return json.loads(await response.read())

    async def text(self, path: str, body: Any = None, **kwargs: Any) -> str:
        method = "GET" if body is None else "POST"
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.url + path, data=data, **kwargs) as response:
            assert response.status == 200
            return (await response.read()).decode()

    async def stats(self) -> Any:
        return await self.get("/sim/stats")

    async def fault(self, kind: str, **fields: Any) -> None:
        await self.ok("/sim/fault", {"kind": kind, **fields})

    async def until(self, condition: Callable[[Any], bool]) -> Any:
        async with asyncio.timeout(60):
            while not condition(stats := await self.stats()):
                await asyncio.sleep(0.005)
        return stats


def against(
    scenario: Callable[[Client], Awaitable[None]], replica: ReplicaConfig | None = None, ports: int = 1
) -> None:
    async def main() -> None:
        connector = aiohttp.TCPConnector(force_close=False)
        timeout = aiohttp.ClientTimeout(total=100)
        async with (
            serving(replica or config(), [0] * ports) as servers,
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        ):
            await scenario(Client(session, servers))
        await asyncio.sleep(0)

    uvloop.run(main())


def chat(*messages: tuple[str, str], **fields: Any) -> dict[str, Any]:
    return {
        "model": "sim",
        "messages": [{"role": role, "content": text} for role, text in messages],
        **fields,
    }


def events(text: str) -> list[tuple[str | None, Any]]:
    """Server-sent events as (name, data), `[DONE]` as a string."""
    found = []
    assert text.endswith("\n\n")
    for block in text[:-2].split("\n\n"):
        name = None
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            else:
                assert field == "data"
                found.append((name, value if value == "[DONE]" else json.loads(value)))
    return found


async def raw_exchange(server: ReplicaServer, body: Any, version: str = "1.1") -> bytes:
    """All bytes of one answer on a connection that the client leaves open."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(server.host, server.port)
    head = f"POST /v1/chat/completions HTTP/{version}\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
