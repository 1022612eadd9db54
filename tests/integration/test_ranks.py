"""Servers of several data-parallel ranks behind a real router: found, addressed, and each kept warm by itself."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from tests.support.router_thread import RouterThread, running, wait_until
from tests.support.sim_fleet import SimProcess
from warmroute.config.schema import Address, Config, HealthConfig, ReplicaConfig


def settings(sims: list[SimProcess], ranks: int | None = None) -> Config:
    return Config(
        listen=Address("127.0.0.1:0"),
        admin=Address("127.0.0.1:0"),
        replicas=tuple(ReplicaConfig(url=sim.urls[0], id=f"s{n}", ranks=ranks) for n, sim in enumerate(sims)),
        health=HealthConfig(probe_interval_s=0.2),
    )


def stats(sim: SimProcess) -> dict[str, Any]:
    with urllib.request.urlopen(sim.urls[0] + "/sim/stats", timeout=60) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def ask(
    router: RouterThread, talk: int, turns: int = 1, headers: dict[str, str] | None = None
) -> tuple[str, int]:
    """Where a turn of a conversation went, and how much of it was cached there."""
    content = f"conversation {talk} " + "and so on, as before " * 60 * turns
    body = {"model": "sim", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
    status, head, answer = router.post("/v1/chat/completions", body, headers)
    assert status == 200, answer
    usage = json.loads(answer)["usage"]
    return head["x-warmroute-replica"], usage["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("named", [4, None])
def test_every_rank_is_addressed_and_conversations_stay_on_theirs(named: int | None) -> None:
    with (
        SimProcess("--ranks", "4", "--speed", "1000") as one,
        SimProcess("--ranks", "4", "--speed", "1000") as two,
    ):
        sims = [one, two]
        with running(settings(sims, named), 8) as router:
            assert set(router.call(lambda: [*router.worker.fleet.replicas])) == {
                f"s{server}#{rank}" for server in range(2) for rank in range(4)
            }
            homes = {talk: ask(router, talk)[0] for talk in range(24)}
            for talk, home in homes.items():
                replica, cached = ask(router, talk, 2, {"X-data-parallel-rank": "0"})
                assert replica == home, "whatever rank the client names"
                assert cached > 200
            assert len(set(homes.values())) > 4
            for sim, server in zip(sims, ("s0", "s1"), strict=True):
                told = stats(sim)
                computed = [rank["prompt_tokens"] > 0 for rank in told["ranks"]]
                assert computed == [f"{server}#{rank}" in homes.values() for rank in range(4)]
                assert {h.get("x-data-parallel-rank") for h in told["headers"]} <= {"0", "1", "2", "3"}
            router.assert_at_rest()


def test_a_server_that_is_to_spread_requests_itself_is_one_replica_and_is_named_no_rank() -> None:
    with SimProcess("--ranks", "2") as sim, running(settings([sim], 1), 1) as router:
        assert ask(router, 1)[0] == "s0"
        assert "x-data-parallel-rank" not in stats(sim)["headers"][-1]


def test_a_server_that_dies_takes_all_its_ranks_along_and_another_makes_good() -> None:
    with (
        SimProcess("--ranks", "2", "--speed", "1000") as one,
        SimProcess("--ranks", "2", "--speed", "1000") as two,
    ):
        with running(settings([one, two]), 4) as router:
            one.kill()
            assert {ask(router, talk)[0].partition("#")[0] for talk in range(12)} == {"s1"}
            wait_until(lambda: router.call(router.worker.fleet.routable) == 2)
            router.assert_at_rest()


def test_ranks_are_read_again_when_a_server_has_scaled() -> None:
    with SimProcess("--ranks", "2", "--speed", "1000") as sim, running(settings([sim]), 2) as router:
        scaled = urllib.request.Request(
            sim.urls[0] + "/scale_elastic_ep", data=b'{"new_data_parallel_size": 3}', method="POST"
        )
        with urllib.request.urlopen(scaled, timeout=60) as answer:
            assert answer.status == 200
        router.call(lambda: router.worker._probe_soon("s0", thoroughly=True))  # type: ignore[arg-type]
        router.wait_ready(3)
        assert {ask(router, talk)[0] for talk in range(24)} == {"s0#0", "s0#1", "s0#2"}
