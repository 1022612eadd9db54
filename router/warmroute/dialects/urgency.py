"""How urgent a request says that it is: class and time, from its head and its body.

This module decides what of both counts as one of the three classes. It does not decide whether the client may ask for
it. Only requests that have to wait are read so: the body is searched as it is, not parsed.

Sources: OpenAI's `service_tier` (`flex` is slower and cheaper, `priority` faster), vLLM's `priority` (an integer; lower
goes first, 0 by default), and the header `X-Warmroute-Priority`, which comes before both.
"""

from __future__ import annotations

import re
from typing import Final

CLASSES: Final = {b"interactive": 0, b"default": 1, b"batch": 2}
"""Number of each class, lower first."""

_TIERS: Final = {b"priority": 0, b"flex": 2}
_TIER: Final = re.compile(rb'"service_tier"\s*:\s*"([a-z]{1,16})"')
_PRIORITY: Final = re.compile(rb'"priority"\s*:\s*(-?[0-9]{1,18})\b')
_TIMEOUT: Final = re.compile(rb"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(ms|s|m|)", re.IGNORECASE)
_UNITS_S: Final = {b"ms": 0.001, b"s": 1.0, b"": 1.0, b"m": 60.0}


def named_class(value: bytes) -> int:
    """The class that a header names; -1: none."""
    return CLASSES.get(value.strip().lower(), -1)


def timeout_s(value: bytes) -> float:
    """What `X-Request-Timeout` says: seconds, or a number with `ms`, `s` or `m`; 0 if it is nothing of that."""
    found = _TIMEOUT.fullmatch(value.strip())
    return float(found[1]) * _UNITS_S[found[2].lower()] if found is not None else 0.0


def asked_class(body: bytes | bytearray) -> int:
    """The class that a JSON body asks for; -1: none.

    A name within a string is no key: the quotes around it would be escaped. A key of an object within counts too, which
    harms nobody but whoever sent it.
    """
    if body.find(b'"service_tier"') >= 0:
        found = _TIER.search(body)
        if found is not None and found[1] in _TIERS:
            return _TIERS[found[1]]
    if body.find(b'"priority"') >= 0:
        found = _PRIORITY.search(body)
        if found is not None:
            number = int(found[1])
            return 1 if not number else 0 if number < 0 else 2
    return -1
