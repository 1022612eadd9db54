"""What replicas do wrong: who hears of it, who takes over, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest

from tests.support.recorded import RECORDED
from tests.support.replica_pair import ANY, BODIES, BODY, HALF_EVENT, Pair, paired, raw_request, sends
from tests.support.router_thread import read_answer, running, wait_until
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
    Config,
    HealthConfig,
    ReplicaConfig,
)
from warmroute.core.health.health import ReplicaState
from warmroute.core.types import ReplicaId


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
