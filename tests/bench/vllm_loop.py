"""Whether routers know what real engines keep, where caches are four times smaller than the engines say.

Run as `python -m tests.bench.vllm_loop` (vLLM must be installed: `warmroute-replica vllm-install`). Two vLLM CPU
replicas with a tiny model and a pool of 256 blocks serve conversations through the real router, which reads their
`/metrics` through a relay that multiplies the size of the cache by four; everything else passes as it is. Once with
the loop closed, once with `feedback.ask_usage` off: the clients ask for no usage, so then nothing is reported. What was
predicted is read from the answers' headers, what was delivered from the engines' own counters, both over all requests
but the first 500; at the border, sending waits until nothing is under way. The same goes through `warmroute simulate`'s
fleet of the same size. Times are not compared: a laptop's CPU is no GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from aiohttp import web

from tests.bench.vllm_order import BLOCK_TOKENS, POOL_BLOCKS, engines
from tests.support.replay import TokenIds
from tests.support.vllm_fleet import RouterProcess, call, wait_until
from warmroute_loadtest.simulate.metrics import SETTLED_REQUESTS, figures
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.warm import warm
from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn, Workload, interleave
from warmroute_replica.sim.step_time import StepTime
from warmroute_replica.vllm.launch import Fleet

REPLICAS = 2
BELIEVED_RATIO = 4
PREFILL_TOKENS_PER_S = 2500.0
"""About what one replica of two computes on two cores."""
IDS = range(300, 8000)
"""Of the tiny model's 8,192 tokens, those that are text."""
TURNS = 8

_SIZES = re.compile(rb'(num_gpu_blocks|kv_cache_size_tokens)="([0-9]+)"')
_HITS = re.compile(r"^vllm:prefix_cache_(queries|hits)_total\{[^}]*\} (\S+)$", re.MULTILINE)


def conversations(count: int, every_s: float, pause_s: float, seed: int = 1) -> Workload:
    """Eight turns of 590 to 1,500 tokens under two system prompts, after pauses of all lengths."""
    rng = Random(seed)
    keys = KeyMaker()
    heads = [keys.fresh(6) for _ in range(2)]
    sessions = []
    start_s = 0.0
    for number in range(count):
        chain = list(heads[number % 2])
        tokens = len(chain) * BLOCK_TOKENS + int(400 * rng.uniform(0.7, 1.3))
        turns = []
        for turn in range(TURNS):
            chain += keys.fresh(tokens // BLOCK_TOKENS - len(chain))
            wait_s = min(rng.expovariate(1.0 / pause_s), 6.0 * pause_s) if turn else 0.0
            turns.append(Turn(f"{number}.{turn}", tokens, 2, tuple(chain), wait_s))
            tokens += int(130 * rng.uniform(0.7, 1.3))
        sessions.append(Session(start_s, turns))
        start_s += rng.expovariate(1.0 / every_s)
    return Workload("conversations", BLOCK_TOKENS, interleave(sessions))


@dataclass(slots=True)
class Shares:
    """Of prompt tokens, after the first 500 requests."""

    predicted: float
    delivered: float

    def __str__(self) -> str:
        off = self.predicted / self.delivered - 1.0 if self.delivered else float("nan")
        return f"{self.predicted:9.3f} {self.delivered:9.3f} {off:+7.1%}"


class Clients:
    """Send a workload and count what comes back; nobody asks for usage."""

    def __init__(self, url: str, model: str, engines: Sequence[str], settle: int) -> None:
        self._url = url
        self._model = model
        self._engines = engines
        self._settle = settle
        self._content = TokenIds(BLOCK_TOKENS, IDS)
        self._open = asyncio.Event()
        self._at_rest = asyncio.Event()
        self._under_way = 0
        self._sent = 0
        self._prompt_tokens = self._predicted_tokens = 0
        self._before: tuple[float, float] = (0.0, 0.0)

    async def serve(self, workload: Workload) -> Shares:
        """All of it; returns what the requests after the first ones came to."""
        self._open.set()
        timeout = aiohttp.ClientTimeout(total=600.0)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
            started_s = time.monotonic()
            async with asyncio.TaskGroup() as group:
                for session in workload.sessions:
                    group.create_task(self._session(http, session, started_s))
        queries, hits = await asyncio.to_thread(cache_counters, self._engines)
        asked = queries - self._before[0]
        if abs(asked - self._prompt_tokens) > 0.01 * asked:
            raise RuntimeError(f"engines looked up {asked} tokens, {self._prompt_tokens} were sent")
        return Shares(self._predicted_tokens / self._prompt_tokens, (hits - self._before[1]) / asked)

    async def _session(self, http: aiohttp.ClientSession, session: Session, started_s: float) -> None:
        due_s = started_s + session.start_s
        for turn in session.turns:
            if turn.pause_s:
                due_s = time.monotonic() + turn.pause_s
            await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
            await self._open.wait()
            self._sent += 1
            settled = self._sent > self._settle
            self._under_way += 1
            self._at_rest.clear()
            if self._sent == self._settle:
                self._open.clear()
            await self._ask(http, turn, settled)
            self._under_way -= 1
            if not self._under_way:
                self._at_rest.set()
            if not self._open.is_set():
                await self._take_stock()

    async def _take_stock(self) -> None:
        """At the border: what engines have counted so far; then go on."""
        await self._at_rest.wait()
        if not self._open.is_set():
            counters = await asyncio.to_thread(cache_counters, self._engines)
            if not self._open.is_set():
                self._before = counters
                self._open.set()

    async def _ask(self, http: aiohttp.ClientSession, turn: Turn, settled: bool) -> None:
        body = {
            "model": self._model,
            "prompt": self._content.prompt(turn),
            "max_tokens": turn.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
        async with http.post(f"{self._url}/v1/completions", json=body) as response:
            text = await response.read()
            if response.status != 200 or not text.endswith(b"data: [DONE]\n\n") or b'"usage":{' in text:
                raise RuntimeError(f"{turn.id}: {response.status}: {text[:200]!r}")
            if settled:
                self._prompt_tokens += turn.prompt_tokens
                self._predicted_tokens += int(response.headers["X-Warmroute-Predicted-Cached-Tokens"])


def cache_counters(engines: Sequence[str]) -> tuple[float, float]:
    """Prompt tokens that the engines have looked up in their caches, and found there, since they began."""
    totals = {"queries": 0.0, "hits": 0.0}
    for url in engines:
        for name, value in _HITS.findall(call(url, "/metrics").body.decode()):
            totals[name] += float(value)
    return totals["queries"], totals["hits"]


@contextmanager
def exaggerating(engines: Sequence[str], ratio: int) -> Iterator[list[str]]:
    """URLs where the engines answer, with caches so many times larger in `/metrics`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()

    async def begin() -> tuple[list[web.AppRunner], aiohttp.ClientSession, list[str]]:
        timeout = aiohttp.ClientTimeout(total=600.0)
        http = aiohttp.ClientSession(
            timeout=timeout, connector=aiohttp.TCPConnector(limit=0, force_close=True), auto_decompress=False
        )
        runners, urls = [], []
        for engine in engines:
            application = web.Application(client_max_size=1 << 30)
            application.router.add_route("*", "/{path:.*}", _Relay(http, engine, ratio).answer)
            runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            runners.append(runner)
            urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        return runners, http, urls

    async def end(runners: list[web.AppRunner], http: aiohttp.ClientSession) -> None:
        for runner in runners:
            await runner.cleanup()
        await http.close()

    runners, http, urls = asyncio.run_coroutine_threadsafe(begin(), loop).result(60.0)
    try:
        yield urls
    finally:
        asyncio.run_coroutine_threadsafe(end(runners, http), loop).result(60.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Relay:
    """Passes requests on to one engine, and its answers back piece by piece."""

    def __init__(self, http: aiohttp.ClientSession, engine: str, ratio: int) -> None:
        self._http = http
        self._engine = engine
        self._ratio = ratio

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("host", "connection", "transfer-encoding", "content-length")
        }
        async with self._http.request(
            request.method, f"{self._engine}{request.path_qs}", headers=headers, data=await request.read()
        ) as response:
            kept = {"Content-Type": response.headers.get("Content-Type", "application/json")}
            if request.path == "/metrics":
                text = _SIZES.sub(self._larger, await response.read())
                return web.Response(status=response.status, body=text, headers=kept)
            back = web.StreamResponse(status=response.status, headers=kept)
            await back.prepare(request)
            async for piece in response.content.iter_any():
                await back.write(piece)
            await back.write_eof()
            return back

    def _larger(self, found: re.Match[bytes]) -> bytes:
        return b'%b="%d"' % (found[1], int(found[2]) * self._ratio)


def served(workload: Workload, fleet: Fleet, closed: bool, settle: int) -> tuple[Shares, dict[str, Any]]:
    """Over the real engines, from empty caches; and what the router's `/replicas` says at the end."""
    for url in fleet.urls:
        wait_until(lambda url=url: _emptied(url), "the cache is empty")  # type: ignore[misc]
    with exaggerating(fleet.urls, BELIEVED_RATIO) as urls, tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "replicas": [{"url": url, "id": f"replica-{i}:8000"} for i, url in enumerate(urls)],
            "policy": {"prefill_tokens_per_s": PREFILL_TOKENS_PER_S},
            "feedback": {"ask_usage": closed},
        }
        path = Path(folder) / "router.yaml"
        path.write_text(json.dumps(settings))
        with RouterProcess([], "--config", str(path), replicas=len(urls)) as router:
            believed = {row["cache_tokens"] for row in call(router.admin_url, "/replicas").json["replicas"]}
            if believed != {BELIEVED_RATIO * POOL_BLOCKS * BLOCK_TOKENS}:
                raise RuntimeError(f"the router believes in caches of {believed} tokens")

            async def sent() -> Shares:
                return await Clients(router.url, fleet.model_name, fleet.urls, settle).serve(workload)

            return asyncio.run(sent()), call(router.admin_url, "/replicas").json


def _emptied(url: str) -> bool:
    return call(url, "/reset_prefix_cache", method="POST").status == 200


def simulated(workload: Workload, closed: bool) -> Shares:
    """In virtual time; after `SETTLED_REQUESTS`."""
    tokens = POOL_BLOCKS * BLOCK_TOKENS
    fleet = FleetConfig(
        REPLICAS,
        tokens,
        StepTime(prefill_tokens_per_s=PREFILL_TOKENS_PER_S),
        believed_cache_tokens=BELIEVED_RATIO * tokens,
        feedback=closed,
    )
    found = figures(simulate(workload, fleet, warm("prefix-cost")))
    return Shares(found.settled_predicted_ratio, found.settled_cached_ratio)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and print two rows."""
    parser = argparse.ArgumentParser(prog="tests.bench.vllm_loop")
    parser.add_argument("--conversations", type=int, default=140)
    parser.add_argument(
        "--every-s", type=float, default=2.5, help="between two conversations' starts, in the mean"
    )
    parser.add_argument("--pause-s", type=float, default=10.0, help="between two turns, in the mean")
    parser.add_argument("--settle", type=int, default=SETTLED_REQUESTS, help="requests that do not count")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--start-timeout-s", type=float, default=600.0)
    parser.add_argument("--only-simulated", action="store_true")
    parser.add_argument("--only-closed", action="store_true", help="not without the loop")
    asked = parser.parse_args(argv)
    workload = conversations(asked.conversations, asked.every_s, asked.pause_s)
    print(f"{workload.requests} requests, {workload.prompt_tokens} prompt tokens", flush=True)
    header = f"{'loop':18s} {'predicted':>9s} {'delivered':>9s} {'off by':>7s}"
    print(header)
    loops = (True,) if asked.only_closed else (True, False)
    for closed in loops:
        print(f"{'simulated, ' + _name(closed):18s} {simulated(workload, closed)}", flush=True)
    if asked.only_simulated:
        return
    with engines(REPLICAS, asked.preset, asked.start_timeout_s) as fleet:
        for closed in loops:
            started_s = time.monotonic()
            shares, state = served(workload, fleet, closed, asked.settle)
            kept = [(row["cache_lifetime_s"], row["cache_found_age_s"]) for row in state["replicas"]]
            print(
                f"{'vLLM, ' + _name(closed):18s} {shares}   {time.monotonic() - started_s:.0f} s; lifetimes {kept}, "
                f"registry idle time {state['registry']['idle_s']:.0f} s",
                flush=True,
            )


def _name(closed: bool) -> str:
    return "closed" if closed else "open"


if __name__ == "__main__":
    main()
