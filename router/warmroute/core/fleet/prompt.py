"""One prompt that was sent to a replica, as the replica's prefill queue sees it. This module holds data."""

from __future__ import annotations

from warmroute.core.learning.sample import Sample


class Prefill:
    """Made at dispatch; `prefill.PrefillQueue` times it."""

    __slots__ = (
        "first_rung",
        "predicted_tokens",
        "reserved_s",
        "streams",
        "sample",
        "uncached_tokens",
    )

    def __init__(self, predicted_tokens: int, uncached_tokens: int, streams: bool) -> None:
        self.predicted_tokens = predicted_tokens
        """Tokens that are counted on there, leading ones and chunks': what costs and choices go by."""
        self.uncached_tokens = uncached_tokens
        """The others, counted in the replica's `waiting_tokens` until its first byte."""
        self.streams = streams
        """Whether the first byte tells when the prefill is over."""
        self.sample: Sample | None = None
        """Where its prefill was timed; only after its first byte, and only if it streams."""
        self.reserved_s = 0.0
        self.first_rung = 0
        """The first of its prompt's, where prompts may be passed; else 0."""
