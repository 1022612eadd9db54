"""Replicas that come, go and die while a router that found them through Redis serves traffic: no request is lost."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.agents import AgentProcess, LaunchedSim, rows
from tests.support.processes import RouterProcess
from tests.support.redis_server import RedisServer
from tests.support.router_thread import wait_until
from tests.support.sim_fleet import SimProcess
from tests.support.traffic import Traffic


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def router_by(redis: RedisServer) -> RouterProcess:
    return RouterProcess([], "--discover", redis.url)


def states(router: RouterProcess) -> dict[str, str]:
    return {replica_id: row["state"] for replica_id, row in rows(router).items()}


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=20.0).close()
    except OSError:
        return False
    return True


def test_a_rolling_restart_of_launched_replicas_loses_no_request(redis: RedisServer) -> None:
    # Answers take long enough for every moment of a drain to have some under way.
    sim = ("--decode-step-ms", "30")
    with (
        ExitStack() as stack,
        LaunchedSim(redis.url, *sim, agent=("--zone", "z", "--label", "gpu=none")) as a,
        LaunchedSim(redis.url, *sim) as b,
        router_by(redis) as router,
    ):
        wait_until(lambda: states(router) == {a.replica_id: "ready", b.replica_id: "ready"})
        row = rows(router)[a.replica_id]
        assert (row["zone"], row["labels"], row["source"]) == ("z", {"gpu": "none"}, redis.url)
        with Traffic([f"http://127.0.0.1:{router.port}"], clients=4, pause_s=0.05, words=50) as traffic:
            traffic.wait_more(10)
            wait_until(lambda: rows(router)[b.replica_id]["agent_running"] is not None)
            a.process.send_signal(signal.SIGTERM)
            wait_until(lambda: states(router).get(a.replica_id) != "ready")
            assert a.process.wait(60) == 0, a.output
            assert not answers(a.engine_port)
            wait_until(lambda: list(states(router)) == [b.replica_id])
            traffic.wait_more(10)
            again = stack.enter_context(LaunchedSim(redis.url, *sim, port=a.engine_port))
            wait_until(lambda: states(router) == {a.replica_id: "ready", b.replica_id: "ready"})
            traffic.wait_more(10)
            # The platform's hook: withdraws, and answers once nothing is under way.
            status, body = b.ask("/prestop")
            assert (status, json.loads(body)["drained"]) == (200, True), body
            assert b.ask("/readyz")[0] == 503
            assert states(router)[b.replica_id] == "draining"
            assert answers(b.engine_port), "a hook stops nobody"
            b.terminate()
            assert "drain_incomplete" not in b.output
            wait_until(lambda: list(states(router)) == [again.replica_id])
            traffic.wait_more(10)
        assert traffic.failed == []


def test_the_dead_expire_and_redis_may_restart_meanwhile(redis: RedisServer) -> None:
    with (
        SimProcess() as beside,
        LaunchedSim(redis.url) as launched,
        AgentProcess(redis.url, "--engine", beside.urls[0], "--id", "beside") as agent,
        router_by(redis) as router,
    ):
        wait_until(lambda: states(router) == {launched.replica_id: "ready", "beside": "ready"})
        with Traffic([f"http://127.0.0.1:{router.port}"], clients=2, pause_s=0.05, words=50) as traffic:
            traffic.wait_more(5)
            redis.kill()
            wait_until(lambda: "redis_down" in agent.output and "discovery_failed" in router.output)
            traffic.wait_more(20)
            assert set(states(router)) == {launched.replica_id, "beside"}
            redis.start()
            wait_until(lambda: len(redis.command("KEYS", "w:member:*")) == 2)
            wait_until(lambda: "discovery_recovered" in router.output)
            # An engine that dies under its agent is withdrawn at once, and comes back by itself as another one.
            beside.kill()
            wait_until(lambda: list(states(router)) == [launched.replica_id])
            assert not agent.ready()
            traffic.wait_more(5)
            beside.start()
            wait_until(lambda: states(router) == {launched.replica_id: "ready", "beside": "ready"})
            assert "warmroute_agent_engine_lives_total 2" in agent.ask("/metrics")[1]
            # Agent and engine die: the kernel tells a launcher's engine to end.
            launched.kill()
            wait_until(lambda: not answers(launched.engine_port))
            wait_until(lambda: list(states(router)) == ["beside"])
            traffic.wait_more(5)
        assert traffic.failed == []
        assert agent.output.count("redis_down") == 1
        assert agent.ready()
