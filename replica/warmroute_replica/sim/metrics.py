"""This module renders `/metrics` of the simulated replica, under vLLM's names, labels and buckets.

It decides the text format only; the figures come from the engine and from what `Metrics` is told. Each life of the
replica has an instance of its own: a restart begins at zero with a new start time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from warmroute_replica.sim.engine import Engine, RunState, StepResult
from warmroute_replica.sim.engine_config import EngineConfig

TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0),
    *(40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS = (
    *(
        0.01,
        0.025,
        0.05,
        0.075,
        0.1,
        0.15,
        0.2,
        0.3,
        0.4,
        0.5,
        0.75,
        1.0,
        2.5,
        5.0,
        7.5,
        10.0,
        20.0,
        40.0,
        80.0,
    ),
)
REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)
COUNT_BUCKETS = (
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    200.0,
    500.0,
    1000.0,
    2000.0,
    5000.0,
    10000.0,
    20000.0,
)


class Histogram:
    """Counts one figure's values in cumulative buckets."""

    __slots__ = ("_buckets", "_counts", "count", "sum")

    def __init__(self, buckets: Sequence[float]) -> None:
        self._buckets = buckets
        self._counts = [0] * (len(buckets) + 1)
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value that was seen `times` times."""
        self._counts[bisect_left(self._buckets, value)] += times
        self.count += times
        self.sum += value * times

    def lines(self, name: str, labels: str) -> list[str]:
        """Return the histogram's samples in Prometheus' text format."""
        lines = []
        below = 0
        for edge, count in zip((*map(str, self._buckets), "+Inf"), self._counts, strict=True):
            below += count
            lines.append(f'{name}_bucket{{{labels},le="{edge}"}} {float(below)}')
        lines.append(f"{name}_count{{{labels}}} {float(self.count)}")
        lines.append(f"{name}_sum{{{labels}}} {self.sum}")
        return lines


class Metrics:
    """Figures that the engine does not count itself."""

    def __init__(self, start_time_s: float) -> None:
        self.start_time_s = start_time_s
        """The Unix time at which this life started, in seconds; a new one tells a router that the cache is empty."""
        self.aborted_total = 0
        """Number of requests that ended unfinished, because their client went away or they were cancelled."""
        self.rejected_total = 0
        self.finished = {"stop": 0, "length": 0, "abort": 0, "error": 0, "repetition": 0}
        self.ttft = Histogram(TTFT_BUCKETS)
        self.inter_token = Histogram(TOKEN_BUCKETS)
        self.e2e = Histogram(REQUEST_BUCKETS)
        self.queue = Histogram(REQUEST_BUCKETS)
        self.prefill = Histogram(REQUEST_BUCKETS)
        self.decode = Histogram(REQUEST_BUCKETS)
        self.prompt_tokens = Histogram(COUNT_BUCKETS)
        self.generation_tokens = Histogram(COUNT_BUCKETS)
        self.computed_tokens = Histogram(COUNT_BUCKETS)

    def on_step(self, result: StepResult) -> None:
        """Count what a run of steps did."""
        decoded = result.generated_tokens - len(result.first)
        if decoded:
            self.inter_token.observe(result.duration_s / result.steps, decoded)
        for state in result.first:
            self.ttft.observe(result.end_s - state.arrival_s)
        for state in result.finished:
            self._finish(state, result.end_s)

    def _finish(self, state: RunState, end_s: float) -> None:
        admitted_s = state.admitted_s if state.admitted_s is not None else state.arrival_s
        first_s = state.first_token_s if state.first_token_s is not None else end_s
        self.e2e.observe(end_s - state.arrival_s)
        self.queue.observe(admitted_s - state.arrival_s)
        self.prefill.observe(first_s - admitted_s)
        self.decode.observe(end_s - first_s)
        self.prompt_tokens.observe(state.request.prompt_tokens)
        self.generation_tokens.observe(state.generated)
        self.computed_tokens.observe(state.request.prompt_tokens - state.cached_tokens)


def render_metrics(
    metrics: Metrics,
    engine: Engine,
    model: str,
    loras: Sequence[str],
    now_s: float,
    sleep_level: int | None = None,
    number: int = 0,
) -> str:
    """Return the whole answer to `GET /metrics` of a server that has this engine alone.

    Args:
        sleep_level: The engine's sleep level; None while it is awake.
        number: The engine's data-parallel rank.
    """
    labels = f'engine="{number}",model_name="{_escaped(model)}"'
    totals = engine.totals
    config = engine.config
    out: list[str] = []

    def add(name: str, kind: str, samples: Sequence[tuple[str, float]]) -> None:
        suffix = "_total" if kind == "counter" else ""
        out.append(f"# HELP {name}{suffix} See vLLM's documentation.")
        out.append(f"# TYPE {name}{suffix} {kind}")
        out.extend(f"{name}{suffix}{{{labels}{extra}}} {float(value)}" for extra, value in samples)

    out.append("# TYPE process_start_time_seconds gauge")
    out.append(f"process_start_time_seconds {metrics.start_time_s!r}")
    waiting = engine.waiting
    add("vllm:num_requests_running", "gauge", [("", engine.running)])
    add("vllm:num_requests_waiting", "gauge", [("", waiting)])
    reasons = [(',reason="capacity"', waiting), (',reason="deferred"', 0)]
    add("vllm:num_requests_waiting_by_reason", "gauge", reasons)
    awake = [
        ("awake", int(sleep_level is None)),
        ("weights_offloaded", int(sleep_level == 1)),
        ("discard_all", int(sleep_level == 2)),
    ]
    add("vllm:engine_sleep_state", "gauge", [(f',sleep_state="{name}"', value) for name, value in awake])
    add("vllm:kv_cache_usage_perc", "gauge", [("", engine.usage_ratio)])
    add("vllm:prefix_cache_queries", "counter", [("", totals.queried_tokens)])
    loaded_tokens, blended_tokens = totals.loaded_tokens, totals.blended_tokens
    device_tokens = totals.hit_tokens - loaded_tokens
    external = engine.tier is not None or engine.chunks is not None
    looked_up = totals.queried_tokens - device_tokens if external else 0
    add("vllm:prefix_cache_hits", "counter", [("", device_tokens)])
    add("vllm:external_prefix_cache_queries", "counter", [("", looked_up)])
    add("vllm:external_prefix_cache_hits", "counter", [("", loaded_tokens + blended_tokens)])
    add("vllm:num_preemptions", "counter", [("", totals.preemptions)])
    add("vllm:prompt_tokens", "counter", [("", totals.prompt_tokens)])
    sources = [
        ("local_compute", totals.queried_tokens - totals.hit_tokens - blended_tokens),
        ("local_cache_hit", device_tokens),
        ("external_kv_transfer", loaded_tokens + blended_tokens),
    ]
    add("vllm:prompt_tokens_by_source", "counter", [(f',source="{name}"', value) for name, value in sources])
    add("vllm:prompt_tokens_cached", "counter", [("", totals.hit_tokens + blended_tokens)])
    tiers = [("device", device_tokens), ("host", loaded_tokens + blended_tokens)]
    tiers += [(name, 0) for name in ("p2p", "disk", "external_unspecified")]
    add(
        "vllm:prompt_tokens_cached_by_source",
        "counter",
        [(f',source="{name}"', value) for name, value in tiers],
    )
    add("vllm:generation_tokens", "counter", [("", totals.generated_tokens)])
    finished = [(f',finished_reason="{name}"', value) for name, value in metrics.finished.items()]
    add("vllm:request_success", "counter", finished)
    out.append("# TYPE vllm:admission_rejections_total counter")
    for reason, value in (("max_num_queued_reqs", metrics.rejected_total), ("max_num_queued_tokens", 0)):
        out.append(
            f'vllm:admission_rejections_total{{model_name="{_escaped(model)}",reason="{reason}"}} {float(value)}'
        )
    for name, histogram in (
        ("time_to_first_token_seconds", metrics.ttft),
        ("inter_token_latency_seconds", metrics.inter_token),
        ("e2e_request_latency_seconds", metrics.e2e),
        ("request_queue_time_seconds", metrics.queue),
        ("request_prefill_time_seconds", metrics.prefill),
        ("request_decode_time_seconds", metrics.decode),
        ("request_prompt_tokens", metrics.prompt_tokens),
        ("request_generation_tokens", metrics.generation_tokens),
        ("request_prefill_kv_computed_tokens", metrics.computed_tokens),
    ):
        out.append(f"# TYPE vllm:{name} histogram")
        out.extend(histogram.lines(f"vllm:{name}", labels))
    if loras:
        active = ",".join(_escaped(name) for name in loras)
        out.append("# TYPE vllm:lora_requests_info gauge")
        out.append(
            f'vllm:lora_requests_info{{max_lora="{len(loras)}",running_lora_adapters="{active}",'
            f'waiting_lora_adapters=""}} {now_s!r}'
        )
    add("vllm:cache_config_info", "gauge", [("," + _cache_labels(config), 1)])
    add("sim:aborted", "counter", [("", metrics.aborted_total)])
    return "\n".join(out) + "\n"


def merge_engines(texts: Sequence[str]) -> str:
    """Return one answer made of several engines' answers. Each metric family appears once, with all its samples; the
    figures of the server as a whole are taken from the first."""
    if len(texts) == 1:
        return texts[0]
    families: dict[str, list[str]] = {}
    for number, text in enumerate(texts):
        family: list[str] = []
        for line in text.splitlines():
            if line.startswith("#"):
                family = families.setdefault(line.split(" ", 3)[2], [])
                if number == 0:
                    family.append(line)
            elif number == 0 or f'engine="{number}"' in line:
                family.append(line)
    return "\n".join(line for family in families.values() for line in family) + "\n"


def _cache_labels(config: EngineConfig) -> str:
    blocks = config.cache_blocks
    values = {
        "block_size": config.block_tokens,
        "cache_dtype": "auto",
        "effective_attention_block_size": config.block_tokens,
        "enable_prefix_caching": True,
        "gpu_memory_utilization": 0.92,
        "hash_block_size": None,
        "kv_cache_size_tokens": blocks * config.block_tokens,
        "num_cpu_blocks": None,
        "num_gpu_blocks": blocks,
        "prefix_caching_hash_algo": "xxh3_64",
        "sliding_window": None,
        "user_specified_block_size": True,
    }
    return ",".join(f'{name}="{value}"' for name, value in values.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
