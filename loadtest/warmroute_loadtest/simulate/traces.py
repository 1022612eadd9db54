"""This module reads public traces as workloads; `access_log` reads the router's own log.

It decides how a trace's ids become block keys; it generates nothing (`generators` does). A record that makes no sense
is an error that names the line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn, Workload, interleave
from warmroute_replica.sim.chunk_store import Chunk

MOONCAKE_BLOCK_TOKENS = 512
RAGPULSE_BLOCK_TOKENS = 64


class TraceError(ValueError):
    """A file is not the trace it is said to be."""


def stop(error: TraceError) -> None:
    """Raise the error: this is what becomes of a broken line where a reader's caller names nothing else.

    Raises:
        TraceError: Always.
    """
    raise error


def _lines(path: Path, bad: Callable[[TraceError], None] = stop) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    bad(TraceError(f"{path.name}:{number}: not JSON: {error}"))
                    continue
                yield number, row


def _tokens(value: Any, least: int) -> int:
    """Read a length in tokens as traces give it.

    Raises:
        TypeError: The value is no number.
        ValueError: The value is below `least`.
    """
    tokens = int(value)
    if tokens < least:
        raise ValueError(f"a length of {tokens} tokens")
    return tokens


def _ids(values: Any, full: int) -> tuple[int, ...]:
    """Return the keys of the full blocks.

    Raises:
        TypeError: The values are no numbers.
        ValueError: There are too few values, or one is negative.
    """
    ids = tuple(_tokens(value, 0) + 1 for value in values[:full])
    if len(ids) < full:
        raise ValueError(f"{len(ids)} hash_ids for {full} full blocks")
    return ids


def mooncake(
    path: Path,
    name: str = "",
    *,
    join_tokens: int | None = None,
    open_loop: bool = False,
    bad: Callable[[TraceError], None] = stop,
) -> Workload:
    """Read a Mooncake-format trace: `timestamp` in ms, lengths in tokens, and one hash id for each block of `block`
    tokens (512 where the lines do not say). Lines that name one `session` are that session's turns.

    An id stands for its whole prefix, as the format defines it. The last id of a prompt covers a partial block, which
    no engine keeps, so it is left out. Answers are nobody's prefix, since no line says what they became.

    Lines without `session` stand alone. Lines of one session follow one another in the order of their times: the first
    starts by the trace's clock, and each other is sent a pause after the answer to the one before. The format has only
    the times of requests, so that pause is the time between the two requests, which includes the answer and so is too
    long by at most that. It is a pause of the trace's clock: if no rate shortened pauses, the number of sessions would
    bound the load.

    Args:
        path: The trace.
        name: The workload's name; empty takes the file's.
        join_tokens: The workload's block size, a multiple of the trace's. Larger blocks mean fewer keys, which agree
            less far.
        open_loop: Whether every line stands alone, whatever session it names.
        bad: Called with what is wrong with a broken line; if it returns, the line is left out.

    Raises:
        TraceError: A line is no such record, or has blocks of another size than the first line.
    """
    lines: list[tuple[float, Turn, int | str | None]] = []
    block_tokens = joined = 0
    for number, row in _lines(path, bad):
        try:
            block_tokens = _block_tokens(row, block_tokens)
            joined = joined or _joined(block_tokens, join_tokens)
            prompt = _tokens(row["input_length"], 1)
            ids = _ids(row["hash_ids"], prompt // block_tokens)
            keys = ids[joined - 1 :: joined]
            answer = max(_tokens(row["output_length"], 0), 1)
            turn = Turn(f"m{number}", prompt, answer, keys, user_key=ids[0] if ids else -number)
            lines.append((float(row["timestamp"]) / 1000.0, turn, None if open_loop else _session(row)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            bad(TraceError(f"{path.name}:{number}: no Mooncake record: {error!r}"))
    size = block_tokens * joined or join_tokens or MOONCAKE_BLOCK_TOKENS
    sessions = _in_sessions(lines)
    clocked = any(len(session.turns) > 1 for session in sessions)
    return Workload(name or path.stem, size, sessions, source=path.name, clocked_pauses=clocked)


def _block_tokens(row: dict[str, Any], before: int) -> int:
    """Return how many tokens an id of this line stands for. `before` is the size on the lines before; 0 if there is
    none.

    Raises:
        ValueError: The size differs from `before`, or is no size.
    """
    own = _tokens(row.get("block", MOONCAKE_BLOCK_TOKENS), 1)
    if before and own != before:
        raise ValueError(f"a block of {own} tokens after one of {before}")
    return own


def _session(row: dict[str, Any]) -> int | str | None:
    """Return what names the line's session; None where nothing does.

    Raises:
        TypeError: The name is neither a number nor a text.
    """
    session = row.get("session")
    if session is not None and type(session) not in (int, str):
        raise TypeError("the session is neither a number nor a text")
    return session


def _joined(block_tokens: int, join_tokens: int | None) -> int:
    """Return how many of the trace's blocks make one of the workload's.

    Raises:
        ValueError: The number is not whole.
    """
    joined, left = divmod(join_tokens or block_tokens, block_tokens)
    if left or not joined:
        raise ValueError(f"blocks of {block_tokens} tokens do not make one of {join_tokens}")
    return joined


def _in_sessions(lines: list[tuple[float, Turn, int | str | None]]) -> list[Session]:
    """Make sessions of turns that are given in the trace's order, with their times and the names of their sessions."""
    sessions: list[Session] = []
    latest: dict[int | str, tuple[Session, float]] = {}
    for at_s, turn, named in sorted(lines, key=lambda line: line[0]):
        known = latest.get(named) if named is not None else None
        if known is None:
            turn.session = len(sessions)
            session = Session(at_s, [turn])
            sessions.append(session)
        else:
            session, before_s = known
            turn.pause_s = at_s - before_s
            turn.session, turn.user_key = session.turns[0].session, session.turns[0].user_key
            session.turns.append(turn)
        if named is not None:
            latest[named] = (session, at_s)
    return sessions


_RAG_PARTS = ("sys_prompt", "passages_ids", "history", "web_search", "user_input")
_RAG_SIZES = {
    "sys_prompt": "1_sys_prompt",
    "passages_ids": "2_passages",
    "history": "3_history",
    "web_search": "5_web_search",
    "user_input": "4_user_input",
}


def ragpulse(folder: Path, chunk_tokens: int | None = None) -> Workload:
    """Read RAGPulse: each prompt is a list of pieces (system prompt, passages, history, web, user), whose sizes five
    tables give.

    Args:
        folder: The trace.
        chunk_tokens: Prompts are taken to have separators before each piece after the system prompt; those of so many
            tokens are chunks. None: they have none.
    """
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
            head = len(row["hash_ids"]["sys_prompt"])
            pieces = [int(piece) for part in _RAG_PARTS for piece in row["hash_ids"][part]]
            tokens = sum(sizes[piece] for piece in pieces) or int(row["input_length"])
            chain = _chain(pieces, sizes, keys)
            answer = max(_tokens(row["output_length"], 0), 1)
            turn = Turn(f"r{number}", max(tokens, 1), answer, chain, user_key=-number)
            if chunk_tokens is not None:
                turn.chunks = _chunks(pieces, head, sizes, chunk_tokens)
            sessions.append(Session(float(row["timestamp"]), [turn]))
        except (KeyError, TypeError, ValueError) as error:
            raise TraceError(f"0_trace.jsonl:{number}: no RAGPulse record: {error!r}") from error
    return Workload("ragpulse", RAGPULSE_BLOCK_TOKENS, interleave(sessions), source="RAGPulse 0_trace.jsonl")


def _chunks(pieces: list[int], head: int, sizes: dict[int, int], least_tokens: int) -> tuple[Chunk, ...]:
    """Return the pieces after the first `head` ones, as chunks; a piece that comes twice counts once."""
    chunks: dict[int, Chunk] = {}
    at = 0
    for place, piece in enumerate(pieces):
        end = at + sizes[piece]
        if place >= head and sizes[piece] >= max(1, least_tokens):
            chunks.setdefault(piece, (piece, at, end))
        at = end
    return tuple(chunks.values())


def _chain(pieces: list[int], sizes: dict[int, int], keys: KeyMaker) -> tuple[int, ...]:
    """Return the keys of the full blocks over pieces of any length. A block's key stands for the pieces that it
    touches, after all that came before."""
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
