"""The one error of configuration: what is wrong, with which key, and where it was set."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """Settings that cannot be served with. The message is meant for the operator: place, key, fault, remedy."""

    def __init__(self, where: str, key: str, message: str) -> None:
        self.where = where
        self.key = key
        super().__init__(": ".join(part for part in (where, key, message) if part))


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for a word that is close to a known one, else what is known if that is short."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if len(names) <= 20 else ""
