"""Chunks are the parts of a prompt that engines reuse wherever they stand, where they do so at all (CacheBlend).

This module decides where a prompt's chunks begin and end, and how each is hashed. Such an engine is told by a separator
in the prompt's text where one chunk ends and the next begins. So a chunk is what stands between two separators, or
behind the last one. What stands before the first is a prefix, and the rungs' (`prompt.fingerprint`). The rules it
keeps: a chunk has the same hash at every place of every prompt of one model and scope; those of other models or scopes
share none; no chunk shares a hash with a rung.
"""

from __future__ import annotations

from typing import Final, cast

from xxhash import xxh3_64_intdigest

from warmroute.core.types import Chunks, FingerprintHash, RequestShape

MOST_CHUNKS: Final = 256
"""Of one prompt: so many keys more are looked up for it at most."""

MOST_PARTS: Final = 1024
"""So many parts of a prompt are looked at, short ones included, so that separators alone cost little."""

_CHUNK: Final = 0xC2B2AE3D27D4EB4F
"""Keeps hashes of chunks apart from rungs, which begin with the same space."""


class Blend:
    """What engines were told of chunks."""

    __slots__ = ("chunk_tokens", "reused_ratio", "separator")

    def __init__(self, separator: bytes, chunk_tokens: int, recompute_ratio: float) -> None:
        """Args:
        separator: What stands between two chunks, in UTF-8; not empty.
        chunk_tokens: Shorter parts are no chunks.
        recompute_ratio: Share of a chunk's tokens that engines compute all the same.
        """
        self.separator = separator
        self.chunk_tokens = chunk_tokens
        self.reused_ratio = 1.0 - recompute_ratio

    def chunks(self, canonical: bytes, space: int, bytes_per_token: float) -> Chunks | None:
        """The chunks of a canonical prompt; None if it has none. A chunk that comes twice counts once.

        Args:
            space: `Fingerprinter.space`: deployment, model and scope.
        Complexity: one pass over the prompt, and one hash a chunk.
        """
        separator = self.separator
        start = canonical.find(separator)
        if start < 0:
            return None
        start += len(separator)
        least_bytes = int(self.chunk_tokens * bytes_per_token)
        seed = space ^ _CHUNK
        view = memoryview(canonical)
        known: set[int] = set()
        hashes: list[int] = []
        bounds: list[tuple[int, int]] = []
        whole = len(canonical)
        for _ in range(MOST_PARTS):
            end = canonical.find(separator, start)
            last = end < 0
            if last:
                end = whole
            if end - start >= least_bytes and end > start:
                key = xxh3_64_intdigest(view[start:end], seed)
                if key not in known:
                    known.add(key)
                    hashes.append(key)
                    bounds.append((start, end))
            if last or len(hashes) >= MOST_CHUNKS:
                break
            start = end + len(separator)
        return Chunks(cast("list[FingerprintHash]", hashes), bounds, self.reused_ratio) if hashes else None


def add_chunks(shape: RequestShape, chunks: Chunks | None) -> None:
    """Have the registry asked for the chunks as well."""
    if chunks is not None:
        shape.chunks = chunks
        shape.keys = shape.rungs + chunks.hashes
