"""What replicas and clients do wrong: who hears of it, who takes over, and that nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.recorded import RECORDED
from tests.support.router_thread import RouterThread, read_answer, running, wait_until
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
from warmroute.config.schema import (
    AccessLogConfig,
    Address,
    Config,
    HealthConfig,
    LimitsConfig,
    PolicyConfig,
    ReplicaConfig,
    UpstreamConfig,
)
from warmroute.core.health.health import FailureReason, ReplicaState
from warmroute.core.types import ReplicaId
from warmroute.dataplane.sweeper import DEAD_SILENCE_S

ANY = Address("127.0.0.1:0")
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": BODY,
    "/v1/completions": {"model": "m", "prompt": "hello"},
    "/v1/messages": BODY,
    "/v1/responses": {"model": "m", "input": "hello"},
}
HALF_EVENT = b'data: {"half": "an ev'


class Pair:
    """A router by round robin over two replicas whose scripts tests change."""

    def __init__(self, router: RouterThread, first: ScriptedUpstream, second: ScriptedUpstream) -> None:
        self.router = router
        self.first = first
        self.second = second

    def ask_both(self, path: str = "/v1/chat/completions") -> list[tuple[int, dict[str, str], bytes]]:
        """As many requests as there are replicas: each is the first choice once."""
        return [self.router.post(path, BODIES[path]) for _ in range(2)]

    @property
    def received(self) -> int:
        return len(self.first.received) + len(self.second.received)


@contextlib.contextmanager
def paired(**settings: Any) -> Iterator[Pair]:
    with ScriptedUpstream() as first, ScriptedUpstream() as second:
        values: dict[str, Any] = {
            "policy": PolicyConfig(name="round-robin"),
            "health": HealthConfig(failures=1000, probe_interval_s=0.2, probe_timeout_s=30.0),
            **settings,
        }
        config = Config(
            listen=ANY,
            admin=ANY,
            replicas=(ReplicaConfig(url=first.url, id=first.id), ReplicaConfig(url=second.url, id=second.id)),
            **values,
        )
        with running(config, 2) as router:
            yield Pair(router, first, second)


@pytest.fixture(scope="module")
def shared() -> Iterator[Pair]:
    with paired() as pair:
        yield pair


@pytest.fixture
def pair(shared: Pair) -> Iterator[Pair]:
    shared.first.script = shared.second.script = answer_ok
    shared.first.received.clear()
    shared.second.received.clear()
    shared.router.wait_ready(2)
    yield shared
    shared.router.assert_at_rest()


def sends(data: bytes, *, then: str = "close") -> Script:
    """A script that writes these bytes, then closes, resets, or goes on."""

    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        if data:
            connection.send(data)
        if then == "reset":
            time.sleep(0.02)  # a reset overtakes what is on its way
            connection.reset()
        return then == "go on"

    return script


def error_body(message: str, code: int = 500) -> bytes:
    return json.dumps({"error": {"message": message, "type": "InternalServerError", "code": code}}).encode()


DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
BEFORE_THE_FIRST_BYTE: dict[str, Script] = {
    "closed before the head": sends(b""),
    "reset before the head": sends(b"", then="reset"),
    "half a head": sends(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"),
    "reset after half a head": sends(b"HTTP/1.1 200 OK\r\ncontent-le", then="reset"),
    "a head and no body": sends(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n"),
    "a stream's head": sends(SSE_HEAD, then="reset"),
    "a stream's head and half a chunk head": sends(SSE_HEAD + b"10\r\n"),
    "an interim answer only": sends(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"),
    "no HTTP": sends(b"SSH-2.0-OpenSSH_9\r\n"),
    "both lengths": sends(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "502": sends(plain(b"<html>", b"502 Bad Gateway", b"text/html"), then="go on"),
    "503": sends(plain(b"{}", b"503 Service Unavailable"), then="go on"),
    "504": sends(plain(b"", b"504 Gateway Timeout"), then="go on"),
    "503 without length": sends(b"HTTP/1.1 503 No\r\n\r\nno"),
    "503 in chunks, cut": sends(b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n"),
    "busy": sends(
        plain(
            error_body("The engine is currently busy and cannot accept new requests.", 503),
            b"503 Unavailable",
        ),
        then="go on",
    ),
    "429": sends(plain(error_body("too many", 429), b"429 Too Many Requests"), then="go on"),
    "paused": sends(
        plain(
            error_body("Generation is paused. Please retry after it resumes.", 503),
            b"503 Unavailable",
        ),
        then="go on",
    ),
    "dead engine": sends(plain(error_body(DEAD), b"500 Internal Server Error"), then="go on"),
    "dead engine in a stream": sends(RECORDED["chat_stream_engine_died"], then="go on")
    if RECORDED["chat_stream_engine_died"].count(b"data: ") == 2
    else sends(
        SSE_HEAD + chunk(b"data: " + error_body(DEAD) + b"\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
        then="go on",
    ),
}


@pytest.mark.parametrize("path", list(BODIES))
@pytest.mark.parametrize("name", list(BEFORE_THE_FIRST_BYTE))
def test_a_failure_before_the_first_byte_is_made_good_by_the_other_replica(
    pair: Pair, name: str, path: str
) -> None:
    pair.first.script = BEFORE_THE_FIRST_BYTE[name]
    answers = pair.ask_both(path)
    assert [status for status, _, _ in answers] == [200, 200]
    assert sorted(headers["x-warmroute-decision"] for _, headers, _ in answers) == ["load", "retry"]
    assert all(headers["x-warmroute-replica"] == pair.second.id for _, headers, _ in answers)
    assert len(pair.first.received) >= 1


def test_a_draining_replica_and_one_that_refuses_are_left_at_once_and_come_back() -> None:
    draining = plain(error_body("cannot schedule new futures after shutdown"), b"500 Internal Server Error")
    health = HealthConfig(probe_interval_s=0.1, backoff_min_s=0.3)
    with paired(health=health) as pair:
        pair.first.script = sends(draining, then="go on")
        assert [status for status, _, _ in pair.ask_both()] == [200, 200]
        first = pair.router.worker.gateway.fleet.replicas[ReplicaId(pair.first.id)]
        assert pair.router.call(lambda: first.health.ejected_s) > 0, "though it may be back by now"
        pair.first.script = answer_ok
        pair.router.wait_ready(2)
        pair.first.stop()
        for _ in range(3):
            assert [status for status, _, _ in pair.ask_both()] == [200, 200]
        wait_until(lambda: states(pair)[pair.first.id] is ReplicaState.EJECTED)
        pair.first.listen()
        wait_until(lambda: states(pair)[pair.first.id] is ReplicaState.READY)
        pair.first.received.clear()
        assert [status for status, _, _ in pair.ask_both()] == [200, 200]
        assert len(pair.first.received) == 1
        pair.router.assert_at_rest()


def states(pair: Pair) -> dict[str, ReplicaState]:
    replicas = pair.router.call(lambda: list(pair.router.worker.gateway.fleet.replicas.values()))
    return {replica.id: replica.state for replica in replicas}


def test_a_busy_replica_is_not_ejected_and_a_failing_one_is() -> None:
    with paired(health=HealthConfig(failures=1, backoff_min_s=30.0)) as pair:
        pair.first.script = BEFORE_THE_FIRST_BYTE["busy"]
        assert [status for status, _, _ in pair.ask_both()] == [200, 200]
        assert states(pair)[pair.first.id] is ReplicaState.READY
        pair.first.script = BEFORE_THE_FIRST_BYTE["503"]
        assert [status for status, _, _ in pair.ask_both()] == [200, 200]
        assert states(pair)[pair.first.id] is ReplicaState.EJECTED
        pair.first.received.clear()
        pair.ask_both()
        assert pair.first.received == []


@pytest.mark.parametrize("path", list(BODIES))
def test_when_all_replicas_fail_the_client_hears_it_in_its_api_s_shape(pair: Pair, path: str) -> None:
    pair.first.script = pair.second.script = sends(b"")
    status, headers, body = pair.router.post(path, BODIES[path])
    assert status == 502
    assert headers["content-type"] == "application/json"
    answer = json.loads(body)
    assert answer["error"]["code"] == "replica_failed"
    if path == "/v1/messages":
        assert answer["type"] == "error"
        assert answer["error"]["type"] == "api_error"
    assert 2 <= pair.received <= 4, "each once, and once more where the connection may have been stale"


def test_when_all_replicas_say_503_the_last_one_s_answer_is_passed_on(pair: Pair) -> None:
    said = plain(b'{"error":{"message":"overloaded, says the replica"}}', b"503 Service Unavailable")
    pair.first.script = pair.second.script = sends(said, then="go on")
    status, _, body = pair.router.post("/v1/chat/completions", BODY)
    assert (status, body) == (503, b'{"error":{"message":"overloaded, says the replica"}}')
    assert pair.received == 2


@pytest.mark.parametrize("status", [400, 401, 404, 408, 409, 413, 422, 500, 501])
def test_other_errors_are_the_replica_s_answer_and_not_tried_again(pair: Pair, status: int) -> None:
    body = error_body("it is you", status)
    pair.first.script = pair.second.script = sends(plain(body, b"%d Whatever" % status), then="go on")
    assert pair.router.post("/v1/chat/completions", BODY)[::2] == (status, body)
    assert pair.received == 1


def test_when_all_replicas_shed_load_the_client_is_told_so(pair: Pair) -> None:
    said = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{}"
    pair.first.script = pair.second.script = sends(said, then="go on")
    status, headers, _ = pair.router.post("/v1/chat/completions", BODY)
    assert (status, headers["retry-after"]) == (429, "7")
    assert pair.received == 2
    assert set(states(pair).values()) == {ReplicaState.READY}


def raw_request(path: str, extra: str = "", body: Any = None) -> bytes:
    data = json.dumps(BODIES[path] if body is None else body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: r\r\n{extra}Content-Length: {len(data)}\r\n\r\n".encode() + data


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("path", list(BODIES))
def test_a_stream_that_breaks_ends_with_its_api_s_error_event(pair: Pair, path: str, then: str) -> None:
    whole = b'event: one\ndata: {"n": 1}\n\n'
    pair.first.script = pair.second.script = sends(SSE_HEAD + chunk(whole) + chunk(HALF_EVENT), then=then)
    status, headers, body = pair.router.post(path, {**BODIES[path], "stream": True})
    assert status == 200
    assert headers["transfer-encoding"] == "chunked"
    assert body.startswith(whole)
    assert b"half" not in body
    events = body[len(whole) :].strip().split(b"\n\n")
    if path in ("/v1/chat/completions", "/v1/completions"):
        assert events.pop() == b"data: [DONE]"
        assert json.loads(events[0].removeprefix(b"data: "))["error"]["code"] == "replica_lost"
    else:
        name, _, data = events[0].partition(b"\n")
        assert name == b"event: error"
        parsed = json.loads(data.removeprefix(b"data: "))
        assert parsed["type"] == "error"
        assert (parsed["error"] if path == "/v1/messages" else parsed)["code"] == "replica_lost"
    assert len(events) == 1
    assert pair.received == 1, "nothing is tried again once the client has bytes"


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nbegun",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n32\r\nbegun",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\nzz\r\n",
    ],
    ids=["in a length", "in a chunk", "by a bad chunk"],
)
def test_a_plain_answer_that_breaks_is_seen_to_be_broken(pair: Pair, sent: bytes) -> None:
    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        head, _, rest = sent.partition(b"begun")
        connection.send(head + b"begun")
        assert heard.wait(60)
        connection.send(rest)
        return False

    heard = threading.Event()
    pair.first.script = pair.second.script = script
    answer = b""
    with pair.router.connect() as sock:
        sock.sendall(raw_request("/v1/chat/completions"))
        while b"begun" not in answer:
            piece = sock.recv(65536)
            assert piece, answer
            answer += piece
        heard.set()
        answer += read_answer(sock)
    assert not answer.endswith(b"0\r\n\r\n")
    assert pair.received == 1


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_that_went_stale_costs_one_fresh_attempt_and_no_error(pair: Pair, reset: bool) -> None:
    """Each replica answers once on a connection, and closes it when the next request is already there."""
    served: dict[Connection, int] = {}

    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        count = served[connection] = served.get(connection, 0) + 1
        if count == 2:
            if reset:
                connection.reset()
            return False
        connection.send(plain(b"{}"))
        return True

    pair.first.script = pair.second.script = script
    for _ in range(6):
        status, headers, _ = pair.router.post("/v1/chat/completions", BODY)
        assert status == 200
        assert headers["x-warmroute-decision"] == "load", "the same replica, on a fresh connection"
    assert pair.received > 6


def test_connections_that_replicas_close_after_each_answer_are_not_used_again(pair: Pair) -> None:
    pair.first.script = pair.second.script = sends(plain(b"{}"))
    for _ in range(10):
        assert pair.router.post("/v1/chat/completions", BODY)[0] == 200
    assert pair.received == 10


def test_bytes_behind_an_answer_never_reach_another_client(pair: Pair) -> None:
    evil = plain(b'{"stolen": true}')
    pair.first.script = pair.second.script = sends(plain(b'{"mine": true}') + evil, then="go on")
    for _ in range(6):
        status, _, body = pair.router.post("/v1/chat/completions", BODY)
        assert (status, body) == (200, b'{"mine": true}')

    def late(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(plain(b'{"mine": true}'))
        time.sleep(0.05)
        connection.send(evil)
        return True

    pair.first.script = pair.second.script = late
    for _ in range(4):
        assert pair.router.post("/v1/chat/completions", BODY)[2] == b'{"mine": true}'
        time.sleep(0.1)


class EarlyUpstream(ScriptedUpstream):
    """Answers 413 as soon as it has read a head, and reads no further."""

    def _serve(self, sock: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError), sock:
            while piece := sock.recv(2048):
                data += piece
                if data.startswith(b"POST"):
                    sock.sendall(plain(b'{"error":{"message":"too long"}}', b"413 Too Large"))
                    time.sleep(0.5)
                    return
                if b"\r\n\r\n" in data:
                    connection = Connection(sock)
                    connection._buffer = data
                    received = connection.receive()
                    assert received is not None
                    self._answer(connection, received)
                    data = b""


def test_an_answer_before_the_body_is_sent_reaches_the_client() -> None:
    with EarlyUpstream() as upstream:
        config = Config(listen=ANY, admin=ANY, replicas=(ReplicaConfig(url=upstream.url, id=upstream.id),))
        with running(config, 1) as router:
            body = {"model": "m", "messages": [{"role": "user", "content": "x" * (12 << 20)}]}
            for _ in range(2):
                status, _, answer = router.post("/v1/chat/completions", body)
                assert (status, json.loads(answer)) == (413, {"error": {"message": "too long"}})
            router.assert_at_rest()


# -- clients that leave ------------------------------------------------------------------------------------------


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


class LaterRegistry:
    """Answers lookups when told; everything else as the registry it stands before."""

    def __init__(self, behind: Any) -> None:
        self._behind = behind
        self.waiting: list[Callable[[Any], None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def lookup(self, _rungs: Any, done: Callable[[Any], None]) -> None:
        self.waiting.append(done)

    def find_response(self, _id: str, done: Callable[[Any], None]) -> None:
        self.waiting.append(done)


@contextlib.contextmanager
def registry_of(pair: Pair, make: Callable[[Any], Any]) -> Iterator[Any]:
    """Another registry, which is asked and told of prompts though round robin makes no use of it."""
    gateway = pair.router.worker.gateway
    behind = gateway.registry
    stands = make(behind)

    def use(registry: Any, needed: bool) -> None:
        gateway.registry = registry
        gateway.needs_records = needed

    pair.router.call(lambda: use(stands, True))
    try:
        yield stands
    finally:
        pair.router.call(lambda: use(behind, False))


LONG = {"model": "m", "messages": [{"role": "user", "content": "word " * 500}]}


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


# -- silence -----------------------------------------------------------------------------------------------------


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


# -- faults of the router's own ----------------------------------------------------------------------------------


class Broken:
    """Raises where it is told to; everything else as what it stands before."""

    def __init__(self, behind: Any, *names: str) -> None:
        self._behind = behind
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            return getattr(self._behind, name)

        def raises(*_arguments: Any) -> Any:
            raise ZeroDivisionError(f"made to fail in {name}")

        return raises


class Garbling(LaterRegistry):
    """Answers lookups a moment later, with what no registry may answer."""

    def lookup(self, _rungs: Any, done: Callable[[Any], None]) -> None:
        asyncio.get_running_loop().call_soon(done, [1, 2, 3])


def assert_internal_error(pair: Pair, caplog: pytest.LogCaptureFixture, path: str, body: Any) -> None:
    with pair.router.connect() as sock:
        sock.sendall(raw_request(path, body=body))
        head, _, answer = read_answer(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 500 "), head
    assert b"connection: close" in head
    error = json.loads(answer)
    assert error["error"]["code"] == "internal_error"
    assert ("type" in error) == (path == "/v1/messages")
    crashes = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.message for record in crashes] == ["exchange_crashed"]
    assert crashes[0].exc_info is not None
    pair.router.assert_at_rest()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_crash_while_a_request_is_read_is_a_logged_500(
    pair: Pair, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    with registry_of(pair, lambda behind: Broken(behind, "lookup")):
        assert_internal_error(pair, caplog, path, LONG)
    assert pair.router.post(path, BODY)[0] == 200


def test_a_crash_when_the_lookup_is_answered_is_a_logged_500(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with registry_of(pair, Garbling):
        assert_internal_error(pair, caplog, "/v1/chat/completions", LONG)


def test_a_crash_after_the_choice_is_a_logged_500_and_gives_the_reservation_back(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    with registry_of(pair, lambda behind: Broken(behind, "touch")):
        assert_internal_error(pair, caplog, "/v1/chat/completions", LONG)


def test_a_crash_when_the_answer_begins_is_a_logged_500(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    pair.first.script = pair.second.script = sends(plain(b'{"id":"resp_12345678"}'), then="go on")
    with registry_of(pair, lambda behind: Broken(behind, "remember_response")):
        assert_internal_error(pair, caplog, "/v1/responses", BODIES["/v1/responses"])
    assert pair.router.post("/v1/responses", BODIES["/v1/responses"])[0] == 200


def test_a_crash_after_the_answer_costs_nothing_but_the_connection(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with paired(access_log=AccessLogConfig(enabled=True, path=str(tmp_path / "log"))) as pair:
        gateway = pair.router.worker.gateway
        log = gateway.access_log
        pair.router.call(lambda: setattr(gateway.accounts, "access_log", Broken(log, "write")))
        with pair.router.connect() as sock:
            sock.sendall(raw_request("/v1/chat/completions"))
            answer = read_answer(sock)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.count(b"HTTP/1.1") == 1
        assert "exchange_crashed" in [record.message for record in caplog.records]
        pair.router.assert_at_rest()
        pair.router.call(lambda: setattr(gateway.accounts, "access_log", log))


def test_a_crash_in_a_parser_s_callback_is_not_the_client_s_fault(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = pair.router.worker.gateway
    limits = gateway.limits

    class NoLimits:
        def __getattr__(self, name: str) -> Any:
            if name in ("header_bytes", "body_bytes"):
                raise ZeroDivisionError(name)
            return getattr(limits, name)

    pair.router.call(lambda: setattr(gateway, "limits", NoLimits()))
    try:
        with pair.router.connect() as sock:
            sock.sendall(raw_request("/v1/chat/completions", "X-Not-Known-Yet: 1\r\n"))
            answer = read_answer(sock)
    finally:
        pair.router.call(lambda: setattr(gateway, "limits", limits))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b'"internal_error"' in answer
    assert "request_crashed" in [record.message for record in caplog.records]


def test_a_replica_that_closes_as_soon_as_it_is_connected_keeps_nobody_waiting() -> None:
    with ScriptedUpstream() as upstream:
        config = Config(
            listen=ANY,
            admin=ANY,
            replicas=(ReplicaConfig(url=upstream.url, id=upstream.id),),
            health=HealthConfig(probe_interval_s=60.0),
        )
        with running(config, 1) as router:
            upstream.stop()
            listener = socket.create_server(("127.0.0.1", upstream.port))
            ended = threading.Event()

            def slam() -> None:
                while not ended.is_set():
                    with contextlib.suppress(OSError):
                        Connection(listener.accept()[0]).reset()

            slammer = threading.Thread(target=slam)
            slammer.start()
            try:
                for _ in range(40):
                    assert router.post("/v1/chat/completions", BODY)[0] == 502
            finally:
                ended.set()
                listener.shutdown(socket.SHUT_RDWR)
                slammer.join(60)
                listener.close()
            router.assert_at_rest()
