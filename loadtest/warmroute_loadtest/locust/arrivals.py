"""Arrivals say when talks start, and which worker plays which.

Open loop: starts are a Poisson process of its own dice, the same in every worker and for every router compared;
worker `index` of `count` plays talks `index`, `index + count` and so on. A talk's later requests come at planned
times too, whatever the answers took, unless the answer before is not complete. What is planned after the end is not
asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from warmroute_loadtest.locust.talks import Talk, until


@dataclass(frozen=True, slots=True)
class Share:
    """A worker's part."""

    index: int = 0
    count: int = 1

    def numbers(self) -> Iterator[int]:
        """Numbers of its talks."""
        number = self.index
        while True:
            yield number
            number += self.count


@dataclass(frozen=True, slots=True)
class Arrival:
    """A talk at its time."""

    number: int
    at_s: float
    talk: Talk


class Source(Protocol):
    """Endless talks."""

    def talk(self, number: int) -> Talk:
        """Talk `number`."""

    def mean_requests(self) -> float:
        """Requests a talk."""


def poisson(
    source: Source, rate: float, seed: int, duration_s: float, share: Share = Share()
) -> Iterator[Arrival]:
    """Talks of a share, at `rate` requests a second of all workers together once the first talks have ended."""
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
    """A share of talks whose times were read from somewhere."""
    for arrival in arrivals:
        if duration_s is not None and arrival.at_s > duration_s:
            return
        if arrival.number % share.count == share.index:
            left_s = float("inf") if duration_s is None else duration_s - arrival.at_s
            yield Arrival(arrival.number, arrival.at_s, until(arrival.talk, left_s))
