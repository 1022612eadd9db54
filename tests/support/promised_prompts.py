"""Prompts with breakpoints on a wire whose replicas compute what they are sent, and the promises that come of them."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from tests.support.recorded import RECORDED
from tests.support.wire import Wire
from warmroute.caching.prefilled import Prefilled
from warmroute.caching.texts import Texts
from warmroute.config.cached_contents import KeepWarmConfig
from warmroute.config.provider_caching import CachingConfig
from warmroute.core.types import Api, ReplicaId, RequestShape
from warmroute.dataplane.caching import Caching
from warmroute.dataplane.own_requests import OwnRequests
from warmroute.service.prompt_promises import PromptPromises

LONG = "word " * 2000
"""Some 2,500 tokens."""
EPHEMERAL = {"type": "ephemeral"}
MIB = 1 << 20


class Sender:
    """Notes what is sent, and in the registry, as a request would; replicas answer as told."""

    def __init__(self, world: PromptWorld) -> None:
        self._world = world
        self._own = OwnRequests(world.wire.gateway)
        self.sent: list[tuple[ReplicaId | None, Api, bytes]] = []
        self.answer: Prefilled | None = None
        """None: the prompt is computed, all of it."""
        self.holds: asyncio.Event | None = None
        """Answers come once it is set."""

    @property
    def fingerprints(self) -> object:
        return self._own.fingerprints

    def shape(self, body: bytes, sharing: str, api: Api) -> RequestShape:
        return self._own.shape(body, sharing, api)

    async def send(
        self, body: bytes, *, sharing: str, on: ReplicaId | None, path: bytes, api: Api
    ) -> Prefilled:
        self.sent.append((on, api, body))
        shape = self._own.shape(body, sharing, api)
        wire = self._world.wire
        if self.answer is not None:
            return self.answer
        assert on is not None
        incarnation = wire.worker.fleet.replicas[on].incarnation
        assert incarnation is not None
        wire.gateway.registry.touch(shape.rungs, incarnation, self._world.now_s)
        if self.holds is not None:
            await self.holds.wait()
        return Prefilled(200, prompt_tokens=shape.prompt_tokens, cached_tokens=0)


class PromptWorld:
    """A router, its clients, and virtual time."""

    def __init__(self, replicas: int = 3, texts_bytes: int = 8 * MIB, **settings: Any) -> None:
        self.wire = Wire(
            replicas=replicas,
            caching=CachingConfig(openai=True, anthropic=True),
            keep_warm=KeepWarmConfig(prompts_bytes=texts_bytes),
            ask_usage=False,
            **settings,
        )
        self.now_s = time.time()
        self.wire.gateway.clock = lambda: self.now_s
        caching = self.wire.gateway.caching
        assert caching is not None
        assert caching.texts is not None
        self.caching: Caching = caching
        self.texts: Texts = caching.texts
        self.sender = Sender(self)
        self.promises = PromptPromises(caching.promises, self.texts)

    def ask(self, body: dict[str, Any], key: str = "one", path: str = "/v1/messages") -> bytes:
        """One request of a client, which a replica computes, and the answer with its head."""
        data = json.dumps({"model": "m", "max_tokens": 9, **body}).encode()
        client = self.wire.connect()
        self.wire.drop_upstreams()
        pools = [self.wire.add_upstream(number) for number in range(len(self.wire.replicas))]
        head = f"POST {path} HTTP/1.1\r\nHost: r\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(data)}\r\n\r\n"
        before = {id(transport): len(transport.written) for _, transport in pools}
        client.feed(head.encode() + data)
        for connection, transport in pools:
            if len(transport.written) > before[id(transport)]:
                connection.data_received(RECORDED["message" if path == "/v1/messages" else "chat"])
        assert self.wire.at_rest()
        return client.output


def marked(text: str, question: str = "Hi", mark: Any = EPHEMERAL) -> dict[str, Any]:
    """A request whose system prompt is promised."""
    return {
        "system": [{"type": "text", "text": text, "cache_control": mark}],
        "messages": [{"role": "user", "content": question}],
    }
