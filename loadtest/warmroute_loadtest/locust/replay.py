"""A replay takes talks from a trace or from the router's own access log, with the times at which they came.

This module decides how blocks known by key become a prompt. Each key gets a text, so that two prompts agree exactly as
far as their keys do, and the rest of each prompt is a text that no other prompt has. Each request carries its whole
prompt as recorded. What the engine answers is not put into the next request, since the record says how long answers
were, not what they said. `warmroute_loadtest.simulate` reads the files and decides what a key stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from warmroute_loadtest.locust.arrivals import Arrival
from warmroute_loadtest.locust.scenarios import api_of
from warmroute_loadtest.locust.talks import Ask, Piece, Talk, hurried, planned
from warmroute_loadtest.simulate.access_log import access_log
from warmroute_loadtest.simulate.traces import TraceError, mooncake
from warmroute_loadtest.simulate.workload import Session, Turn, Workload

MAX_BROKEN_RATIO = 0.1
"""A file with a larger share of broken lines than this is not the trace it is said to be."""
TOLD_LINES = 10


@dataclass(frozen=True, slots=True)
class Recording:
    """What to replay, and how."""

    path: Path
    is_access_log: bool = False
    requests: int | None = None
    """Number of requests to replay, the first ones, in whole sessions; None replays all."""
    rate: float | None = None
    """Requests a second as the sessions' starts give it; None keeps the record's own rate."""
    speed: float = 1.0
    """All times are divided by this."""
    spread: bool = False
    """Whether requests of one moment are moved apart until the next moment, for records whose clock ticks every few
    seconds."""
    open_loop: bool = False
    """Whether every request comes by the clock, whatever session it names."""
    lengths: float = 1.0
    api: str = "chat"


def arrivals(recording: Recording, say: Callable[[str], None] = lambda line: None) -> list[Arrival]:
    """Return all talks in order of their times.

    A broken line is left out and counted; the first ten are reported in full.

    Args:
        recording: What to read.
        say: Called with each line for people.
    Raises:
        TraceError: More than a tenth of the lines are broken, or nothing is left.
        OSError: The file cannot be read.
    """
    broken: list[str] = []

    def bad(error: TraceError) -> None:
        broken.append(str(error))
        if len(broken) <= TOLD_LINES:
            say(f"left out: {error}")

    workload = _read(recording, bad)
    count = workload.requests
    if len(broken) > TOLD_LINES:
        say(f"left out: {len(broken) - TOLD_LINES} more broken lines")
    if broken and len(broken) > MAX_BROKEN_RATIO * (count + len(broken)):
        raise TraceError(
            f"{recording.path}: {len(broken)} of {count + len(broken)} lines are broken, so this is hardly such a"
            f" file; the first: {broken[0]}"
        )
    workload = workload.slice(recording.requests or count)
    if not workload.sessions:
        raise TraceError(f"{recording.path}: it holds no request")
    if recording.spread:
        workload = workload.spread()
    if recording.rate is not None:
        workload = workload.at_rate(recording.rate)
    name = "access-log" if recording.is_access_log else "trace"
    made = [
        Arrival(
            number,
            session.start_s / recording.speed,
            hurried(_talk(name, session, workload, recording, number), recording.speed),
        )
        for number, session in enumerate(workload.sessions)
    ]
    return sorted(made, key=lambda arrival: arrival.at_s)


@dataclass(frozen=True, slots=True)
class Played:
    """Recorded talks as a source that never ends, for clients that wait for their answers. When all talks were played,
    the source begins again at the first one, with other texts each time."""

    arrivals: Sequence[Arrival]

    def talk(self, number: int) -> Talk:
        """Return talk `number`, counted from 0."""
        again, place = divmod(number, len(self.arrivals))
        talk = self.arrivals[place].talk
        if not again:
            return talk
        asks = tuple(
            replace(ask, text=tuple(Piece(f"{again}/{key}", n) for key, n in ask.text)) for ask in talk.asks
        )
        return replace(talk, asks=asks)

    def mean_requests(self) -> float:
        """Return the mean number of requests in a talk."""
        return sum(len(arrival.talk.asks) for arrival in self.arrivals) / len(self.arrivals)


def _read(recording: Recording, bad: Callable[[TraceError], None]) -> Workload:
    if recording.is_access_log:
        return access_log(recording.path, bad=bad)
    return mooncake(recording.path, open_loop=recording.open_loop, bad=bad)


def _talk(name: str, session: Session, workload: Workload, recording: Recording, number: int) -> Talk:
    asks = tuple(_ask(turn, workload.block_tokens, recording.lengths) for turn in session.turns)
    if workload.clocked_pauses:
        at_s = 0.0
        clocked: list[Ask] = []
        for ask in asks:
            at_s += ask.pause_s
            clocked.append(replace(ask, at_s=at_s))
        asks = tuple(clocked)
    else:
        asks = planned(asks)
    return Talk(name, asks, api=api_of(recording.api, number), grows=False)


def _ask(turn: Turn, block_tokens: int, lengths: float) -> Ask:
    full = turn.keys[: turn.prompt_tokens // block_tokens]
    block = max(1, round(block_tokens * lengths))
    text = [Piece(f"block/{key}", block) for key in full]
    rest = max(round(turn.prompt_tokens * lengths) - block * len(full), 0)
    if rest or not text:
        text.append(Piece(f"rest/{turn.id}", max(rest, 1)))
    return Ask(tuple(text), max(1, round(turn.output_tokens * lengths)), turn.pause_s)
