"""This module makes what the simulated model says: English-like words, each token exactly 4 bytes of UTF-8.

The same seed gives the same words. This module decides the output's text, its length where the client sets none, and
the arguments of tool calls. Token borders fall inside words, never inside a character; some words hold multi-byte
characters, so that clients meet them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

NATURAL_TOKENS = range(20, 201)
"""The lengths that answers may have where the client set no limit, in tokens."""

_SHORT = (
    "the and for not you all one can her was our out day has how its may new now old see way who use".split()
)
_LONG = (
    "replica request between another country program problem history morning picture science nothing general "
    "example quality balance journey network machine against because through without perhaps several feeling"
).split()
_MARKS = ["so, ", "it. ", "no; ", "by: ", "né ", "日 ", "🙂", "… ", "— ", "ñu ", "it.\n", "ça ", "où "]


def _pieces(word: str) -> tuple[str, ...]:
    """Cut a word and the space after it into 4-byte pieces.

    The space follows the word, so that a client that strips an answer shifts nothing before the answer's end.
    """
    data = word.encode()
    return tuple(data[start : start + 4].decode() for start in range(0, len(data), 4))


_UNITS = (
    [_pieces(word + " ") for word in _SHORT] * 2
    + [_pieces(word + " ") for word in _LONG]
    + [_pieces(mark) for mark in _MARKS]
)


PIECE_BYTES = frozenset(piece.encode() for unit in _UNITS for piece in unit)
"""Every token that the model can say."""


def natural_tokens(seed: int) -> int:
    """Return the length of an answer for which the client set no limit, in tokens."""
    return NATURAL_TOKENS[seed % len(NATURAL_TOKENS)]


def answer_pieces(seed: int, tokens: int) -> list[str]:
    """Return the text of each of `tokens` tokens."""
    pieces: list[str] = []
    for unit in random.Random(seed).choices(_UNITS, k=tokens):
        pieces.extend(unit)
        if len(pieces) >= tokens:
            break
    return pieces[:tokens]


def tool_arguments(schema: Mapping[str, Any], seed: int) -> str:
    """Make JSON arguments for a tool; they match its JSON schema as far as top-level types and enums go."""
    rng = random.Random(seed)
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return "{}"
    values = {name: _example(part, rng) for name, part in list(properties.items())[:32]}
    return json.dumps(values, ensure_ascii=False)


def _example(schema: Any, rng: random.Random) -> Any:
    if not isinstance(schema, Mapping):
        return None
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    kind = schema.get("type")
    if kind == "integer":
        return rng.randrange(100)
    if kind == "number":
        return rng.randrange(1000) / 8
    if kind == "boolean":
        return True
    if kind == "array":
        return []
    if kind == "object":
        return {}
    if kind == "null":
        return None
    return rng.choice(_LONG)
