"""The event that ends an answer: what comes after it, or does not, no longer matters to anybody.

Decides by the event's line or type, as each API names it. A model's own words are never taken for it: inside a JSON
string there is no line end, and every quote is escaped.
"""

from __future__ import annotations

import re
from typing import Final

from router.core.types import Api

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


def ends_answer(api: Api, events: bytes) -> bool:
    """Whether the API's own terminal event begins in here: `[DONE]`, `message_stop`, `response.completed`,
    `response.incomplete` or `response.failed`."""
    if api is _MESSAGES:
        return _STOP.search(events) is not None
    if api is _RESPONSES and _COMPLETED.search(events) is not None:
        return True
    return _DONE.search(events) is not None
