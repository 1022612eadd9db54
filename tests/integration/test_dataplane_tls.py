"""TLS on both sides: certificates by file, bodies of all sizes, flow control, and what is not TLS."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import python_command
from tests.support.recorded import RECORDED, request
from tests.support.router_thread import RouterThread, read_answer, running, wait_until
from tests.support.scripted_upstream import (
    MODELS,
    SSE_HEAD,
    Connection,
    Received,
    ScriptedUpstream,
    answer_ok,
    chunk,
)
from tests.support.wire import ParsedAnswers, end_to_end
from warmroute.config.schema import Address, Config, HealthConfig, ReplicaConfig, TlsConfig

ANY = Address("127.0.0.1:0")
TINY = MODELS.replace(b'"m"', b'"tiny"')


@dataclass
class Certificate:
    cert: str
    key: str


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command.split(), *names, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True
    )
    return Certificate(str(cert), str(key))


class TlsUpstream(ScriptedUpstream):
    """A replica behind TLS."""

    context: ssl.SSLContext

    def _serve(self, sock: socket.socket) -> None:
        try:
            wrapped = self.context.wrap_socket(sock, server_side=True)
        except OSError:
            sock.close()
            return
        self._open.add(wrapped)
        super()._serve(wrapped)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def upstream(certificate: Certificate) -> Iterator[TlsUpstream]:
    server = TlsUpstream(models=TINY)
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(certificate.cert, certificate.key)
    with server:
        yield server


@pytest.fixture(scope="module")
def router(upstream: TlsUpstream, certificate: Certificate) -> Iterator[RouterThread]:
    config = Config(
        listen=ANY,
        admin=ANY,
        replicas=(ReplicaConfig(url=upstream.url, id=upstream.id),),
        tls=TlsConfig(
            cert_file=certificate.cert, key_file=certificate.key, upstream_ca_file=certificate.cert
        ),
    )
    with running(config, 1) as started:
        yield started


@pytest.fixture(autouse=True)
def _nothing_stuck(router: RouterThread, upstream: TlsUpstream) -> Iterator[None]:
    upstream.script = answer_ok
    upstream.received.clear()
    yield
    router.assert_at_rest()


def connect(router: RouterThread, certificate: Certificate) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=certificate.cert)
    return context.wrap_socket(router.connect(), server_hostname="localhost")


def read_all(sock: ssl.SSLSocket) -> bytes:
    try:
        return read_answer(sock)
    except ssl.SSLEOFError:
        return b""


@pytest.mark.parametrize("name", ["chat", "chat_stream", "chat_stream_multi_byte_cut", "error_too_long"])
def test_recorded_answers_arrive_unchanged_over_tls(
    router: RouterThread, upstream: TlsUpstream, certificate: Certificate, name: str
) -> None:
    recorded = RECORDED[name]

    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        for start in range(0, len(recorded), 97):
            connection.send(recorded[start : start + 97])
        return True

    upstream.script = script
    with connect(router, certificate) as sock:
        sock.sendall(request(name, "1.1") + request(name, "1.1 close"))
        got = ParsedAnswers(read_all(sock)).answers
    status, fields, body = ParsedAnswers(recorded).answers[0]
    assert [(s, end_to_end(f), b) for s, f, b in got] == [(status, end_to_end(fields), body)] * 2


@pytest.mark.parametrize("size", [100, 40_000, 70_000, 3_000_000])
def test_bodies_of_any_size_and_what_is_pipelined_behind_them_arrive(
    router: RouterThread, upstream: TlsUpstream, certificate: Certificate, size: int
) -> None:
    long = json.dumps(
        {"model": "tiny", "messages": [{"role": "user", "content": "x" * size}]}, separators=(",", ":")
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n" % len(long)
    for at_once in (True, False):
        upstream.received.clear()
        with connect(router, certificate) as sock:
            data = head + long + head + long + request("chat", "1.1 close")
            if at_once:
                sock.sendall(data)
            else:
                for start in range(0, len(data), 30_011):
                    sock.sendall(data[start : start + 30_011])
            assert read_all(sock).count(b"HTTP/1.1 200") == 3
        assert [received.body == long for received in upstream.received] == [True, True, False]


def test_a_slow_client_holds_the_replica_back_over_tls(
    router: RouterThread, upstream: TlsUpstream, certificate: Certificate
) -> None:
    sent = [0]
    event = b"data: %b\n\n" % (b"x" * 30_000)

    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(SSE_HEAD)
        for _ in range(60):
            connection.send(chunk(event * 35))
            sent[0] += 1
        connection.send(b"0\r\n\r\n")
        return True

    upstream.script = script
    with connect(router, certificate) as sock:
        sock.sendall(request("chat", "1.1 close"))
        wait_until(lambda: sent[0] > 0)
        last = -1
        while last != sent[0]:
            last = sent[0]
            time.sleep(0.4)
        assert sent[0] < 40
        answer = ParsedAnswers(read_all(sock))
    assert answer.complete == 1
    assert answer.answers[0][2] == event * 35 * 60


def test_a_client_that_leaves_ends_the_replica_s_work_over_tls(
    router: RouterThread, upstream: TlsUpstream, certificate: Certificate
) -> None:
    heard: list[bool] = []

    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(SSE_HEAD + chunk(b"data: 1\n\n"))
        heard.append(connection.closed_by_peer(60.0))
        return False

    upstream.script = script
    with connect(router, certificate) as sock:
        sock.sendall(request("chat", "1.1"))
        assert sock.recv(10) != b""
    wait_until(lambda: heard == [True])


@pytest.mark.parametrize("data", [b"GET /health HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 100])
def test_what_is_not_tls_is_closed(router: RouterThread, certificate: Certificate, data: bytes) -> None:
    with router.connect() as sock:
        sock.sendall(data)
        assert b"HTTP/1.1 200" not in read_answer(sock)
    with connect(router, certificate) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 200")


def test_replicas_whose_certificates_nobody_vouches_for_are_not_used(
    upstream: TlsUpstream, certificate: Certificate
) -> None:
    def config(tls: TlsConfig) -> Config:
        replicas = (ReplicaConfig(url=upstream.url, id=upstream.id),)
        return Config(
            listen=ANY, admin=ANY, replicas=replicas, tls=tls, health=HealthConfig(probe_interval_s=0.1)
        )

    with RouterThread(config(TlsConfig())) as strict:
        asked = strict.worker._membership.latest
        wait_until(lambda: strict.call(lambda: [seen.alive for seen in asked().values()]) == [False])
        assert strict.call(strict.worker.gateway.fleet.routable) == 0
        (row,) = strict.call(strict.worker._rows)
        assert row["last_failure"] == (
            f"connect: {upstream.url}/health: TLS: its certificate is not accepted: self-signed certificate"
        )
    with running(config(TlsConfig(upstream_verify=False)), 1) as lenient:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
        assert lenient.post("/v1/chat/completions", body)[0] == 200
    assert Path(certificate.cert).exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--set", "tls.cert_file={cert}", "--set", "tls.key_file={key}"],
        ["--registry", "rediss://h?ssl_certfile={cert}&ssl_keyfile={key}"],
    ],
    ids=["listening", "redis"],
)
def test_a_key_with_a_passphrase_is_refused_and_no_terminal_is_asked(
    certificate: Certificate, tmp_path: Path, words: list[str]
) -> None:
    locked = tmp_path / "locked.pem"
    command = [
        "openssl",
        "pkcs8",
        "-topk8",
        "-in",
        certificate.key,
        "-out",
        str(locked),
        "-passout",
        "pass:word",
    ]
    subprocess.run(command, check=True, capture_output=True)
    named = [word.format(cert=certificate.cert, key=locked) for word in words]
    check = python_command("warmroute.cli.main", "config", "--check", "--replica", "http://a:1", *named)
    child, terminal = pty.fork()
    if not child:
        os.execv(check[0], check)
    said = b""
    with contextlib.suppress(OSError):  # its end, of a terminal
        while b"pass phrase" not in said and select.select([terminal], [], [], 60)[0]:
            said += os.read(terminal, 4096)
    if b"pass phrase" in said:
        os.kill(child, signal.SIGKILL)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert b"pass phrase" not in said, said
    assert os.waitstatus_to_exitcode(status) == 2
    assert b"cannot be loaded" in said
