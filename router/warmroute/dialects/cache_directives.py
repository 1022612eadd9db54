"""What `Cache-Control` says in a request (RFC 9111, section 5.2.1), as far as a cache of answers heeds it.

Decides nothing about answers. Directives that are not known are passed over, as the RFC wants it; a number that is none
counts as 0, which is the careful reading.
"""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple


class Directives(NamedTuple):
    """What a client wants."""

    no_store: bool
    """Neither look for an answer nor keep this one."""
    no_cache: bool
    """Do not look for one; this one may be kept."""
    max_age_s: float
    """Older ones will not do; infinite where nothing is said."""


NOTHING: Final = Directives(False, False, inf)


def directives(value: bytes) -> Directives:
    """Read the field's value; several lines of it are joined by commas."""
    if not value:
        return NOTHING
    no_store = no_cache = False
    max_age_s = inf
    for one in value.lower().split(b","):
        name, _, argument = one.partition(b"=")
        name, argument = name.strip(), argument.strip().strip(b'"')
        if name == b"no-store":
            no_store = True
        elif name == b"no-cache":
            no_cache = True
        elif name == b"max-age":
            seconds = float(argument) if argument.isdigit() and len(argument) < 16 else 0.0
            max_age_s = min(max_age_s, seconds)
    return Directives(no_store, no_cache, max_age_s)
