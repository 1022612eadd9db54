"""A client that did not ask for usage never sees that the router did, wherever the network cuts the stream."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import recorded
from tests.support.wire import ClientWire, FakeTransport, ParsedAnswers, Wire
from warmroute.dataplane.upstream import ReplicaConnection
from warmroute.dialects.sse import EventGate
from warmroute.dialects.usage_request import ASKING, ASKS, NEVER, StreamWatch, UsageSupport, asking_at

VARIES = re.compile(rb'(?<="created":)\d+|(?<="chatcmpl-tool-)[0-9a-f]+')
RECORDED = {
    name: VARIES.sub(lambda found: b"1" * len(found[0]), data) for name, data in recorded.RECORDED.items()
}
TWINS = sorted(name for name in RECORDED if f"{name}_asked" in RECORDED)
CHAT = b'{"model":"tiny","stream":true,"messages":[{"role":"user","content":"hello"}]}'
COMPLETION = b'{"model":"tiny","stream":true,"prompt":"hello"}'

Upstream = tuple[ReplicaConnection, FakeTransport]


def post(path: bytes, body: bytes) -> bytes:
    return b"POST /v1/%b HTTP/1.1\r\nHost: r\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)


def ask(name: str) -> bytes:
    """The request of a client that says nothing of usage."""
    path, body = (
        (b"completions", COMPLETION) if name.startswith("completion") else (b"chat/completions", CHAT)
    )
    return post(path, body)


def send(wire: Wire, request: bytes, *, connections: int = 1) -> tuple[ClientWire, list[Upstream]]:
    """A new client's request, and so many fresh connections to the engine: the one that has it, and any spare ones."""
    wire.drop_upstreams()
    upstreams = [wire.add_upstream() for _ in range(connections)]
    client = wire.connect()
    client.feed(request)
    upstreams.sort(key=lambda upstream: not upstream[1].written)
    return client, upstreams


def again(upstreams: list[Upstream]) -> Upstream:
    """The connection on which the engine has the request for the second time."""
    (first, asked), spare = upstreams
    return (first, asked) if bytes(asked.written).count(b"POST ") == 2 else spare


def replay(wire: Wire, name: str, recorded: bytes, cuts: list[int], *, asked: bool) -> bytes:
    """The body that the client gets of a recorded answer that comes in these pieces."""
    client, [(connection, transport)] = send(wire, ask(name))
    assert (ASKING in transport.written) is asked, "whether the engine is asked for usage"
    start = 0
    for end in [*cuts, len(recorded)]:
        if end > start:
            connection.data_received(recorded[start:end])
            start = end
    assert wire.at_rest()
    client.lose()
    return ParsedAnswers(client.output).answers[0][2]


def taught(name: str) -> tuple[Wire, bytes]:
    """A router that has seen how its engine ends such streams, and the body that a client must get."""
    wire = Wire()
    return wire, replay(wire, name, RECORDED[name], [], asked=False)


def test_there_are_streams_recorded_with_and_without_asking() -> None:
    assert len(TWINS) >= 5


@pytest.mark.parametrize("name", TWINS)
def test_nothing_shows_whatever_two_pieces_the_stream_comes_in(name: str) -> None:
    wire, plain = taught(name)
    recorded = RECORDED[name + "_asked"]
    body = ParsedAnswers(recorded).answers[0][2]
    assert body != plain
    assert b'"usage":{' in body
    for cut in range(0, len(recorded) + 1, 1 if len(recorded) < 4000 else 3):
        assert replay(wire, name, recorded, [cut], asked=True) == plain
    assert replay(wire, name, recorded, list(range(len(recorded))), asked=True) == plain


@settings(max_examples=150)
@given(st.sampled_from(TWINS), st.randoms(use_true_random=False))
def test_nothing_shows_in_any_pieces(name: str, rng: random.Random) -> None:
    wire, plain = taught(name)
    recorded = RECORDED[name + "_asked"]
    cuts = sorted(rng.randrange(len(recorded)) for _ in range(rng.randrange(12)))
    assert replay(wire, name, recorded, cuts, asked=True) == plain


def test_what_was_hidden_is_counted() -> None:
    wire, _ = taught("chat_stream")
    replay(wire, "chat_stream", RECORDED["chat_stream_asked"], [], asked=True)
    tokens = wire.gateway.metrics.tokens["tiny"]
    assert tokens.completion == 8
    assert tokens.confirmed == 31


# -- streams of every form ------------------------------------------------------------------------------------------

TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            '"choices":[],"usage":{"prompt_tokens":1}}',
            '"finish_reason":"stop"',
            '}\n\ndata: {"choices":[],"usage":{}}\n\n',
            ',"system_fingerprint":"x"',
            "x" * 70_000,
        ]
    ),
)


def event(end: bytes, **fields: object) -> bytes:
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", **fields}
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + end


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """One answer as a stream, not asked for usage and asked, as an engine like vLLM writes it."""
    end = draw(st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r"]))
    fingerprint = draw(st.sampled_from([{}, {"system_fingerprint": "vllm-1"}]))
    plain: list[bytes] = []
    asked: list[bytes] = []
    for text in draw(st.lists(TEXT, max_size=4)):
        choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
        both = event(end, choices=[choice])
        plain.append(both)
        asked.append(both)
    choice = {"index": 0, "delta": {"content": draw(TEXT)}, "finish_reason": "stop", "stop_reason": None}
    plain.append(event(end, choices=[choice], **fingerprint))
    asked.append(event(end, choices=[choice]))
    usage = {"prompt_tokens": 4, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 2}}
    extra = event(end, choices=[], usage=usage, **fingerprint)
    done = b"data: [DONE]" + end
    if draw(st.booleans()):
        return b"".join([*plain, done]), b"".join([*asked, extra, done])
    return b"".join(plain), b"".join([*asked, extra])  # an engine that closes without [DONE]


def watch(support: UsageSupport, asked: bool, stream: bytes, cuts: list[int]) -> bytes:
    """The stream through what stands on its way, fed as the relay feeds it."""
    gate, watch = EventGate(), StreamWatch(support, asked)
    out = b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        piece = gate.feed(stream[start:end])
        if watch.alert or b'"finish_reason":"' in piece or b'"usage":' in piece or not gate.at_boundary:
            piece = watch.feed(piece)
        out += piece
    return out + watch.end(gate.flush())


@settings(max_examples=300)
@given(pairs(), st.lists(st.integers(0, 2**32), max_size=10))
def test_any_stream_comes_out_as_if_nobody_had_asked(pair: tuple[bytes, bytes], cuts: list[int]) -> None:
    plain, asked = pair
    support = UsageSupport()
    assert watch(support, False, plain, sorted(cut % len(plain) for cut in cuts)) == plain
    assert support.verdict == ASKS
    assert watch(support, True, asked, sorted(cut % len(asked) for cut in cuts)) == plain
    assert support.verdict == ASKS


@settings(max_examples=100)
@given(pairs(), st.integers(0, 2**32))
def test_a_stream_cut_off_shows_a_beginning_of_what_it_would_have_been(
    pair: tuple[bytes, bytes], cut: int
) -> None:
    plain, asked = pair
    support = UsageSupport()
    watch(support, False, plain, [])
    gate, half = EventGate(), StreamWatch(support, True)
    out = half.feed(gate.feed(asked[: cut % len(asked)])) + half.broken()
    assert plain.startswith(out)


def test_an_engine_that_tells_usage_by_itself_is_never_asked() -> None:
    for extra in (b'{"choices":[],"usage":{"prompt_tokens":1}}', b'{"choices":[{"index":0}],"usage":null}'):
        support = UsageSupport()
        stream = b'data: {"choices":[{"finish_reason":"stop"}]}\n\ndata: ' + extra + b"\n\ndata: [DONE]\n\n"
        assert watch(support, False, stream, []) == stream
        assert support.verdict == NEVER


def test_an_engine_that_is_asked_and_tells_nothing_is_not_asked_again() -> None:
    support = UsageSupport()
    stream = b'data: {"choices":[{"finish_reason":"stop"}],"system_fingerprint":"x"}\n\ndata: [DONE]\n\n'
    assert watch(support, False, stream, []) == stream
    assert watch(support, True, stream, []) == stream
    assert support.verdict == NEVER


def test_what_an_engine_adds_elsewhere_if_asked_is_taken_out_and_it_is_not_asked_again() -> None:
    support = UsageSupport()
    plain = b'data: {"choices":[{"finish_reason":null}]}\n\ndata: {"choices":[{"finish_reason":"stop"}]}\n\n'
    asked = plain.replace(b"]}\n", b'],"usage":null}\n', 1)
    asked = asked.replace(b"]}\n", b'],"usage":{"prompt_tokens":1,"prompt_tokens_details":{"a":1}}}\n', 1)
    assert watch(support, False, plain, []) == plain
    assert watch(support, True, asked, []) == plain
    assert support.verdict == NEVER


def test_an_engine_with_a_fingerprint_elsewhere_is_never_asked() -> None:
    support = UsageSupport()
    stream = b'data: {"system_fingerprint":"x","choices":[{"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    assert watch(support, False, stream, []) == stream
    assert support.verdict == NEVER


# -- who is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        b'"stream_options":{"include_usage":true}',
        b'"stream_options":{"include_usage":false}',
        b'"stream_options":null',
        b'"stream_options":{}',
        b'"n":2',
    ],
)
def test_a_request_that_speaks_of_usage_or_wants_several_answers_is_passed_on_as_it_is(field: bytes) -> None:
    wire, _ = taught("chat_stream")
    body = CHAT[:-1] + b"," + field + b"}"
    client, [(connection, transport)] = send(wire, post(b"chat/completions", body))
    assert bytes(transport.written).endswith(b"\r\n\r\n" + body)
    connection.data_received(RECORDED["chat_stream_asked"])
    expected = ParsedAnswers(RECORDED["chat_stream_asked"]).answers[0][2]
    assert ParsedAnswers(client.output).answers[0][2] == expected


def refusal(text: bytes) -> bytes:
    return b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(text),
        text,
    )


@pytest.mark.parametrize("text", [b'{"detail":"extra field stream_options"}', b'{"detail":"bad request"}'])
@pytest.mark.parametrize("cut", [0, 20, -5])
def test_an_engine_that_refuses_to_be_asked_serves_the_request_and_is_not_asked_again(
    text: bytes, cut: int
) -> None:
    wire, plain = taught("chat_stream")
    client, upstreams = send(wire, ask("chat_stream"), connections=2)
    connection, transport = upstreams[0]
    assert ASKING in transport.written
    answer = refusal(text)
    for piece in (answer[:cut], answer[cut:]):
        if piece:
            connection.data_received(piece)
    second, transport = again(upstreams)
    assert bytes(transport.written).endswith(b"\r\n\r\n" + CHAT), "asked again, as the client sent it"
    second.data_received(RECORDED["chat_stream"])
    assert ParsedAnswers(client.output).answers[0][2] == plain
    client.lose()
    replay(wire, "chat_stream", RECORDED["chat_stream"], [], asked=False)


def test_a_clients_own_mistake_is_answered_as_the_engine_answers_it() -> None:
    wire, plain = taught("chat_stream")
    client, upstreams = send(wire, ask("chat_stream"), connections=2)
    mistake = refusal(b'{"detail":"temperature must be positive"}')
    upstreams[0][0].data_received(mistake)
    again(upstreams)[0].data_received(mistake)
    assert ParsedAnswers(client.output).answers[0][0] == 400
    assert replay(wire, "chat_stream", RECORDED["chat_stream_asked"], [], asked=True) == plain
    # An engine that has answered such a request before is believed at once.
    client, [(connection, transport)] = send(wire, ask("chat_stream"))
    connection.data_received(mistake)
    assert bytes(transport.written).count(b"POST ") == 1
    assert ParsedAnswers(client.output).answers[0][0] == 400


def test_a_restarted_engine_is_watched_anew() -> None:
    wire, _ = taught("chat_stream")
    wire.restart()
    replay(wire, "chat_stream", RECORDED["chat_stream"], [], asked=False)
    replay(wire, "chat_stream", RECORDED["chat_stream_asked"], [], asked=True)


@given(
    st.dictionaries(st.text(max_size=5), st.integers(), min_size=1, max_size=4),
    st.sampled_from(["", " ", "\n\t "]),
)
def test_a_spliced_body_is_the_same_object_and_asks(fields: dict[str, int], blank: str) -> None:
    body = (blank + json.dumps(fields)).encode()
    at = asking_at(body)
    spliced = json.loads(body[:at] + ASKING + body[at:])
    assert spliced == {"stream_options": {"include_usage": True}, **fields}


def test_a_body_without_an_object_is_left_alone() -> None:
    assert asking_at(b"[1]") == -1
    assert asking_at(b"") == -1
