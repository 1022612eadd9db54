"""The states of one try's answer, up to its first byte: what is kept back of it, and whether it is recorded.

This module decides nothing: `attempt` sets the states, and `retries`, `resuming` and `second` read them.
"""

from __future__ import annotations

from enum import Enum


class AnswerState(Enum):
    """What becomes of the next body byte, as long as the client has none."""

    EXPECTED = "expected"
    """It begins the answer; of a stream, the first event does."""
    OPENING = "opening"
    """It follows the events that open a response: all are kept back until an event comes for which something was
    computed."""
    ERROR = "error"
    """It belongs to an error answer, or to one that cannot follow what the client has: all of it is kept back until its
    end, and then judged."""
    ERROR_EVENT = "error event"
    """The same of a stream whose first event is an error. This one stays when the answer is passed on."""
    CODED = "coded"
    """The answer comes in a content coding, though the engine was asked to add usage that would have to be taken out
    again: the engine is asked anew, without that."""

    WHOLE = "whole"
    """It belongs to an answer that the client is told otherwise than the engine tells it (`caching`): all of it is kept
    back until its end."""


class Recording(Enum):
    """Whether what is passed on of a stream is recorded, so that another replica can go on with it."""

    UNDECIDED = "undecided"
    RECORDED = "recorded"
    UNRECORDED = "unrecorded"
