"""The demo's replicas are simulated ones, or real vLLM on this machine's CPU.

This module decides their number and size. Everything is asked over HTTP as it would be of any vLLM.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from warmroute_loadtest.demo.children import Child, Children, DemoError, program
from warmroute_replica.ports import LOCALHOST, free_ports

SIM_REPLICAS, SIM_CACHE_TOKENS = 4, 128_000
"""Number of simulated replicas, and the cache of each in tokens. All caches together hold a little more than the
conversations under way; one cache holds a fourth of that."""
VLLM_REPLICAS = 2
VLLM_KV_BYTES = "18M"
"""KV cache of each vLLM replica: 9,216 tokens of the tiny model. Two replicas hold a little more than the
conversations."""
VLLM_MODEL_TOKENS = 4096

START_S = 60.0
VLLM_START_S = 1800.0
"""Time within which vLLM must be there, in seconds; the first start installs it."""
POLL_S = 0.1

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas that run."""

    description: str
    urls: tuple[str, ...]
    children: tuple[Child, ...]
    cache_tokens: int
    """Cache size of all replicas together, in tokens."""
    reset_path: str
    """The path that empties a replica's cache when a request is posted to it."""

    async def reset(self, session: aiohttp.ClientSession) -> None:
        """Empty every replica's cache.

        Raises:
            DemoError: A replica refused.
        """
        for url in self.urls:
            async with session.post(f"{url}{self.reset_path}") as response:
                if response.status != 200:
                    raise DemoError(f"{url}{self.reset_path} answered {response.status}")


async def start_simulated(children: Children, session: aiohttp.ClientSession, speed: float) -> Fleet:
    """Start simulated replicas, each in a process of its own.

    Raises:
        DemoError: A replica did not come up.
    """
    command = [program("warmroute-replica"), "sim", "--speed", f"{speed:g}"]
    command += ["--cache-tokens", str(SIM_CACHE_TOKENS), "--port"]
    started = [
        (f"http://{LOCALHOST}:{port}", await children.start(f"replica {port}", [*command, str(port)]))
        for port in free_ports(SIM_REPLICAS)
    ]
    for url, child in started:
        await _wait_ready(url, child)
    urls = tuple(url for url, _ in started)
    return Fleet(
        f"{SIM_REPLICAS} simulated vLLM replicas",
        urls,
        tuple(child for _, child in started),
        await _cache_tokens(session, urls),
        "/sim/reset",
    )


async def start_vllm(children: Children, session: aiohttp.ClientSession, say: Say) -> Fleet:
    """Start real vLLM replicas; install the engine and make the model where they are missing.

    Raises:
        DemoError: The engine could not be installed, or a replica did not come up.
    """
    command = [program("warmroute-replica"), "vllm-start", "--foreground", "-n", str(VLLM_REPLICAS)]
    command += ["--base-port", "0", "--kv-bytes", VLLM_KV_BYTES, "--max-model-len", str(VLLM_MODEL_TOKENS)]
    child = await children.start("vllm replicas", [*command, "--dev-mode"])
    told = 0
    try:
        async with asyncio.timeout(VLLM_START_S):
            while True:
                lines = child.log_path.read_text(errors="replace").split("\n")[:-1]
                for line in lines[told:]:
                    say(f"  {line}")
                told = len(lines)
                urls = tuple(re.findall(r"--replica (http://\S+)", lines[-1])) if lines else ()
                if urls:
                    break
                child.check()
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise DemoError(f"vLLM was not ready within {VLLM_START_S:.0f} s:\n{child.log_tail()}") from None
    tokens = await _cache_tokens(session, urls)
    return Fleet(f"{VLLM_REPLICAS} vLLM replicas on the CPU", urls, (child,), tokens, "/reset_prefix_cache")


async def _wait_ready(url: str, child: Child) -> None:
    """Wait until the child itself says that it listens: another process that has its port would answer, too."""
    try:
        async with asyncio.timeout(START_S):
            while f"replica ready on {url}\n" not in child.log_path.read_text(errors="replace"):
                child.check()
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise DemoError(f"{child.name} is not ready after {START_S:.0f} s:\n{child.log_tail()}") from None


async def _cache_tokens(session: aiohttp.ClientSession, urls: tuple[str, ...]) -> int:
    """Return the sum of the cache sizes, in tokens, that replicas report in `vllm:cache_config_info`."""
    total = 0
    for url in urls:
        async with session.get(f"{url}/metrics") as response:
            text = await response.text()
        found = re.search(r'^vllm:cache_config_info\{.*kv_cache_size_tokens="(\d+)"', text, re.MULTILINE)
        if found is None:
            raise DemoError(f"{url}/metrics does not tell the size of the cache")
        total += int(found[1])
    return total
