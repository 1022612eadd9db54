"""A workload of the policy simulator served by processes: simulated replicas, the real router, an HTTP client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from tests.support.processes import RouterProcess, SimProcess
from tests.support.replay import Replay, Texts, replay
from tests.support.router_thread import wait_until
from warmroute_loadtest.simulate.simulation import FleetConfig
from warmroute_loadtest.simulate.workload import Workload


def live(
    workload: Workload,
    texts: Texts,
    fleet: FleetConfig,
    settings: dict[str, Any],
    *,
    processes: int = 1,
    name_sessions: bool = False,
    routers: int = 1,
) -> Replay:
    """Serve it, the replicas spread over so many processes, and called as in the simulation: the ring is the same.

    `settings` are the router's, its replicas excepted. With `name_sessions` requests carry a session header.
    Several routers hear of each other only through the registry that `settings` name.
    """
    engine = [
        "--cache-tokens", str(fleet.cache_tokens), "--block-tokens", str(workload.block_tokens),
        "--speed", str(fleet.step_time.speed), "--max-model-len", str(fleet.cache_tokens),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        shares = [len(range(i, fleet.replicas, processes)) for i in range(processes)]
        sims = [stack.enter_context(SimProcess(share, *engine)) for share in shares if share]
        urls = [url for sim in sims for url in sim.urls]
        replicas = [{"url": url, "id": f"replica-{i}:8000"} for i, url in enumerate(urls)]
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "router.yaml"
        path.write_text(json.dumps({**settings, "replicas": replicas}))
        running = [stack.enter_context(RouterProcess([], "--config", str(path))) for _ in range(routers)]
        wait_until(lambda: all(_routable(router) == len(urls) for router in running))
        if routers > 1:
            wait_until(lambda: all(r.metrics().get("warmroute_peers") == routers - 1 for r in running))
        first, *more = [f"http://127.0.0.1:{router.port}" for router in running]
        return asyncio.run(replay(first, workload, texts, name_sessions=name_sessions, more_urls=more))


def _routable(router: RouterProcess) -> int:
    rows = json.loads(router.admin("/replicas")[1])["replicas"]
    return sum(row["state"] == "ready" for row in rows)
