"""This module reads the router's own access log, written with `access_log.fingerprints: true`, as a workload.

Of each prompt the log has hashes at some depths only (rungs), so this module decides how far two prompts agree. An
equal rung says that they agree at least to its depth; a different next rung says that they differ somewhere before
that: up to an eighth of the depth stays open. Three rules narrow it, in this order:

1. A request that goes on with its session's last one (it has all rungs of that request, and is not shorter) shares that
   request's whole prompt and answer.
2. Cached tokens that an engine reported were held because of an earlier prompt; the latest one with the same deepest
   rung is taken for it.
3. In all other cases two prompts are taken to differ right after the last rung that they share.

Requests of one session that follow one another become turns with the pauses that were between them; all others start by
the clock. The log's bytes become tokens by each model's mean over the log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmroute.core.prompt.fingerprint import GRID
from warmroute_loadtest.simulate.traces import TraceError, stop
from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn, Workload, interleave

LOG_BLOCK_TOKENS = 64
RUNG_DIGITS = 16
PREFIX_APIS = frozenset(("chat", "completions", "messages", "responses"))


@dataclass(slots=True)
class _Line:
    number: int
    start_s: float
    end_s: float
    model: str
    prompt_tokens: int
    completion_tokens: int | None
    cached_tokens: int | None
    prompt_bytes: int
    session: str | None
    rungs: tuple[str, ...]
    keys: tuple[int, ...] = ()
    """Keys of the blocks of prompt and answer; empty until they are known."""


def access_log(path: Path, *, bad: Callable[[TraceError], None] = stop) -> Workload:
    """Read every answered request that was routed by prefix.

    Args:
        path: The log.
        bad: Called with what is wrong with a broken line; if it returns, the line is left out.
    Raises:
        TraceError: A line is not one of such a log, or no line is.
        OSError: The file cannot be read.
    """
    lines = sorted(_lines(path, bad), key=lambda line: line.start_s)
    if not lines:
        raise TraceError(f"{path.name}: no answered request with `rungs`; is `access_log.fingerprints` on?")
    _find_keys(lines)
    return Workload(path.stem, LOG_BLOCK_TOKENS, _sessions(lines), source=path.name)


def _lines(path: Path, bad: Callable[[TraceError], None]) -> Iterator[_Line]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                line = _line(number, json.loads(text))
            except (KeyError, TypeError, ValueError) as error:
                bad(TraceError(f"{path.name}:{number}: no access-log record: {error!r}"))
                continue
            if line is not None:
                yield line


def _line(number: int, row: Any) -> _Line | None:
    """Read one line; None for a request without fingerprints, a failed one, and one that was not routed by prefix."""
    if not isinstance(row, dict):
        raise TypeError("no object")
    if "rungs" not in row or row["status"] != 200 or row["api"] not in PREFIX_APIS:
        return None
    digits = row["rungs"]
    if not isinstance(digits, str) or len(digits) % RUNG_DIGITS or len(digits) > RUNG_DIGITS * len(GRID):
        raise ValueError(f"rungs are no row of {RUNG_DIGITS} digits each")
    start_s, duration_s = float(row["time"]), float(row["duration_s"])
    prompt_tokens, prompt_bytes = int(row["prompt_tokens"]), int(row["prompt_bytes"])
    rungs = tuple(digits[at : at + RUNG_DIGITS] for at in range(0, len(digits), RUNG_DIGITS))
    session = row["session"]
    if session is not None and not isinstance(session, str):
        raise ValueError("the session is no text")
    if prompt_tokens < 1 or duration_s < 0 or (rungs and prompt_bytes < GRID[len(rungs) - 1]):
        raise ValueError("a length or time is too small")
    return _Line(
        number,
        start_s,
        start_s + duration_s,
        str(row["model"]),
        prompt_tokens,
        _count(row, "completion_tokens"),
        _count(row, "cached_tokens"),
        prompt_bytes,
        session,
        rungs,
    )


def _count(row: dict[str, Any], name: str) -> int | None:
    value = row.get(name)
    if value is not None and int(value) < 0:
        raise ValueError(f"{name} is negative")
    return None if value is None else int(value)


def _tokens_per_byte(lines: Iterable[_Line]) -> dict[str, float]:
    """Return tokens per byte of each model, from the lines whose engine counted tokens, where there are any."""
    sums: dict[str, list[int]] = {}
    for line in lines:
        if line.completion_tokens is not None:
            tokens, size = sums.setdefault(line.model, [0, 0])
            sums[line.model] = [tokens + line.prompt_tokens, size + line.prompt_bytes]
    return {model: tokens / size for model, (tokens, size) in sums.items() if size}


def _find_keys(lines: list[_Line]) -> None:
    """Find the keys of each line's blocks, in order of arrival."""
    ratios = _tokens_per_byte(lines)
    keys = KeyMaker()
    holder: dict[str, _Line] = {}
    previous: dict[str, _Line] = {}
    known = [line.completion_tokens for line in lines if line.completion_tokens is not None]
    mean_answer = round(sum(known) / len(known)) if known else 1
    for line in lines:
        line.completion_tokens = max(line.completion_tokens or mean_answer, 1)
        parent, shared = _shared(line, holder, previous, ratios.get(line.model, 0.25))
        own = line.prompt_tokens + line.completion_tokens
        if line.rungs:
            # A prompt whose tokens per byte differ from the mean must still cover its deepest rung, which other prompts
            # may share.
            own = max(own, int(GRID[len(line.rungs) - 1] * ratios.get(line.model, 0.25)) + LOG_BLOCK_TOKENS)
        blocks = own // LOG_BLOCK_TOKENS
        head = parent.keys[: min(shared // LOG_BLOCK_TOKENS, blocks)] if parent is not None else ()
        line.keys = head + keys.fresh(blocks - len(head))
        for rung in line.rungs:
            holder[rung] = line
        if line.session is not None:
            previous[line.session] = line


def _shared(
    line: _Line, holder: dict[str, _Line], previous: dict[str, _Line], tokens_per_byte: float
) -> tuple[_Line | None, int]:
    """Return the earlier line whose prefix this line shares, and the number of tokens that they share."""
    before = previous.get(line.session) if line.session is not None else None
    if (
        before is not None
        and before.completion_tokens is not None
        and before.end_s <= line.start_s
        and before.prompt_bytes < line.prompt_bytes
        and before.rungs == line.rungs[: len(before.rungs)]
    ):
        depth = int(GRID[len(before.rungs) - 1] * tokens_per_byte) if before.rungs else 0
        return before, max(depth, min(before.prompt_tokens + before.completion_tokens, line.prompt_tokens))
    for index in range(len(line.rungs) - 1, -1, -1):
        parent = holder.get(line.rungs[index])
        if parent is not None:
            depth = int(GRID[index] * tokens_per_byte)
            following = int(GRID[index + 1] * tokens_per_byte)
            return parent, max(depth, min(line.cached_tokens or 0, following))
    return None, 0


def _sessions(lines: list[_Line]) -> list[Session]:
    first_s = lines[0].start_s
    sessions: list[Session] = []
    latest: dict[str, tuple[Session, float]] = {}
    for line in lines:
        assert line.completion_tokens is not None
        blocks = (line.prompt_tokens + line.completion_tokens) // LOG_BLOCK_TOKENS
        turn = Turn(
            f"a{line.number}",
            line.prompt_tokens,
            line.completion_tokens,
            line.keys[:blocks],
            user_key=-line.number,
        )
        before = latest.get(line.session) if line.session is not None else None
        if before is not None and before[1] <= line.start_s:
            session, end_s = before
            turn.pause_s = line.start_s - end_s
            turn.session, turn.user_key = session.turns[0].session, session.turns[0].user_key
            session.turns.append(turn)
        else:
            turn.session = len(sessions)
            session = Session(line.start_s - first_s, [turn])
            sessions.append(session)
        if line.session is not None:
            latest[line.session] = (session, line.end_s)
    return interleave(sessions)
