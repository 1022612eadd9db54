"""The client over sockets that are lists of bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest

from warmroute_loadtest.locust.bodies import Dialogue, Form
from warmroute_loadtest.locust.models import choose
from warmroute_loadtest.locust.player import CUT_OFF, Player
from warmroute_loadtest.locust.samples import Sample
from warmroute_loadtest.locust.talks import Api, Ask, Manners, Piece, Talk
from warmroute_loadtest.locust.tape import Tape
from warmroute_loadtest.locust.thresholds import SettingError
from warmroute_loadtest.locust.wire import Wire, WireError

TAPE = Tape("s")


class Sock:
    """Gives these pieces, one a read; an exception is raised."""

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self.pieces = list(pieces)
        self.sent = b""
        self.is_closed = False

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def recv(self, _: int) -> bytes:
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def setsockopt(self, *_: int) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    def __enter__(self) -> Sock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeWire(Wire):
    """Connects to the next of these."""

    def __init__(self, *socks: Sock) -> None:
        super().__init__("http://host:8000/v1")
        self.socks = list(socks)
        self.connections = 0

    def connect(self) -> Any:
        self.connections += 1
        if not self.socks:
            raise WireError("no connection to host:8000: refused")
        return self.socks.pop(0)


HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nX-Warmroute-Replica: r1\r\n"
    b"X-Warmroute-Decision: warm\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunked(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: dict[str, Any] | str) -> bytes:
    """One event."""
    text = data if isinstance(data, str) else json.dumps(data)
    return f"data: {text}\n\n".encode()


USAGE = {"prompt_tokens": 30, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 16}}
STREAM = [
    HEAD,
    chunked(event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})),
    chunked(event({"choices": [{"delta": {"content": "Hel"}}]})),
    chunked(event({"choices": [{"delta": {"content": "lo"}}]})),
    chunked(event({"choices": [], "usage": USAGE})),
    chunked(event("[DONE]")),
    b"0\r\n\r\n",
]


def talk(manners: Manners = Manners.GOOD, turns: int = 1, api: Api = Api.CHAT) -> Talk:
    """One that says a few words."""
    return Talk("t", tuple(Ask((Piece(f"p{n}", 9),), 2) for n in range(turns)), api=api, manners=manners)


def play(wire: Wire, asked: Talk, sleep: Callable[[float], None] = lambda _: None) -> tuple[Sample, str]:
    """Its first request."""
    player = Player(wire, {}, perf_counter(), sleep)
    made = player.play(asked, Dialogue(asked, TAPE, Form("m")), 4, 0, due_s=perf_counter())
    assert player.in_flight == 0
    return made


@pytest.mark.parametrize("split", ["whole", "as sent", "byte by byte"])
def test_a_stream_is_one_sample_however_it_comes(split: str) -> None:
    whole = b"".join(STREAM)
    pieces = {
        "whole": [whole],
        "as sent": STREAM,
        "byte by byte": [whole[n : n + 1] for n in range(len(whole))],
    }
    sock = Sock(*pieces[split])
    sample, text = play(FakeWire(sock), talk(turns=2))
    assert sample.error == ""
    assert text == "Hello"
    assert (sample.prompt_tokens, sample.cached_tokens, sample.completion_tokens) == (30, 16, 2)
    assert (sample.replica, sample.decision, sample.talk) == ("r1", "warm", 4)
    assert sample.ttft_s is not None
    assert 0 < sample.ttft_s <= sample.e2e_s
    head, _, body = sock.sent.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: host:8000\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert not sock.is_closed


def test_a_connection_is_used_again_and_one_that_was_closed_meanwhile_is_no_failure() -> None:
    wire = FakeWire(Sock(*STREAM, *STREAM, b""), Sock(*STREAM))
    for _ in range(3):
        assert play(wire, talk())[0].error == ""
    assert wire.connections == 2


def test_anthropics_endpoint_gets_its_version() -> None:
    sock = Sock(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    sample, _ = play(FakeWire(sock), talk(api=Api.MESSAGES))
    assert b"POST /v1/messages " in sock.sent
    assert b"anthropic-version: 2023-06-01" in sock.sent
    assert sample.error == "status 404"


def test_an_answer_that_is_no_stream_is_read_whole() -> None:
    body = b'{"data": [], "usage": {"prompt_tokens": 7}}'
    sock = Sock(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body), body
    )
    sample, _ = play(FakeWire(sock), talk(api=Api.EMBEDDINGS))
    assert sample.error == ""
    assert (sample.prompt_tokens, sample.ttft_s) == (7, None)


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        (STREAM[:4], "the connection was closed in the middle of the answer"),
        ([*STREAM[:4], b"0\r\n\r\n"], "the stream ended too early"),
        ([*STREAM[:3], ConnectionResetError(104, "reset")], "reset"),
        ([*STREAM[:3], TimeoutError()], "timed out"),
        ([b""], "the connection was closed without an answer"),
        ([b"SSH-2.0\r\n"], "what came is no HTTP"),
        (
            [b'HTTP/1.1 503 X\r\nContent-Length: 32\r\n\r\n{"error":{"message":"too many"}}'],
            "status 503: too many",
        ),
    ],
)
def test_what_breaks_is_told(pieces: list[bytes], error: str) -> None:
    sock = Sock(*pieces)
    sample, _ = play(FakeWire(sock), talk())
    assert error in sample.error


def test_a_router_that_is_not_there_is_a_failed_request() -> None:
    assert "refused" in play(FakeWire(), talk())[0].error


def test_what_is_under_way_when_the_run_ends_is_a_failed_request() -> None:
    class Killed(BaseException):
        pass

    asked = talk()
    player = Player(FakeWire(Sock(*STREAM[:3], Killed())), {}, perf_counter())
    cut: list[Sample] = []
    player.on_cut_off = cut.append  # type: ignore[method-assign]
    with pytest.raises(Killed):
        player.play(asked, Dialogue(asked, TAPE, Form("m")), 0, 0, due_s=perf_counter())
    assert [sample.error for sample in cut] == [CUT_OFF]
    assert player.in_flight == 0


BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("manners", [m for m in Manners if m is not Manners.GOOD])
def test_hostile_clients_do_what_they_are_called(manners: Manners) -> None:
    slept: list[float] = []
    sock = Sock(*(STREAM if manners is Manners.READS_SLOWLY else [BAD_REQUEST]))
    sample, _ = play(FakeWire(sock), talk(manners), slept.append)
    assert sample.error == ""
    head, _, body = sock.sent.partition(b"\r\n\r\n")
    if manners is Manners.BROKEN_JSON:
        with pytest.raises(ValueError, match="Expecting|Invalid|control"):
            json.loads(body)
    elif manners is Manners.UNKNOWN_MODEL:
        assert json.loads(body)["model"] == "no-such-model"
    elif manners is Manners.HALF_BODY:
        assert f"Content-Length: {len(body)}".encode() not in head
        assert slept
        assert sock.is_closed
    elif manners is Manners.HUGE_HEAD:
        assert len(head) > 100_000
    elif manners is Manners.NOT_HTTP:
        assert not sock.sent.startswith(b"POST")
    elif manners in (Manners.LEAVES_EARLY, Manners.READS_SLOWLY):
        assert slept
        assert sock.is_closed


def test_a_good_answer_to_a_bad_request_is_a_failure() -> None:
    sample, _ = play(FakeWire(Sock(*STREAM)), talk(Manners.BROKEN_JSON))
    assert sample.error == "status 200 to a bad request"


def models(*names: str, status: int = 200) -> FakeWire:
    """A router that lists these."""
    body = json.dumps({"data": [{"id": name} for name in names]}).encode()
    head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    return FakeWire(Sock(head + body))


def test_the_model_is_the_named_one_or_the_first() -> None:
    assert choose(models("a", "b"), {}, "b") == "b"
    assert choose(models("a", "b"), {}, "") == "a"
    with pytest.raises(SettingError, match="MODEL=c: the router does not serve it; it serves a, b"):
        choose(models("a", "b"), {}, "c")
    with pytest.raises(WireError, match="lists no models"):
        choose(models(), {}, "")
    with pytest.raises(WireError, match="/v1/models: status 401"):
        choose(models("a", status=401), {}, "")
    with pytest.raises(WireError, match="refused"):
        choose(FakeWire(), {}, "")


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no URL"):
        Wire(url)
