"""SIGTERM: streams finish, nobody new is let in, the exit status is 0, and patience has an end."""

from __future__ import annotations

import http.client
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scripted_upstream import SSE_HEAD, Connection, Received, ScriptedUpstream, chunk
from tests.support.vllm_fleet import RouterProcess, raw_request, wait_until

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
EVENT = b'data: {"n":1}\n\n'


class Streaming:
    """A replica whose stream goes on until it is told to end."""

    def __init__(self) -> None:
        self.ending = False
        self.cut = False
        self.begun = 0

    def script(self, _upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(SSE_HEAD)
        self.begun += 1
        connection.sock.settimeout(0.05)
        while not self.ending:
            try:
                connection.send(chunk(EVENT))
                if connection.sock.recv(1) == b"":
                    self.cut = True
                    return False
            except TimeoutError:
                continue
            except OSError:
                self.cut = True
                return False
        connection.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        return False


@pytest.fixture
def streaming() -> Iterator[tuple[Streaming, ScriptedUpstream]]:
    replica = Streaming()
    with ScriptedUpstream(script=replica.script) as upstream:
        yield replica, upstream
        replica.ending = True


def refused(router: RouterProcess) -> bool:
    host, _, port = router.url.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=20.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_streams_finish_new_clients_are_refused_and_the_status_is_0(
    streaming: tuple[Streaming, ScriptedUpstream], number: signal.Signals
) -> None:
    replica, upstream = streaming
    with RouterProcess([upstream.url]) as router:
        process = router._process
        assert process is not None
        host, _, port = router.url.removeprefix("http://").partition(":")
        with (
            raw_request(router.url, "/v1/chat/completions", BODY) as connection,
            socket.create_connection((host, int(port)), timeout=60.0) as idle,
        ):
            assert connection.recv(17) == b"HTTP/1.1 200 OK\r\n"
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: r\r\n\r\n")  # answered: the router knows of it
            with http.client.HTTPResponse(idle) as answer:
                answer.begin()
                assert answer.status == 200
                answer.read()
            process.send_signal(number)
            wait_until(lambda: refused(router), "new clients are refused")
            assert idle.recv(1) == b"", "an idle connection is closed at once"
            assert process.poll() is None, "the stream is waited for"
            replica.ending = True
            data = read_to_end(connection)
        assert data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert process.wait(60.0) == 0


def test_after_the_grace_period_streams_are_cut(
    streaming: tuple[Streaming, ScriptedUpstream], tmp_path: Path
) -> None:
    replica, upstream = streaming
    settings = tmp_path / "warmroute.yaml"
    settings.write_text("drain_grace_s: 1.0\n")
    with RouterProcess([upstream.url], "--config", str(settings)) as router:
        process = router._process
        assert process is not None
        with raw_request(router.url, "/v1/chat/completions", BODY) as connection:
            assert connection.recv(17) == b"HTTP/1.1 200 OK\r\n"
            started_s = time.monotonic()
            process.terminate()
            data = read_to_end(connection)
            assert time.monotonic() - started_s > 0.9
        assert not data.endswith(b"0\r\n\r\n"), "the client sees that its stream is not whole"
        assert process.wait(60.0) == 0
        wait_until(lambda: replica.cut, "the replica's stream is cut too")
