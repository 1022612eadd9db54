"""A server that answers probes as vLLM does, and can be made to misbehave; aiohttp, in the test's own loop."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from aiohttp import web

METRICS = """process_start_time_seconds {start}
vllm:num_requests_running{{engine="0",model_name="m"}} 2.0
vllm:num_requests_waiting{{engine="0",model_name="m"}} 1.0
vllm:cache_config_info{{block_size="32",engine="0",kv_cache_size_tokens="8192",num_gpu_blocks="256"}} 1.0
"""


class FakeVllm:
    """One replica on one port, which it keeps over restarts."""

    def __init__(self) -> None:
        self.port = 0
        self.start_time_s = 1_700_000_000.25
        self.health_status = 200
        self.health_delay_s = 0.0
        self.metrics_status = 200
        self.metrics: bytes | None = None
        """Sent instead of the usual text."""
        self.models_status = 200
        self.models: bytes = json.dumps({"object": "list", "data": [{"id": "m"}, {"id": "lora"}]}).encode()
        self.keep_alive = True
        self.requests: Counter[str] = Counter()
        self.authorizations: set[str | None] = set()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/health", self._health)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        self._runner = runner

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def restart(self) -> None:
        """End and begin again at once, as a process would: every connection is closed, the start time is another."""
        await self.stop()
        self.start_time_s += 1
        await self.start()

    async def __aenter__(self) -> FakeVllm:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _answer(self, request: web.Request, status: int, body: bytes) -> web.Response:
        self.requests[request.path] += 1
        self.authorizations.add(request.headers.get("Authorization"))
        response = web.Response(status=status, body=body)
        if not self.keep_alive:
            response.force_close()
        return response

    async def _health(self, request: web.Request) -> web.Response:
        await asyncio.sleep(self.health_delay_s)
        return self._answer(request, self.health_status, b"")

    async def _metrics(self, request: web.Request) -> web.Response:
        text = METRICS.format(start=self.start_time_s).encode() if self.metrics is None else self.metrics
        return self._answer(request, self.metrics_status, text)

    async def _models(self, request: web.Request) -> web.Response:
        return self._answer(request, self.models_status, self.models)
