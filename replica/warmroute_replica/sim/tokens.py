"""Tokens need no tokenizer here: every 4 bytes of the rendered prompt are one token, and the last may be shorter.

This module decides what a token and a block are. The *stream* of a sequence is its prompt's bytes followed by its
output's; text prompts and token-id prompts give the same stream for the same tokens, so common prefixes stay common.
"""

from __future__ import annotations

import array
import sys
from collections.abc import Sequence

import xxhash

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


_WORD = "I" if array.array("I").itemsize == TOKEN_BYTES else "L"


def _words(padded: bytes) -> array.array[int]:
    words = array.array(_WORD, padded)
    if sys.byteorder == "big":
        words.byteswap()
    return words
