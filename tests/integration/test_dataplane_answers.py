"""What replicas answer: recorded vLLM answers through a real router, flow control, and answers without a length."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.recorded import CLIENTS, RECORDED, request
from tests.support.router_thread import RouterThread, read_answer, running, wait_until
from tests.support.scripted_upstream import MODELS, SSE_HEAD, Connection, Received, ScriptedUpstream, chunk
from tests.support.wire import ParsedAnswers, end_to_end
from warmroute.config.schema import Address, Config, ReplicaConfig

ANY = Address("127.0.0.1:0")


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(models=MODELS.replace(b'"m"', b'"tiny"')) as started:
        yield started


@pytest.fixture(scope="module")
def router(upstream: ScriptedUpstream) -> Iterator[RouterThread]:
    config = Config(listen=ANY, admin=ANY, replicas=(ReplicaConfig(url=upstream.url, id=upstream.id),))
    with running(config, 1) as started:
        yield started


@pytest.fixture(autouse=True)
def _nothing_stuck(router: RouterThread) -> Iterator[None]:
    yield
    router.assert_at_rest()


def read_one(sock: socket.socket, name: str) -> ParsedAnswers:
    """One answer from a connection that stays open, or all until it closes."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
        parsed = ParsedAnswers(data)
        if parsed.complete:
            return parsed
    return ParsedAnswers(data)


@pytest.mark.parametrize("client", list(CLIENTS))
@pytest.mark.parametrize("name", list(RECORDED))
def test_recorded_answers_arrive_unchanged_however_they_are_sent(
    router: RouterThread, upstream: ScriptedUpstream, name: str, client: str
) -> None:
    rng = random.Random(name + client)
    recorded = RECORDED[name]
    expected = ParsedAnswers(recorded).answers[0]

    def replay(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        cuts = sorted(rng.randrange(len(recorded)) for _ in range(rng.randrange(4)))
        for start, end in zip([0, *cuts], [*cuts, len(recorded)], strict=True):
            connection.send(recorded[start:end])
            time.sleep(0.001)
        return True

    upstream.script = replay
    with router.connect() as sock:
        for _ in range(2 if client in ("1.1", "1.0 keep-alive") else 1):
            sock.sendall(request(name, client))
            got = read_one(sock, name)
            status, fields, body = got.answers[0]
            assert (status, end_to_end(fields), body) == (expected[0], end_to_end(expected[1]), expected[2])
            if (b"connection", b"close") in fields:
                assert sock.recv(1) == b""
                break


def test_an_answer_without_length_ends_with_the_connection(
    router: RouterThread, upstream: ScriptedUpstream
) -> None:
    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nfirst,")
        time.sleep(0.02)
        connection.send(b"second")
        return False

    upstream.script = script
    with router.connect() as sock:
        sock.sendall(request("chat", "1.1"))
        ((status, fields, body),) = read_one(sock, "chat").answers
        assert (status, body) == (200, b"first,second")
        assert (b"transfer-encoding", b"chunked") in fields
        sock.sendall(request("chat", "1.0"))
        answer = read_answer(sock)
    assert answer.endswith(b"\r\n\r\nfirst,second")
    assert b"transfer-encoding" not in answer


PUSHED_BYTES = 200 << 20
PIECE = random.Random(1).randbytes(1 << 20)


@pytest.mark.parametrize("framing", ["length", "chunks", "events"])
def test_a_slow_client_holds_the_replica_back_and_loses_nothing(
    router: RouterThread, upstream: ScriptedUpstream, framing: str
) -> None:
    """Between a replica that pushes 200 MB and a client that does not read lie kernel buffers and little else."""
    sent = [0]
    piece = PIECE.replace(b"\n", b"x") if framing == "events" else PIECE
    event = b"data: %b\n\n" % piece[:30_000]

    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        if framing == "length":
            connection.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/x\r\ncontent-length: %d\r\n\r\n" % PUSHED_BYTES
            )
        elif framing == "chunks":
            connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        else:
            connection.send(SSE_HEAD)
        unit = {"length": PIECE, "chunks": chunk(PIECE), "events": chunk(event * 35)}[framing]
        for _ in range(PUSHED_BYTES >> 20):
            connection.send(unit)
            sent[0] += 1
        if framing != "length":
            connection.send(b"0\r\n\r\n")
        return True

    upstream.script = script
    with router.connect() as sock:
        sock.sendall(request("chat", "1.1 close"))
        wait_until(lambda: sent[0] > 0)
        last = -1
        while last != sent[0]:  # until nothing moves any more
            last = sent[0]
            time.sleep(0.4)
        assert sent[0] < 40, f"{sent[0]} MB were taken from the replica for a client that reads nothing"
        digest, size = hashlib.blake2b(), 0
        decoder = ChunkDecoder(sock) if framing != "length" else PlainDecoder(sock)
        for data in decoder:
            digest.update(data)
            size += len(data)
    unit = PIECE if framing != "events" else event * 35
    expected = hashlib.blake2b()
    for _ in range(PUSHED_BYTES >> 20):
        expected.update(unit)
    assert size == len(unit) * (PUSHED_BYTES >> 20)
    assert digest.digest() == expected.digest()


class PlainDecoder:
    """Body of an answer that ends with its connection or length."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb")
        while self._file.readline() not in (b"\r\n", b""):
            pass

    def __iter__(self) -> Iterator[bytes]:
        with self._file as file:
            while data := file.read(1 << 20):
                yield data


class ChunkDecoder(PlainDecoder):
    """Body of a chunked answer."""

    def __iter__(self) -> Iterator[bytes]:
        with self._file as file:
            while size := int(file.readline(), 16):
                yield file.read(size)
                assert file.read(2) == b"\r\n"


def test_a_client_that_never_reads_cannot_make_the_router_hold_its_answers(
    router: RouterThread, upstream: ScriptedUpstream
) -> None:
    large = b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000

    def script(_upstream: ScriptedUpstream, connection: Connection, _received: Received) -> bool:
        connection.send(large)
        return True

    upstream.script = script
    upstream.received.clear()
    with router.connect() as sock:
        sock.setblocking(False)
        data = request("chat", "1.1") * 20
        stalled_s = time.monotonic()
        while time.monotonic() - stalled_s < 0.7:
            try:
                sock.send(data)
                stalled_s = time.monotonic()
            except BlockingIOError:
                time.sleep(0.02)
        assert len(upstream.received) * 200_000 < 40 << 20, "answers pile up"
        assert router.call(lambda: len(router.worker.gateway.connections)) == 1
    wait_until(lambda: router.call(lambda: len(router.worker.gateway.connections)) == 0)


def test_many_clients_read_their_own_answers(router: RouterThread, upstream: ScriptedUpstream) -> None:
    """Connections to the replica are shared in turn: each answer reaches the client that asked."""

    def script(_upstream: ScriptedUpstream, connection: Connection, received: Received) -> bool:
        name = received.header(b"x-request-id") or b"none"
        connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(name))
        connection.send(b"0\r\n\r\n")
        return True

    upstream.script = script
    right: list[bytes] = []
    wrong: list[bytes] = []

    def ask(number: int) -> None:
        with router.connect() as sock:
            for turn in range(20):
                name = b"client-%d-%d" % (number, turn)
                data = request("chat", "1.1").replace(b"Host: r", b"Host: r\r\nX-Request-Id: %b" % name)
                sock.sendall(data)
                body = read_one(sock, "chat").answers[0][2]
                (right if body == name else wrong).append(body)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(set(right)) == 8 * 20
