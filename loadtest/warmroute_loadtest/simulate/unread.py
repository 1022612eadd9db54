"""This module shows what requests that cannot read the cache cost the others: it plays a workload with and without.

A request that asks for `prompt_logprobs` is computed whole, whatever the engine holds, and its answer reports nothing
cached. This module decides how that is shown: the cached share of all prompts, which falls by what those requests
themselves would have found, and that of the other requests, which is what a router could spoil.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random

from warmroute_loadtest.simulate.contenders import maker
from warmroute_loadtest.simulate.simulation import FleetConfig, Served, simulate
from warmroute_loadtest.simulate.sources import Source
from warmroute_loadtest.simulate.workload import Session, Workload


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of prompt tokens that were cached, in one draw. `others` are the requests that read the cache in both
    runs."""

    seed: int
    policy: str
    unread_requests: int
    without_ratio: float
    """The cached share of all requests, in the run in which each of them reads the cache."""
    with_ratio: float
    """The cached share of all requests, in the run in which some do not read the cache."""
    others_without_ratio: float
    others_with_ratio: float

    @property
    def lost_points(self) -> float:
        """How much of their cached share the other requests have lost, in percentage points."""
        return 100.0 * (self.others_without_ratio - self.others_with_ratio)

    def as_dict(self) -> dict[str, object]:
        """Return the shares as a dict for JSON."""
        return {**asdict(self), "lost_points": self.lost_points}


@dataclass(frozen=True, slots=True)
class PlayUnread:
    """A job that plays one draw of a workload by one policy, with and without requests that do not read the cache."""

    source: Source
    rate: float | None
    """Requests a second; None keeps the workload's clock."""
    fleet: FleetConfig
    policy: str
    unread_ratio: float
    """Share of the requests that ask for `prompt_logprobs`."""

    def run(self) -> Shares:
        """Simulate both runs."""
        workload = self.source.load()
        if self.rate is not None:
            workload = workload.at_rate(self.rate)
        asking = asked_of(workload, self.unread_ratio, self.source.seed)
        plain = simulate(workload, self.fleet, maker(self.policy)).served
        mixed = simulate(with_unread(workload, asking), self.fleet, maker(self.policy)).served
        return Shares(
            self.source.seed,
            self.policy,
            len(asking),
            cached_ratio(plain),
            cached_ratio(mixed),
            cached_ratio(served for served in plain if served.turn.id not in asking),
            cached_ratio(served for served in mixed if served.turn.id not in asking),
        )


def asked_of(workload: Workload, ratio: float, seed: int) -> frozenset[str]:
    """Draw the turns that ask for `prompt_logprobs`, this share of all, and return their ids."""
    rng = Random(seed)
    ids = [turn.id for session in workload.sessions for turn in session.turns]
    return frozenset(rng.sample(ids, round(ratio * len(ids))))


def with_unread(workload: Workload, asking: frozenset[str]) -> Workload:
    """Return the same workload with these turns not reading the cache."""
    sessions = [
        Session(
            session.start_s,
            [
                replace(turn, reads_cache=False, streams=False) if turn.id in asking else turn
                for turn in session.turns
            ],
        )
        for session in workload.sessions
    ]
    return replace(workload, sessions=sessions)


def cached_ratio(served: Iterable[Served]) -> float:
    """Return the cached tokens over the prompt tokens; 0 where there are none."""
    prompt_tokens = cached_tokens = 0
    for one in served:
        prompt_tokens += one.turn.prompt_tokens
        cached_tokens += one.cached_tokens
    return cached_tokens / prompt_tokens if prompt_tokens else 0.0


def unread_table(rows: Sequence[Shares]) -> str:
    """Render a table with one line a draw, and the mean of each policy."""
    lines = [
        f"{'policy':24s} {'seed':>5s} {'unread':>7s} {'all: without, with':>22s} {'others: without, with':>24s} lost"
    ]
    for policy in dict.fromkeys(row.policy for row in rows):
        own = [row for row in rows if row.policy == policy]
        lines += [
            f"{policy:24s} {row.seed:5d} {row.unread_requests:7d}"
            f" {row.without_ratio:13.2%} {row.with_ratio:8.2%}"
            f" {row.others_without_ratio:15.2%} {row.others_with_ratio:8.2%} {row.lost_points:5.2f}"
            for row in own
        ]
        mean = sum(row.lost_points for row in own) / len(own)
        lines.append(f"{policy}: the others lose {mean:.2f} points in the mean of {len(own)} draws")
    return "\n".join(lines)
