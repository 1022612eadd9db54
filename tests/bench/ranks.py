"""What knowing data-parallel ranks is worth: 8 servers, 2 of 4 ranks, and those to a router that knows no ranks.

    python -m tests.bench.ranks [--talks 160] [--turns 6]

Conversations over simulated engines whose caches together hold all of them; the same requests in each setting, through
one real router. Prints the share of prompt tokens that engines had cached, as they report it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import urllib.request

import aiohttp

from tests.support.router_thread import RouterThread, running
from tests.support.sim_fleet import SimProcess
from warmroute.config.schema import Address, Config, HealthConfig, ReplicaConfig

WORDS = (
    "import return class self value index string error module object function default result table".split()
)
TURN_WORDS = 900
AT_ONCE = 24


def _text(seed: str, words: int) -> str:
    dice = random.Random(seed)
    return " ".join(dice.choice(WORDS) for _ in range(words))


async def _talk(session: aiohttp.ClientSession, url: str, number: int, turns: int) -> None:
    messages = [{"role": "system", "content": _text(f"system {number % 4}", 300)}]
    for turn in range(turns):
        messages.append({"role": "user", "content": _text(f"{number} {turn}", TURN_WORDS)})
        body = {"model": "sim", "messages": messages, "max_tokens": 8}
        async with session.post(url + "/v1/chat/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            told = await answer.json()
        messages.append({"role": "assistant", "content": told["choices"][0]["message"]["content"]})


async def _traffic(url: str, talks: int, turns: int) -> None:
    free = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with free:
            await _talk(session, url, number, turns)

    async with aiohttp.ClientSession() as session:
        # All are held, and then all again: what is cached has to last.
        await asyncio.gather(*[one(number) for number in range(talks)])
        await asyncio.gather(*[one(number) for number in range(talks)])


def _share(sims: list[SimProcess]) -> tuple[float, list[int]]:
    prompt = cached = 0
    ranks: list[int] = []
    for sim in sims:
        for url in sim.urls:
            with urllib.request.urlopen(url + "/sim/stats", timeout=60) as answer:
                told = json.load(answer)
            prompt += told["prompt_tokens"]
            cached += told["cached_tokens"]
            ranks += [rank["prompt_tokens"] for rank in told["ranks"]]
    return cached / prompt, ranks


def _measure(name: str, servers: int, ranks: int, named: int | None, talks: int, turns: int) -> float:
    arguments = ("--ranks", str(ranks), "--speed", "200", "--cache-tokens", "150000")
    sim = SimProcess(*arguments, ports=servers)
    with sim:
        config = Config(
            listen=Address("127.0.0.1:0"),
            admin=Address("127.0.0.1:0"),
            replicas=tuple(
                ReplicaConfig(url=url, id=f"s{number}", ranks=named) for number, url in enumerate(sim.urls)
            ),
            health=HealthConfig(probe_interval_s=0.5),
        )
        with running(config, servers * (named or ranks)) as router:
            assert isinstance(router, RouterThread)
            asyncio.run(_traffic(router.url, talks, turns))
        share, computed = _share([sim])
    print(f"{name:42} {100 * share:5.1f} % cached   prompt tokens by engine: {sorted(computed)}", flush=True)
    return share


def main() -> None:
    """Measure the three settings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--talks", type=int, default=160)
    parser.add_argument("--turns", type=int, default=6)
    arguments = parser.parse_args()
    talks, turns = arguments.talks, arguments.turns
    whole = _measure("8 servers", 8, 1, None, talks, turns)
    ranked = _measure("2 servers of 4 ranks", 2, 4, None, talks, turns)
    blind = _measure("2 servers of 4 ranks, unknown to the router", 2, 4, 1, talks, turns)
    print(
        f"ranks known: {100 * (ranked - whole):+.1f} points of 8 servers; unknown: {100 * (blind - whole):+.1f}"
    )


if __name__ == "__main__":
    main()
