"""Simulations run in worker processes; one policy on one workload at one rate is a job.

This module decides how jobs are spread over processes; `simulation` and `metrics` decide what a job computes. A job's
result depends on nothing but the job, so that the number of processes changes no figure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol, TypeVar

import warmroute
import warmroute_replica
from warmroute_loadtest.simulate.bounds import (
    arrival_order,
    chunks_ratio,
    clairvoyant_ratio,
    infinite_ratio,
    pooled_lru_ratio,
    working_set_tokens,
)
from warmroute_loadtest.simulate.contenders import maker
from warmroute_loadtest.simulate.knee import knee_rate
from warmroute_loadtest.simulate.metrics import Figures, figures, quantile
from warmroute_loadtest.simulate.rivals import RIVALS
from warmroute_loadtest.simulate.simulation import FleetConfig, simulate
from warmroute_loadtest.simulate.sources import Source

R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class Job(Protocol[R_co]):
    """Something to compute; the job itself is sent to a worker process."""

    def run(self) -> R_co:
        """Compute the job's result."""


@dataclass(slots=True)
class Played:
    """The result of one run."""

    figures: Figures
    curve_s: list[float]
    """TTFT at every percent of the requests, from the fastest to the slowest, in seconds."""


@dataclass(frozen=True, slots=True)
class Play:
    """A job that serves a workload by one policy."""

    source: Source
    rate: float | None
    """Requests a second; None keeps the trace's clock."""
    fleet: FleetConfig
    policy: str

    def run(self) -> Played:
        """Simulate the run."""
        workload = self.source.load()
        if self.rate is not None:
            workload = workload.at_rate(self.rate)
        run = simulate(workload, self.fleet, maker(self.policy))
        times = sorted(served.ttft_s for served in run.served)
        return Played(figures(run), [quantile(times, percent / 100) for percent in range(101)])

    @property
    def identity(self) -> str:
        """Return a text that is the same for the same inputs to the same code, and differs as soon as either
        changes."""
        inputs = [self.source.identity, self.rate, asdict(self.fleet), self.policy]
        text = json.dumps([inputs, code_digest(self.policy in RIVALS)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class FindKnee:
    """A job that finds the highest rate that a policy carries."""

    source: Source
    rate: float | None
    """The rate at which the search starts, in requests a second."""
    fleet: FleetConfig
    policy: str

    def run(self) -> float:
        """Find the knee by bisection."""
        return knee_rate(self.source.load(), self.fleet, maker(self.policy), self.rate)


@dataclass(frozen=True, slots=True)
class Bounds:
    """A job that computes what no policy can beat, and how small the cache is for the workload."""

    source: Source
    fleet: FleetConfig

    def run(self) -> dict[str, float]:
        """Replay the workload without time."""
        workload = self.source.load()
        turns = arrival_order(workload)
        total = self.fleet.cache_tokens * self.fleet.replicas
        store = self.fleet.chunk_store_tokens
        chunks = {
            "infinite_ratio_with_chunks": round(chunks_ratio(workload, self.fleet.recompute_ratio, turns), 4),
            "infinite_ratio_with_whole_chunks": round(chunks_ratio(workload, 0.0, turns), 4),
        }
        return {
            "working_set_ratio": round(working_set_tokens(workload) / total, 3),
            "pooled_lru_ratio": round(pooled_lru_ratio(workload, total, turns), 4),
            "clairvoyant_ratio": round(clairvoyant_ratio(workload, total, turns), 4),
            "infinite_ratio": round(infinite_ratio(workload, turns), 4),
            **(chunks if store else {}),
        }


def run_all(jobs: Sequence[Job[R]], processes: int, done: Callable[[int, R], None] | None = None) -> list[R]:
    """Return the results in the order of the jobs. As each result comes, `done` is called with its index and the
    result."""
    results: dict[int, R] = {}
    for index, result in _results(jobs, processes):
        results[index] = result
        if done is not None:
            done(index, result)
    return [results[index] for index in range(len(jobs))]


def _results(jobs: Sequence[Job[R]], processes: int) -> Iterator[tuple[int, R]]:
    if processes == 1 or len(jobs) <= 1:
        for index, job in enumerate(jobs):
            yield index, job.run()
        return
    # Workers are spawned, not forked, so that none shares state with the process that started it.
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=get_context("spawn")) as pool:
        pending: dict[Future[R], int] = {pool.submit(job.run): index for index, job in enumerate(jobs)}
        try:
            while pending:
                ready, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield pending.pop(future), future.result()
        finally:
            for future in pending:
                future.cancel()


_HERE = Path(__file__).parent
_ENGINES = Path(warmroute_replica.__file__).parent
_ROUTER = Path(warmroute.__file__).parent
_ENGINE = ("engine.py", "block_cache.py", "chunk_store.py", "step_time.py")
_RULES = (
    "simulation",
    "chooser",
    "workload",
    "history",
    "generators",
    "demo_traffic",
    "traces",
    "access_log",
    "sources",
    "metrics",
)
_SERVICES = (
    "adapters/registry/memory.py",
    "config/schema.py",
    "service/expiry.py",
    "service/load_reports.py",
    "wire/load_notice.py",
    "wire/registry_record.py",
)


@lru_cache(maxsize=2)
def code_digest(rival: bool) -> str:
    """Return a digest of the sources that decide a policy's figures; a rival's figures do not depend on our core's
    policies."""
    files = [_HERE / f"{name}.py" for name in _RULES]
    files += [_ENGINES / "sim" / name for name in _ENGINE]
    files += [_ROUTER / "core" / name for name in ("prompt/fingerprint.py", "prompt/chunks.py", "types.py")]
    if rival:
        files += sorted((_HERE / "rivals").glob("*.py"))
    else:
        files += [_HERE / f"{name}.py" for name in ("warm", "routers", "registry")]
        files += sorted((_ROUTER / "core").rglob("*.py"))
        files += [_ROUTER / name for name in _SERVICES]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
