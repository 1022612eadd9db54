"""What the simulated model says, how it is cut into tokens, and which faults strike."""

from __future__ import annotations

import json

import pytest

from warmroute_replica.sim.answers import AnswerLimits, Finish, make_answer
from warmroute_replica.sim.errors import ApiError
from warmroute_replica.sim.faults import MAX_FAULTS, FaultKind, Faults, parse_fault
from warmroute_replica.sim.template import Message, Tool, Turn, render
from warmroute_replica.sim.text import answer_pieces
from warmroute_replica.sim.tokens import block_keys, count_tokens, stream_of_ids, text_of_ids, token_ids

TOOL = Tool("f", "", {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}})


def test_every_token_is_four_bytes_and_some_are_not_ascii():
    pieces = [piece for seed in range(20) for piece in answer_pieces(seed, 200)]
    assert {len(piece.encode()) for piece in pieces} == {4}
    assert any(not piece.isascii() for piece in pieces)
    assert answer_pieces(7, 50) == answer_pieces(7, 50)
    assert answer_pieces(7, 50) == answer_pieces(7, 80)[:50]


def test_text_and_token_ids_have_the_same_stream():
    text = "héllo wörld, 日本"
    ids = token_ids(text.encode())
    assert len(ids) == count_tokens(text.encode())
    assert text_of_ids(ids) == text
    padded = stream_of_ids(ids)
    assert padded.startswith(text.encode())
    assert len(padded) % 4 == 0


@pytest.mark.parametrize("ids", [[-1], [2**32], ["a"], [None], [1.5], [[1]]])
def test_bad_token_ids_are_refused(ids):
    with pytest.raises(ValueError, match="integers from 0"):
        stream_of_ids(ids)


def test_block_keys_agree_exactly_as_far_as_the_whole_blocks_do():
    shared = bytes(range(256)) * 2
    one = block_keys(shared + b"1" * 64, 16, b"m")
    two = block_keys(shared + b"2" * 64, 16, b"m")
    assert len(one) == len(two) == 9
    assert one[:8] == two[:8]
    assert one[8] != two[8]
    assert not set(one) & set(block_keys(shared, 16, b"other"))
    assert block_keys(b"x" * 63, 16, b"m") == []


def test_the_length_is_the_limit_or_natural_or_the_smaller_of_both():
    exact = make_answer(3, AnswerLimits(room=1000, max_tokens=77), None)
    assert (exact.tokens, exact.finish) == (77, Finish.LENGTH)
    natural = make_answer(3, AnswerLimits(room=1000), None)
    assert 20 <= natural.tokens <= 200
    assert natural.finish is Finish.STOP
    ceiling = make_answer(3, AnswerLimits(room=1000, max_tokens=900, is_ceiling=True), None)
    assert (ceiling.tokens, ceiling.finish) == (natural.tokens, Finish.STOP)
    cramped = make_answer(3, AnswerLimits(room=5, max_tokens=900), None)
    assert (cramped.tokens, cramped.finish) == (5, Finish.LENGTH)


def test_a_stop_string_ends_the_text_before_it():
    whole = make_answer(3, AnswerLimits(room=1000, max_tokens=60), None).text
    stop = whole[30:36]
    cut = make_answer(3, AnswerLimits(room=1000, max_tokens=60, stop=["never", stop]), None)
    assert cut.text == whole[: whole.index(stop)]
    assert (cut.finish, cut.stop) == (Finish.STOP, stop)
    at_once = make_answer(3, AnswerLimits(room=1000, max_tokens=60, stop=[whole[:2]]), None)
    assert (at_once.tokens, at_once.text) == (1, "")


def test_a_tool_call_s_arguments_are_json_and_its_tokens_are_those_of_its_rendering():
    answer = make_answer(5, AnswerLimits(room=1000), TOOL)
    assert answer.tool is not None
    assert set(json.loads(answer.text)) == {"a", "b"}
    assert answer.finish is Finish.TOOL_CALLS
    assert answer.tokens == count_tokens(answer.stream)
    turn = Turn([Message("user", "x"), Message("assistant", "", [answer.tool])])
    opened = render(Turn([Message("user", "x")]))
    assert render(turn, generate=False).startswith(opened + answer.stream)
    short = make_answer(5, AnswerLimits(room=1000, max_tokens=4), TOOL)
    assert (short.tokens, short.finish) == (4, Finish.LENGTH)
    assert answer.text.startswith(short.text)


def test_a_growing_conversation_renders_as_a_growing_prompt():
    first = Turn([Message("system", "s"), Message("user", "u")], [TOOL])
    second = Turn([*first.messages, Message("assistant", "answer"), Message("user", "v")], [TOOL])
    assert render(second).startswith(render(first) + b"answer<|im_end|>\n")
    without_tools = render(Turn(first.messages))
    assert b"# Tools" in render(first)
    assert b"# Tools" not in without_tools


def test_faults_strike_in_order_on_their_paths_as_often_as_armed():
    faults = Faults()
    faults.arm(parse_fault({"kind": "500", "count": 2}))
    faults.arm(parse_fault({"kind": "hang", "path": "/health"}))
    faults.arm(parse_fault({"kind": "503", "count": -1}))
    struck = [faults.take("POST", "/v1/completions") for _ in range(4)]
    assert [fault.kind for fault in struck if fault is not None] == [
        FaultKind.ERROR_500,
        FaultKind.ERROR_500,
        FaultKind.ERROR_503,
        FaultKind.ERROR_503,
    ]
    assert faults.take("GET", "/metrics") is None
    health = faults.take("GET", "/health")
    assert health is not None
    assert health.kind is FaultKind.HANG
    assert faults.take("GET", "/health") is None
    faults.clear()
    assert faults.take("POST", "/v1/completions") is None
    assert faults.armed() == []


@pytest.mark.parametrize(
    "armed", [{"kind": "cut", "after_chunks": 3}, {"kind": "cut"}, {"kind": "500", "after_chunks": 1}]
)
def test_a_probe_does_not_use_up_a_fault_that_strikes_within_an_answer(armed: dict[str, object]):
    faults = Faults()
    faults.arm(parse_fault(armed))
    assert faults.take("GET", "/v1/models") is None
    struck = faults.take("POST", "/v1/messages")
    assert struck is not None
    assert struck.seen == 1


def test_armed_faults_are_bounded():
    faults = Faults()
    for _ in range(MAX_FAULTS):
        faults.arm(parse_fault({"kind": "500"}))
    with pytest.raises(ApiError, match="armed already"):
        faults.arm(parse_fault({"kind": "500"}))
