"""The one error of configuration: what is wrong, with which key, and where it was set. Several faults are one error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(Exception):
    """Settings that cannot be served with. The message is meant for the operator: place, key, fault, remedy."""

    def __init__(self, where: str, key: str, message: str) -> None:
        self.where = where
        self.key = key
        self.fault = message
        """Without place and key."""
        self.messages: tuple[str, ...] = (": ".join(part for part in (where, key, message) if part),)
        """A line for each fault; the first is this one's own."""
        super().__init__(self.messages[0])

    def __str__(self) -> str:
        return "\n".join(self.messages)

    def with_others(self, others: Iterable[ConfigError]) -> ConfigError:
        """The same, which says the faults of the others as well, each once."""
        lines = dict.fromkeys(self.messages)
        for other in others:
            lines.update(dict.fromkeys(other.messages))
        self.messages = tuple(lines)
        return self


class Faults:
    """Collects errors, so that all of them can be reported at once."""

    def __init__(self) -> None:
        self._errors: list[ConfigError] = []

    def add(self, error: ConfigError) -> None:
        """Keep one for later."""
        self._errors.append(error)

    def add_all(self, others: Faults) -> None:
        """Keep those of another collection."""
        self._errors += others._errors

    def concern(self, key: str) -> bool:
        """Whether one is about this key, an entry of it, or the section that it is in."""
        named = [error.key.partition("[")[0] for error in self._errors if error.key]
        return any(key == name or key.startswith(f"{name}.") for name in named)

    def raise_any(self) -> None:
        """Raises:
        ConfigError: There was one; it says all of them.
        """
        if self._errors:
            first, *others = self._errors
            raise first.with_others(others)


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for a word that is close to a known one, else what is known if that is short."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(names)}" if len(names) <= 20 else ""
