"""This module reads the few figures that an agent needs of an engine's `/metrics`, in Prometheus' text format.

Source: vLLM 0.32: `vllm:cache_config_info` one line an engine (data-parallel rank), request gauges one line an engine
and model, `process_start_time_seconds` (absent with several API servers), `vllm:engine_sleep_state`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_NAMES = (
    "process_start_time_seconds",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:cache_config_info",
    "vllm:engine_sleep_state",
)
_LINE = re.compile(r"([a-z_:]+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')

_ENGINE = re.compile(r'(?:^|,)engine="([0-9]{1,6})"')


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """The figures that an engine's metrics hold; None where the text does not have one."""

    start_s: float | None = None
    block_tokens: int | None = None
    cache_blocks: int | None = None
    running: int | None = None
    waiting: int | None = None
    awake: bool = True
    """False while some engine behind the URL sleeps; requests to a sleeping engine queue without an end."""
    engines: int = 0
    """Number of engines (data-parallel ranks) behind the URL; 0 where the metrics do not tell them apart."""


def parse(text: str) -> EngineFigures:
    """Read the figures from the text; text of any other kind yields no figures, and never an error."""
    start_s: float | None = None
    sums: dict[str, int] = {}
    block_tokens: int | None = None
    cache_blocks = 0
    awake = True
    engines: set[str] = set()
    for line in text.splitlines():
        # Most of the text's 57 KB are histograms: matching the pattern on all of it would take milliseconds, four
        # times a second.
        found = _LINE.match(line) if line.startswith(_NAMES) else None
        if found is None or found[1] not in _NAMES:
            continue
        name, labels, value = found[1], found[2] or "", _number(found[3])
        if value is None:
            continue
        engine = _ENGINE.search(labels)
        if engine is not None:
            engines.add(engine[1])
        if name == "process_start_time_seconds":
            start_s = value or None
        elif name == "vllm:cache_config_info":
            told = dict(_LABEL.findall(labels))
            size = _count(told.get("block_size"))
            block_tokens = size or block_tokens
            cache_blocks += _count(told.get("num_gpu_blocks")) or (
                _count(told.get("kv_cache_size_tokens")) // size if size else 0
            )
        elif name == "vllm:engine_sleep_state":
            if 'sleep_state="awake"' in labels and value == 0:
                awake = False
        else:
            sums[name] = sums.get(name, 0) + int(value)
    return EngineFigures(
        start_s=start_s,
        block_tokens=block_tokens,
        cache_blocks=cache_blocks or None,
        running=sums.get("vllm:num_requests_running"),
        waiting=sums.get("vllm:num_requests_waiting"),
        awake=awake,
        engines=len(engines),
    )


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _count(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 13 else 0
