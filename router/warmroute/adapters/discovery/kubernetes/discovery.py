"""Discovery of a Service's replicas lists them, watches from there, and lists anew when that is due or necessary.

This module decides when to ask and when to wait; `slices` puts together what is read. Its rules:

- Members are named once a list is complete, and after every change of a watch. A failure names nobody, so the last
  known members stay, for as long as it lasts.
- Whatever the watch said, everything is listed anew every `resync_s` at the latest, a little sooner by chance so that
  routers do not keep in step: no member that is gone outlives that.
- A watch that was cut goes on where it was, and one whose version the server no longer knows (410) is begun with a new
  list, both once without a word. After any other failure all is listed anew, after a pause that doubles up to half a
  minute, with jitter, or is as long as the server asks for. Only a watch that holds ends the doubling.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from math import inf
from random import Random
from typing import Final, Protocol, Self

from warmroute.adapters.discovery.kubernetes.answers import ApiFailure, Change, Page, name_of, read_slice
from warmroute.adapters.discovery.kubernetes.api import PAGE_SLICES, Patience
from warmroute.adapters.discovery.kubernetes.pace import Pace
from warmroute.adapters.discovery.kubernetes.slices import SliceTable
from warmroute.config.discovery_urls import KubernetesSource
from warmroute.ports import DiscoveryFailure, DiscoveryReport, Member

MAX_RETRY_AFTER_S: Final = 120.0
"""Longest that a server is left alone because it asks for it."""
SHORT_WATCH_S: Final = 0.5
"""A watch that ends sooner, and told nothing, is a failure: else a broken proxy would be asked without a pause."""


class Calls(Protocol):
    """What is called; see `api.Api`."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...

    def pages(self, page_slices: int) -> AsyncGenerator[Page, None]:
        """The whole list."""

    def changes(self, version: str, timeout_s: float) -> AsyncGenerator[list[Change], None]:
        """What has changed since."""


class KubernetesDiscovery:
    """Implements `warmroute.ports.Discovery`."""

    def __init__(
        self,
        source: KubernetesSource,
        connect: Callable[[], Calls],
        report: DiscoveryReport,
        rng: Random,
        patience: Patience,
    ) -> None:
        """Args:
        connect: Makes what is called; it is opened and closed by each `watch`.
        """
        self._source = source
        self._patience = patience
        self._connect = connect
        self._report = report
        self._rng = rng
        self._table = SliceTable(source)
        self._pace = Pace()
        self._version = ""
        """How far we know; empty: list anew."""
        self._resync_at_s = 0.0
        self._failures = 0
        """In a row."""
        self._excused: set[str] = set()
        """What is part of the protocol, and was taken without a word since a watch last held."""

    async def watch(self) -> AsyncIterator[tuple[Member, ...]]:
        """See `warmroute.ports.Discovery.watch`."""
        self._version = ""
        shown: tuple[Member, ...] | None = None
        async with self._connect() as api:
            while True:
                try:
                    async with aclosing(self._follow(api)) as rounds:
                        async for _ in rounds:
                            self._report.succeeded()
                            self._report.noticed(self._table.problem())
                            members = self._table.members()
                            await asyncio.sleep(0)  # both take a millisecond for a thousand members
                            if members != shown:
                                shown = members
                                yield members
                except ApiFailure as failure:
                    await asyncio.sleep(self._failed(failure))

    def _failed(self, failure: ApiFailure) -> float:
        """Take note of a failure; returns how long to wait."""
        patience = self._patience
        kind = "gone" if failure.gone else "broken" if failure.broken else ""
        quiet = kind != "" and kind not in self._excused
        self._excused.add(kind)
        if not quiet or failure.gone:
            self._version = ""
        backoff_s = min(patience.backoff_max_s, patience.backoff_min_s * 2.0 ** min(self._failures, 16))
        self._failures += 1
        if quiet:
            # A hundred routers must not come back in one moment.
            return self._rng.uniform(0.0, backoff_s)
        delay_s = backoff_s * self._rng.uniform(0.5, 1.0)
        if failure.retry_after_s:
            delay_s = min(failure.retry_after_s, MAX_RETRY_AFTER_S) * self._rng.uniform(1.0, 1.25)
        self._report.failed(failure.failure, failure.detail, delay_s)
        return delay_s

    async def _follow(self, api: Calls) -> AsyncGenerator[None, None]:
        """Keep the table up to date, and yield whenever it is.

        Raises:
            ApiFailure: Until the next call, nothing more comes.
        """
        now_s = asyncio.get_running_loop().time
        while True:
            if not self._version or now_s() >= self._resync_at_s:
                await self._list(api)
                self._resync_at_s = now_s() + self._source.resync_s * self._rng.uniform(0.8, 1.0)
                yield
            opened_s = inf
            holds = False
            try:
                async with aclosing(api.changes(self._version, self._resync_at_s - now_s())) as batches:
                    async for batch in batches:
                        opened_s = min(opened_s, now_s())
                        for change in batch:
                            self._apply(change)
                            holds = True
                            await self._pace.read(change.slice_)
                        yield
                        if now_s() >= self._resync_at_s + SHORT_WATCH_S:
                            break  # a server, or a proxy, that does not end it
            finally:
                if holds or now_s() - opened_s >= SHORT_WATCH_S:
                    self._failures = 0
                    self._excused.clear()
                    holds = True
            if not holds:
                raise ApiFailure(
                    DiscoveryFailure.SERVER, "the Kubernetes API ended the watch at once, without an event"
                )

    def _apply(self, change: Change) -> None:
        if change.version:
            self._version = change.version
        if change.unreadable:
            self._table.unreadable(change.name, change.unreadable)
        elif change.slice_ is not None:
            self._table.put(change.slice_)
        elif change.name:
            self._table.drop(change.name)

    async def _list(self, api: Calls) -> None:
        """A whole new table. A list that takes so long that its pages expire is begun again, and then read in one."""
        for page_slices in (PAGE_SLICES, PAGE_SLICES, 0):
            try:
                await self._list_in(api, page_slices)
                return
            except ApiFailure as failure:
                if not failure.gone or not page_slices:
                    raise

    async def _list_in(self, api: Calls, page_slices: int) -> None:
        table = SliceTable(self._source)
        async with aclosing(api.pages(page_slices)) as pages:
            async for page in pages:
                for raw in page.items:
                    slice_, why = read_slice(raw)
                    if slice_ is not None:
                        table.put(slice_)
                    elif name := name_of(raw):
                        table.unreadable(name, why)
                    await self._pace.read(slice_)
                version = page.version
        self._table, self._version = table, version
