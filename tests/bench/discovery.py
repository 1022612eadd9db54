"""What discovery costs and how fast it is: `python -m tests.bench.discovery [latency|idle|storm|pages …]`.

- latency: milliseconds from an endpoint's event to its first request, and from its end to its last, through a router.
- idle: CPU time of following 1,000 endpoints of which nothing changes.
- storm: the longest turn of the event loop while all of 100 or 1,000 endpoints are exchanged at once, and the slowest
  choice of a replica under 200 requests a second meanwhile, which makes its view and its ring of replicas anew.
- pages: reading 5,000 slices: calls, seconds, and the longest turn of the event loop.

The API server is the fake one, in a process of its own. Turns (of 1 ms at least, so several short ones may be taken
for one) and choices are in CPU time of the router's thread, which says the same on a busy machine; other times do not.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import multiprocessing.connection
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import uvloop
from aiohttp import web

from tests.support.discovery_worlds import kubernetes
from tests.support.fake_kubernetes import (
    FakeKubernetes,
    KubernetesThread,
    endpoint,
    endpoint_slice,
    kubeconfig,
)
from tests.support.router_thread import RouterThread
from warmroute.adapters.discovery.kubernetes.api import Patience
from warmroute.config.discovery_urls import KubernetesSource
from warmroute.config.load import load
from warmroute.core.choice.cost import CostParameters
from warmroute.core.choice.policies import POLICIES
from warmroute.core.fleet.fleet import Fleet
from warmroute.core.health.health import HealthParameters
from warmroute.core.types import FingerprintHash, Incarnation, ReplicaId, RequestShape
from warmroute.ports import DiscoveryFailure, ProbeResult
from warmroute.running import GC_THRESHOLDS
from warmroute.service.discovery_sources import DiscoverySources
from warmroute.service.membership import Membership
from warmroute.tasks import Tasks

SOURCE = KubernetesSource("prod", "vllm", port="http")
REQUESTS_PER_S = 200
ENDPOINTS = 1000


def _slices(count: int, each: int, generation: int = 0) -> list[dict[str, Any]]:
    return [
        endpoint_slice(
            f"vllm-{index:05}",
            [
                endpoint(
                    f"vllm-{generation}-{index:05}-{number:03}",
                    f"10.{generation}.{index // 250}.{index % 250}"
                    if each == 1
                    else f"10.{generation}.{index}.{number}",
                    serving=True,
                    terminating=False,
                    nodeName=f"node-{number}",
                    zone="eu-1a",
                )
                for number in range(each)
            ],
        )
        for index in range(count)
    ]


def _serve(pipe: multiprocessing.connection.Connection, bookmark_s: float) -> None:
    with KubernetesThread(FakeKubernetes(bookmark_s=bookmark_s)) as server:
        pipe.send(server.fake.url)
        with suppress(EOFError):
            while True:
                slices = pipe.recv()
                server.do(lambda fake, slices=slices: fake.put(*slices))
                pipe.send(len(server.fake.requests))


@contextmanager
def _server(bookmark_s: float = 60.0) -> Iterator[tuple[str, Callable[[list[dict[str, Any]]], int]]]:
    """URL, and what puts slices there and says how many calls were made."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(there, bookmark_s), daemon=True
    )
    process.start()
    url = here.recv()

    def put(slices: list[dict[str, Any]]) -> int:
        here.send(slices)
        return int(here.recv())

    try:
        yield url, put
    finally:
        process.terminate()
        process.join()


class _Quiet:
    def succeeded(self) -> None: ...

    def failed(self, failure: DiscoveryFailure, detail: str, retry_in_s: float) -> None:
        print("failed:", failure, detail)

    def noticed(self, problem: str) -> None: ...


class _Turns:
    """CPU time of the event loop's turns: for as long, at most, a request had to wait."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        while True:
            before_s = time.thread_time()
            await asyncio.sleep(0.001)
            self.longest_s = max(self.longest_s, time.thread_time() - before_s)


async def _idle() -> None:
    seconds = 20.0
    with _server(bookmark_s=1.0) as (url, put):
        put(_slices(ENDPOINTS // 100, 100))
        discovery = kubernetes(SOURCE, url, _Quiet(), patience=Patience())
        members = await anext(watching := discovery.watch())
        following = asyncio.create_task(anext(watching))  # type: ignore[arg-type]
        await asyncio.sleep(1.0)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        await asyncio.sleep(seconds)
        share = (time.process_time() - cpu_s) / (time.perf_counter() - began_s)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    print(
        f"idle: {len(members):,} endpoints, a bookmark every second (60 times as often as a real API server):"
    )
    print(f"      {100 * share:.2f} % of a core")


async def _pages() -> None:
    with _server() as (url, put):
        for start in range(0, 5000, 500):
            put(_slices(5000, 1)[start : start + 500])
        discovery = kubernetes(SOURCE, url, _Quiet(), patience=Patience())
        turns = _Turns()
        watching = asyncio.create_task(turns.watch())
        began_s = time.perf_counter()
        members = await anext(seen := discovery.watch())
        took_s = time.perf_counter() - began_s
        calls = put([])
        await seen.aclose()  # type: ignore[attr-defined]
        watching.cancel()
    print(f"pages: 5,000 slices, {len(members):,} endpoints in {calls} calls and {took_s:.2f} s;")
    print(f"       longest turn {1e3 * turns.longest_s:.1f} ms")


class _Engine:
    """Every replica is well, and takes 20 ms to say so."""

    def __init__(self) -> None:
        self.lives = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def probe(self, replica_id: ReplicaId, url: str) -> ProbeResult:
        await asyncio.sleep(0.02)
        return ProbeResult(
            alive=True,
            incarnation=Incarnation(hash(url) & 0xFFFFFFFF),
            models={"m": {}},
            block_tokens=16,
            cache_tokens=500_000,
        )

    def forget(self, replica_id: ReplicaId) -> None: ...


async def _storm() -> None:
    for endpoints in (100, 1000):
        with _server() as (url, put):
            await _exchange(endpoints, url, put)


async def _exchange(endpoints: int, url: str, put: Callable[[list[dict[str, Any]]], int]) -> None:
    parameters, tasks = CostParameters(), Tasks()
    fleet = Fleet(POLICIES["prefix-cost"](parameters), Random(1), parameters, HealthParameters())
    put(_slices(endpoints // 100, 100))
    sources = DiscoverySources(tasks, time.time)
    sources.use(
        sources.prepared({"kubernetes": lambda report: kubernetes(SOURCE, url, report, patience=Patience())})
    )
    # No probe of a well replica comes again within the run: those are not discovery's.
    membership = Membership(
        fleet, _Engine(), sources, tasks, interval_s=600.0, clock=time.time, rng=Random(1)
    )
    membership.start()
    await _until(lambda: fleet.routable() == endpoints)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)  # as the router does
    for generation, requests in ((1, False), (2, True)):
        turns, slowest = _Turns(), [0.0]
        running = [asyncio.create_task(turns.watch())]
        if requests:
            running.append(asyncio.create_task(_requests(fleet, slowest)))
        await asyncio.sleep(1.0)
        slices = _slices(endpoints // 100, 100, generation)
        await asyncio.sleep(0.01)  # that was a turn of ours
        before_s, turns.longest_s, slowest[0] = slowest[0], 0.0, 0.0
        began_s = time.perf_counter()
        await asyncio.get_running_loop().run_in_executor(None, put, slices)
        name = f"vllm-{generation}-"
        await _until(
            lambda name=name: (
                fleet.routable() == endpoints  # type: ignore[misc]
                and all(replica_id.startswith(name) for replica_id in fleet.replicas)
            )
        )
        took_s = time.perf_counter() - began_s
        for task in running:
            task.cancel()
        print(f"storm: {endpoints:,} endpoints exchanged in {took_s:.1f} s,", end=" ")
        if requests:
            print(f"slowest choice {1e3 * slowest[0]:.1f} ms (first of all, before: {1e3 * before_s:.1f} ms)")
        else:
            print(f"without requests: longest turn {1e3 * turns.longest_s:.1f} ms")
    await tasks.stop()


async def _requests(fleet: Fleet, slowest: list[float]) -> None:
    rng = Random(2)
    while True:
        shape = RequestShape(
            rungs=[FingerprintHash(rng.getrandbits(64)) for _ in range(10)],
            prompt_bytes=4000,
            prompt_tokens=1000,
            model="m",
        )
        began_s = time.thread_time()
        with suppress(Exception):
            fleet.settle(fleet.choose_and_reserve(shape, None, time.time()), time.time())
        slowest[0] = max(slowest[0], time.thread_time() - began_s)
        await asyncio.sleep(1.0 / REQUESTS_PER_S)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.005)


async def _replicas(addresses: list[str], served: dict[str, list[float]]) -> tuple[int, list[web.AppRunner]]:
    runners, port = [], 0
    for address in addresses:

        async def answer(request: web.Request, address: str = address) -> web.Response:
            if request.path == "/v1/models":
                return web.json_response({"object": "list", "data": [{"id": "m"}]})
            if request.method == "POST":
                served.setdefault(address, []).append(time.time())
                return web.json_response({"id": "1", "choices": [{"text": "x"}]})
            return web.Response(text="")

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, address, port).start()
        port = port or runner.addresses[0][1]
        runners.append(runner)
    return port, runners


def _latency() -> None:
    import threading

    addresses = [f"127.0.0.{number}" for number in range(1, 4)]
    served: dict[str, list[float]] = {}
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    port, _ = asyncio.run_coroutine_threadsafe(_replicas(addresses, served), loop).result()
    ports = [{"name": "http", "port": port}]

    def slice_of(*there: str, leaving: str = "") -> dict[str, Any]:
        rows = [
            endpoint(
                f"pod-{address}",
                address,
                ready=address != leaving,
                serving=True,
                terminating=address == leaving,
            )
            for address in there
        ]
        return endpoint_slice("s", rows, ports=ports)

    with KubernetesThread() as server, TemporaryDirectory() as folder:
        import os

        os.environ["KUBECONFIG"] = str(kubeconfig(server.fake.url, Path(folder)))
        server.do(lambda fake: fake.put(slice_of(*addresses[:2])))
        config = load(
            [
                ("--discover", "discovery", ["kubernetes://prod/vllm?port=http"]),
                ("--listen", "listen", "127.0.0.1:0"),
                ("--admin", "admin", "127.0.0.1:0"),
                ("--policy", "policy.name", "round-robin"),
            ],
            environ={},
        )
        with RouterThread(config) as router:
            stop = threading.Event()
            failed: Counter[str] = Counter()
            sender = threading.Thread(target=_send, args=(router.port, stop, failed), daemon=True)
            sender.start()
            _wait(lambda: all(served.get(address) for address in addresses[:2]))
            failed.clear()  # before the first look at the replicas
            joins, drains, gone = [], [], []
            for _ in range(5):
                served.pop(addresses[2], None)
                at_s = time.time()
                server.do(lambda fake: fake.put(slice_of(*addresses)))
                _wait(lambda: bool(served.get(addresses[2])))
                joins.append(served[addresses[2]][0] - at_s)
                time.sleep(0.3)
                at_s = time.time()
                server.do(lambda fake: fake.put(slice_of(*addresses, leaving=addresses[2])))
                time.sleep(1.2)
                drains.append(served[addresses[2]][-1] - at_s)
                server.do(lambda fake: fake.put(slice_of(*addresses)))
                count = len(served[addresses[2]])
                _wait(lambda count=count: len(served[addresses[2]]) > count)  # type: ignore[misc]
                at_s = time.time()
                server.do(lambda fake: fake.put(slice_of(*addresses[:2])))
                time.sleep(1.2)
                gone.append(served[addresses[2]][-1] - at_s)
            stop.set()
            sender.join()
    print(
        f"latency, the slowest of 5: first request {1e3 * max(joins):.0f} ms after the event of a ready endpoint;"
    )
    print(
        f"         last request {1e3 * max(drains):.0f} ms after it terminates, {1e3 * max(gone):.0f} ms after it is"
        f" removed; failed requests: {sum(failed.values())}"
    )


def _send(port: int, stop: Any, failed: Counter[str]) -> None:
    while not stop.is_set():
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions",
            b'{"model": "m", "prompt": "x"}',
            {"Content-Type": "application/json"},
        )
        try:
            urllib.request.urlopen(request, timeout=30).read()
        except OSError as error:
            failed[str(error)] += 1
        time.sleep(0.005)


def _wait(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError
        time.sleep(0.001)


PARTS: dict[str, Callable[[], object]] = {
    "latency": _latency,
    "idle": lambda: uvloop.run(_idle()),
    "storm": lambda: uvloop.run(_storm()),
    "pages": lambda: uvloop.run(_pages()),
}


def main() -> None:
    """Measure what is named, or everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    for part in parser.parse_args().parts or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()
