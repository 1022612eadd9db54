from __future__ import annotations

import pytest

from warmroute_loadtest.demo.client import AnswerError, Measurements, Sample, read_stream
from warmroute_loadtest.demo.figures import percentile, side, working_set_tokens


def sample(
    conversation: int = 0,
    turn: int = 0,
    *,
    sent_s: float = 0.0,
    ttft_s: float = 0.1,
    replica: str = "a",
    prompt: int = 100,
    cached: int = 0,
    late_s: float = 0.0,
) -> Sample:
    first_s = sent_s + ttft_s
    return Sample(
        conversation, 0, turn, replica, "warm", sent_s, first_s, first_s + 1, late_s, prompt, cached, 10
    )


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.0, 1), (0.1, 1), (0.5, 5), (0.9, 9), (0.91, 10), (1.0, 10)]
)
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(ratio: float, expected: int) -> None:
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], ratio) == expected


def test_a_percentile_of_nothing_is_zero() -> None:
    assert percentile([], 0.9) == 0


def test_figures_of_a_side() -> None:
    measured = Measurements(
        [
            sample(replica="a", prompt=100, cached=0, ttft_s=0.2),
            sample(replica="b", prompt=300, cached=200, ttft_s=0.05, late_s=0.2),
        ],
        failed=1,
        elapsed_s=3.0,
    )
    got = side("p", measured, ["a", "b", "c"])
    assert got.cached_ratio == 0.5
    assert got.computed_tokens == 200
    assert got.requests_per_replica == {"a": 1, "b": 1, "c": 0}
    assert (got.ttft_p50_ms, got.ttft_p90_ms) == (50, 200)
    assert (got.requests, got.failed, got.late_requests) == (2, 1, 1)
    assert got.as_dict()["computed_tokens"] == 200


def test_a_side_without_answers_has_no_shares() -> None:
    got = side("p", Measurements(failed=2), ["a"])
    assert (got.cached_ratio, got.ttft_p90_ms, got.failed) == (0.0, 0.0, 2)


def test_the_working_set_is_what_conversations_under_way_have_at_once() -> None:
    one = [
        sample(1, 0, sent_s=0, prompt=90),  # 100 tokens with the answer
        sample(1, 1, sent_s=10, prompt=190),  # 200, until 11.1 s
    ]
    overlapping = [*one, sample(2, 0, sent_s=10.5, prompt=40)]
    afterwards = [*one, sample(2, 0, sent_s=20, prompt=40)]
    assert working_set_tokens(one) == 200
    assert working_set_tokens(overlapping) == 250
    assert working_set_tokens(afterwards) == 200
    assert working_set_tokens([]) == 0


STREAM = (
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"caf\xc3\xa9 "}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":null},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


def test_a_stream_is_read_to_its_text_and_usage() -> None:
    text, usage = read_stream(STREAM)
    assert text == "caf\u00e9 "
    assert usage["prompt_tokens"] == 5


@pytest.mark.parametrize("length", [0, 40, STREAM.index(b'data: {"choices":[],'), len(STREAM) - 9])
def test_a_stream_that_ends_too_early_is_no_answer(length: int) -> None:
    with pytest.raises(AnswerError, match="too early"):
        read_stream(STREAM[:length])


def test_an_error_in_a_stream_is_no_answer() -> None:
    with pytest.raises(AnswerError, match="engine died"):
        read_stream(b'data: {"error": {"message": "engine died"}}\n\ndata: [DONE]\n\n')
