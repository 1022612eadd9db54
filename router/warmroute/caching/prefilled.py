"""What became of a prompt that the router had a replica compute. Data only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The end of one such request."""

    status: int
    """Of the answer; 200 if it was computed."""
    message: str = ""
    """What an error says."""
    code: str = ""
    """Its stable code; empty where there is none."""
    prompt_tokens: int = 0
    """As the engine reports; 0 where it does not."""
    cached_tokens: int | None = None
    """None where the engine does not report it."""
