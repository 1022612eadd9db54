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
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from warmroute_replica.sim.driver import Driver
from warmroute_replica.sim.engine import Engine, EngineConfig
from warmroute_replica.sim.errors import PAUSED, QUEUE_FULL, ApiError, invalid_input, unknown_model
from warmroute_replica.sim.faults import Faults, parse_fault
from warmroute_replica.sim.metrics import Metrics, render_metrics

if TYPE_CHECKING:
    from warmroute_replica.sim.generation import Generation

STORED_RESPONSES = 2048
"""Answers of `/v1/responses` kept; the oldest goes first."""
MAX_LORAS = 1024
SEEN_HEADERS = 32
"""Requests whose headers `/sim/stats` shows."""
HEADER_CHARS = 1024
"""Longest header value shown."""


Compression = Literal["gzip", "deflate"]


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """What one replica serves, and how large it is."""

    models: tuple[str, ...] = ("sim",)
    """Names it answers to, at least one; each has a cache of its own, as if it were a model of its own."""
    loras: tuple[str, ...] = ()
    """Adapters of the first model that are there from the start."""
    lora_resolver: str | None = None
    """An adapter whose name begins so is found when first asked for, as by a resolver plugin; listed only then."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    max_waiting: int | None = None
    """Queued sequences beyond which requests get vLLM's 503; `None` is no limit."""
    max_model_len: int = 131_072
    """Tokens a sequence has at most, lowered to what the cache holds."""
    seed: int = 0
    """Another seed, other answers."""
    api_key: str | None = None
    """Key that calls below `/v1` must carry; `None` asks for none."""
    keep_alive_s: float = 0.0
    """A stream that was silent for this long gets a comment (`--sse-keep-alive-interval` of vLLM 0.29 and newer)."""
    compress: Compression | None = None
    """Coding of all answers, as of a proxy before the engine."""
    pause_refuses: bool = False
    """A paused engine answers new requests 503, as vLLM 0.33 does, instead of letting them wait."""
    faults: tuple[str, ...] = ()
    """Failures armed from the start, each as `POST /sim/fault` takes it."""

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
        for text in config.faults:
            self.faults.arm(parse_fault(msgspec.json.decode(text)))
        self.generations: set[Generation] = set()
        """Requests accepted and not yet answered in full."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._admitting = asyncio.Event()
        self._admitting.set()
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
        self.loras: dict[str, str] = {name: f"/adapters/{name}" for name in self.config.loras}
        """Where each adapter's weights are from."""
        self.paused: str | None = None
        """How it was paused: `abort`, `wait` or `keep`; `None` while it runs."""
        self.sleep_level: int | None = None
        """How deep it sleeps; `None` while it is awake."""
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

    @property
    def in_flight(self) -> int:
        """Requests accepted and not yet answered in full."""
        return len(self.generations)

    def begin(self, generation: Generation) -> None:
        """A request was accepted."""
        self.generations.add(generation)
        self._idle.clear()

    def end(self, generation: Generation) -> None:
        """A request was answered in full, or its client has gone."""
        self.generations.discard(generation)
        if not self.generations:
            self._idle.set()

    async def wait_admission(self) -> None:
        """Wait while what is under way is let finish before a pause; once paused, requests wait in the engine."""
        if not self.config.pause_refuses:
            await self._admitting.wait()

    async def pause(self, mode: str) -> None:
        """Compute nothing more: abort what is under way, let it finish first, or keep it for later; see `/pause`."""
        self.paused = mode
        await self._come_to_rest(mode)
        if self.paused == mode:
            self.driver.pause()
            if mode != "keep":
                self.engine.cache.clear()

    async def _come_to_rest(self, mode: str) -> None:
        if mode == "wait":
            self._admitting.clear()
            await self._idle.wait()
            self._admitting.set()
        elif mode == "abort":
            for generation in list(self.generations):
                generation.abort()

    def resume(self) -> None:
        """Compute again."""
        self.paused = None
        if self.sleep_level is None:
            self.driver.resume()

    async def sleep(self, level: int, mode: str) -> None:
        """Give up the GPU's memory: level 0 only stops, 1 and 2 also empty the cache; see `/sleep`."""
        await self._come_to_rest(mode)
        self.sleep_level = level
        self.driver.pause()
        if level:
            self.engine.cache.clear()

    def wake_up(self) -> None:
        """The end of `sleep`."""
        self.sleep_level = None
        if self.paused is None:
            self.driver.resume()

    def load_lora(self, name: str, path: str, *, in_place: bool) -> None:
        """Serve an adapter.

        Raises:
            ApiError: 400, the name is a model's or that of an adapter which stays, or there are too many.
        """
        if not name or not path:
            raise invalid_input("Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.config.models:
            raise invalid_input(f"The lora adapter '{name}' conflicts with a served base model.")
        if name in self.loras and not in_place:
            raise invalid_input(
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, "
                "set 'load_inplace' to True."
            )
        if len(self.loras) >= MAX_LORAS:
            raise invalid_input(f"at most {MAX_LORAS} adapters")
        self.loras[name] = path

    def unload_lora(self, name: str) -> None:
        """Serve an adapter no longer.

        Raises:
            ApiError: 404, it is not there.
        """
        if name not in self.loras:
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.")
        del self.loras[name]

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
        if isinstance(name, str):
            if name in self.config.models or name in self.loras:
                return name
            resolvable = self.config.lora_resolver
            known = resolvable is not None and name.startswith(resolvable) and len(name) <= 256
            if known and len(self.loras) < MAX_LORAS:
                self.loras[name] = f"/resolved/{name}"
                return name
        raise unknown_model(str(name)[:256])

    def check_room(self) -> None:
        """Raise vLLM's 503 when the queue is full."""
        if self.paused is not None and self.paused != "keep" and self.config.pause_refuses:
            raise ApiError(503, PAUSED)
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
            self.metrics,
            self.engine,
            self.config.models[0],
            tuple(self.loras),
            time.time(),
            self.sleep_level,
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
