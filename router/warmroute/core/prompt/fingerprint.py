"""The fingerprint of a canonical prompt is a chain of hashes at the depths of a fixed ladder.

This module decides at which depths prompts are compared and how a prompt is hashed. It does not know what is in the
prompt. The rules it keeps: two prompts of one model and scope that share their first L bytes share every rung up to L;
prompts of different models or scopes share none; what the ring sees is the same in every router, whatever its secret.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Sequence
from typing import Final, cast

from xxhash import xxh3_64_intdigest

from warmroute.core.types import FingerprintHash, RequestShape

BLOCK_BYTES: Final = 512
"""About 128 tokens of English: a few of an engine's blocks."""

MAX_DEPTH_BYTES: Final = 64 << 20
RUNGS_PER_STRIDE: Final = 8
"""The stride doubles after this many rungs, so a shared depth is known to about one eighth."""

HEAD_BYTES: Final = 4096
"""About 1,024 tokens: what `RequestShape.head_key` is a hash of."""


def _grid() -> tuple[int, ...]:
    depths: list[int] = []
    depth = 0
    stride = BLOCK_BYTES
    while True:
        for _ in range(RUNGS_PER_STRIDE):
            depth += stride
            if depth > MAX_DEPTH_BYTES:
                return tuple(depths)
            depths.append(depth)
        stride *= 2


GRID: Final[tuple[int, ...]] = _grid()
"""Byte depth of each rung, ascending. Absolute: does not depend on the prompt's length."""

MAX_SPACES: Final = 1024
MAX_SPACE_BYTES: Final = 512

_SEGMENTS: Final = tuple(zip((0, *GRID), GRID, strict=False))
_RING_SEED: Final = 0x5741524D524F5554
"""The same in every router, so that all make the same choice on the ring without talking."""
_SESSION: Final = 0x9E3779B97F4A7C15
"""Keeps keys of sessions apart from keys of prompts."""


def depth_bytes(rung_index: int) -> int:
    """Bytes of canonical prompt that the rung covers."""
    return GRID[rung_index]


def rungs_among(known: Container[FingerprintHash], rungs: Sequence[FingerprintHash]) -> int:
    """How many of a prompt's rungs, from the shallowest on, are known. Of each that is, all above it are."""
    low, high = 0, len(rungs)
    while low < high:
        middle = (low + high + 1) // 2
        if rungs[middle - 1] in known:
            low = middle
        else:
            high = middle - 1
    return low


class Fingerprinter:
    """Hashes prompts under one deployment secret, so that a tenant can neither guess nor collide with another's."""

    __slots__ = ("_secret", "_seed", "_spaces")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._seed: int = xxh3_64_intdigest(secret)
        self._spaces: dict[tuple[str, str], tuple[int, int]] = {}
        """Start of the chain and seed of the ring for recent models and scopes; emptied when full."""

    def _space(self, model: str, scope: str) -> tuple[int, int]:
        name = f"{model}\0{len(model)}\0{scope}".encode("utf-8", "surrogatepass")
        space = (xxh3_64_intdigest(self._secret + name, self._seed), xxh3_64_intdigest(name, _RING_SEED))
        if len(self._spaces) >= MAX_SPACES:
            self._spaces.clear()
        if len(name) <= MAX_SPACE_BYTES:
            self._spaces[model, scope] = space
        return space

    def space(self, model: str, scope: str) -> int:
        """Stands for deployment, model and scope: what chains of hashes of a prompt begin with."""
        return (self._spaces.get((model, scope)) or self._space(model, scope))[0]

    def shape(
        self,
        model: str,
        scope: str,
        canonical: bytes,
        session_key: str | None = None,
        bytes_per_token: float = 4.0,
        prompt_bytes: int = 0,
        prompt_tokens: int | None = None,
    ) -> RequestShape:
        """Everything a policy may know of a request.

        Args:
            model: Model or adapter, as the client named it.
            scope: What isolates caches without being prompt text: tenant, `cache_salt`. The caller joins several so
                that no two combinations read alike.
            canonical: Canonical prompt (`core.prompt.prompt`).
            session_key: `prompt_cache_key` or session header: the ring goes by it instead of the prompt's head. It
                changes no rung.
            bytes_per_token: Estimate for this model, above 0.
            prompt_bytes: Length of everything to compute where that is more than `canonical` (batches).
            prompt_tokens: Exact count where the client sent token ids.
        Complexity: one hash a rung: 44 rungs for 200 KB, 107 for 64 MiB.
        """
        above, ring_space = self._spaces.get((model, scope)) or self._space(model, scope)
        length = len(canonical)
        rungs: list[int] = []
        hash64 = xxh3_64_intdigest
        if length > HEAD_BYTES:
            head_key = hash64(canonical[:HEAD_BYTES], ring_space)
            view = memoryview(canonical)
            end = 0
            for start, end in _SEGMENTS[: bisect_right(GRID, length)]:
                above = hash64(view[start:end], above)
                rungs.append(above)
            key = hash64(view[end:], above)
        else:
            key = head_key = hash64(canonical, ring_space)
            for start, end in _SEGMENTS[: length // BLOCK_BYTES]:
                above = hash64(canonical[start:end], above)
                rungs.append(above)
        if session_key:
            ring_key = hash64(session_key.encode("utf-8", "surrogatepass"), ring_space ^ _SESSION)
        else:
            ring_key = head_key
        if prompt_bytes < length:
            prompt_bytes = length
        if prompt_tokens is None:
            prompt_tokens = int(prompt_bytes // bytes_per_token)
        shape = RequestShape(
            model,
            cast("list[FingerprintHash]", rungs),
            prompt_bytes,
            prompt_tokens if prompt_tokens > 0 else 1,
            ring_key,
            head_key,
        )
        shape.key = key
        return shape
