"""Figures read from vLLM's metrics text, as recorded and as mangled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmroute.adapters.engine.vllm_metrics import EngineFigures, parse
from warmroute.ports import RankFigures

TEXT = b"""# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79528081069e+09
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 7.0
vllm:cache_config_info{_block_size_resolved="True",block_size="32",effective_attention_block_size="64",engine="0",\
hash_block_size="None",kv_cache_size_tokens="8192",mamba_block_size="None",num_cpu_blocks="None",num_gpu_blocks="256",\
num_gpu_blocks_override="None"} 1.0
"""


def test_a_recorded_answer_is_read() -> None:
    one = RankFigures(8192, 2, 1)
    assert parse(TEXT) == EngineFigures(1795280810.69, 32, 8192, 2, 1, engines=(one,))


def test_older_engines_tell_the_cache_size_in_blocks() -> None:
    assert (
        parse(TEXT.replace(b'kv_cache_size_tokens="8192"', b'kv_cache_size_tokens="None"')).cache_tokens
        == 8192
    )
    assert parse(TEXT.replace(b'kv_cache_size_tokens="8192",', b"")).cache_tokens == 8192
    assert parse(TEXT.replace(b"256", b"None").replace(b"8192", b"None")).cache_tokens is None


def test_each_data_parallel_engine_is_told_apart_by_rank_whatever_its_label() -> None:
    second = TEXT.replace(b'engine="0"', b'engine="10"').replace(b'size_tokens="8192"', b'size_tokens="4096"')
    second = second.replace(b'"tiny"} 2.0', b'"tiny"} 5.0')
    first = TEXT.replace(b'engine="0"', b'engine="9"')
    figures = parse(second + first)
    assert figures.engines == (RankFigures(8192, 2, 1), RankFigures(4096, 5, 1))
    assert (figures.cache_tokens, figures.running, figures.waiting) == (12288, 7, 2)


def test_an_engine_that_has_not_counted_anything_yet_is_an_engine() -> None:
    # As vLLM with several API servers writes it before the first request.
    caches = b"".join(
        b'vllm:cache_config_info{block_size="32",engine="%d",kv_cache_size_tokens="8192"} 1\n' % n
        for n in range(2)
    )
    assert parse(caches).engines == (RankFigures(8192), RankFigures(8192))


def test_carriage_returns_and_missing_parts_are_no_obstacle() -> None:
    assert parse(TEXT.replace(b"\n", b"\r\n")) == parse(TEXT)
    assert parse(b"") == EngineFigures()
    assert parse(b"<html>no metrics here</html>") == EngineFigures()


def test_impossible_values_are_unknown() -> None:
    assert parse(b"process_start_time_seconds nan\n").start_time_s is None
    assert parse(b"process_start_time_seconds 1e999\n").start_time_s is None
    assert parse(b"process_start_time_seconds -5\n").start_time_s is None
    assert parse(b"process_start_time_seconds 1-2\n").start_time_s is None
    assert parse(b'vllm:num_requests_running{a="b"} -1\n').running is None
    assert parse(b'vllm:cache_config_info{block_size="0"} 1\n').block_tokens is None


@given(st.binary(max_size=400), st.integers(0, len(TEXT)), st.integers(0, len(TEXT)))
def test_mangled_text_never_raises(noise: bytes, start: int, end: int) -> None:
    figures = parse(TEXT[:start] + noise + TEXT[end:])
    for value in (figures.block_tokens, figures.cache_tokens):
        assert value is None or value > 0
    for count in (figures.running, figures.waiting):
        assert count is None or count >= 0


@pytest.mark.parametrize(
    ("states", "asleep", "emptied"),
    [
        ([(1, 0, 0)], False, False),
        ([(0, 0, 0)], True, False),
        ([(0, 1, 0)], True, True),
        ([(0, 0, 1)], True, True),
        ([(1, 0, 0), (0, 1, 0)], True, True),
    ],
)
def test_whether_an_engine_sleeps_and_what_it_costs_it(
    states: list[tuple[int, int, int]], asleep: bool, emptied: bool
) -> None:
    names = ("awake", "weights_offloaded", "discard_all")
    lines = [
        f'vllm:engine_sleep_state{{engine="{engine}",model_name="m",sleep_state="{name}"}} {float(value)}\n'
        for engine, values in enumerate(states)
        for name, value in zip(names, values, strict=True)
    ]
    figures = parse(TEXT + "".join(lines).encode())
    assert (figures.asleep, figures.emptied) == (asleep, emptied)
    assert figures.cache_tokens == 8192
