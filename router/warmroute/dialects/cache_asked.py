"""What a request asks of caches, in whichever provider's words: breakpoints at the ends of blocks, each for a time."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

MAX_MARK_BYTES: Final = 4096
"""A mark or option that is longer is not read: those that mean something have 50."""


class Breakpoint(NamedTuple):
    """The end of a prefix that is to be kept."""

    at: int
    """Which of `Asked.ends_bytes`."""
    first: int
    """The earliest of them at which an earlier request's prefix is looked for."""
    ttl_s: float
    path: str = ""
    """The block that it ends, as errors name it (`prompt_blocks.PromptBlock`)."""


class Asked(NamedTuple):
    """Breakpoints of one request."""

    ends_bytes: list[int]
    """Ends of the prompt's blocks in the canonical prompt, ascending, each once, none 0."""
    breakpoints: list[Breakpoint]
    """Ascending. Empty: nothing is to be kept."""


def decoded(mark: msgspec.Raw) -> Any:
    """What was sent as a mark or option; `None` where it cannot be read, which is no valid one either."""
    if len(bytes(mark)) > MAX_MARK_BYTES:
        return None
    try:
        return msgspec.json.decode(mark)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
