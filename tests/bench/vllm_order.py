"""Whether policies come in the same order over real engines as over simulated ones, by cached tokens.

Run as `python -m tests.bench.vllm_order` (vLLM must be installed: `warmroute-replica vllm-install`). The same
conversations go over three vLLM CPU replicas with a tiny model and a pool of 256 blocks, through the real router, and
through `warmroute simulate`'s fleet of the same size. Prompts are token ids, so that lengths and shared blocks are the
workload's own; caches are emptied between policies. Times are the engines' own and are not compared: a laptop's
CPU is no GPU.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from tests.support.replay import TokenIds, replay
from tests.support.vllm_fleet import RouterProcess, call, wait_until
from warmroute_loadtest.simulate.metrics import figures
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.warm import Warm
from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn, Workload, interleave
from warmroute_replica.sim.step_time import StepTime
from warmroute_replica.vllm.launch import Fleet, Options

POLICIES = ("prefix-cost", "prefix-hash", "least-loaded", "round-robin")
BLOCK_TOKENS = 32
POOL_BLOCKS = 256
PREFILL_TOKENS_PER_S = 1500.0
"""About what one replica of three computes on two cores; the simulated order is the same from 600 to 3,000."""
IDS = range(300, 8000)
"""Of the tiny model's 8,192 tokens, those that are text."""


def conversations(count: int, seed: int = 1) -> Workload:
    """Six turns of 500 to 1,400 tokens under two system prompts; all together about as large as all caches."""
    rng = Random(seed)
    keys = KeyMaker()
    heads = [keys.fresh(8) for _ in range(2)]
    sessions = []
    for number in range(count):
        chain = list(heads[number % 2])
        tokens = len(chain) * BLOCK_TOKENS + int(400 * rng.uniform(0.7, 1.3))
        turns = []
        for turn in range(6):
            chain += keys.fresh(tokens // BLOCK_TOKENS - len(chain))
            pause_s = rng.uniform(1.0, 4.0) if turn else 0.0
            turns.append(Turn(f"{number}.{turn}", tokens, 4, tuple(chain), pause_s))
            tokens += int(150 * rng.uniform(0.7, 1.3))
        sessions.append(Session(1.5 * number * rng.uniform(0.8, 1.2), turns))
    return Workload("conversations", BLOCK_TOKENS, interleave(sessions))


def engines(replicas: int, preset: str, start_timeout_s: float) -> Fleet:
    """Real engines with pools of `POOL_BLOCKS`, to be entered."""
    options = Options(
        kv_bytes="64M",
        max_model_len=4096,
        block_size=BLOCK_TOKENS,
        dev_mode=True,
        extra=("--num-gpu-blocks-override", str(POOL_BLOCKS)),
    )
    return Fleet(replicas, print, preset=preset, options=options, start_timeout_s=start_timeout_s)


def served(workload: Workload, fleet: Fleet, policy: str) -> float:
    """Cached share over the real engines, from empty caches."""
    for url in fleet.urls:
        wait_until(lambda url=url: _emptied(url), "the cache is empty")  # type: ignore[misc]
    settings: dict[str, Any] = {
        "replicas": [{"url": url, "id": f"replica-{i}:8000"} for i, url in enumerate(fleet.urls)],
        "policy": {"name": policy, "prefill_tokens_per_s": PREFILL_TOKENS_PER_S},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "router.yaml"
        path.write_text(json.dumps(settings))
        with RouterProcess([], "--config", str(path), replicas=len(fleet.urls)) as router:
            content = TokenIds(BLOCK_TOKENS, IDS)
            result = asyncio.run(replay(router.url, workload, content, model=fleet.model_name))
    if result.failures:
        raise RuntimeError(f"{len(result.failures)} requests failed: {result.failures[:3]}")
    return result.cached_ratio


def _emptied(url: str) -> bool:
    return call(url, "/reset_prefix_cache", method="POST").status == 200


def simulated(workload: Workload, replicas: int, policy: str) -> float:
    """Cached share in virtual time."""
    step = StepTime(prefill_tokens_per_s=PREFILL_TOKENS_PER_S)
    fleet = FleetConfig(replicas, POOL_BLOCKS * BLOCK_TOKENS, step)
    return figures(simulate(workload, fleet, lambda site: Warm(site, policy))).cached_ratio


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, and print a row a policy."""
    parser = argparse.ArgumentParser(prog="tests.bench.vllm_order")
    parser.add_argument("--conversations", type=int, default=16)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--policy", action="append")
    parser.add_argument("--start-timeout-s", type=float, default=600.0)
    asked = parser.parse_args(argv)
    workload = conversations(asked.conversations)
    with engines(asked.replicas, asked.preset, asked.start_timeout_s) as fleet:
        print(f"{workload.requests} requests, {workload.prompt_tokens} prompt tokens")
        print(f"{'policy':14s} {'cached, vLLM':>13s} {'simulated':>10s}")
        for policy in asked.policy or POLICIES:
            real = served(workload, fleet, policy)
            print(
                f"{policy:14s} {real:13.3f} {simulated(workload, asked.replicas, policy):10.3f}", flush=True
            )


if __name__ == "__main__":
    main()
