"""A workload is what is asked of a simulated fleet: sessions of turns, each turn a prompt known by its blocks.

This module decides nothing about routing. A prompt is a tuple of keys, one a full block; a key stands for its block
and everything before it, so equal keys mean equal prefixes, for the engine's cache and for every policy alike.
Sessions start by the trace's clock (open loop); a session's next turn is sent a pause after the answer to the one
before (closed loop).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from xxhash import xxh3_64_intdigest

from warmroute.core.prompt.chunks import add_chunks
from warmroute.core.prompt.fingerprint import GRID, HEAD_BYTES
from warmroute.core.types import Chunks, FingerprintHash, RequestShape
from warmroute_replica.sim.chunk_store import Chunk

BYTES_PER_TOKEN = 4
"""Canonical bytes of a token in the simulation: a block of 512 tokens is 2,048 bytes on the router's ladder."""

_MASK = (1 << 64) - 1
_MIX_A = 0x9E3779B97F4A7C15
_MIX_B = 0xD6E8FEB86659FD93
MODEL = "simulated"


@dataclass(slots=True)
class Turn:
    """One request of a session."""

    id: str
    prompt_tokens: int
    output_tokens: int
    keys: tuple[int, ...]
    """Keys of the prompt's full blocks, then of the blocks that the answer completes, as far as they are known."""
    pause_s: float = 0.0
    """Time in seconds between the answer to the session's turn before and this request; 0 for the first turn."""
    user_key: int = 0
    """A key that stands for the session's first user message: routers that hash this message see the key."""
    session: int = 0
    chunks: tuple[Chunk, ...] = ()
    """The parts of the prompt that an engine with a chunk store finds wherever they stand: the key of each, and the
    tokens from which and up to which it goes. Empty where the prompt has no separators."""
    reads_cache: bool = True
    """False where the request asks for the prompt's log probabilities, so that the engine computes all of the
    prompt. Engines refuse to stream that."""
    streams: bool = True
    """False where the answer comes whole, so that a router hears nothing of it before its end."""
    patience_s: float = float("inf")
    """Time from the request after which its client breaks the connection, answered or not, in seconds. The session's
    next turn follows a pause after that."""


@dataclass(slots=True)
class Session:
    """Turns that follow one another."""

    start_s: float
    turns: list[Turn]


@dataclass(slots=True)
class Workload:
    """A list of sessions by start time."""

    name: str
    block_tokens: int
    """Number of tokens that a key stands for; in the simulation this is the engine's block size."""
    sessions: list[Session]
    source: str = ""
    """Where the workload comes from, as the report says it."""
    notes: dict[str, float] = field(default_factory=dict)
    clocked_pauses: bool = False
    """Whether pauses belong to the trace's clock, as starts do, and change with the rate; if not, they are people's
    own."""

    @property
    def requests(self) -> int:
        """Number of turns in all sessions."""
        return sum(len(session.turns) for session in self.sessions)

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens in all prompts."""
        return sum(turn.prompt_tokens for session in self.sessions for turn in session.turns)

    @property
    def rate(self) -> float:
        """Requests a second as the sessions' starts alone give it: the unit of load."""
        if not self.sessions:
            return 0.0
        span_s = self.sessions[-1].start_s - self.sessions[0].start_s
        return self.requests / span_s if span_s > 0 else 0.0

    @property
    def least_pause_s(self) -> float:
        """The shortest pause before any later turn, in seconds; infinite where all sessions have one turn."""
        pauses = [turn.pause_s for session in self.sessions for turn in session.turns[1:]]
        return min(pauses) if pauses else float("inf")

    def at_rate(self, rate: float) -> Workload:
        """Return the same requests with starts moved closer or apart so that `rate` has this value; pauses that belong
        to the trace's clock change with them."""
        factor = self.rate / rate if rate > 0 and self.rate > 0 else 1.0
        return self._stretched(factor, factor if self.clocked_pauses else 1.0)

    def at_speed(self, speed: float) -> Workload:
        """Return the same workload with all times divided by `speed`, people's pauses included."""
        return self if speed == 1.0 else self._stretched(1.0 / speed, 1.0 / speed)

    def _stretched(self, starts: float, pauses: float) -> Workload:
        """Return the same workload with all starts and all pauses multiplied by these factors."""
        if pauses == 1.0:
            sessions = [Session(session.start_s * starts, session.turns) for session in self.sessions]
        else:
            sessions = [
                Session(
                    session.start_s * starts,
                    [
                        replace(turn, pause_s=turn.pause_s * pauses, patience_s=turn.patience_s * pauses)
                        for turn in session.turns
                    ],
                )
                for session in self.sessions
            ]
        return replace(self, sessions=sessions)

    def spread(self) -> Workload:
        """Return the same requests, with those that start at one moment moved apart evenly until the next moment. A
        trace whose clock ticks every few seconds has bursts that nobody ever sent."""
        sessions = self.sessions
        starts_s = [session.start_s for session in sessions]
        moved: list[Session] = []
        at = 0
        gap_s = 0.0
        while at < len(sessions):
            end = at
            while end < len(sessions) and starts_s[end] == starts_s[at]:
                end += 1
            gap_s = starts_s[end] - starts_s[at] if end < len(sessions) else gap_s
            moved += [
                Session(starts_s[at] + gap_s * number / (end - at), session.turns)
                for number, session in enumerate(sessions[at:end])
            ]
            at = end
        return replace(self, sessions=moved)

    def whole(self, ratio: float) -> Workload:
        """Return the same requests, of which such a share, in the mean, wants its answer whole; the others stream."""
        least = (1.0 - ratio) * 2.0**64
        return replace(
            self,
            sessions=[
                Session(s.start_s, [replace(turn, streams=id_hash(turn.id) < least) for turn in s.turns])
                for s in self.sessions
            ],
        )

    def slice(self, requests: int, skip: int = 0) -> Workload:
        """Return whole sessions in order of start, from after the first `skip` turns on, with at least `requests`
        turns; the first session starts at 0."""
        kept: list[Session] = []
        passed = taken = 0
        for session in self.sessions:
            if passed < skip:
                passed += len(session.turns)
                continue
            if taken >= requests:
                break
            kept.append(session)
            taken += len(session.turns)
        first_s = kept[0].start_s if kept else 0.0
        return replace(self, sessions=[Session(s.start_s - first_s, s.turns) for s in kept])


class Shaper:
    """Makes of turns what the router's dialects would make of them: rungs of the real ladder, ring key, head key."""

    def __init__(self, block_tokens: int, recompute_ratio: float | None = None) -> None:
        """Args:
        recompute_ratio: What the router is told of engines that reuse chunks; None: it knows of no chunks.
        """
        self._block_bytes = block_tokens * BYTES_PER_TOKEN
        self._recompute_ratio = recompute_ratio

    def shape(self, turn: Turn) -> RequestShape:
        """Return the request's shape.

        A rung stands for the block in which it ends: two prompts that differ within a block are taken to differ from
        the block's start, since traces know no more.
        """
        block_bytes = self._block_bytes
        prompt_bytes = turn.prompt_tokens * BYTES_PER_TOKEN
        keys = turn.keys
        known_bytes = min(len(keys), prompt_bytes // block_bytes) * block_bytes
        rungs: list[FingerprintHash] = []
        for index, depth in enumerate(GRID):
            if depth > known_bytes:
                break
            rungs.append(FingerprintHash(rung_hash(keys[(depth - 1) // block_bytes], index)))
        head = min(HEAD_BYTES, known_bytes)
        if head:
            head_key = rung_hash(keys[(head - 1) // block_bytes], -1)
        else:
            head_key = rung_hash(id_hash(turn.id), -2)
        shape = RequestShape(MODEL, rungs, prompt_bytes, turn.prompt_tokens, head_key, head_key)
        if turn.chunks and self._recompute_ratio is not None:
            hashes = [FingerprintHash(rung_hash(hash(key) & _MASK, -3)) for key, _, _ in turn.chunks]
            bounds = [(start * BYTES_PER_TOKEN, end * BYTES_PER_TOKEN) for _, start, end in turn.chunks]
            add_chunks(shape, Chunks(hashes, bounds, 1.0 - self._recompute_ratio))
        shape.reads_cache, shape.streams = turn.reads_cache, turn.streams
        return shape


def id_hash(turn_id: str) -> int:
    """Return 64 bits for a turn whose prompt is shorter than a block: the same in every process, as `hash` is not."""
    return xxh3_64_intdigest(turn_id.encode())


def rung_hash(key: int, index: int) -> int:
    """Return 64 well-mixed bits of a block key and a rung's number."""
    mixed = (key * _MIX_A + (index + 3) * _MIX_B) & _MASK
    mixed ^= mixed >> 29
    mixed = mixed * _MIX_B & _MASK
    return mixed ^ (mixed >> 32)


class KeyMaker:
    """Makes block keys: the same parent and content give the same key, and anything else a new one."""

    def __init__(self, first: int = 1) -> None:
        self._next = first
        self._known: dict[tuple[int, object], int] = {}

    def child(self, parent: int, content: object) -> int:
        """Return the key of the block `content` after the prefix `parent` (0 means none)."""
        key = self._known.get((parent, content))
        if key is None:
            key = self._known[parent, content] = self._next
            self._next += 1
        return key

    def fresh(self, count: int) -> tuple[int, ...]:
        """Return keys of blocks that no other prompt has."""
        start = self._next
        self._next += count
        return tuple(range(start, start + count))


def interleave(sessions: Sequence[Session]) -> list[Session]:
    """Return the sessions sorted by start."""
    return sorted(sessions, key=lambda session: session.start_s)
