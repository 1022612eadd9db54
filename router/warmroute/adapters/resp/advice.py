"""What to do about what a Redis answers, for the log: its own words first, then the remedy.

Decides nothing else. A message is cut where Redis goes on to explain itself; it holds no password.
"""

from __future__ import annotations

from typing import Final

UNAUTHORIZED: Final = ("DENIED", "NOAUTH", "WRONGPASS", "invalid password", "AUTH")
"""Words of answers to those who did not say, or not rightly, who they are."""
FORBIDDEN: Final = ("NOPERM", "no permissions")

_SHOWN: Final = 240
_REMEDIES: Final = (
    (
        ("DENIED", "protected mode"),
        "give that Redis a password (requirepass) and put it into the URL (redis://:PASSWORD@HOST:PORT), or set "
        "protected-mode no where its network is closed to others",
    ),
    (
        ("NOAUTH",),
        "put the password into the URL: redis://:PASSWORD@HOST:PORT, or redis://USER:PASSWORD@HOST:PORT of an ACL user",
    ),
    (
        ("WRONGPASS", "invalid password", "Client sent AUTH", "AUTH <password>"),
        "mend user or password in the URL",
    ),
    (("max number of clients",), "raise maxclients of that Redis, or lower the number of its clients"),
    (("LOADING",), "it reads its data set, and is tried again"),
    (
        ("READONLY",),
        "the URL leads to a replica of a Redis: name its primary, or use a Sentinel or Cluster URL",
    ),
    (("OOM",), "it is full: set maxmemory-policy volatile-lru"),
)


def with_remedy(text: str, rights: str = "") -> str:
    """An error of a Redis, and what to do about it, if that is known.

    Args:
        rights: What an ACL user needs.
    """
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    if rights and any(word in text for word in FORBIDDEN):
        return f"{shown}; the user needs {rights}"
    for words, remedy in _REMEDIES:
        if any(word in text for word in words):
            return f"{shown}; {remedy}"
    return shown
