"""Prompt schemas in this process alone, until it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from warmroute.caching.schemas.record import SchemaRecord, TooManyError
from warmroute.ports import KeptSchema


class MemorySchemas:
    """Implements the port `SchemaStore` for one router."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], dict[int, KeptSchema]] = {}
        """By scope and name; versions in order."""
        self._documents: dict[str, bytes] = {}
        self._numbers: dict[tuple[str, str], int] = {}

    @property
    def healthy(self) -> bool:
        """Nothing can be away."""
        return True

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing is kept."""

    async def add(
        self, record: SchemaRecord, document: bytes, now_s: float, *, most: int, most_bytes: int
    ) -> KeptSchema:
        """Counts what the scope has, one by one: there are few."""
        key = record.scope, record.name
        versions = self._kept.get(key, {})
        if versions:
            latest = max(versions)
            if versions[latest].record.digest == record.digest:
                kept = versions[latest] = replace(versions[latest], used_s=now_s)
                return kept
        held = [
            kept for (scope, _), rows in self._kept.items() if scope == record.scope for kept in rows.values()
        ]
        held_bytes = sum([kept.record.size_bytes for kept in held])
        if len(held) >= most or held_bytes + record.size_bytes > most_bytes:
            raise too_many(len(held), held_bytes, most, most_bytes)
        number = self._numbers[key] = self._numbers.get(key, 0) + 1
        kept = KeptSchema(msgspec.structs.replace(record, version=number), 0, now_s)
        self._kept.setdefault(key, {})[number] = kept
        self._documents[kept.record.key] = document
        return kept

    async def find(
        self, scope: str, name: str, version: int, now_s: float, *, use: bool = False
    ) -> KeptSchema | None:
        """At once."""
        versions = self._kept.get((scope, name))
        if not versions:
            return None
        number = version or max(versions)
        kept = versions.get(number)
        if kept is not None and use:
            kept = versions[number] = replace(kept, uses=kept.uses + 1, used_s=now_s)
        return kept

    async def document(self, scope: str, name: str, version: int) -> bytes | None:
        """At once."""
        return self._documents.get(f"{scope}/{name}/{version}")

    async def listed(self, scope: str, *, after: str = "", most: int) -> Sequence[KeptSchema]:
        """At once."""
        names = sorted([name for one, name in self._kept if one == scope and name > after])
        return [self._kept[scope, name][max(self._kept[scope, name])] for name in names[:most]]

    async def versions(self, scope: str, name: str, *, most: int) -> Sequence[KeptSchema]:
        """At once."""
        versions = self._kept.get((scope, name), {})
        return [versions[number] for number in sorted(versions, reverse=True)[:most]]

    async def remove(self, scope: str, name: str, version: int) -> Sequence[int]:
        """At once."""
        versions = self._kept.get((scope, name), {})
        numbers = sorted(versions) if not version else [version] if version in versions else []
        for number in numbers:
            del self._documents[versions.pop(number).record.key]
        if not versions:
            self._kept.pop((scope, name), None)
            self._numbers.pop((scope, name), None)
        return numbers

    async def all(self, since_s: float, *, most: int) -> Sequence[KeptSchema]:
        """At once."""
        found = [kept for rows in self._kept.values() for kept in rows.values() if kept.used_s >= since_s]
        return sorted(found, key=lambda kept: -kept.used_s)[:most]

    async def lead(self, router: str, for_s: float) -> bool:
        """There is no other."""
        return True


def too_many(held: int, held_bytes: int, most: int, most_bytes: int) -> TooManyError:
    """What is answered to a schema that does not fit."""
    return TooManyError(
        f"{held} versions of prompt schemas of {held_bytes} bytes are kept already, and this one does not fit into the"
        f" {most} of {most_bytes} bytes that one tenant may have (prompt_schemas.versions,"
        " prompt_schemas.versions_bytes): delete those that nobody uses"
    )
