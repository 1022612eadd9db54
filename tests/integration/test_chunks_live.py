"""Passages in any order over real sockets: two replicas that blend, and a router that knows what each of them has."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from tests.support.router_thread import RouterThread, running
from tests.support.sim_fleet import SimProcess
from warmroute.config.schema import Address, BlendConfig, Config, ReplicaConfig

SEPARATOR = " # # "
TOPICS = 8
PASSAGES = ("alpha", "beta", "gamma")


def body(topic: int, asked: str, order: tuple[str, ...]) -> dict[str, Any]:
    """A question about a topic's passages; what stands before them is of this question alone."""
    passages = [f"topic {topic} {name} " + f"{name[0]}{topic}" * 500 for name in order]
    content = SEPARATOR.join([f"{asked}: answer from these", *passages, "please"])
    return {"model": "sim", "messages": [{"role": "user", "content": content}], "max_tokens": 1}


def ask(router: RouterThread, topic: int, asked: str, order: tuple[str, ...]) -> tuple[str, int, int]:
    """Where it went, and how many of its tokens the router believed and the engine found there."""
    status, head, answer = router.post("/v1/chat/completions", body(topic, asked, order))
    assert status == 200, answer
    cached = json.loads(answer)["usage"]["prompt_tokens_details"]["cached_tokens"]
    return head["x-warmroute-replica"], int(head["x-warmroute-predicted-cached-tokens"]), cached


def explain(router: RouterThread, asked: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        router.admin_url + "/explain", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def test_the_same_passages_in_another_order_go_to_the_replica_that_has_them() -> None:
    blends = ("--blend-separator", SEPARATOR, "--blend-chunk-tokens", "64", "--speed", "1000")
    with SimProcess(*blends, ports=2) as sim:
        config = Config(
            listen=Address("127.0.0.1:0"),
            admin=Address("127.0.0.1:0"),
            replicas=tuple(ReplicaConfig(url=url, id=f"r{n}") for n, url in enumerate(sim.urls)),
            blend=BlendConfig(separator=SEPARATOR, chunk_tokens=64),
        )
        with running(config, 2) as router:
            homes = {topic: ask(router, topic, f"first {topic}", PASSAGES)[0] for topic in range(TOPICS)}
            assert set(homes.values()) == {"r0", "r1"}
            told = explain(router, body(0, "explained", PASSAGES[::-1]))
            assert (told["chunks"], told["chunks_known"]) == (3, 3)
            rows = {row["replica"]: row["predicted_chunk_tokens"] for row in told["candidates"]}
            assert rows[homes[0]] > 600
            assert sorted(rows.values())[0] == 0
            for topic, home in homes.items():
                replica, believed, cached = ask(router, topic, f"{topic} again", ("gamma", "alpha", "beta"))
                assert replica == home
                assert cached > 600, "0.85 of three passages of some 250 tokens each"
                assert abs(believed - cached) < 32
            router.assert_at_rest()
