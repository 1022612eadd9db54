"""Arrivals say when talks start, and which worker plays which.

The loop is open: starts are a Poisson process with a random generator of its own, the same in every worker and for
every router compared. Worker `index` of `count` plays talks `index`, `index + count` and so on. A talk's later requests
come at planned times, too, however long the answers took, unless the answer before is not complete. A request planned
after the end of the run is not sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from warmroute_loadtest.locust.talks import Talk, until


@dataclass(frozen=True, slots=True)
class Share:
    """The part of the talks that one worker plays."""

    index: int = 0
    count: int = 1

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of the worker's talks."""
        number = self.index
        while True:
            yield number
            number += self.count


@dataclass(frozen=True, slots=True)
class Arrival:
    """A talk, and the time at which it starts."""

    number: int
    at_s: float
    talk: Talk


class Source(Protocol):
    """A source of talks that never ends."""

    def talk(self, number: int) -> Talk:
        """Return talk `number`."""

    def mean_requests(self) -> float:
        """Return the mean number of requests in a talk."""


def poisson(
    source: Source, rate: float, seed: int, duration_s: float, share: Share = Share()
) -> Iterator[Arrival]:
    """Yield a worker's talks with their starts. All workers together send `rate` requests a second once the first talks
    have ended."""
    dice = Random(f"arrivals/{seed}")
    talks_per_s = rate / source.mean_requests()
    at_s = dice.expovariate(talks_per_s)
    number = 0
    while at_s <= duration_s:
        if number % share.count == share.index:
            yield Arrival(number, at_s, until(source.talk(number), duration_s - at_s))
        at_s += dice.expovariate(talks_per_s)
        number += 1


def recorded(
    arrivals: Sequence[Arrival], duration_s: float | None, share: Share = Share()
) -> Iterator[Arrival]:
    """Yield a worker's part of talks whose times were read from a file."""
    for arrival in arrivals:
        if duration_s is not None and arrival.at_s > duration_s:
            return
        if arrival.number % share.count == share.index:
            left_s = float("inf") if duration_s is None else duration_s - arrival.at_s
            yield Arrival(arrival.number, arrival.at_s, until(arrival.talk, left_s))
