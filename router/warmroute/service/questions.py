"""The request path asks replicas before it says no: who has a model, who keeps a response, and who takes a key.

This module decides when replicas are asked, and how often. There is one search for models at a time, and no two begin
within `SPACING_S`, however many requests wait; responses and keys are asked about `MOST_ASKED` at a time. A key's
verdict is remembered for `VERDICT_S`, in a table of bounded size. Answers come by callback, exactly once, and in the
end always.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

from warmroute.core.fleet.fleet import Fleet, ProbeSucceeded, Server
from warmroute.core.types import ReplicaId
from warmroute.ports import Engine, ProbeResult, ReplicaCalls
from warmroute.tasks import Tasks
from warmroute.telemetry.logs import fields

log = logging.getLogger(__name__)

SPACING_S: Final = 0.5
"""A client that asks for nonsense costs each replica two lists of models a second, not one a request."""
PATIENCE_S: Final = 2.0
"""A replica that has not answered by then is taken to have nothing."""
VERDICT_S: Final = 30.0
"""How long a key is good, or not, after a replica was asked."""
MOST_VERDICTS: Final = 1024
MOST_ASKED: Final = 16
"""Requests that replicas are asked about at once, each of which may take a connection to every one of them. Anybody can
send them; further ones wait."""


class Questions:
    """Asks on behalf of requests that would be refused otherwise."""

    def __init__(
        self,
        fleet: Fleet,
        engine: Engine,
        calls: ReplicaCalls,
        tasks: Tasks,
        *,
        latest: Callable[[], Mapping[ReplicaId, ProbeResult]],
        clock: Callable[[], float],
        api_key: Callable[[], str | None],
    ) -> None:
        """Args:
        latest: What the last probe of each replica showed.
        clock: The one whose times the fleet is given everywhere.
        api_key: The router's own key to its replicas; None: they take any request.
        """
        self._fleet = fleet
        self._engine = engine
        self._calls = calls
        self._tasks = tasks
        self._latest = latest
        self._clock = clock
        self._api_key = api_key
        self._room = asyncio.Semaphore(MOST_ASKED)
        self._waiting: list[Callable[[], None]] = []
        self._searching = False
        self._next_s = 0.0
        self._verdicts: dict[bytes, tuple[float, bool]] = {}

    # -- models -------------------------------------------------------------------------------------------------

    def find_model(self, done: Callable[[], None]) -> None:
        """Read every replica's list of models anew, then call `done`: the fleet knows then what there is."""
        self._waiting.append(done)
        if not self._searching:
            self._searching = True
            self._tasks.spawn(self._search(), name="model search")

    async def _search(self) -> None:
        try:
            while self._waiting:
                delay_s = self._next_s - monotonic()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                self._next_s = monotonic() + SPACING_S
                waiting, self._waiting = self._waiting, []
                try:
                    await self.read_models()
                finally:
                    for done in waiting:
                        done()
        finally:
            self._searching = False

    async def read_models(self) -> None:
        """Have the fleet know what each replica serves now."""
        await asyncio.gather(*[self._read_models(server) for server in self._well()])

    async def _read_models(self, server: Server) -> None:
        models = await self._engine.models(server.id, server.url)
        seen = self._latest().get(server.id)
        if models is None or seen is None or not seen.alive or seen.incarnation is None:
            return
        known = self._fleet.servers.get(server.id) is server
        if known and frozenset(models) != server.replicas[0].models:
            log.info("models_changed", extra=fields(replica=server.id, models=",".join(sorted(models)[:8])))
            self._fleet.apply(
                ProbeSucceeded(
                    server.id,
                    None,
                    models,
                    seen.block_tokens,
                    seen.cache_tokens,
                    self._clock(),
                )
            )

    # -- stored responses ---------------------------------------------------------------------------------------

    def find_response(
        self, target: str, authorization: bytes, done: Callable[[ReplicaId | None], None]
    ) -> None:
        """Ask all replicas at once for this path, and call `done` with the first that has it."""
        self._tasks.spawn(self._find_response(target, authorization, done), name="response search")

    async def _find_response(
        self, target: str, authorization: bytes, done: Callable[[ReplicaId | None], None]
    ) -> None:
        found: ReplicaId | None = None
        try:
            async with self._room:
                found = await self._keeper(target, authorization)
        finally:
            done(found)

    async def _keeper(self, target: str, authorization: bytes) -> ReplicaId | None:
        found: ReplicaId | None = None
        asked = [
            self._tasks.spawn(self._keeps(server, target, authorization), name="who keeps it")
            for server in self._well()
        ]
        try:
            for answer in asyncio.as_completed(asked):
                found = await answer
                if found is not None:
                    break
        finally:
            for task in asked:
                task.cancel()
        return found

    async def _keeps(self, server: Server, target: str, authorization: bytes) -> ReplicaId | None:
        status = await self._status(server, target, authorization)
        return server.replicas[0].id if status is not None and 200 <= status < 300 else None

    # -- keys ---------------------------------------------------------------------------------------------------

    def allowed(self, authorization: bytes, done: Callable[[bool], None]) -> bool | None:
        """Whether replicas take this key, as far as is known; None: `done` will hear of it.

        Without a key of the router's own they are believed to take anything.
        """
        own = self._api_key()
        if own is None or hmac.compare_digest(authorization, b"Bearer " + own.encode()):
            return True
        if not authorization:
            return False
        key = hashlib.blake2b(authorization, digest_size=16).digest()
        known = self._verdicts.get(key)
        if known is not None and monotonic() < known[0]:
            return known[1]
        self._tasks.spawn(self._try_key(key, authorization, done), name="key check")
        return None

    async def _try_key(self, key: bytes, authorization: bytes, done: Callable[[bool], None]) -> None:
        verdict = False
        try:
            async with self._room:
                known = self._verdicts.get(key)
                if known is not None and monotonic() < known[0]:
                    verdict = known[1]  # it was told while this one waited
                    return
                for server in self._well()[:3]:
                    status = await self._status(server, "/v1/models", authorization)
                    if status is not None and status < 500:
                        verdict = 200 <= status < 300
                        if len(self._verdicts) >= MOST_VERDICTS:
                            self._verdicts.clear()
                        self._verdicts[key] = (monotonic() + VERDICT_S, verdict)
                        break
        finally:
            done(verdict)

    # -----------------------------------------------------------------------------------------------------------

    def _well(self) -> list[Server]:
        return [server for server in self._fleet.servers.values() if server.replicas[0].routable]

    async def _status(self, server: Server, target: str, authorization: bytes) -> int | None:
        headers = {"Authorization": authorization.decode("latin-1")} if authorization else {}
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await self._calls.call(server.url, "GET", target, headers, b"", limit_bytes=0)
        except (OSError, TimeoutError):
            return None
        return answer.status
