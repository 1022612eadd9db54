"""The few figures the router needs of vLLM's `/metrics`, found by pattern instead of parsing 60 KB of text.

Source: vLLM 0.32, `process_start_time_seconds` from prometheus_client's process collector (absent where vLLM runs
several API servers), `vllm:cache_config_info` one line an engine, the request gauges one line an engine and model.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_NUMBER = rb"([0-9.eE+-]{1,32})[ \t]*\r?$"
_START = re.compile(rb"^process_start_time_seconds(?:\{[^\n]*\})? " + _NUMBER, re.MULTILINE)
_RUNNING = re.compile(rb"^vllm:num_requests_running(?:\{[^\n]*\})? " + _NUMBER, re.MULTILINE)
_WAITING = re.compile(rb"^vllm:num_requests_waiting(?:\{[^\n]*\})? " + _NUMBER, re.MULTILINE)
_CACHE = re.compile(rb"^vllm:cache_config_info\{([^\n]*)\}", re.MULTILINE)
_LABEL = re.compile(rb'(?:^|,)\s*(block_size|num_gpu_blocks|kv_cache_size_tokens)="([0-9]{1,12})"')


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """What the text tells; None where it does not."""

    start_time_s: float | None = None
    """Unix time at which the process began: the same in every answer of one life."""
    block_tokens: int | None = None
    cache_tokens: int | None = None
    """Over all engines (data-parallel ranks) behind the URL."""
    running: int | None = None
    waiting: int | None = None


def parse(text: bytes) -> EngineFigures:
    """Read the figures; text of any other kind gives none of them, never an error."""
    block_tokens: int | None = None
    cache_tokens = 0
    for line in _CACHE.finditer(text):
        labels = {name: int(value) for name, value in _LABEL.findall(line[1])}
        size = labels.get(b"block_size", 0)
        if 0 < size <= 1 << 20:
            block_tokens = size
        cache_tokens += labels.get(b"kv_cache_size_tokens") or labels.get(b"num_gpu_blocks", 0) * size
    starts = [
        value for match in _START.finditer(text) if (value := _finite(match[1])) is not None and value > 0
    ]
    return EngineFigures(
        start_time_s=starts[0] if starts else None,
        block_tokens=block_tokens,
        cache_tokens=cache_tokens or None,
        running=_sum(_RUNNING, text),
        waiting=_sum(_WAITING, text),
    )


def _sum(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    values = [_finite(match[1]) for match in pattern.finditer(text)]
    known = [value for value in values if value is not None and value >= 0]
    return int(sum(known)) if known else None


def _finite(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) < 1e15 else None
