"""No byte of a recorded vLLM answer changes on its way through the router, wherever the network cuts it."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.recorded import CLIENTS, RECORDED, path_for, request
from tests.support.wire import REPLICA, ParsedAnswers, Wire, end_to_end
from warmroute.dialects.routes import Route, RouteKind, route

SHORT_BYTES = 1000
"""Up to this length an answer is cut at every byte; a longer one at every fifth, and at random."""


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


def through(wire: Wire, name: str, client: str, cuts: list[int]) -> None:
    """Replay one recorded answer cut at these places and compare what comes out."""
    recorded = RECORDED[name]
    wire.drop_upstreams()
    connection, transport = wire.add_upstream()
    asking = wire.connect()
    asking.feed(request(name, client))
    assert transport.written.endswith(b'"hello"}]}'), "the request reached the replica"
    start = 0
    for end in [*cuts, len(recorded)]:
        if end > start:
            connection.data_received(recorded[start:end])
            start = end
    sent, got = ParsedAnswers(recorded), ParsedAnswers(asking.output)
    (status, fields, body), (got_status, got_fields, got_body) = sent.answers[0], got.answers[0]
    assert len(got.answers) == 1
    assert got_status == status
    assert end_to_end(got_fields) == end_to_end(fields)
    assert got_body == body
    closes = asking.transport.closed
    assert got.complete or closes, "the client knows where the answer ends"
    assert closes == (client in ("1.1 close", "1.0") or (client != "1.1" and not length_known(fields)))
    assert not asking.transport.aborted
    assert wire.at_rest()
    asking.lose()


def length_known(fields: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-length" for name, _ in fields)


@pytest.mark.parametrize("name", list(RECORDED))
def test_an_answer_cut_in_two_anywhere_arrives_unchanged(wire: Wire, name: str) -> None:
    size = len(RECORDED[name])
    for cut in range(0, size + 1, 1 if size < SHORT_BYTES else 5):
        through(wire, name, "1.1", [cut])


@pytest.mark.parametrize("client", list(CLIENTS))
@pytest.mark.parametrize("name", list(RECORDED))
def test_an_answer_arrives_unchanged_byte_by_byte_and_whole(wire: Wire, name: str, client: str) -> None:
    through(wire, name, client, [])
    through(wire, name, client, list(range(len(RECORDED[name]))))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(RECORDED)), st.sampled_from(sorted(CLIENTS)), st.randoms(use_true_random=False))
def test_an_answer_cut_in_many_pieces_arrives_unchanged(
    wire: Wire, name: str, client: str, rng: random.Random
) -> None:
    size = len(RECORDED[name])
    through(wire, name, client, sorted(rng.randrange(size) for _ in range(rng.randrange(12))))


def test_every_endpoint_used_here_is_routed_by_prefix() -> None:
    for name in RECORDED:
        found = route(b"POST", path_for(name))
        assert isinstance(found, Route)
        assert found.kind is RouteKind.PREFIX


@pytest.mark.parametrize("name", ["response", "response_stream"])
def test_a_response_is_remembered_wherever_its_beginning_is_cut(wire: Wire, name: str) -> None:
    """Before: not at all, if the first piece ended before its id did."""
    recorded = RECORDED[name]
    id_ends = recorded.index(b'"', recorded.index(b'"resp_') + 1)
    (made,) = re.findall(rb'"(resp_\w+)"', recorded[: id_ends + 1])
    missed: list[int] = []
    for cut in range(id_ends + 2):
        mine = b"resp_" + b"%d" % cut  # another id each time, filled up with zeros
        mine += b"0" * (len(made) - len(mine))
        answer = recorded.replace(made, mine)
        wire.drop_upstreams()
        connection, _ = wire.add_upstream()
        asking = wire.connect()
        asking.feed(request(name, "1.1"))
        for piece in (answer[:cut], answer[cut : cut + 3], answer[cut + 3 :]):
            if piece:
                connection.data_received(piece)
        keeper: list[str | None] = []
        wire.gateway.registry.find_response(mine.decode(), keeper.append)
        if keeper != [REPLICA]:
            missed.append(cut)
        asking.lose()
    assert missed == []
