"""Prompt schemas as clients register and use them: the rules of the resource, over the port that keeps it.

Decides what may be kept, what is computed ahead at registration, and what happens while the store is away: nothing is
registered or removed then, and versions that this router has used before go on being used, since a client's prompt must
not lose its beginning because a server restarts. What a prompt takes of a schema `caching.schemas` decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Final

import msgspec

from warmroute.caching.content import ContentLostError, StoreAwayError
from warmroute.caching.prefilled import Prefilled
from warmroute.caching.schemas.check import SCHEMA_NAME
from warmroute.caching.schemas.compiler import GAP, Blend, Layout, compiled, filled
from warmroute.caching.schemas.model import Path, tokens
from warmroute.caching.schemas.prefixes import chosen_prefixes, prefixes
from warmroute.caching.schemas.record import SchemaRecord, not_found
from warmroute.caching.schemas.selection import Index, selected, values_of
from warmroute.core.errors import ClientError
from warmroute.dialects.prompt_schemas import Asked, Registration, registration, warming_request
from warmroute.ports import SchemaStore

Json = dict[str, Any]

REMEMBERED_BYTES: Final = 64 << 20
"""Schemas that are kept here as they were read, so that a use need not read them again."""
NODE_BYTES: Final = 300
"""What a module or a parameter takes besides its text."""
MOST_LAYOUTS: Final = 64
"""Sets of modules whose text is kept put together, a schema."""
MOST_KNOWN: Final = 10_000
"""Versions that this router would go on using while the store is away."""
MOST_PAGE: Final = 1000
USUAL_PAGE: Final = 100
_BUSY: Final = frozenset((408, 409, 425, 429, 499))
"""Statuses below 500 that say nothing of the prompt."""
_STATUSES: Final = frozenset(status.value for status in HTTPStatus)

Warm = Callable[[bytes], Awaitable[Prefilled]]
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one tenant may keep, and what is done with it."""

    versions: int
    versions_bytes: int
    schema_bytes: int
    """Of one version."""
    prompt_bytes: int
    """Of one prompt."""
    prefixes: int
    """Computed at registration, at most."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of a registration."""

    record: SchemaRecord
    index: Index
    warmed: int
    """Beginnings that a replica has computed now."""
    beginnings: int


@dataclass(slots=True)
class Entry:
    """One version as it was read."""

    registration: Registration
    index: Index
    size_bytes: int
    layouts: dict[frozenset[Path], Layout] = field(default_factory=dict)
    beginnings: list[list[Json]] | None = None
    """What is computed of it before anybody asks, once that was asked for."""


class PromptSchemas:
    """The resource, at one worker.

    Args:
        bytes_per_token: By which lengths are estimated: a setting, so that what is accepted once always is.
    """

    def __init__(
        self,
        store: SchemaStore,
        bounds: Bounds,
        *,
        clock: Callable[[], float],
        bytes_per_token: float,
        blend: Blend | None = None,
    ) -> None:
        self.store = store
        self.bounds = bounds
        self.bytes_per_token = bytes_per_token
        self.joint = GAP if blend is None else blend.separator
        self._clock = clock
        self._blend = blend
        self._entries: dict[str, Entry] = {}
        """By the version's key and digest; used last behind."""
        self._entries_bytes = 0
        self._known: dict[tuple[str, str, int], SchemaRecord] = {}
        self.prompts = 0
        """Prompts that were derived."""
        self.refused = 0
        """Prompts that could not be."""

    # -- registration ------------------------------------------------------------------------------------------------

    async def register(
        self, scope: str, sharing: str, wanted: Registration, model: str, warm: Warm
    ) -> Registered:
        """Keep a version: replicas compute its beginnings first, so that one which no model takes is refused.

        Args:
            model: For which; empty: for none, and nothing is computed.

        Raises:
            RouterError: It cannot be kept, or not now.
        """
        bounds = self.bounds
        document = _encode(wanted.document)
        if len(document) > bounds.schema_bytes:
            raise ClientError(
                f"the schema has {len(document)} bytes; one may have {bounds.schema_bytes}"
                " (prompt_schemas.schema_bytes)",
                status=413,
                code="prompt_schema_too_large",
            )
        if not self.store.healthy:
            raise StoreAwayError("prompt schemas cannot be kept now: Redis does not answer; retry later")
        index = Index(wanted.schema)
        beginnings = self.beginnings(wanted, index) if model else []
        warmed, lengths = await self._warm(beginnings, model, warm)
        record = SchemaRecord(
            scope=scope,
            name=wanted.schema.name,
            version=0,
            digest=sha256(document).hexdigest(),
            created_s=self._clock(),
            model=model,
            size_bytes=len(document),
            prefix_tokens=tuple(lengths),
            sharing=sharing,
        )
        kept = await self.store.add(
            record, document, self._clock(), most=bounds.versions, most_bytes=bounds.versions_bytes
        )
        return Registered(kept.record, index, warmed, len(beginnings))

    def beginnings(self, wanted: Registration, index: Index) -> list[list[Json]]:
        """What is computed of a schema before anybody asks.

        Raises:
            SchemaError: It names prompts that there cannot be.
        """
        prewarm, most = wanted.prewarm, self.bounds.prefixes
        if isinstance(prewarm, list):
            found = chosen_prefixes(index, prewarm, self._blend)
            return found[:most]
        return prefixes(index, most, self._blend) if prewarm and most else []

    async def _warm(self, beginnings: list[list[Json]], model: str, warm: Warm) -> tuple[int, list[int]]:
        """Have them computed, one after the other, since each begins as others do; tells how many were, and all their
        lengths, estimated where nobody said."""
        warmed, lengths = 0, []
        for messages in beginnings:
            done = await warm(_encode(warming_request(model, messages)))
            if 400 <= done.status < 500 and done.status not in _BUSY:
                raise ClientError(
                    f"a prompt of this schema cannot be computed: {done.message}",
                    status=done.status if done.status in _STATUSES else 400,
                    code=done.code or "prompt_schema_refused",
                )
            text = "".join([one["content"] for one in messages])
            warmed += done.status == 200
            lengths.append(done.prompt_tokens or tokens(text, self.bytes_per_token))
        return warmed, lengths

    # -- what there is -----------------------------------------------------------------------------------------------

    async def get(self, scope: str, name: str, version: int) -> tuple[SchemaRecord, Entry]:
        """One of the scope's.

        Raises:
            NotFoundError, StoreAwayError: It is not there; nobody can say.
        """
        _check_name(name, version)
        kept = await self.store.find(scope, name, version, self._clock())
        if kept is None:
            raise not_found(name, version)
        return kept.record, await self.entry(kept.record)

    async def page(self, scope: str, most: int, after: str) -> tuple[list[SchemaRecord], bool]:
        """The latest versions of some of the scope's, and whether there are more behind them."""
        most = min(most or USUAL_PAGE, MOST_PAGE)
        found = [kept.record for kept in await self.store.listed(scope, after=after, most=most + 1)]
        return found[:most], len(found) > most

    async def versions(self, scope: str, name: str, most: int) -> tuple[list[SchemaRecord], bool]:
        """Some versions of one name, the latest first, and whether there are more.

        Raises:
            NotFoundError, StoreAwayError: There is none; nobody can say.
        """
        _check_name(name, 0)
        most = min(most or USUAL_PAGE, MOST_PAGE)
        found = [kept.record for kept in await self.store.versions(scope, name, most=most + 1)]
        if not found:
            raise not_found(name, 0)
        return found[:most], len(found) > most

    async def delete(self, scope: str, name: str, version: int) -> list[int]:
        """Forget one version, or all of a name; tells which there were.

        Raises:
            NotFoundError, StoreAwayError: There is none; nobody can say.
        """
        _check_name(name, version)
        gone = list(await self.store.remove(scope, name, version))
        for key in [key for key in self._known if key[:2] == (scope, name)]:
            del self._known[key]
        if not gone:
            raise not_found(name, version)
        return gone

    # -- use ---------------------------------------------------------------------------------------------------------

    async def use(self, scope: str, asked: Asked) -> tuple[SchemaRecord, list[Json]]:
        """The version that a prompt uses, and the messages that it begins with.

        Raises:
            RouterError: There is no such prompt, or nobody can say.
        """
        record = await self._used(scope, asked.name, asked.version)
        entry = await self.entry(record)
        try:
            messages = self.derive(entry, asked)
        except ClientError:
            self.refused += 1
            raise
        self.prompts += 1
        return record, messages

    def derive(self, entry: Entry, asked: Asked) -> list[Json]:
        """The messages that a prompt begins with.

        Raises:
            SchemaError: There is no such prompt.
        """
        taken = selected(entry.index, asked.modules)
        layout = entry.layouts.get(taken)
        if layout is None:
            layout = compiled(entry.index, taken, self._blend)
            self._keep_layout(entry, taken, layout)
        values = values_of(entry.index, taken, asked.parameters, self.bytes_per_token)
        return filled(layout, values, self.bounds.prompt_bytes)

    async def _used(self, scope: str, name: str, version: int) -> SchemaRecord:
        _check_name(name, version)
        key = (scope, name, version)
        try:
            kept = await self.store.find(scope, name, version, self._clock(), use=True)
        except StoreAwayError:
            known = self._known.get(key)
            if known is None:
                raise
            return known
        self._known.pop(key, None)
        if kept is None:
            raise not_found(name, version)
        self._known[key] = kept.record
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
        return kept.record

    async def entry(self, record: SchemaRecord) -> Entry:
        """A version as it is read.

        Raises:
            ContentLostError: It is gone, though it is on record.
            NotFoundError: It was deleted while it was read, and another has its number.
            StoreAwayError: The store is away.
        """
        key = f"{record.key} {record.digest}"
        entry = self._entries.pop(key, None)
        if entry is None:
            document = await self.store.document(record.scope, record.name, record.version)
            if document is None:
                raise ContentLostError(
                    f"version {record.version} of the prompt schema {record.name!r} is on record, and its text is gone:"
                    " has the Redis of this router a maxmemory-policy of allkeys-*? Register it anew, and set"
                    " volatile-lru or noeviction"
                )
            if sha256(document).hexdigest() != record.digest:
                raise not_found(record.name, record.version)
            entry = self._entries.pop(key, None)  # somebody else may have read it meanwhile
            if entry is None:
                entry = _read(document)
                self._entries_bytes += entry.size_bytes
        self._entries[key] = entry
        while self._entries_bytes > REMEMBERED_BYTES and len(self._entries) > 1:
            self._entries_bytes -= self._entries.pop(next(iter(self._entries))).size_bytes
        return entry

    async def beginnings_of(self, record: SchemaRecord) -> list[list[Json]]:
        """What is computed of a version before anybody asks: found once, since it is asked for each of them.

        Raises:
            SchemaError: It names prompts that there cannot be.
            ContentLostError, NotFoundError, StoreAwayError: See `entry`.
        """
        entry = await self.entry(record)
        if entry.beginnings is None:
            entry.beginnings = self.beginnings(entry.registration, entry.index)
            size = sum([len(one["content"]) for messages in entry.beginnings for one in messages])
            entry.size_bytes += size
            self._entries_bytes += size
        return entry.beginnings

    def _keep_layout(self, entry: Entry, taken: frozenset[Path], layout: Layout) -> None:
        size = sum([len(piece) for said in layout.said for piece in said.pieces if isinstance(piece, str)])
        if len(entry.layouts) >= MOST_LAYOUTS:
            entry.layouts.clear()
        entry.layouts[taken] = layout
        entry.size_bytes += size  # of those that were cleared, too: what is used in many ways goes sooner
        self._entries_bytes += size


def _read(document: bytes) -> Entry:
    wanted = registration(_decode(document))
    index = Index(wanted.schema)
    nodes = len(index.modules) + len(index.parameters)
    return Entry(wanted, index, 3 * len(document) + NODE_BYTES * nodes)


def _check_name(name: str, version: int) -> None:
    """Pass on only what can be registered: in a store a name stands beside its scope, and one with a slash in it could
    be another scope's.

    Raises:
        NotFoundError: Nothing is called so.
    """
    if not SCHEMA_NAME.fullmatch(name):
        raise not_found(name, version)
