"""What generated workloads are drawn from: lengths, popularity, growing prompts.

This module decides no workload: `generators` and `fresh` do.
"""

from __future__ import annotations

from bisect import bisect
from itertools import accumulate
from math import log
from random import Random

from warmroute_loadtest.simulate.workload import KeyMaker, Session, Turn


def lognormal(rng: Random, mean: float, sigma: float, low: float, high: float) -> float:
    """Draw from a log-normal distribution of this mean, and of this deviation of its logarithm, cut at both ends."""
    return min(max(rng.lognormvariate(log(mean) - sigma * sigma / 2, sigma), low), high)


def tokens_of(rng: Random, mean: float, sigma: float, low: int, high: int) -> int:
    """The same as a number of tokens."""
    return int(lognormal(rng, mean, sigma, low, high))


class Popularity:
    """Draws from `count` items by Zipf's law."""

    def __init__(self, count: int, exponent: float) -> None:
        self._sums = list(accumulate((rank + 1) ** -exponent for rank in range(count)))

    def draw(self, rng: Random) -> int:
        """Draw the number of an item, from 0 for the most popular."""
        return min(bisect(self._sums, rng.uniform(0.0, self._sums[-1])), len(self._sums) - 1)


class Text:
    """A growing prompt: a shared beginning, then blocks of its own."""

    def __init__(self, head: tuple[int, ...], block_tokens: int, keys: KeyMaker) -> None:
        self._block_tokens = block_tokens
        self._keys = keys
        self._chain = list(head)

    def keys_for(self, tokens: int) -> tuple[int, ...]:
        """Return the keys of the full blocks in the first `tokens` tokens."""
        full = tokens // self._block_tokens
        if full > len(self._chain):
            self._chain.extend(self._keys.fresh(full - len(self._chain)))
        return tuple(self._chain[:full])


def heads_of(rng: Random, keys: KeyMaker, count: int, mean: int, block_tokens: int) -> list[tuple[int, ...]]:
    """Draw so many beginnings that prompts share, each as the keys of its blocks, `mean` tokens long in the mean."""
    return [
        keys.fresh(tokens_of(rng, mean, 0.4, mean // 4, mean * 3) // block_tokens or 1) for _ in range(count)
    ]


def asked_once(start_s: float, name: str, text: Text, prompt: int, output: int, number: int) -> Session:
    """A session of one turn, by a user of its own."""
    turn = Turn(name, prompt, output, text.keys_for(prompt + output), user_key=-number)
    return Session(start_s, [turn])
