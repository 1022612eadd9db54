"""Reads public traces as workloads; the router's own log is `access_log`'s.

Decides how a trace's ids become block keys; generates nothing (`generators`). A record that makes no sense is an
error that names the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtest.simulate.workload import KeyMaker, Session, Turn, Workload, interleave

MOONCAKE_BLOCK_TOKENS = 512
RAGPULSE_BLOCK_TOKENS = 64


class TraceError(ValueError):
    """A file is not the trace it is said to be."""


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    raise TraceError(f"{path.name}:{number}: not JSON: {error}") from error


def _tokens(value: Any, least: int) -> int:
    """A length as traces give them.

    Raises:
        TypeError: It is no number.
        ValueError: It is below `least`.
    """
    tokens = int(value)
    if tokens < least:
        raise ValueError(f"a length of {tokens} tokens")
    return tokens


def _ids(values: Any, full: int) -> tuple[int, ...]:
    """Keys of the full blocks.

    Raises:
        TypeError: They are no numbers.
        ValueError: There are too few, or one is negative.
    """
    ids = tuple(_tokens(value, 0) + 1 for value in values[:full])
    if len(ids) < full:
        raise ValueError(f"{len(ids)} hash_ids for {full} full blocks")
    return ids


def mooncake(path: Path, name: str = "") -> Workload:
    """A Mooncake-format trace: `timestamp` ms, lengths in tokens, one hash id a block of 512 tokens.

    An id is taken for its whole prefix, as the format defines it. The last id of a prompt covers a partial block; no
    engine keeps those, so it is left out. Requests stand alone: the format names no sessions.
    """
    sessions: list[Session] = []
    for number, row in _lines(path):
        try:
            prompt = _tokens(row["input_length"], 1)
            ids = _ids(row["hash_ids"], prompt // MOONCAKE_BLOCK_TOKENS)
            answer = max(_tokens(row["output_length"], 0), 1)
            turn = Turn(f"m{number}", prompt, answer, ids, user_key=ids[0] if ids else -number)
            sessions.append(Session(float(row["timestamp"]) / 1000.0, [turn]))
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(f"{path.name}:{number}: no Mooncake record: {error!r}") from error
    return Workload(name or path.stem, MOONCAKE_BLOCK_TOKENS, interleave(sessions), source=path.name)


_RAG_PARTS = ("sys_prompt", "passages_ids", "history", "web_search", "user_input")
_RAG_SIZES = {
    "sys_prompt": "1_sys_prompt",
    "passages_ids": "2_passages",
    "history": "3_history",
    "web_search": "5_web_search",
    "user_input": "4_user_input",
}


def ragpulse(folder: Path) -> Workload:
    """RAGPulse: each prompt is a list of pieces (system prompt, passages, history, web, user), sized in five
    tables."""
    sizes: dict[int, int] = {}
    for stem in _RAG_SIZES.values():
        for number, row in _lines(folder / f"{stem}.jsonl"):
            try:
                (identity,) = (value for key, value in row.items() if key.endswith("_id"))
                sizes[int(identity)] = _tokens(row["token_length"], 0)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise TraceError(f"{stem}.jsonl:{number}: no size record: {error!r}") from error
    keys = KeyMaker()
    sessions: list[Session] = []
    for number, row in _lines(folder / "0_trace.jsonl"):
        try:
            pieces = [int(piece) for part in _RAG_PARTS for piece in row["hash_ids"][part]]
            tokens = sum(sizes[piece] for piece in pieces) or int(row["input_length"])
            chain = _chain(pieces, sizes, keys)
            answer = max(_tokens(row["output_length"], 0), 1)
            turn = Turn(f"r{number}", max(tokens, 1), answer, chain, user_key=-number)
            sessions.append(Session(float(row["timestamp"]), [turn]))
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(f"0_trace.jsonl:{number}: no RAGPulse record: {error!r}") from error
    return Workload("ragpulse", RAGPULSE_BLOCK_TOKENS, interleave(sessions), source="RAGPulse 0_trace.jsonl")


def _chain(pieces: list[int], sizes: dict[int, int], keys: KeyMaker) -> tuple[int, ...]:
    """Keys of full blocks over pieces of any length: a block is the pieces it touches, after what came before."""
    chain: list[int] = []
    parent = filled = 0
    touched: list[int] = []
    for piece in pieces:
        left = sizes[piece]
        while left:
            if not touched or touched[-1] != piece:
                touched.append(piece)
            used = min(left, RAGPULSE_BLOCK_TOKENS - filled)
            filled += used
            left -= used
            if filled == RAGPULSE_BLOCK_TOKENS:
                parent = keys.child(parent, tuple(touched))
                chain.append(parent)
                touched = []
                filled = 0
    return tuple(chain)
