"""What keeping promised prompts warm spends, against its budget, where more is promised than all caches hold.

Two simulated replicas, each with room for 7 of 24 promised prompts, so that whatever is computed again pushes out
another one, and the keeper would compute all the time. The engines' own counters say what they computed, and a few
seconds after the promises are over the keeper must have stopped. `5m` means `--ttl` seconds here.

    python -m tests.bench.keep_warm [--ttl 60] [--ratio 0.1]
"""

from __future__ import annotations

import argparse
import re
import time
import urllib.request
from typing import Any

from tests.support.router_thread import RouterThread, running
from tests.support.sim_fleet import fleet
from warmroute.config.cached_contents import KeepWarmConfig
from warmroute.config.provider_caching import CachingConfig
from warmroute.config.schema import Address, Config, ReplicaConfig
from warmroute.dialects import cache_control

PROMPTS = 24
WORDS = 2_000
"""Some 2,500 tokens."""
CACHE_TOKENS = 20_000
SPEED = 1
TOKENS_PER_S = 8_000.0 * SPEED
AFTER_S = 10.0
"""How long is watched after the promises are over."""
_COMPUTED = re.compile(r'^vllm:prompt_tokens_by_source_total\{[^}]*source="local_compute"[^}]*\} (\S+)', re.M)


def computed_tokens(urls: list[str]) -> float:
    """Prompt tokens that the engines say they have computed."""
    tokens = 0.0
    for url in urls:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
            tokens += sum(map(float, _COMPUTED.findall(answer.read().decode())))
    return tokens


def promise(router: RouterThread, number: int) -> None:
    """Send a prompt with a breakpoint."""
    text = f"{number} " + "word " * WORDS
    body: Any = {
        "model": "sim",
        "max_tokens": 1,
        "system": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "Hi"}],
    }
    status, _, answer = router.post("/v1/messages", body)
    assert status == 200, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ttl", type=float, default=60.0)
    parser.add_argument("--ratio", type=float, default=0.1)
    options = parser.parse_args()
    cache_control.TTL_S["5m"] = options.ttl
    with fleet(2, "--speed", str(SPEED), "--cache-tokens", str(CACHE_TOKENS)) as sims:
        urls = [sim.urls[0] for sim in sims]
        config = Config(
            listen=Address("127.0.0.1:0"),
            admin=Address("127.0.0.1:0"),
            replicas=tuple(ReplicaConfig(url=sim.urls[0], id=sim.ids[0]) for sim in sims),
            caching=CachingConfig(anthropic=True),
            keep_warm=KeepWarmConfig(
                prompts_bytes=1 << 24, budget_ratio=options.ratio, tenant_ratio=options.ratio, interval_s=0.1
            ),
        )
        with running(config, 2) as router:
            (keeper,) = router.worker.warmth.keepers
            began_s = time.monotonic()
            for number in range(PROMPTS):
                promise(router, number)
            clients_tokens = computed_tokens(urls) - keeper.tokens
            over_s = time.monotonic() + options.ttl
            print("  time  sent  computed by the router's count  by the engines'  allowed")
            steps = [over_s - options.ttl * part for part in (0.75, 0.5, 0.25, 0.0)] + [over_s + AFTER_S]
            for at_s in steps:
                time.sleep(max(0.0, at_s - time.monotonic()))
                now_s = time.monotonic() - began_s
                engines_s = (computed_tokens(urls) - clients_tokens) / TOKENS_PER_S
                sent = sum(keeper.prefills.values())
                allowed_s = options.ratio * 2 * (60.0 + now_s)
                spent_s = keeper.budget.spent_s
                print(f"{now_s:5.0f}s {sent:5d} {spent_s:28.2f}s {engines_s:14.2f}s {allowed_s:7.2f}s")
            print(
                f"given up {keeper.given_up}, refused {keeper.budget.refused}, still promised {keeper.promises}"
            )


if __name__ == "__main__":
    main()
