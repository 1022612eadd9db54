"""Where a stream breaks its client gets whole events, then its API's error event, or a cut connection; never a mix."""

from __future__ import annotations

import json

import pytest

from tests.support.recorded import RECORDED, path_for, request
from tests.support.wire import ClientWire, ParsedAnswers, Wire
from warmroute.dialects.sse import MAX_KEPT_BACK_BYTES

STREAMS = [
    name
    for name, data in RECORDED.items()
    if b"text/event-stream" in data and name not in ("chat_stream_engine_died",)
]
TERMINAL = {
    b"/v1/chat/completions": b"data: [DONE]\n\n",
    b"/v1/completions": b"data: [DONE]\n\n",
    b"/v1/messages": b"event: message_stop\n",
    b"/v1/responses": b"event: response.completed\n",
}
BODIES = {name: ParsedAnswers(RECORDED[name]).answers[0][2] for name in STREAMS}


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


def broken(
    wire: Wire, name: str, client: str, sent: bytes, error: Exception | None, *, step: int = 1 << 20
) -> ClientWire:
    """Ask, let the replica send these bytes, then break its connection."""
    wire.drop_upstreams()
    connection, _ = wire.add_upstream()
    asking = wire.connect()
    asking.feed(request(name, client))
    for start in range(0, len(sent), step):
        connection.data_received(sent[start : start + step])
    connection.connection_lost(error)
    assert wire.at_rest()
    next(iter(wire.gateway.fleet.replicas.values())).health.succeeded(0.0)
    return asking


AFTER_OPENING = b"event: response.output_item.added"


def error_events(api_path: bytes, tail: bytes) -> None:
    """Check that these events are one error, as the API's clients know it."""
    events = [event for event in tail.split(b"\n\n") if event]
    if api_path == b"/v1/chat/completions":
        assert events.pop() == b"data: [DONE]"
        (event,) = events
        assert event.startswith(b"data: ")
        error = json.loads(event[6:])["error"]
    else:
        (event,) = events
        first, _, second = event.partition(b"\n")
        assert first == b"event: error"
        data = json.loads(second.removeprefix(b"data: "))
        assert data["type"] == "error"
        error = data["error"] if api_path == b"/v1/messages" else data
    assert error["code"] == "replica_lost"
    assert error["message"]


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset by peer")], ids=["closed", "reset"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_cut_anywhere_ends_with_whole_events_and_an_error(
    wire: Wire, name: str, error: Exception | None
) -> None:
    recorded, body = RECORDED[name], BODIES[name]
    head_bytes = recorded.find(b"\r\n\r\n") + 4
    first_body_byte = recorded.find(b"\r\n", head_bytes) + 2
    if path_for(name) == b"/v1/responses":  # what opens a response tells nothing of whether it is computed
        first_body_byte = recorded.index(AFTER_OPENING) + AFTER_OPENING.index(b"output_item")
    cuts = [*range(0, first_body_byte + 5, 9), *range(first_body_byte, len(recorded), 13)]
    for cut in cuts:
        asking = broken(wire, name, "1.1", recorded[:cut], error, step=700)
        got = ParsedAnswers(asking.output)
        ((status, fields, out),) = got.answers
        assert got.complete == 1, "the client knows that the answer is over"
        assert not asking.transport.closed
        if cut <= first_body_byte:
            assert status == 502
            assert (b"content-type", b"application/json") in fields
        else:
            assert status == 200
            passed = 0
            while body[passed : passed + 1] and out[passed : passed + 1] == body[passed : passed + 1]:
                passed += 1
            passed = out.rfind(b"\n\n", 0, passed) + 2 if out.rfind(b"\n\n", 0, passed) >= 0 else 0
            assert body.startswith(out[:passed])
            if TERMINAL[path_for(name)] in out[:passed]:
                assert out == body, "it was over, and whole"
            else:
                error_events(path_for(name), out[passed:])
        asking.lose()


@pytest.mark.parametrize("name", STREAMS[:4])
def test_an_http_1_0_client_gets_the_error_event_and_the_close(wire: Wire, name: str) -> None:
    asking = broken(wire, name, "1.0", RECORDED[name][:-60], None)
    assert asking.transport.closed
    assert not asking.transport.aborted
    assert b"transfer-encoding" not in asking.output
    assert asking.output.endswith(b"data: [DONE]\n\n")


def test_a_stream_of_known_length_is_cut_since_nothing_may_follow_it(wire: Wire) -> None:
    body = b'data: {"a":1}\n\ndata: {"b":2}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 500\r\n\r\n"
    asking = broken(wire, "chat_stream", "1.1", head + body, None)
    assert asking.transport.aborted
    assert asking.output.endswith(body)


def test_a_stream_that_breaks_inside_a_very_long_event_is_cut(wire: Wire) -> None:
    piece = b"data: " + b"x" * (MAX_KEPT_BACK_BYTES + 10)
    sent = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        b"%x\r\n%b\r\n" % (len(piece), piece)
    )
    asking = broken(wire, "chat_stream", "1.1", sent, None)
    assert asking.transport.aborted
    assert b"error" not in asking.output


@pytest.mark.parametrize("kept", [1, 30, 300])
def test_a_plain_answer_that_breaks_is_cut(wire: Wire, kept: int) -> None:
    recorded = RECORDED["chat"]
    head = recorded.find(b"\r\n\r\n") + 4
    asking = broken(wire, "chat", "1.1", recorded[: head + kept], ConnectionResetError())
    assert asking.transport.aborted
    assert asking.output.endswith(recorded[head : head + kept])


HALF_HEADS = [
    b"H",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\ndate: x\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-type: x\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n",
]


@pytest.mark.parametrize("sent", HALF_HEADS)
@pytest.mark.parametrize("error", [None, ConnectionResetError()], ids=["closed", "reset"])
def test_half_a_head_is_no_answer(wire: Wire, sent: bytes, error: Exception | None) -> None:
    asking = broken(wire, "chat", "1.1", sent, error)
    ((status, _, body),) = ParsedAnswers(asking.output).answers
    assert status == 502
    assert json.loads(body)["error"]["code"] == "replica_failed"


BROKEN_HTTP = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "both lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "bad length": b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "bad field": b"HTTP/1.1 200 OK\r\nbad name: 1\r\ncontent-length: 2\r\n\r\n{}",
    "bare CR": b"HTTP/1.1 200 OK\r\nx: a\rset-cookie: b\r\ncontent-length: 2\r\n\r\n{}",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
}


@pytest.mark.parametrize("name", list(BROKEN_HTTP))
def test_an_answer_that_is_no_http_is_a_failed_replica(wire: Wire, name: str) -> None:
    wire.drop_upstreams()
    connection, transport = wire.add_upstream()
    asking = wire.connect()
    asking.feed(request("chat", "1.1"))
    connection.data_received(BROKEN_HTTP[name])
    assert transport.aborted
    ((status, _, body),) = ParsedAnswers(asking.output).answers
    assert status == 502
    assert json.loads(body)["error"]["code"] == "replica_failed"
    assert wire.at_rest()


TWO_ANSWERS = {
    "a second answer": RECORDED["chat"] + RECORDED["chat"],
    "half a second answer": RECORDED["chat"] + RECORDED["chat"][:100],
    "rubbish": RECORDED["chat"] + b"rubbish\r\n\r\n",
    "an empty line and rubbish": RECORDED["chat"] + b"\r\n\r\nx",
    "a second answer to a stream": RECORDED["chat_stream"] + RECORDED["chat"],
    "an interim answer behind": RECORDED["chat"] + b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("split", [False, True], ids=["at once", "in two reads"])
@pytest.mark.parametrize("name", list(TWO_ANSWERS))
def test_what_follows_an_answer_reaches_nobody_and_ends_the_connection(
    wire: Wire, name: str, split: bool
) -> None:
    data = TWO_ANSWERS[name]
    first = RECORDED["chat_stream" if "stream" in name else "chat"]
    wire.drop_upstreams()
    connection, transport = wire.add_upstream()
    asking = wire.connect()
    asking.feed(request("chat", "1.1"))
    if split:
        connection.data_received(data[: len(first)])
        connection.data_received(data[len(first) :])
    else:
        connection.data_received(data)
    got = ParsedAnswers(asking.output)
    assert [answer[2] for answer in got.answers] == [ParsedAnswers(first).answers[0][2]]
    assert transport.aborted, "the replica cannot be trusted with another request"
    connection.connection_lost(None)
    assert connection not in wire.gateway.pool(next(iter(wire.gateway.fleet.replicas.values()))).idle
    assert wire.at_rest()


def test_interim_answers_are_dropped(wire: Wire) -> None:
    wire.drop_upstreams()
    connection, transport = wire.add_upstream()
    asking = wire.connect()
    asking.feed(request("chat", "1.1"))
    connection.data_received(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    connection.data_received(b"HTTP/1.1 102 Processing\r\n\r\n" + RECORDED["chat"])
    ((status, _, body),) = ParsedAnswers(asking.output).answers
    assert (status, body) == (200, ParsedAnswers(RECORDED["chat"]).answers[0][2])
    assert not transport.closed


def test_an_answer_before_the_request_is_sent_in_full_does_not_reuse_the_connection(wire: Wire) -> None:
    wire.drop_upstreams()
    connection, transport = wire.add_upstream()
    asking = wire.connect()
    asking.feed(request("chat", "1.1"))
    transport.unsent_bytes = 5
    connection.data_received(RECORDED["error_too_long"])
    assert ParsedAnswers(asking.output).answers[0][0] == 400
    assert transport.aborted


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 31\r\n\r\n",
        b"HTTP/1.1 405 No\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\n{}",
    ],
)
def test_the_answer_to_head_has_no_body(wire: Wire, answer: bytes) -> None:
    wire.gateway.registry.remember_response("resp_1", next(iter(wire.gateway.fleet.replicas)))
    wire.drop_upstreams()
    connection, transport = wire.add_upstream()
    asking = wire.connect()
    asking.feed(b"HEAD /v1/responses/resp_1 HTTP/1.1\r\nHost: r\r\n\r\n")
    assert transport.written.startswith(b"HEAD /v1/responses/resp_1 HTTP/1.1\r\n")
    connection.data_received(answer)
    assert asking.output.endswith(b"\r\n\r\n")
    assert asking.output.count(b"\r\n\r\n") == 1
    assert asking.output[9:12] == answer[9:12]
    assert wire.at_rest()
    asking.feed(b"GET /health HTTP/1.1\r\n\r\n")
    assert asking.output.endswith(b'{"status":"ok"}'), "the connection goes on"


def test_a_client_behind_with_its_answers_starts_nothing_more(wire: Wire) -> None:
    wire.drop_upstreams()
    connection, transport = wire.add_upstream()
    asking = wire.connect()
    asking.feed(request("chat", "1.1"))
    connection.data_received(RECORDED["chat"])
    asking.connection.pause_writing()
    before = len(asking.output)
    for _ in range(20):
        asking.feed(request("chat", "1.1") + b"GET /health HTTP/1.1\r\n\r\n")
        if not asking.transport.reading:
            break
    assert not asking.transport.reading, "reading pauses"
    assert len(asking.output) == before
    assert transport.written.count(b"POST") == 1
    asking.connection.resume_writing()
    while connection.exchange is not None:
        connection.data_received(RECORDED["chat"])
    assert asking.transport.reading
    assert transport.written.count(b"POST") > 4
    assert wire.at_rest()
