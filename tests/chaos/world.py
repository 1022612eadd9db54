"""Real processes: simulated replicas, a Redis, routers; killed, stopped and started again on the same ports."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.request import urlopen

from tests.support.processes import RouterProcess
from tests.support.redis_server import RedisServer, free_port
from tests.support.sim_fleet import SimProcess

REPLICAS = 4
ROUTERS = 3
LEFT = (
    "warmroute_in_flight",
    "warmroute_held",
    "warmroute_client_connections",
    "warmroute_buffered_body_bytes",
)


class World:
    """A fleet; a context manager. Its parts are public: scenarios break them."""

    def __init__(
        self,
        *,
        routers: int = ROUTERS,
        replicas: int = REPLICAS,
        workers: int = 1,
        settings: tuple[str, ...] = (),
    ) -> None:
        self.sims = [SimProcess("--speed", "20", "--cache-tokens", "60000") for _ in range(replicas)]
        self.redis = RedisServer()
        self.registry = self.redis.url
        self._settings = [word for setting in settings for word in ("--set", setting)]
        self.ports = [free_port() for _ in range(routers)]
        self.routers: list[RouterProcess] = []
        self._workers = workers
        self._stack = contextlib.ExitStack()
        self.logs: list[str] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.redis)
            for sim in self.sims:
                stack.enter_context(sim)
            stack.callback(lambda: [router.__exit__() for router in self.routers])
            for port in self.ports:
                self.routers.append(self.new_router(port))
            for router in self.routers:
                router.__enter__()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def urls(self) -> list[str]:
        """Data ports of the routers."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def new_router(self, port: int) -> RouterProcess:
        """A router on this port; not waited for."""
        return RouterProcess(
            [url for sim in self.sims for url in sim.urls],
            "--registry", self.registry, "--listen", f"127.0.0.1:{port}",
            "--set", "health.probe_interval_s=0.5", "--set", "upstream.first_byte_timeout_s=20",
            *self._settings,
            workers=self._workers,
        )  # fmt: skip

    def restart(self, number: int, *, kill: bool = False) -> None:
        """End a router, drained or not, and start another one on its port; ready at the return."""
        old = self.routers[number]
        if kill:
            old.process.kill()
            old.process.wait()
        else:
            assert old.terminate() == 0, old.output
        self.logs.append(old.output)
        old.__exit__()
        self.routers[number] = self.new_router(self.ports[number])
        self.routers[number].__enter__()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60.0) -> float:
        """Wait for a condition; how long it took, in seconds."""
        began_s = time.monotonic()
        while not await asyncio.to_thread(condition):
            if time.monotonic() - began_s > timeout_s:
                raise TimeoutError("the condition did not come true in time")
            await asyncio.sleep(0.05)
        return time.monotonic() - began_s

    def registries(self, up: bool) -> bool:
        """Whether all routers' registries are up, or all are not."""
        return all((r.metrics()["warmroute_registry_up"] == 1) is up for r in self.routers)

    def left_over(self) -> str:
        """What is not at rest within some seconds of the last client's leaving; empty: nothing."""
        until_s = time.monotonic() + 20
        while True:
            left = [
                f"{router.process.pid}: {name} {value:g}"
                for router in self.routers
                for name, value in router.metrics().items()
                if value and name.startswith(LEFT)
            ]
            left += [f"{url}: running" for sim in self.sims for url in sim.urls if _running(url)]
            if not left or time.monotonic() > until_s:
                return "; ".join(left)
            time.sleep(0.3)

    def tracebacks(self) -> list[str]:
        """Lines of the routers' logs that nobody should see."""
        logs = [*self.logs, *(router.output for router in self.routers)]
        return [
            line for log in logs for line in log.splitlines() if "Traceback" in line or "_crashed" in line
        ]

    def resident_bytes(self) -> int:
        """Memory of all routers."""
        return sum(
            int(Path(f"/proc/{router.process.pid}/statm").read_text().split()[1]) * 4096
            for router in self.routers
        )

    def descriptors(self) -> int:
        """Open files of all routers."""
        return sum(len(list(Path(f"/proc/{router.process.pid}/fd").iterdir())) for router in self.routers)


def _running(url: str) -> bool:
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return any(
        float(line.rpartition(" ")[2]) > 0
        for line in text.splitlines()
        if line.startswith(("vllm:num_requests_running", "vllm:num_requests_waiting"))
    )
