"""One simulated replica: its engine and clock, what it remembers, and what happens to it.

Decides admission (model, length, queue) and what a restart forgets. Speaks no HTTP: `server` does.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replica.sim.driver import Driver
from replica.sim.engine import Engine, EngineConfig
from replica.sim.errors import QUEUE_FULL, ApiError, unknown_model
from replica.sim.faults import Faults
from replica.sim.metrics import Metrics, render_metrics

STORED_RESPONSES = 2048
"""Answers of `/v1/responses` kept; the oldest goes first."""
SEEN_HEADERS = 32
"""Requests whose headers `/sim/stats` shows."""
HEADER_CHARS = 1024
"""Longest header value shown."""


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """What one replica serves, and how large it is."""

    models: tuple[str, ...] = ("sim",)
    """Names it answers to, at least one; each has a cache of its own, as if it were a model of its own."""
    loras: tuple[str, ...] = ()
    """Adapters of the first model."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    max_waiting: int | None = None
    """Queued sequences beyond which requests get vLLM's 503; `None` is no limit."""
    max_model_len: int = 131_072
    """Tokens a sequence has at most, lowered to what the cache holds."""
    seed: int = 0
    """Another seed, other answers."""

    @property
    def model_len(self) -> int:
        """`max_model_len` as announced."""
        return min(self.max_model_len, self.engine.cache_blocks * self.engine.block_tokens)


@dataclass(slots=True)
class ModelStats:
    """Counters of one model name."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class SimulatedReplica:
    """State of one replica, through its restarts. Owned by one event loop."""

    def __init__(self, config: ReplicaConfig, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.faults = Faults()
        self.in_flight = 0
        """Requests accepted and not yet answered in full."""
        self.restarts = 0
        self._loop = loop
        self._ids = itertools.count()
        self._begin()

    def _begin(self) -> None:
        self.engine = Engine(self.config.engine)
        self.metrics = Metrics(time.time())
        self.driver = Driver(self.engine, self._loop, self.metrics)
        self.responses: OrderedDict[str, Any] = OrderedDict()
        self.created_s = int(self.metrics.start_time_s)
        self._clear_stats()

    def _clear_stats(self) -> None:
        self.requests = 0
        self._aborted_before = self.metrics.aborted_total
        self.by_model: dict[str, ModelStats] = {}
        self._headers: deque[dict[str, str]] = deque(maxlen=SEEN_HEADERS)

    def restart(self) -> None:
        """Forget everything but the configuration and the armed faults, as a new process would."""
        self.driver.stop()
        self.restarts += 1
        self._begin()

    def reset(self) -> None:
        """Empty cache and counters without a new life; requests in flight go on."""
        self.engine.cache.clear()
        self.responses.clear()
        self.faults.clear()
        self._clear_stats()

    def next_id(self) -> int:
        """A number no other request of this replica has."""
        return next(self._ids)

    def resolve_model(self, name: Any) -> str:
        """The model a request asks for; the first one where it names none.

        Raises:
            ApiError: 404, it is not served here.
        """
        if name is None:
            return self.config.models[0]
        if name not in self.config.models and name not in self.config.loras:
            raise unknown_model(str(name)[:256])
        return str(name)

    def check_room(self) -> None:
        """Raise vLLM's 503 when the queue is full."""
        limit = self.config.max_waiting
        if limit is not None and self.engine.waiting >= limit:
            self.metrics.rejected_total += 1
            raise ApiError(503, QUEUE_FULL)

    def note_request(self, headers: Mapping[str, str]) -> None:
        """Count a request to an API and keep its headers for `/sim/stats`."""
        self.requests += 1
        self._headers.append(
            {
                name[:HEADER_CHARS]: value[:HEADER_CHARS]
                for name, value in itertools.islice(headers.items(), 64)
            }
        )

    def note_usage(self, model: str, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """Count an answered request of a model (`resolve_model` bounds the names)."""
        stats = self.by_model.setdefault(model, ModelStats())
        stats.requests += 1
        stats.prompt_tokens += prompt_tokens
        stats.cached_tokens += cached_tokens
        stats.output_tokens += output_tokens

    def store_response(self, response_id: str, entry: Any) -> None:
        """Keep an answer of `/v1/responses`."""
        self.responses[response_id] = entry
        self.responses.move_to_end(response_id)
        while len(self.responses) > STORED_RESPONSES:
            self.responses.popitem(last=False)

    def metrics_text(self) -> str:
        """The answer to `GET /metrics`."""
        return render_metrics(
            self.metrics, self.engine, self.config.models[0], self.config.loras, time.time()
        )

    def stats(self) -> dict[str, Any]:
        """The answer to `GET /sim/stats`; counters since start, restart or reset."""
        return {
            "requests": self.requests,
            "answered": sum(stats.requests for stats in self.by_model.values()),
            "prompt_tokens": sum(stats.prompt_tokens for stats in self.by_model.values()),
            "cached_tokens": sum(stats.cached_tokens for stats in self.by_model.values()),
            "output_tokens": sum(stats.output_tokens for stats in self.by_model.values()),
            "running": self.engine.running,
            "waiting": self.engine.waiting,
            "in_flight": self.in_flight,
            "aborted": self.metrics.aborted_total - self._aborted_before,
            "preemptions": self.engine.totals.preemptions,
            "evicted_blocks": self.engine.cache.evictions,
            "cached_blocks": self.engine.cache.cached_blocks,
            "usage_ratio": self.engine.usage_ratio,
            "restarts": self.restarts,
            "start_time_s": self.metrics.start_time_s,
            "models": {
                name: {
                    "requests": stats.requests,
                    "prompt_tokens": stats.prompt_tokens,
                    "cached_tokens": stats.cached_tokens,
                    "output_tokens": stats.output_tokens,
                }
                for name, stats in self.by_model.items()
            },
            "headers": list(self._headers),
            "faults": self.faults.armed(),
        }
