"""Tokens need no tokenizer here: every 4 bytes of the rendered prompt are one token, and the last may be shorter.

This module decides what a token and a block are. The *stream* of a sequence is its prompt's bytes followed by its
output's; text prompts and token-id prompts give the same stream for the same tokens, so common prefixes stay common.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Sequence

import xxhash

from warmroute_replica.sim.chunk_store import Chunk

TOKEN_BYTES = 4
"""About as many bytes as a byte-pair tokenizer puts in a token of English; a token id is these bytes, little-endian."""

MAX_TOKEN_ID = 2 ** (8 * TOKEN_BYTES) - 1


def count_tokens(stream: bytes) -> int:
    """Return the number of tokens in a stream."""
    return -(-len(stream) // TOKEN_BYTES)


def token_ids(stream: bytes) -> list[int]:
    """Return the ids of all tokens; a short last token is padded with zero bytes."""
    ids = _words(stream + bytes(-len(stream) % TOKEN_BYTES))
    return ids.tolist()


def stream_of_ids(ids: Sequence[int]) -> bytes:
    """Return the stream whose tokens have these ids.

    Raises:
        ValueError: An id is not an integer from 0 to `MAX_TOKEN_ID`.
    """
    try:
        words = array.array(_WORD, ids)
    except (OverflowError, TypeError) as error:
        raise ValueError(f"token ids must be integers from 0 to {MAX_TOKEN_ID}") from error
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def text_of_ids(ids: Sequence[int]) -> str:
    """Return the text of these tokens; bytes that are no UTF-8 become replacement characters.

    Raises:
        ValueError: An id is not an integer from 0 to `MAX_TOKEN_ID`.
    """
    return stream_of_ids(ids).replace(b"\0", b"").decode("utf-8", "replace")


def block_keys(stream: bytes, block_tokens: int, scope: bytes) -> list[int]:
    """Return the chained hash of each full block of a stream.

    Args:
        stream: The prompt, and the output as far as it is known.
        block_tokens: Number of tokens in a block.
        scope: What keeps equal texts apart: model, adapter, cache salt. It enters the first block's hash, and the chain
            carries it to the others.
    """
    size = block_tokens * TOKEN_BYTES
    digest = xxhash.xxh3_64_intdigest
    parent = digest(scope)
    keys: list[int] = []
    view = memoryview(stream)
    for start in range(0, len(stream) - size + 1, size):
        parent = digest(view[start : start + size], parent)
        keys.append(parent)
    return keys


def chunks_of(stream: bytes, separator: bytes, least_tokens: int, scope: bytes) -> list[Chunk]:
    """Return the chunks of a prompt: what stands between two separators, or behind the last one.

    A chunk is the same wherever its bytes stand, though tokens of four bytes may begin elsewhere in it: engines cut
    prompts at the separator's tokens, so that theirs do not.

    Args:
        stream: The prompt.
        separator: Not empty.
        least_tokens: Shorter parts are no chunks.
        scope: As of `block_keys`.
    """
    seed = xxhash.xxh3_64_intdigest(scope)
    chunks: list[Chunk] = []
    end = stream.find(separator)
    while end >= 0:
        start = end + len(separator)
        end = stream.find(separator, start)
        part = stream[start:] if end < 0 else stream[start:end]
        first, last = count_tokens(stream[:start]), (start + len(part)) // TOKEN_BYTES
        if last - first >= max(1, least_tokens):
            chunks.append((xxhash.xxh3_64_intdigest(part, seed), first, last))
    return chunks


_WORD = "I" if array.array("I").itemsize == TOKEN_BYTES else "L"


def _words(padded: bytes) -> array.array[int]:
    words = array.array(_WORD, padded)
    if sys.byteorder == "big":
        words.byteswap()
    return words
