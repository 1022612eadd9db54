"""Reads public traces and the router's own access log as workloads.

Decides how a trace's ids become block keys; generates nothing (`generators`). A record that makes no sense is an
error that names the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtest.simulate.workload import BYTES_PER_TOKEN, KeyMaker, Session, Turn, Workload, interleave
from router.core.fingerprint import GRID

MOONCAKE_BLOCK_TOKENS = 512
RAGPULSE_BLOCK_TOKENS = 64
LOG_BLOCK_TOKENS = 128


class TraceError(ValueError):
    """A file is not the trace it is said to be."""


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    raise TraceError(f"{path.name}:{number}: not JSON: {error}") from error


def mooncake(path: Path, name: str = "") -> Workload:
    """A Mooncake-format trace: `timestamp` ms, lengths in tokens, one hash id a block of 512 tokens.

    An id is taken for its whole prefix, as the format defines it. The last id of a prompt covers a partial block; no
    engine keeps those, so it is left out. Requests stand alone: the format names no sessions.
    """
    sessions: list[Session] = []
    for number, row in _lines(path):
        try:
            prompt = int(row["input_length"])
            full = prompt // MOONCAKE_BLOCK_TOKENS
            ids = tuple(int(i) + 1 for i in row["hash_ids"][:full])
            turn = Turn(
                f"m{number}",
                max(prompt, 1),
                max(int(row["output_length"]), 1),
                ids,
                user_key=ids[0] if ids else -number,
            )
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
            identity = [value for key, value in row.items() if key.endswith("_id")]
            if len(identity) != 1 or "token_length" not in row:
                raise TraceError(f"{stem}.jsonl:{number}: no size record")
            sizes[int(identity[0])] = int(row["token_length"])
    keys = KeyMaker()
    sessions: list[Session] = []
    for number, row in _lines(folder / "0_trace.jsonl"):
        try:
            pieces = [int(piece) for part in _RAG_PARTS for piece in row["hash_ids"][part]]
            tokens = sum(sizes[piece] for piece in pieces) or int(row["input_length"])
            chain = _chain(pieces, sizes, keys)
            turn = Turn(
                f"r{number}", max(tokens, 1), max(int(row["output_length"]), 1), chain, user_key=-number
            )
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


def access_log(path: Path) -> Workload:
    """The router's own access log, written with `access_log.fingerprints: true`.

    A line needs `time_s` (Unix seconds, when the request came), `prompt_tokens` and `rungs` (list of hex
    fingerprints, shallowest first); `output_tokens` is used where present. A rung's depth is the ladder's, so
    blocks between two rungs are taken to be shared exactly when the deeper rung is.
    """
    keys = KeyMaker()
    sessions: list[Session] = []
    for number, row in _lines(path):
        if "rungs" not in row:
            continue
        try:
            tokens = max(int(row["prompt_tokens"]), 1)
            chain: list[int] = []
            parent = 0
            for index, rung in enumerate(row["rungs"]):
                depth_tokens = GRID[index] // BYTES_PER_TOKEN
                while len(chain) < min(depth_tokens, tokens) // LOG_BLOCK_TOKENS:
                    parent = keys.child(parent, str(rung))
                    chain.append(parent)
            turn = Turn(
                f"a{number}",
                tokens,
                max(int(row.get("output_tokens") or 1), 1),
                tuple(chain),
                user_key=-number,
            )
            sessions.append(Session(float(row["time_s"]), [turn]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise TraceError(f"{path.name}:{number}: no access-log record: {error!r}") from error
    if not sessions:
        raise TraceError(f"{path.name}: no line has `rungs`; is `access_log.fingerprints` on?")
    ordered = interleave(sessions)
    first_s = ordered[0].start_s
    for session in ordered:
        session.start_s -= first_s
    return Workload(path.stem, LOG_BLOCK_TOKENS, ordered, source=path.name)
