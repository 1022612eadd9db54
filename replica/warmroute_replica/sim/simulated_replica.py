"""A simulated replica has its engines and their clocks, what it remembers, and what happens to it.

This module decides which requests are admitted (model, length, queue) and what a restart forgets. It speaks no HTTP, as
`server` does that.
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
from warmroute_replica.sim.engine import Engine
from warmroute_replica.sim.engine_config import EngineConfig
from warmroute_replica.sim.errors import PAUSED, QUEUE_FULL, ApiError, invalid, invalid_input, unknown_model
from warmroute_replica.sim.faults import Faults, parse_fault
from warmroute_replica.sim.metrics import Metrics, merge_engines, render_metrics

if TYPE_CHECKING:
    from warmroute_replica.sim.generation import Generation

STORED_RESPONSES = 2048
"""Number of answers of `/v1/responses` that are kept; the oldest is dropped first."""
MAX_LORAS = 1024
SEEN_HEADERS = 32
"""Number of requests whose headers `/sim/stats` shows."""
HEADER_CHARS = 1024
"""The longest part of a header's name or value that is shown, in characters."""


Compression = Literal["gzip", "deflate"]


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """What one replica serves, and how large it is."""

    models: tuple[str, ...] = ("sim",)
    """Model names that the replica answers to, at least one. Each has cache entries of its own, like a separate
    model."""
    loras: tuple[str, ...] = ()
    """Adapters of the first model that are loaded from the start."""
    lora_resolver: str | None = None
    """An adapter whose name begins with this text is loaded when a request first names it, as by vLLM's resolver
    plugins; the list of models shows it only from then on."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    max_waiting: int | None = None
    """Number of queued sequences from which on requests get vLLM's 503; None sets no limit."""
    max_model_len: int = 131_072
    """Number of tokens that a sequence has at most; what the cache holds bounds it, too."""
    seed: int = 0
    """With another seed the replica gives other answers."""
    api_key: str | None = None
    """The key that calls below `/v1` must carry; None asks for no key."""
    keep_alive_s: float = 0.0
    """A stream that was silent for this many seconds gets a comment (`--sse-keep-alive-interval` of vLLM 0.29 and
    newer)."""
    compress: Compression | None = None
    """The content coding of all answers, as a proxy before the engine would apply it; None for no coding."""
    ranks: int = 1
    """Number of data-parallel engines behind the port, each with a cache of its own (vLLM's `--data-parallel-size`)."""
    shutdown_s: float = 0.0
    """After SIGTERM, requests under way have this many seconds to finish (`--shutdown-timeout`), and new ones get a
    500."""
    scaling_s: float = 0.5
    """Time that a change of the number of engines takes, in seconds."""
    pause_refuses: bool = False
    """Whether a paused engine answers new requests by 503, as vLLM 0.33 does, instead of letting them wait."""
    blend_separator: str = ""
    """What stands between a prompt's chunks (`LMCACHE_BLEND_SPECIAL_STR`), where the engine has a chunk store."""
    blend_chunk_tokens: int = 256
    """Shorter parts of a prompt are no chunks (`LMCACHE_BLEND_MIN_TOKENS`)."""
    faults: tuple[str, ...] = ()
    """Faults that are armed from the start, each as `POST /sim/fault` takes it."""

    @property
    def model_len(self) -> int:
        """The `max_model_len` that the server announces."""
        return min(self.max_model_len, self.engine.cache_blocks * self.engine.block_tokens)


@dataclass(slots=True)
class ModelStats:
    """The counters of one model name."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Rank:
    """One engine behind the port, with its metrics and its clock."""

    engine: Engine
    metrics: Metrics
    driver: Driver


class SimulatedReplica:
    """The state of one replica, through its restarts. One event loop owns it."""

    def __init__(self, config: ReplicaConfig, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.faults = Faults()
        for text in config.faults:
            self.faults.arm(parse_fault(msgspec.json.decode(text)))
        self.generations: set[Generation] = set()
        """Requests that are accepted and not yet answered in full."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._admitting = asyncio.Event()
        self._admitting.set()
        self.restarts = 0
        self._loop = loop
        self._ids = itertools.count()
        self._begin()

    def _begin(self) -> None:
        self.ranks: list[Rank] = []
        self._turn = 0
        self._set_ranks(self.config.ranks, time.time())
        self.scaling = False
        """True while the number of engines is being changed."""
        self.draining = False
        self.weight_version = "default"
        self.responses: OrderedDict[str, Any] = OrderedDict()
        self.created_s = int(self.metrics.start_time_s)
        self.loras: dict[str, str] = {name: f"/adapters/{name}" for name in self.config.loras}
        """The path of each adapter's weights, by the adapter's name."""
        self.paused: str | None = None
        """The mode of the pause: `abort`, `wait` or `keep`; None while the replica runs."""
        self.sleep_level: int | None = None
        """The sleep level; None while the replica is awake."""
        self._clear_stats()

    def _set_ranks(self, count: int, start_s: float) -> None:
        for rank in self.ranks[count:]:
            rank.driver.stop()
        del self.ranks[count:]
        while len(self.ranks) < count:
            engine, metrics = Engine(self.config.engine), Metrics(start_s)
            self.ranks.append(Rank(engine, metrics, Driver(engine, self._loop, metrics)))

    @property
    def engine(self) -> Engine:
        """The first engine, which most replicas have alone."""
        return self.ranks[0].engine

    @property
    def metrics(self) -> Metrics:
        """The first engine's metrics; figures of the server as a whole are counted here, too."""
        return self.ranks[0].metrics

    def rank(self, wanted: int | None) -> Rank:
        """Return the engine that a request names; where it names none, the least loaded one, and equals in turn.

        Raises:
            ApiError: 400, no engine has this number.
        """
        ranks = self.ranks
        if wanted is not None:
            if not 0 <= wanted < len(ranks):
                raise invalid(f"data_parallel_rank {wanted} is out of range [0, {len(ranks)}).")
            return ranks[wanted]
        self._turn += 1
        turned = ranks[self._turn % len(ranks) :] + ranks[: self._turn % len(ranks)]
        return min(turned, key=lambda rank: rank.engine.running + rank.engine.waiting)

    async def scale(self, count: int) -> None:
        """Change the number of engines to `count`. The server answers no request meanwhile, and requests under way are
        aborted."""
        self.scaling = True
        try:
            await self._come_to_rest("abort")
            await asyncio.sleep(self.config.scaling_s)
            self._set_ranks(count, self.metrics.start_time_s)
        finally:
            self.scaling = False

    def clear_cache(self) -> None:
        """Empty the cache of every engine."""
        for rank in self.ranks:
            rank.engine.cache.clear()
            if rank.engine.chunks is not None:
                rank.engine.chunks.clear()

    def stop(self) -> None:
        """Stop every engine's clock for good."""
        for rank in self.ranks:
            rank.driver.stop()

    async def wait_idle(self) -> None:
        """Wait until no request is under way."""
        await self._idle.wait()

    def _clear_stats(self) -> None:
        self.requests = 0
        self._aborted_before = sum(rank.metrics.aborted_total for rank in self.ranks)
        self.by_model: dict[str, ModelStats] = {}
        self._headers: deque[dict[str, str]] = deque(maxlen=SEEN_HEADERS)

    def restart(self) -> None:
        """Forget everything but the configuration and the armed faults, as a new process would."""
        self.stop()
        self.restarts += 1
        self._begin()

    def reset(self) -> None:
        """Empty cache, stored responses, faults and counters without beginning a new life; requests in flight go on."""
        self.clear_cache()
        self.responses.clear()
        self.faults.clear()
        self._clear_stats()

    @property
    def in_flight(self) -> int:
        """Number of requests that are accepted and not yet answered in full."""
        return len(self.generations)

    def begin(self, generation: Generation) -> None:
        """Note that a request was accepted."""
        self.generations.add(generation)
        self._idle.clear()

    def end(self, generation: Generation) -> None:
        """Note that a request was answered in full, or that its client has gone."""
        self.generations.discard(generation)
        if not self.generations:
            self._idle.set()

    async def wait_admission(self) -> None:
        """Wait while a pause of mode `wait` lets requests under way finish; once the replica is paused, requests wait
        in the engine."""
        if not self.config.pause_refuses:
            await self._admitting.wait()

    async def pause(self, mode: str) -> None:
        """Stop computing. By its mode the pause aborts the requests under way, lets them finish first, or keeps them
        for later; see `/pause`."""
        self.paused = mode
        await self._come_to_rest(mode)
        if self.paused == mode:
            for rank in self.ranks:
                rank.driver.pause()
            if mode != "keep":
                self.clear_cache()

    async def _come_to_rest(self, mode: str) -> None:
        if mode == "wait":
            self._admitting.clear()
            await self._idle.wait()
            self._admitting.set()
        elif mode == "abort":
            for generation in list(self.generations):
                generation.abort()

    def resume(self) -> None:
        """Compute again after `pause`, unless the replica sleeps."""
        self.paused = None
        if self.sleep_level is None:
            self._run()

    async def sleep(self, level: int, mode: str) -> None:
        """Put the replica to sleep: level 0 only stops the engines, levels 1 and 2 also empty the cache; see
        `/sleep`."""
        await self._come_to_rest(mode)
        self.sleep_level = level
        for rank in self.ranks:
            rank.driver.pause()
        if level:
            self.clear_cache()

    def wake_up(self) -> None:
        """End the `sleep`; the replica computes again unless it is paused."""
        self.sleep_level = None
        if self.paused is None:
            self._run()

    def _run(self) -> None:
        for rank in self.ranks:
            rank.driver.resume()

    def load_lora(self, name: str, path: str, *, in_place: bool) -> None:
        """Serve an adapter from now on.

        Raises:
            ApiError: 400, the name is a model's or that of an adapter which stays, or there are too many adapters.
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
        """Stop serving an adapter.

        Raises:
            ApiError: 404, no such adapter is loaded.
        """
        if name not in self.loras:
            raise ApiError(404, f"The lora adapter '{name}' cannot be found.")
        del self.loras[name]

    def next_id(self) -> int:
        """Return a number that no other request of this replica has."""
        return next(self._ids)

    def resolve_model(self, name: Any) -> str:
        """Return the model that a request names; the first model where it names none.

        Raises:
            ApiError: 404, this replica does not serve the model.
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
        """Raise vLLM's 503 when the queue is full, or when a paused engine is to refuse requests."""
        if self.paused is not None and self.paused != "keep" and self.config.pause_refuses:
            raise ApiError(503, PAUSED)
        limit = self.config.max_waiting
        # vLLM's limit is one for the whole server, however many ranks it has.
        if limit is not None and sum(rank.engine.waiting for rank in self.ranks) >= limit:
            self.metrics.rejected_total += 1
            raise ApiError(503, QUEUE_FULL)

    def note_request(self, headers: Mapping[str, str]) -> None:
        """Count a request to an API, and keep its headers for `/sim/stats`."""
        self.requests += 1
        self._headers.append(
            {
                name[:HEADER_CHARS]: value[:HEADER_CHARS]
                for name, value in itertools.islice(headers.items(), 64)
            }
        )

    def note_usage(self, model: str, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """Count an answered request of a model; the caller bounds the names by `resolve_model`."""
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
        """Return the answer to `GET /metrics`."""
        texts = [
            render_metrics(
                rank.metrics,
                rank.engine,
                self.config.models[0],
                tuple(self.loras),
                time.time(),
                self.sleep_level,
                number,
            )
            for number, rank in enumerate(self.ranks)
        ]
        return merge_engines(texts)

    def stats(self) -> dict[str, Any]:
        """Return the answer to `GET /sim/stats`; counters run since start, restart or reset."""
        engines = [rank.engine for rank in self.ranks]
        return {
            "requests": self.requests,
            "answered": sum(stats.requests for stats in self.by_model.values()),
            "prompt_tokens": sum(stats.prompt_tokens for stats in self.by_model.values()),
            "cached_tokens": sum(stats.cached_tokens for stats in self.by_model.values()),
            "output_tokens": sum(stats.output_tokens for stats in self.by_model.values()),
            "running": sum(engine.running for engine in engines),
            "waiting": sum(engine.waiting for engine in engines),
            "in_flight": self.in_flight,
            "aborted": sum(rank.metrics.aborted_total for rank in self.ranks) - self._aborted_before,
            "preemptions": sum(engine.totals.preemptions for engine in engines),
            "evicted_blocks": sum(engine.cache.evictions for engine in engines),
            "cached_blocks": sum(engine.cache.cached_blocks for engine in engines),
            "usage_ratio": sum(engine.usage_ratio for engine in engines) / len(engines),
            "ranks": [
                {
                    "running": engine.running,
                    "prompt_tokens": engine.totals.prompt_tokens,
                    "cached_tokens": engine.totals.hit_tokens,
                    "cached_blocks": engine.cache.cached_blocks,
                }
                for engine in engines
            ],
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
