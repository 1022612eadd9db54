"""One of four replicas errs, or dies of a request: a whole router over real sockets, with its own probes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.router_thread import RouterThread, running, wait_until
from tests.support.scripted_upstream import (
    SSE_HEAD,
    Connection,
    Received,
    Script,
    ScriptedUpstream,
    answer_ok,
    chunk,
    plain,
)
from warmroute.config.schema import Address, Config, HealthConfig, ReplicaConfig
from warmroute.core.health.health import ReplicaState
from warmroute.core.types import ReplicaId

BROKEN = plain(b'{"error":{"message":"CUDA out of memory"}}', b"500 Internal Server Error")
PATH = "/v1/chat/completions"


class Watched(ScriptedUpstream):
    """Counts how often it is probed."""

    probes = 0

    def _answer(self, connection: Connection, received: Received) -> bool:
        if received.line.split(b" ")[1] == b"/health":
            self.probes += 1
        return super()._answer(connection, received)


@contextlib.contextmanager
def four(**settings: Any) -> Iterator[tuple[RouterThread, list[Watched]]]:
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(Watched()) for _ in range(4)]
        config = Config(
            listen=Address("127.0.0.1:0"),
            admin=Address("127.0.0.1:0"),
            replicas=tuple(ReplicaConfig(url=replica.url, id=replica.id) for replica in replicas),
            health=HealthConfig(probe_interval_s=0.5, probe_timeout_s=30.0),
            **settings,
        )
        yield stack.enter_context(running(config, 4)), replicas


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 5, **fields}


def says(answer: bytes) -> Script:
    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(answer)
        return True

    return script


@pytest.mark.parametrize("system", ["", "You are an assistant. " * 300], ids=["short", "one system prompt"])
def test_one_of_four_answers_500_to_everything_and_is_back_within_a_probe(system: str) -> None:
    with four() as (router, replicas):
        odd = replicas[0]
        odd.script = says(BROKEN)
        number = 0

        def ask() -> int:
            nonlocal number
            number += 1
            # Of ten questions nine have a beginning of their own, so that new ones come to every replica.
            beginning = system if number % 10 == 0 else f"{number} {system}"
            return router.post(PATH, body(f"{beginning} question {number}"))[0]

        while len(odd.received) < 10:
            assert ask() in (200, 500)
        assert [ask() for _ in range(500)].count(500) < 10, "under 2 %"
        replica = router.worker.gateway.fleet.replicas[ReplicaId(odd.id)]
        wait_until(lambda: ask() == 200 and router.call(lambda: replica.state) is ReplicaState.EJECTED)
        odd.script = answer_ok
        probes = odd.probes
        wait_until(lambda: ask() == 200 and router.call(lambda: replica.state) is ReplicaState.READY)
        assert odd.probes - probes <= 2, "the one after it recovered; the next may be under way"
        router.assert_at_rest()


def test_a_request_that_kills_its_engine_leaves_half_of_the_fleet() -> None:
    with four() as (router, replicas):

        def script(upstream: ScriptedUpstream, connection: Connection, received: Received) -> bool:
            if b"POISON" in received.body:
                upstream.stop()
                return False
            connection.send(plain(b"{}"))
            return True

        for replica in replicas:
            replica.script = script
        for number in range(20):
            assert router.post(PATH, body(f"warm up {number}"))[0] == 200
        assert router.post(PATH, body("POISON pill"))[0] == 502
        fleet = router.worker.gateway.fleet
        wait_until(lambda: router.call(fleet.routable) == 2)
        status, _, answer = router.post(PATH, body("POISON pill"))
        healths = [
            (server.id, server.health.state, server.health.reason, server.health.dead)
            for server in fleet.servers.values()
        ]
        assert (status, json.loads(answer)["error"]["code"]) == (422, "deadly_request"), (answer, healths)
        assert router.call(fleet.routable) == 2
        assert router.post(PATH, body("fine"))[0] == 200
        router.assert_at_rest()


def test_a_death_behind_comments_costs_no_client_its_answer() -> None:
    ping = b": keep-alive\n\n"
    event = b'data: {"choices":[]}\n\n'
    done = b"data: [DONE]\n\n"
    whole = SSE_HEAD + chunk(ping) + chunk(event) + chunk(done) + b"0\r\n\r\n"

    def dies(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(SSE_HEAD + chunk(ping))
        return False

    with four() as (router, replicas):
        for replica in replicas[1:]:
            replica.script = says(whole)
        replicas[0].script = dies
        for number in range(20):
            status, _, answer = router.post(PATH, body(f"question {number}", stream=True))
            assert status == 200
            assert answer.replace(ping, b"") == event + done
        assert replicas[0].received
        router.assert_at_rest()
