"""What an agent reads in an engine's metrics: recorded text of a real vLLM, and text that is none."""

from __future__ import annotations

import pytest

from warmroute.adapters.discovery.heartbeats import read_heartbeat
from warmroute_replica.agent.engine_metrics import EngineFigures, parse
from warmroute_replica.agent.record import Record, State

TEXT = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_running{engine="1",model_name="tiny"} 1.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 9.0
vllm:engine_sleep_state{engine="0",model_name="tiny",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="0",model_name="tiny",sleep_state="weights_offloaded"} 0.0
vllm:cache_config_info{block_size="32",engine="0",kv_cache_size_tokens="8192",num_gpu_blocks="256"} 1.0
vllm:cache_config_info{block_size="32",engine="1",kv_cache_size_tokens="8192",num_gpu_blocks="None"} 1.0
process_start_time_seconds 1.79528228e+09
"""


def test_figures_of_all_engines_are_added_up() -> None:
    assert parse(TEXT) == EngineFigures(
        start_s=1795282280.0, block_tokens=32, cache_blocks=512, running=3, waiting=4, awake=True, engines=2
    )


def test_an_engine_that_sleeps_is_told() -> None:
    assert not parse(TEXT.replace('awake"} 1.0', 'awake"} 0.0')).awake


@pytest.mark.parametrize("text", ["", "x 1\n", "vllm:num_requests_running nan\n", "<html>", "\0" * 99])
def test_other_text_tells_nothing(text: str) -> None:
    assert parse(text) == EngineFigures()


def test_what_an_agent_writes_a_router_reads() -> None:
    record = Record(
        id="a", url="http://h:1", agent="1-a", state=State.DRAINING, interval_s=1.0, models=("m",), adapters=("l",),
        block_tokens=16, cache_blocks=9, incarnation=1.5, zone="z", labels={"k": "v"}, ranks=2, running=1, waiting=0,
    )  # fmt: skip
    heard = read_heartbeat(record.text().encode())
    assert (heard.member.replica_id, heard.member.url, heard.member.draining) == ("a", "http://h:1", True)
    assert (heard.member.models, heard.member.zone, heard.member.labels) == ({"m", "l"}, "z", {"k": "v"})
    assert (heard.running, heard.waiting, heard.lives_s, heard.state) == (1, 0, 4.0, "draining")
    assert heard.member.ranks == 2
