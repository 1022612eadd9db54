"""Prices of tokens in the structures that providers have, and what the same providers promise of caching.

Data and arithmetic. A structure is what a read or a written token costs beside a computed one; base prices are the
deployment's own. Amounts are whole billionths of the currency, so that sums are exact.

Source of ratios and promises: the providers' public documentation as of November 2026. OpenAI: reads 50 to 90 % off,
writes 1.25 times from GPT-5.6 on and free before. Anthropic: reads 0.1, writes 1.25 (5 minutes) and 2 (an hour).
Google: reads 0.1, storage by the hour. DeepSeek: hits at a tenth of misses.
"""

from __future__ import annotations

from typing import Final

INTERFACES: Final = ("openai", "anthropic", "google", "deepseek", "other")
"""Whose API and words a request spoke. `other`: what is routed by load."""
OPENAI: Final = 0
ANTHROPIC: Final = 1
GOOGLE: Final = 2
DEEPSEEK: Final = 3
OTHER: Final = 4

HOUR_S: Final = 3600


class Structure:
    """What tokens cost beside a prompt token that was computed."""

    __slots__ = ("read", "write", "write_hour")

    def __init__(self, read: float, write: float = 1.0, write_hour: float | None = None) -> None:
        self.read = read
        """One that was found cached."""
        self.write = write
        """One that was computed and put into the cache."""
        self.write_hour = write if write_hour is None else write_hour
        """The same, to be kept for an hour."""


STRUCTURES: Final = {
    "openai": Structure(0.1, 1.25),
    "openai-automatic": Structure(0.5),
    "anthropic": Structure(0.1, 1.25, 2.0),
    "google": Structure(0.1),
    "deepseek": Structure(0.1),
}
OF_INTERFACE: Final = {name: STRUCTURES.get(name, Structure(1.0)) for name in INTERFACES}
"""What the provider of an interface would charge by."""


class Promise:
    """What a provider says that caching saves, at the most and at the least that it names; 0: it names nothing."""

    __slots__ = ("cost_most", "cost_least", "latency_most")

    def __init__(self, latency_most: float, cost_least: float, cost_most: float) -> None:
        self.latency_most = latency_most
        """Share of the time to the first token."""
        self.cost_least = cost_least
        """Share of what prompt tokens cost."""
        self.cost_most = cost_most


PROMISES: Final = {
    "openai": Promise(0.80, 0.50, 0.90),
    "anthropic": Promise(0.85, 0.0, 0.90),
    "google": Promise(0.0, 0.0, 0.90),
    "deepseek": Promise(0.0, 0.0, 0.90),
}


class Price:
    """Of one token in billionths of the currency, for each way in which it was had."""

    __slots__ = ("cached", "output", "prompt", "storage", "write", "write_hour")

    def __init__(
        self,
        prompt: int = 0,
        cached: int = 0,
        output: int = 0,
        *,
        write: int = -1,
        write_hour: int = -1,
        storage: int = 0,
    ) -> None:
        self.prompt = prompt
        self.cached = cached
        self.output = output
        self.write = prompt if write < 0 else write
        self.write_hour = self.write if write_hour < 0 else write_hour
        self.storage = storage
        """Of a token that a cached content keeps for an hour."""


Prices = dict[tuple[str, str], Price]
"""Model, or `*`, and interface, or empty for all -> price."""

FREE: Final = Price()


def price_of(prices: Prices, model: str, interface: str) -> Price:
    """The model's own before that of all models, and the interface's before that of all interfaces."""
    for key in ((model, interface), (model, ""), ("*", interface), ("*", "")):
        found = prices.get(key)
        if found is not None:
            return found
    return FREE


def saved_share(structure: Structure, prompt: int, read: int, written: int, written_hour: int) -> float:
    """Share of what these prompt tokens would cost without a cache that they do not cost by this structure; below 0
    where writes cost more than reads save."""
    if prompt <= 0:
        return 0.0
    plain = prompt - read - written
    paid = (
        plain
        + read * structure.read
        + (written - written_hour) * structure.write
        + written_hour * structure.write_hour
    )
    return 1.0 - paid / prompt
