"""Clients that leave and sides that fall silent: who hears of it, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest

from tests.support.replica_pair import (
    ANY,
    BODY,
    LONG,
    LaterRegistry,
    Pair,
    paired,
    raw_request,
    registry_of,
    sends,
)
from tests.support.router_thread import read_answer, running, wait_until
from tests.support.scripted_upstream import (
    SSE_HEAD,
    Connection,
    Received,
    Script,
    ScriptedUpstream,
    chunk,
    plain,
)
from warmroute.config.schema import (
    Config,
    HealthConfig,
    LimitsConfig,
    ReplicaConfig,
    UpstreamConfig,
)
from warmroute.core.health.health import FailureReason
from warmroute.core.types import ReplicaId
from warmroute.dataplane.sweeper import DEAD_SILENCE_S


@pytest.mark.parametrize("stage", ["prefill", "head", "stream", "plain"])
def test_when_a_client_leaves_the_replica_hears_it_at_once(pair: Pair, stage: str) -> None:
    heard: list[float] = []
    begun = threading.Event()
    begins = {
        "prefill": b"",
        "head": SSE_HEAD,
        "stream": SSE_HEAD + chunk(b"data: 1\n\n"),
        "plain": b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nbegun",
    }

    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        if begins[stage]:
            connection.send(begins[stage])
        begun.set()
        if connection.closed_by_peer(60.0):
            heard.append(time.monotonic())
        return False

    pair.first.script = pair.second.script = script
    with pair.router.connect() as sock:
        sock.sendall(raw_request("/v1/chat/completions"))
        assert begun.wait(60)
        if stage in ("stream", "plain"):
            assert sock.recv(10) != b""
        left_s = time.monotonic()
    wait_until(lambda: bool(heard))
    assert heard[0] - left_s < 30.0, "of its own accord a silent connection is closed much later"
    pair.router.assert_at_rest()
    wait_until(lambda: pair.router.call(lambda: len(pair.router.worker.gateway.connections)) == 0)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_client_may_leave_during_the_lookup(pair: Pair, path: str) -> None:
    body = (
        LONG
        if path.endswith("completions")
        else {"model": "m", "input": "x", "previous_response_id": "resp_1"}
    )
    with registry_of(pair, LaterRegistry) as registry:
        with pair.router.connect() as sock:
            sock.sendall(raw_request(path, body=body))
            wait_until(lambda: bool(registry.waiting))
        gone = pair.router.worker.gateway
        wait_until(lambda: pair.router.call(lambda: len(gone.connections)) == 0)
        records = [None] * 100 if path.endswith("completions") else None
        pair.router.call(lambda: registry.waiting[0](records))
    assert pair.received == 0
    pair.router.assert_at_rest()


def test_a_client_may_leave_while_its_replica_is_being_connected() -> None:
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(ScriptedUpstream())
        config = Config(
            listen=ANY,
            admin=ANY,
            replicas=(ReplicaConfig(url=upstream.url, id=upstream.id),),
            health=HealthConfig(probe_interval_s=60.0),
            upstream=UpstreamConfig(connect_timeout_s=3.0),
        )
        router = stack.enter_context(running(config, 1))
        upstream.stop()
        silent = stack.enter_context(socket.socket())
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        silent.bind(("127.0.0.1", upstream.port))
        silent.listen(0)
        for _ in range(3):  # fill the queue of connections that nobody accepts
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", upstream.port))
        with router.connect() as sock:
            sock.sendall(raw_request("/v1/chat/completions"))
            gateway = router.worker.gateway
            wait_until(lambda: router.call(lambda: any(r.in_flight for r in gateway.fleet.replicas.values())))
        router.assert_at_rest()
        status, _, body = router.post("/v1/chat/completions", BODY)
        assert status == 502
        assert "no connection within 3 s" in json.loads(body)["error"]["message"]
        router.assert_at_rest()


def test_silent_replicas_and_clients_are_not_waited_for_for_ever() -> None:
    limits = LimitsConfig(idle_timeout_s=2.0)
    upstream = UpstreamConfig(first_byte_timeout_s=2.0, stream_idle_timeout_s=2.0)
    with paired(limits=limits, upstream=upstream) as pair:

        def silent(begins: bytes) -> Script:
            def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
                connection.send(begins)
                assert connection.closed_by_peer(60.0)
                return False

            return script

        pair.first.script = pair.second.script = silent(b"")
        status, _, body = pair.router.post("/v1/chat/completions", BODY)
        assert (status, json.loads(body)["error"]["code"]) == (504, "replica_timeout")
        pair.first.script = pair.second.script = silent(SSE_HEAD + chunk(b'data: {"n":1}\n\n'))
        status, _, body = pair.router.post("/v1/messages", {**BODY, "stream": True})
        assert status == 200
        assert body.startswith(b'data: {"n":1}\n\nevent: error\ndata: ')
        assert json.loads(body.split(b"data: ")[2])["error"]["type"] == "timeout_error"
        pair.router.assert_at_rest()

        pair.first.script = pair.second.script = sends(plain(b"x" * (8 << 20)), then="go on")
        with pair.router.connect() as sock:  # asks, and reads nothing
            sock.sendall(raw_request("/v1/chat/completions"))
            gateway = pair.router.worker.gateway
            wait_until(lambda: pair.router.call(lambda: len(gateway.connections)) == 1)
            wait_until(lambda: pair.router.call(lambda: len(gateway.connections)) == 0)
        pair.router.assert_at_rest()


def test_a_request_left_hanging_by_a_replica_that_is_gone_is_taken_over_by_another(pair: Pair) -> None:
    """vLLM that is terminated refuses connections and leaves some of its requests open for ever."""
    gateway, sweeper = pair.router.worker.gateway, pair.router.worker._data._sweeper

    def silent(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        assert connection.closed_by_peer(60.0)
        return False

    pair.first.script = silent
    answers: list[tuple[int, dict[str, str], bytes]] = []
    asking = threading.Thread(target=lambda: answers.extend(pair.ask_both()))
    asking.start()
    replica = gateway.fleet.replicas[ReplicaId(pair.first.id)]
    wait_until(lambda: pair.router.call(lambda: replica.in_flight) == 1)

    def eleven_seconds_pass() -> None:
        gateway.fleet.report_failure(replica, FailureReason.REFUSED, gateway.clock())
        sweeper.sweep(time.monotonic())
        sweeper.sweep(time.monotonic() + DEAD_SILENCE_S + 1)

    pair.router.call(eleven_seconds_pass)  # in one step: a probe would bring it back
    asking.join(60)
    assert [status for status, _, _ in answers] == [200, 200]
    assert {headers["x-warmroute-replica"] for _, headers, _ in answers} == {pair.second.id}


def test_bodies_that_wait_for_their_answers_count_as_memory_until_nobody_needs_them() -> None:
    held = threading.Event()

    def hold(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        held.wait(60)
        connection.send(plain(b"{}"))
        return True

    with paired(limits=LimitsConfig(buffered_body_bytes=4 << 20)) as pair:
        pair.first.script = pair.second.script = hold
        body = {"model": "m", "messages": [{"role": "user", "content": "x" * 1_000_000}]}
        with contextlib.ExitStack() as stack:
            socks = [stack.enter_context(pair.router.connect()) for _ in range(4)]
            for number, sock in enumerate(socks):
                sock.sendall(raw_request("/v1/chat/completions", body=body))
                wait_until(lambda number=number: pair.received == number + 1)
            with pair.router.connect() as refused:  # sends no body, which nobody would read
                refused.sendall(
                    raw_request("/v1/chat/completions", body=body).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
                )
                head, _, answer = read_answer(refused).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: " in head
            assert json.loads(answer)["error"]["code"] == "buffers_full"
            socks.pop().close()
            wait_until(
                lambda: pair.router.call(lambda: pair.router.worker.gateway.buffered_bytes) < 3_100_000
            )
            held.set()
            assert pair.router.post("/v1/chat/completions", body)[0] == 200
            for sock in socks:
                assert sock.recv(17) == b"HTTP/1.1 200 OK\r\n"
        pair.router.assert_at_rest()


def test_who_announces_long_bodies_and_drips_takes_nobodys_room() -> None:
    limits = LimitsConfig(buffered_body_bytes=4 << 20, body_bytes=4 << 20, body_timeout_s=2.0)
    with paired(limits=limits) as pair, contextlib.ExitStack() as stack:
        announcing = raw_request("/v1/chat/completions", body={}).partition(b"Content-Length:")[0]
        dripping = [stack.enter_context(pair.router.connect()) for _ in range(20)]
        for sock in dripping:
            sock.sendall(b"%bContent-Length: %d\r\n\r\n{" % (announcing, 2 << 20))
        wait_until(lambda: pair.router.call(lambda: pair.router.worker.gateway.buffered_bytes) > 0)
        body = {"model": "m", "messages": [{"role": "user", "content": "x" * 2_000_000}]}
        assert pair.router.post("/v1/chat/completions", body)[0] == 200
        for sock in dripping:
            assert read_answer(sock).startswith(b"HTTP/1.1 408 ")
        pair.router.assert_at_rest()
