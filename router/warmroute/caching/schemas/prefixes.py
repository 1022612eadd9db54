"""What of a schema can be computed before anybody asks: beginnings that prompts will share.

Decides which. A prefix cache finds a module only behind what came before it, so each module is computed as a prompt has
it that takes this one alone: before it stands what every prompt has, with each union's scaffold where one of it must be
taken, and behind it whatever is certain to follow. A beginning ends at the first value, and where prompts differ.
Beginnings that others begin with are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from warmroute.caching.schemas.compiler import Blend, Writer, filled
from warmroute.caching.schemas.model import DEFAULT_ROLE, Module, Path, Union
from warmroute.caching.schemas.selection import Index, selected

Json = dict[str, Any]

_TRIES: Final = 8
"""Modules that are looked at, for each beginning that is wanted: some begin like others."""
_NO_LIMIT: Final = 1 << 40


class _Prefix(Writer):
    """Writes until prompts differ."""

    def __init__(self, index: Index, taken: frozenset[Path], blend: Blend | None) -> None:
        super().__init__(index, taken, blend)
        self._left = len(taken)

    def ends_at_value(self) -> bool:
        return True

    def chosen(self, node: Module | Union, outer: Path) -> Module | None | bool:
        found = super().chosen(node, outer)
        if isinstance(found, Module):
            self._left -= 1
            return found
        if self._left <= 0:
            return False
        return node.stand_in if isinstance(node, Union) and not node.optional else None


def prefix(index: Index, taken: frozenset[Path], blend: Blend | None = None) -> list[Json]:
    """The messages that prompts begin with which take these modules; empty: nothing is certain."""
    writer = _Prefix(index, taken, blend)
    writer.write(index.schema.items, "", DEFAULT_ROLE, index.schema.last)
    layout = writer.layout()
    layout.last = []
    return filled(layout, {}, _NO_LIMIT)


def prefixes(index: Index, most: int, blend: Blend | None = None) -> list[list[Json]]:
    """So many beginnings at most, those of the first modules first."""
    targets = [path for path, module in index.modules.items() if module.cache][: most * _TRIES]
    return _distinct((prefix(index, _alone(path), blend) for path in targets or ("",)), most)


def chosen_prefixes(
    index: Index, wanted: Sequence[Sequence[str]], blend: Blend | None = None
) -> list[list[Json]]:
    """The beginnings of prompts that take these modules each.

    Raises:
        SchemaError: There is no such prompt.
    """
    return _distinct((prefix(index, selected(index, names), blend) for names in wanted), len(wanted))


def _alone(path: Path) -> frozenset[Path]:
    taken = set()
    while path:
        taken.add(path)
        path = path.rpartition("/")[0]
    return frozenset(taken)


def _distinct(found: Iterable[list[Json]], most: int) -> list[list[Json]]:
    kept: dict[str, list[Json]] = {}
    for messages in found:
        if not messages:
            continue
        text = _flat(messages)
        if any(known.startswith(text) for known in kept):
            continue
        for known in [known for known in kept if text.startswith(known)]:
            del kept[known]
        if len(kept) == most:
            break
        kept[text] = messages
    return list(kept.values())


def _flat(messages: list[Json]) -> str:
    """Begins with another's if and only if the prompt does."""
    return "\0".join([f"{one['role']}\1{one['content']}" for one in messages])
