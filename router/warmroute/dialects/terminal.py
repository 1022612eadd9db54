"""A terminal event ends an answer, so that nobody cares any more what comes after it; an opening event only begins one.

This module decides by the event's line or type, as each API names it, which events are terminal, and which open an
answer before anything of it is computed. A model's own words are never taken for either: inside a JSON string there is
no line end, and every quote is escaped.
"""

from __future__ import annotations

import re
from typing import Final

from warmroute.core.types import Api
from warmroute.dialects.sse import end_of_event

_MESSAGES: Final = Api.MESSAGES
_RESPONSES: Final = Api.RESPONSES
_DONE: Final = re.compile(rb"(?:\A|[\r\n])data: ?\[DONE\][ \t]*[\r\n]")
_STOP: Final = re.compile(
    rb'(?:\A|[\r\n])event: ?message_stop[ \t]*[\r\n]|(?:\A|[\r\n])data: ?\{\s*"type"\s*:\s*"message_stop"'
)
_COMPLETED: Final = re.compile(
    rb"(?:\A|[\r\n])event: ?response\.(?:completed|incomplete|failed)[ \t]*[\r\n]"
    rb'|"type"\s*:\s*"response\.(?:completed|incomplete|failed)"'
)

_OPENINGS: Final = (
    b"event: response.created",
    b"event: response.queued",
    b"event: response.in_progress",
    b'data: {"type":"response.created"',
    b'data: {"type":"response.queued"',
    b'data: {"type":"response.in_progress"',
)
_LONGEST_OPENING: Final = 40


def opening_end(events: bytes, at: int) -> int:
    """Index of what follows the events that open a response (`response.created` and its like), from `at` on; -1 if
    that has not come.

    vLLM sends them before it has computed anything.
    """
    size = len(events)
    while at < size:
        if not events.startswith(_OPENINGS, at):
            begun = events[at : at + _LONGEST_OPENING]
            for opening in _OPENINGS:
                if opening.startswith(begun):
                    return -1
            return at
        at = end_of_event(events, at)
        if at < 0:
            return -1
    return -1


def ends_answer(api: Api, events: bytes) -> bool:
    """Whether the API's own terminal event begins in here: `[DONE]`, `message_stop`, `response.completed`,
    `response.incomplete` or `response.failed`."""
    if api is _MESSAGES:
        return _STOP.search(events) is not None
    if api is _RESPONSES and _COMPLETED.search(events) is not None:
        return True
    return _DONE.search(events) is not None
