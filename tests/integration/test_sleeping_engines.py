"""Engines put to sleep and woken through the admin port: `/health` stays 200, and nobody may wait for them."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from tests.support.router_thread import RouterThread, running, wait_until
from tests.support.sim_fleet import before, fleet
from warmroute.core.types import ReplicaId

BODY = {"model": "sim-model", "messages": [{"role": "user", "content": "which one? " * 200}], "max_tokens": 2}


def administer(router: RouterThread, target: str) -> None:
    request = urllib.request.Request(router.admin_url + target, data=b"", method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def row(router: RouterThread, replica: str) -> dict[str, Any]:
    with urllib.request.urlopen(router.admin_url + "/replicas", timeout=60) as answer:
        rows = json.load(answer)["replicas"]
    return next(row for row in rows if row["id"] == replica)


def ask(router: RouterThread) -> str:
    status, headers, _ = router.post("/v1/chat/completions", BODY)
    assert status == 200
    return headers["x-warmroute-replica"]


@pytest.mark.parametrize("level", [0, 1])
def test_nobody_waits_for_an_engine_that_sleeps_and_it_is_back_when_it_wakes(level: int) -> None:
    with fleet(2, "--model", "sim-model", "--speed", "1000") as sims, running(before(sims), 2) as router:
        home = ask(router)
        assert ask(router) == home
        life = row(router, home)["incarnation"]

        administer(router, f"/sleep?level={level}&replica={home}")
        wait_until(lambda: row(router, home)["state"] == "ejected")
        assert "sleeps" in row(router, home)["last_failure"]
        assert "wake_up" in row(router, home)["last_failure"]
        assert {ask(router) for _ in range(8)} == {sim.ids[0] for sim in sims} - {home}

        administer(router, f"/wake_up?replica={home}")
        wait_until(lambda: row(router, home)["state"] == "ready")
        # Only a sleep that cost it its cache makes it another engine: what it held is not counted on.
        assert (row(router, home)["incarnation"] == life) is (level == 0)
        router.call(lambda: router.worker.fleet.replicas[ReplicaId(home)].validate())
        router.assert_at_rest()
