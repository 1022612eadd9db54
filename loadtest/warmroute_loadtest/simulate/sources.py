"""A source says where a workload comes from, as a recipe small enough to be sent to another process.

This module decides which part of a trace is meant, and what another seed means: other draws of a generator, or the next
slice of a trace. `traces` reads and `generators` generates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from warmroute_loadtest.simulate.access_log import access_log
from warmroute_loadtest.simulate.generators import GENERATORS, generate
from warmroute_loadtest.simulate.traces import mooncake, ragpulse
from warmroute_loadtest.simulate.workload import Workload

FIRST_SEED = 7
"""The seed of the figures in the docs: generators use their own seeds, and traces are read from their start."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where one workload comes from."""

    kind: str
    """A key of `TRACES` or of `GENERATORS`."""
    requests: int
    """Number of requests at least, in whole sessions."""
    path: Path | None = None
    """Path of a trace."""
    skip: int = 0
    seed: int = FIRST_SEED
    """Seed of a generated workload."""
    spread: bool = False
    """Whether requests that start at one moment are moved apart."""
    whole_ratio: float = 0.0
    """Share of the requests whose answers come whole, and do not stream."""
    join_tokens: int | None = None
    """For a Mooncake-format trace, the size in tokens to which its blocks are joined; None leaves them as they are."""
    open_loop: bool = False
    """For a Mooncake-format trace, whether its sessions are ignored, so that all requests come by the clock."""
    chunk_tokens: int | None = None
    """For RAGPulse, the size in tokens from which on a piece behind the system prompt is a chunk; None: prompts have no
    chunks."""

    def load(self) -> Workload:
        """Return the workload. The last one that was asked for is kept, so that all policies of a cell share it.

        Raises:
            TraceError: The file is not such a trace.
            OSError: The file cannot be read.
            ValueError: The part asked for is empty.
        """
        return _load(self)

    @property
    def identity(self) -> list[object]:
        """Return what tells this source from others: its fields, with a trace's size in place of its path."""
        size = self.path.stat().st_size if self.path is not None and self.path.is_file() else 0
        fields = [self.kind, self.requests, self.skip, self.seed, size]
        spread: list[object] = ["spread"] if self.spread else []
        joined: list[object] = [f"{self.join_tokens} tokens a block"] if self.join_tokens is not None else []
        alone: list[object] = ["open loop"] if self.open_loop else []
        chunks: list[object] = (
            [f"chunks of {self.chunk_tokens} tokens"] if self.chunk_tokens is not None else []
        )
        whole: list[object] = [f"{self.whole_ratio:g} whole"] if self.whole_ratio else []
        return [*fields, *spread, *joined, *alone, *chunks, *whole]


TRACES: dict[str, Callable[[Path, Source], Workload]] = {
    "mooncake": lambda path, source: mooncake(
        path, join_tokens=source.join_tokens, open_loop=source.open_loop
    ),
    "ragpulse": lambda path, source: ragpulse(path, source.chunk_tokens),
    "access-log": lambda path, source: access_log(path),
}


def of_seed(source: Source, seed: int) -> Source:
    """Return the same kind of workload under another seed.

    Raises:
        ValueError: The seed is below `FIRST_SEED`: a trace has no slice before its first.
    """
    if seed < FIRST_SEED:
        raise ValueError(f"seeds start at {FIRST_SEED}, got {seed}")
    skip = source.skip
    if source.kind in TRACES:
        skip += (seed - FIRST_SEED) * source.requests
        return replace(source, skip=skip)
    return replace(source, seed=seed)


@lru_cache(maxsize=1)
def _load(source: Source) -> Workload:
    read = TRACES.get(source.kind)
    if (source.join_tokens is not None or source.open_loop) and source.kind != "mooncake":
        raise ValueError(
            f"only a Mooncake-format trace has blocks to join and sessions to ignore: {source.kind}"
        )
    if source.chunk_tokens is not None and source.kind != "ragpulse":
        raise ValueError(
            f"only the RAGPulse trace says where passages begin, and so has chunks: {source.kind}"
        )
    if read is None:
        if source.kind not in GENERATORS:
            raise ValueError(f"no workload {source.kind!r}; known: {', '.join(sorted(GENERATORS))}")
        workload = generate(source.kind, source.requests + source.skip, source.seed - FIRST_SEED)
    else:
        assert source.path is not None
        workload = read(source.path, source)
    workload = workload.slice(source.requests, source.skip)
    if not workload.sessions:
        raise ValueError(f"the {source.kind} workload has nothing after its first {source.skip} requests")
    workload = workload.spread() if source.spread else workload
    return workload.whole(source.whole_ratio) if source.whole_ratio else workload
